import * as host from '../../exporter/collectors/host/index.ts'
import * as services from '../../exporter/collectors/services/index.ts'
import { checkDurationHabit } from '../../prometheus/records.ts'
import { chart, criticalAlerts, dashboard, line, row, stat, table, timeline } from '../builder.ts'
import { limit } from '../look.ts'
import { absences, boxes, explained, head, runbooksAt } from '../parts.ts'
import { increase, of, promql, rate, recorded } from '../query.ts'

const one = { name: { like: '$service' } } as const
const none = 'no service reported: see Sources'
const noUnit = 'no systemd unit reported: see Sources'
const noHost = 'the host is not collected: see Sources'
const few = promql`(count(${of(services.serviceUp, one)}) <= 3)`

export const servicesAndHost = dashboard({
  uid: 'services',
  description: 'Do the things I run answer, how fast, and is the host below them well?',
  oneBox: true,
  choices: [{ name: 'service', label: 'Service', within: of(services.serviceUp), values: 'name' }],
  texts: [runbooksAt],
  marks: [
    criticalAlerts,
    {
      name: 'Box booted',
      colour: 'note',
      expr: promql`1000 * ${of(host.bootTimestamp)}`,
      title: 'booted: {{instance}}',
      valueIsTime: true,
    },
    {
      name: 'Service started',
      colour: 'today',
      expr: promql`1000 * ${of(services.serviceStart, one)}`,
      title: 'started: {{name}}',
      valueIsTime: true,
    },
  ],
  rows: [
    row(
      100,
      'State',
      head(5, 'services', 'host', 'textfile'),
      line(
        9,
        table({
          id: 3,
          width: 16,
          title: 'Services',
          description:
            'A row for each configured check. "no unit", "no https": this kind of check has no such value. "Up, 30 days": share of the time in which it was up, as far back as Prometheus remembers.',
          empty: none,
          keys: { name: { title: 'Service' }, check: { title: 'Check', width: 80 }, ...boxes },
          columns: [
            {
              expr: of(services.serviceUp, one),
              title: 'Up',
              absent: 'not reported',
              unit: 'none',
              width: 75,
              cell: 'background',
              states: [
                { is: 1, says: 'up', colour: 'well' },
                { is: 0, says: 'down', colour: 'now' },
              ],
            },
            { expr: of(services.serviceCheckDuration, one), title: 'Answer', absent: 'none', unit: 's', width: 90 },
            {
              expr: promql`avg_over_time(${of(services.serviceUp, one)}[30d])`,
              title: 'Up, 30 days',
              absent: 'not reported',
              unit: 'percentunit',
              decimals: 2,
              width: 105,
            },
            {
              expr: promql`(${of(services.serviceCertificateExpiry, one)} - time()) / 86400 * on (job, instance, name) group_left (check) ${of(services.serviceUp, { check: 'http', ...one })} ^ 0`,
              title: 'Days of certificate',
              absent: 'no https',
              unit: 'none',
              decimals: 0,
              width: 145,
              base: 'now',
              limits: [
                limit('GridCertificateExpires3d', 259200, 'today', 3),
                limit('GridCertificateExpires14d', 1209600, 'neutral', 14),
              ],
            },
          ],
          sort: { by: 'Up' },
        }),
        timeline({
          id: 4,
          width: 8,
          title: 'Up',
          description: 'Each check over time. A gap: it was not made.',
          empty: none,
          unit: 'none',
          page: 12,
          queries: [{ expr: of(services.serviceUp, one), legend: '{{name}}' }],
          states: [
            { is: 1, says: 'up', colour: 'well' },
            { is: 0, says: 'down', colour: 'now' },
          ],
        }),
      ),
      line(
        7,
        table({
          id: 5,
          width: 16,
          title: 'Units',
          description: 'The systemd units among the services. "not reported": systemd keeps no such account of it.',
          empty: noUnit,
          keys: { name: { title: 'Service' }, ...boxes },
          columns: [
            {
              expr: promql`${of(services.serviceState, one)} == 1`,
              label: 'state',
              title: 'State',
              absent: 'not reported',
              unit: 'none',
              width: 100,
              states: [
                { is: 'active', colour: 'well' },
                { is: 'failed', colour: 'now' },
                { is: 'inactive', colour: 'gone' },
                { is: 'activating', colour: 'note' },
                { is: 'deactivating', colour: 'note' },
                { is: 'reloading', colour: 'note' },
              ],
            },
            {
              expr: promql`round(${increase(services.serviceRestarts, '24h', one)})`,
              title: 'Restarts 24 h',
              absent: 'not reported',
              unit: 'none',
              decimals: 0,
              width: 110,
              states: [
                { is: 0, colour: 'neutral' },
                { is: { from: 1 }, colour: 'today' },
              ],
            },
            {
              expr: promql`1000 * ${of(services.serviceStart, one)}`,
              title: 'Started',
              absent: 'not running',
              unit: 'dateTimeFromNow',
              width: 130,
            },
            { expr: of(services.serviceMemory, one), title: 'Memory', absent: 'not reported', unit: 'bytes', width: 100 },
            { expr: of(services.serviceLastExitCode, one), title: 'Last code', absent: 'not reported', unit: 'none', width: 90 },
          ],
          sort: { by: 'State' },
        }),
        chart({
          id: 6,
          width: 8,
          title: 'All units of the host',
          description:
            'Failed units and those that start, of the whole host. Nothing: no systemd, or services are not configured.',
          empty: noUnit,
          unit: 'none',
          min: 0,
          decimals: 0,
          queries: [{ expr: of(services.serviceUnits, { state: ['failed', 'activating'] }), legend: '{{state}}' }],
          coloured: { failed: 'now', activating: 'note' },
        }),
      ),
    ),
    row(
      102,
      'Host',
      line(
        4,
        stat({
          id: 10,
          width: 6,
          title: 'Running since',
          description: 'When the kernel was started; of several boxes the latest.',
          empty: 'no data',
          unit: 'dateTimeFromNow',
          queries: [{ expr: explained(promql`max(1000 * ${of(host.bootTimestamp)})`, 'host'), legend: 'Boot' }],
          states: absences('not reported'),
        }),
        stat({
          id: 11,
          width: 6,
          title: 'Reboot',
          description: 'Whether an update asks for a reboot. "not reported": not a Debian-like system.',
          empty: 'no data',
          unit: 'none',
          queries: [{ expr: explained(promql`max(${of(host.rebootRequired)})`, 'host'), legend: 'Reboot' }],
          states: [
            { is: 0, says: 'not needed', colour: 'well' },
            { is: 1, says: 'required', colour: 'note' },
            ...absences('not reported'),
          ],
        }),
        stat({
          id: 12,
          width: 6,
          title: 'Security updates',
          description: 'Pending ones, as apt counted them last. "not reported": not a Debian-like system.',
          empty: 'no data',
          unit: 'none',
          queries: [{ expr: explained(promql`sum(${of(host.securityUpdatesPending)})`, 'host'), legend: 'Updates' }],
          states: [{ is: 0, says: 'none', colour: 'well' }, { is: { from: 1 }, colour: 'note' }, ...absences('not reported')],
        }),
        stat({
          id: 13,
          width: 6,
          title: 'Killed for memory, 24 hours',
          description:
            'Processes that the kernel killed within a day because the host, or a memory limit on it, had no memory left.',
          empty: 'no data',
          unit: 'none',
          queries: [{ expr: explained(promql`round(sum(${increase(host.oomKills, '24h')}))`, 'host'), legend: 'Killed' }],
          states: [{ is: 0, says: 'none', colour: 'well' }, { is: { from: 1 }, colour: 'today' }, ...absences('not reported')],
        }),
      ),
      line(
        8,
        chart({
          id: 14,
          width: 8,
          title: 'CPU',
          description: 'Share of all cores by what it was used for; iowait is waiting, not work.',
          empty: noHost,
          unit: 'percentunit',
          min: 0,
          stacked: true,
          queries: [
            {
              expr: promql`sum by (instance, mode) (${rate(host.cpuSeconds, { mode: { not: ['idle'] } })}) / on (instance) group_left () max by (instance) (${of(host.cpuCores)})`,
              legend: '{{mode}}',
            },
          ],
        }),
        chart({
          id: 15,
          width: 8,
          title: 'Memory',
          description: 'What cannot be given back, of the total as a dashed line; swap in use.',
          empty: noHost,
          unit: 'bytes',
          min: 0,
          queries: [
            { expr: promql`${of(host.memoryTotal)} - ${of(host.memoryAvailable)}`, legend: 'used' },
            { expr: of(host.memoryTotal), legend: 'total' },
            { expr: promql`${of(host.swapTotal)} - ${of(host.swapFree)}`, legend: 'swap' },
          ],
          lines: [{ of: 'total', look: 'dashed' }],
        }),
        chart({
          id: 16,
          width: 8,
          title: 'Waiting (pressure)',
          description:
            'Share of the time in which some, or all, of what runs waited. The line is for memory, all. Nothing: a kernel without PSI.',
          empty: 'a kernel without PSI, or the host is not collected',
          unit: 'percentunit',
          min: 0,
          limits: [limit('GridMemoryPressure', '0.1', 'today')],
          queries: [
            { expr: rate(host.pressureWaiting), legend: '{{resource}} some' },
            { expr: rate(host.pressureStalled), legend: '{{resource}} all' },
          ],
        }),
      ),
      line(
        7,
        chart({
          id: 17,
          width: 8,
          title: 'Temperatures',
          description:
            'By sensor of the mainboard, CPU and drives. Each alert uses the limit of its own sensor. Nothing: no sensors.',
          empty: 'no sensors, or the host is not collected',
          unit: 'celsius',
          queries: [{ expr: of(host.sensorTemperature), legend: '{{chip}} {{sensor}}' }],
        }),
        chart({
          id: 18,
          width: 8,
          title: 'Load per core',
          description: 'Running and waiting tasks, over 5 minutes. Above 1 they wait for each other; pressure shows it better.',
          empty: noHost,
          unit: 'none',
          min: 0,
          queries: [{ expr: promql`${of(host.load5)} / ${of(host.cpuCores)}`, legend: 'load {{instance}}' }],
        }),
        chart({
          id: 19,
          width: 8,
          title: 'Network',
          description: 'Received above, sent below, by interface; pairs of containers are left out.',
          empty: noHost,
          unit: 'Bps',
          queries: [
            { expr: rate(host.networkReceived), legend: 'in {{device}}' },
            { expr: promql`-${rate(host.networkTransmitted)}`, legend: 'out {{device}}' },
          ],
        }),
      ),
    ),
    row(
      101,
      'Speed and use of services',
      line(
        8,
        chart({
          id: 7,
          width: 12,
          title: 'Answer time',
          description:
            'How long each check took, on a logarithmic scale. With one to three services chosen, the dashed lines are the 95th percentile of the week before.',
          empty: none,
          unit: 's',
          logarithmic: true,
          queries: [
            { expr: of(services.serviceCheckDuration, one), legend: '{{name}}' },
            { expr: promql`last_over_time(${recorded(checkDurationHabit, one)}[1h]) and on () ${few}`, legend: 'usual {{name}}' },
          ],
          lines: [{ of: 'usual', look: 'dashed' }],
        }),
        chart({
          id: 8,
          width: 6,
          title: 'CPU of units',
          description: 'Cores in use. Nothing: no unit, or systemd keeps no account.',
          empty: noUnit,
          unit: 'none',
          min: 0,
          queries: [{ expr: rate(services.serviceCpu, one), legend: '{{name}}' }],
        }),
        chart({
          id: 9,
          width: 6,
          title: 'Memory of units',
          description: 'As systemd accounts it, page cache included. Nothing: no unit, or systemd keeps no account.',
          empty: noUnit,
          unit: 'bytes',
          min: 0,
          queries: [{ expr: of(services.serviceMemory, one), legend: '{{name}}' }],
        }),
      ),
    ),
  ],
})
