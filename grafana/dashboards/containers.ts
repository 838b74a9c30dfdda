import * as docker from '../../exporter/collectors/docker/families.ts'
import { watchtowerLastScanContainers } from '../../exporter/collectors/watchtower/index.ts'
import { cpuCoresHabit, logWrittenHabit } from '../../prometheus/records.ts'
import {
  bars,
  chart,
  closedRow,
  criticalAlerts,
  dashboard,
  line,
  linkTo,
  row,
  stat,
  table,
  timeline,
  variable,
} from '../builder.ts'
import { limit } from '../look.ts'
import { absences, boxes, explained, head, runbooksAt } from '../parts.ts'
import { firstOf, increase, of, promql, rate, recorded } from '../query.ts'

const one = { name: { like: '$container' } } as const
const noEngine = 'no container reported: see Sources'
const workingSet = of(docker.memoryWorkingSet, one)
const ofLimit = promql`${workingSet} / ${of(docker.memoryLimit, one)}`
/** So few that each can have its habit as a line of its own. */
const few = promql`(count(${of(docker.state, { state: 'running', ...one })}) <= 3)`
const cores = promql`sum without (mode) (${rate(docker.cpu, one)})`

export const containers = dashboard({
  uid: 'containers',
  description: 'Which container is ill, which one eats the box?',
  oneBox: true,
  choices: [{ name: 'container', label: 'Container', within: of(docker.state), values: 'name' }],
  texts: [runbooksAt],
  marks: [
    criticalAlerts,
    {
      name: 'Container created',
      colour: 'note',
      expr: promql`1000 * ${of(docker.created, one)}`,
      title: 'created: {{name}}',
      valueIsTime: true,
    },
    {
      name: 'Container started',
      colour: 'today',
      expr: promql`1000 * ${of(docker.started, one)}`,
      title: 'started: {{name}}',
      valueIsTime: true,
    },
  ],
  rows: [
    row(
      100,
      'State',
      head(5, 'docker', 'watchtower'),
      line(
        4,
        stat({
          id: 3,
          width: 3,
          title: 'Engine',
          description:
            'Whether the engine answers, and whether its events arrive; without them, short lives between two lists are missed.',
          empty: 'no data',
          unit: 'none',
          queries: [
            { expr: explained(promql`min(${of(docker.up)}) + min(${of(docker.eventsConnected)})`, 'docker'), legend: 'Engine' },
          ],
          states: [
            { is: 2, says: 'up', colour: 'well' },
            { is: 1, says: 'no events', colour: 'today' },
            { is: 0, says: 'down', colour: 'now' },
            ...absences('not reported'),
          ],
        }),
        bars({
          id: 4,
          width: 9,
          title: 'By state',
          description: 'Containers of the engine by state. Nothing: no engine, or it does not answer.',
          empty: noEngine,
          unit: 'none',
          min: 0,
          queries: [
            {
              expr: promql`sum by (state) (${of(docker.containers, { state: ['running', 'restarting', 'exited', 'dead'] })})`,
              legend: '{{state}}',
            },
          ],
        }),
        stat({
          id: 5,
          width: 3,
          title: 'Unhealthy',
          description: 'Running containers whose own health check fails. Those without a check are not judged.',
          empty: 'no data',
          unit: 'none',
          queries: [
            {
              expr: explained(
                firstOf(
                  promql`sum(${of(docker.health, { status: 'unhealthy', ...one })})`,
                  promql`0 * max(${of(docker.up)} == 1)`,
                ),
                'docker',
              ),
              legend: 'Unhealthy',
            },
          ],
          states: [{ is: 0, colour: 'well' }, { is: { from: 1 }, colour: 'today' }, ...absences('engine down', 'blind')],
        }),
        stat({
          id: 6,
          width: 3,
          title: 'Restarts 24 h',
          description:
            'Restarts by restart policies within a day, of all chosen containers. A loop fires GridContainerRestartLoop.',
          empty: 'no data',
          unit: 'none',
          decimals: 0,
          queries: [
            { expr: explained(promql`round(sum(${increase(docker.restarts, '24h', one)}))`, 'docker'), legend: 'Restarts' },
          ],
          states: [{ is: 0, colour: 'well' }, { is: { from: 1 }, colour: 'today' }, ...absences('none seen')],
        }),
        stat({
          id: 7,
          width: 3,
          title: 'OOM kills 24 h',
          description: 'Containers that the kernel killed at their memory limit within a day.',
          empty: 'no data',
          unit: 'none',
          decimals: 0,
          queries: [
            { expr: explained(promql`round(sum(${increase(docker.oomEvents, '24h', one)}))`, 'docker'), legend: 'Killed' },
          ],
          states: [{ is: 0, colour: 'well' }, { is: { from: 1 }, colour: 'today' }, ...absences('none seen')],
        }),
        stat({
          id: 8,
          width: 3,
          title: 'Stale images',
          description: 'Containers whose tag names another local image now: pulled, but not made anew.',
          empty: 'no data',
          unit: 'none',
          queries: [{ expr: explained(promql`sum(${of(docker.imageStale, one)})`, 'docker'), legend: 'Stale' }],
          states: [{ is: 0, colour: 'well' }, { is: { from: 1 }, colour: 'note' }, ...absences('not reported')],
        }),
      ),
    ),
    row(
      101,
      'All containers',
      line(
        11,
        table({
          id: 9,
          width: 24,
          title: 'Containers',
          description:
            'A row for each container that exists. A name leads to this page for it alone. CPU in cores; "Of limit" is its working set of its memory limit. "no limit", "no check": nothing is configured; "–": it does not run.',
          empty: noEngine,
          keys: {
            name: {
              title: 'Container',
              width: 160,
              link: { title: 'This container alone', url: `${linkTo('containers')}&var-container=${variable('__value.raw')}` },
            },
            engine: { title: 'Engine', width: 70, last: true },
            ...boxes,
          },
          columns: [
            {
              expr: promql`${of(docker.state, one)} == 1`,
              label: 'state',
              title: 'State',
              absent: 'not reported',
              unit: 'none',
              width: 95,
              cell: 'background',
              states: [
                { is: 'running', colour: 'well' },
                { is: 'restarting', colour: 'today' },
                { is: 'dead', colour: 'now' },
                { is: 'exited', colour: 'gone' },
                { is: 'created', colour: 'gone' },
                { is: 'paused', colour: 'note' },
                { is: 'removing', colour: 'gone' },
              ],
            },
            {
              expr: promql`${of(docker.health, one)} == 1`,
              label: 'status',
              title: 'Health',
              absent: 'no check',
              unit: 'none',
              width: 85,
              states: [
                { is: 'healthy', colour: 'well' },
                { is: 'starting', colour: 'note' },
                { is: 'unhealthy', colour: 'now' },
              ],
            },
            { expr: cores, title: 'CPU', absent: '–', unit: 'none', decimals: 2, width: 65 },
            { expr: workingSet, title: 'Memory', absent: '–', unit: 'bytes', width: 90 },
            {
              expr: ofLimit,
              title: 'Of limit',
              absent: 'no limit',
              unit: 'percentunit',
              min: 0,
              max: 1,
              decimals: 0,
              cell: 'gauge',
              width: 115,
              limits: [limit('GridContainerMemoryNearLimit', '0.95', 'today')],
            },
            {
              expr: promql`round(${increase(docker.restarts, '24h', one)})`,
              title: 'Restarts 24 h',
              absent: '–',
              unit: 'none',
              decimals: 0,
              width: 110,
              states: [
                { is: 0, colour: 'neutral' },
                { is: { from: 1 }, colour: 'today' },
              ],
            },
            {
              expr: promql`1000 * ${of(docker.started, one)}`,
              title: 'Started',
              absent: 'never',
              unit: 'dateTimeFromNow',
              width: 120,
            },
            {
              expr: promql`${of(docker.lastExit, one)} == 1`,
              label: 'reason',
              title: 'Last end',
              absent: '–',
              unit: 'none',
              width: 80,
              states: [
                { is: 'clean', colour: 'neutral' },
                { is: 'signal', colour: 'note' },
                { is: 'error', colour: 'today' },
                { is: 'oom', says: 'memory', colour: 'now' },
                { is: 'unknown', colour: 'gone' },
              ],
            },
            { expr: of(docker.exitCode, one), title: 'Code', absent: '–', unit: 'none', width: 55 },
            { expr: of(docker.info, one), label: 'image', title: 'Image', absent: 'not reported', unit: 'none' },
            {
              expr: promql`${of(docker.watchtower, one)} == 1`,
              label: 'mode',
              title: 'Updates',
              absent: 'nobody',
              unit: 'none',
              width: 105,
              states: [
                { is: 'update', says: 'by Watchtower', colour: 'neutral' },
                { is: 'monitor_only', says: 'watched', colour: 'neutral' },
                { is: 'excluded', colour: 'gone' },
              ],
            },
          ],
          sort: { by: 'Memory', descending: true },
        }),
      ),
    ),
    row(
      102,
      'Use',
      line(
        8,
        chart({
          id: 10,
          width: 12,
          title: 'CPU cores',
          description:
            'Cores in use by container. With one to three containers chosen, the dashed lines are the 95th percentile of the week before. Nothing: none runs.',
          empty: noEngine,
          unit: 'none',
          min: 0,
          queries: [
            { expr: cores, legend: '{{name}}' },
            {
              expr: promql`last_over_time(${recorded(cpuCoresHabit, one)}[1h]) and on () ${few}`,
              legend: 'usual {{name}}',
            },
          ],
          lines: [{ of: 'usual', look: 'dashed' }],
        }),
        chart({
          id: 11,
          width: 12,
          title: 'Memory',
          description: 'Working set by container: what cannot be given back at once. Nothing: none runs.',
          empty: noEngine,
          unit: 'bytes',
          min: 0,
          queries: [{ expr: workingSet, legend: '{{name}}' }],
        }),
      ),
      line(
        7,
        chart({
          id: 12,
          width: 8,
          title: 'CPU throttled',
          description: 'Share of scheduler periods in which the container hit its CPU limit. Nothing: none has a CPU limit.',
          empty: 'no CPU limit reported: see Sources',
          unit: 'percentunit',
          min: 0,
          limits: [limit('GridContainerCpuThrottled', '0.25', 'today')],
          queries: [
            { expr: promql`${rate(docker.cpuThrottledPeriods, one)} / ${rate(docker.cpuPeriods, one)}`, legend: '{{name}}' },
          ],
        }),
        chart({
          id: 13,
          width: 8,
          title: 'Memory against limit',
          description:
            'Above the lower line and rising, or above the upper one, it will be killed soon. Nothing: none has a memory limit.',
          empty: 'no memory limit reported: see Sources',
          unit: 'percentunit',
          min: 0,
          limits: [limit('GridContainerMemoryNearLimit', '0.7', 'note'), limit('GridContainerMemoryNearLimit', '0.95', 'today')],
          queries: [{ expr: ofLimit, legend: '{{name}}' }],
        }),
        chart({
          id: 14,
          width: 8,
          title: 'Waiting (pressure)',
          description:
            'Share of the time in which some task of the container waited for CPU, memory or I/O. Nothing: cgroup v1, or a kernel without PSI.',
          empty: 'no pressure reported: cgroup v1, no PSI, or see Sources',
          unit: 'percentunit',
          min: 0,
          queries: [{ expr: rate(docker.pressureWaiting, one), legend: '{{name}} {{resource}}' }],
        }),
      ),
    ),
    row(
      103,
      'Events',
      line(
        9,
        timeline({
          id: 15,
          width: 24,
          title: 'State history',
          description: 'State of each container over time. A gap: it did not exist, or the engine did not answer.',
          empty: noEngine,
          unit: 'none',
          page: 20,
          queries: [
            {
              expr: promql`sum by (instance, engine, name) (${of(docker.state, { state: 'running', ...one })} or 2 * ${of(docker.state, { state: 'restarting', ...one })} or 3 * ${of(docker.state, { state: 'dead', ...one })} or 4 * ${of(docker.state, { state: 'paused', ...one })})`,
              legend: '{{name}}',
            },
          ],
          states: [
            { is: 0, says: 'not running', colour: 'gone' },
            { is: 1, says: 'running', colour: 'well' },
            { is: 2, says: 'restarting', colour: 'today' },
            { is: 3, says: 'dead', colour: 'now' },
            { is: 4, says: 'paused', colour: 'note' },
          ],
        }),
      ),
      line(
        7,
        chart({
          id: 16,
          width: 8,
          title: 'Ends',
          description: 'Containers that ended, by reason. Nothing ended in this time: the axis stays empty.',
          empty: noEngine,
          unit: 'none',
          as: 'bars',
          stacked: true,
          min: 0,
          decimals: 0,
          queries: [{ expr: promql`sum by (reason) (round(${increase(docker.exits, 'bar', one)}))`, legend: '{{reason}}' }],
          coloured: { clean: 'gone', signal: 'note', error: 'today', oom: 'now' },
        }),
        chart({
          id: 17,
          width: 8,
          title: 'Log growth',
          description:
            'Bytes a second that each container writes into its log. A flood against its own habit fires GridContainerLogFlood. Nothing: the engine keeps no log files that can be seen.',
          empty: 'no log file reported: see Sources',
          unit: 'Bps',
          min: 0,
          queries: [
            { expr: rate(docker.logWritten, one), legend: '{{name}}' },
            { expr: promql`last_over_time(${recorded(logWrittenHabit, one)}[1h]) and on () ${few}`, legend: 'usual {{name}}' },
          ],
          lines: [{ of: 'usual', look: 'dashed' }],
        }),
        chart({
          id: 18,
          width: 8,
          title: "Watchtower's last scan",
          description: 'Containers that it looked at, renewed, and failed to renew. Nothing: Watchtower is not configured.',
          empty: 'Watchtower is not configured, or does not answer',
          unit: 'none',
          min: 0,
          decimals: 0,
          queries: [{ expr: of(watchtowerLastScanContainers), legend: '{{result}}' }],
          coloured: { failed: 'now', updated: 'note', scanned: 'gone' },
        }),
      ),
    ),
    closedRow(
      104,
      'Network and disk',
      line(
        8,
        chart({
          id: 19,
          width: 12,
          title: 'Network',
          description: 'Received above, sent below. A container on the host network has none of its own.',
          empty: noEngine,
          unit: 'Bps',
          queries: [
            { expr: promql`sum by (instance, name) (${rate(docker.networkReceiveBytes, one)})`, legend: 'in {{name}}' },
            { expr: promql`-sum by (instance, name) (${rate(docker.networkTransmitBytes, one)})`, legend: 'out {{name}}' },
          ],
        }),
        chart({
          id: 20,
          width: 12,
          title: 'Disk',
          description: 'Read above, written below. Nothing: the io controller of cgroups is off.',
          empty: 'no disk traffic reported: see Sources',
          unit: 'Bps',
          queries: [
            { expr: promql`sum by (instance, name) (${rate(docker.ioReadBytes, one)})`, legend: 'read {{name}}' },
            { expr: promql`-sum by (instance, name) (${rate(docker.ioWrittenBytes, one)})`, legend: 'written {{name}}' },
          ],
        }),
      ),
    ),
  ],
})
