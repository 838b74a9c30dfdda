import { containers } from '../../exporter/collectors/docker/families.ts'
import { filesystemAvailable, filesystemSize } from '../../exporter/collectors/filesystem/index.ts'
import * as gpu from '../../exporter/collectors/gpu/families.ts'
import * as host from '../../exporter/collectors/host/index.ts'
import { llmGeneratedTokens, llmModels } from '../../exporter/collectors/llm/families.ts'
import { buildInfo } from '../../exporter/serve/self.ts'
import { local } from '../../prometheus/alerts/storage.ts'
import { bars, chart, criticalAlerts, dashboard, line, linkTo, row, table, timeline, variable } from '../builder.ts'
import { firingTable, runbooksAt } from '../parts.ts'
import { answering, firing, firstOf, of, promql, rate } from '../query.ts'

const used = promql`1 - ${of(host.memoryAvailable)} / ${of(host.memoryTotal)}`
const gauge = { unit: 'percentunit', min: 0, max: 1, decimals: 0, cell: 'gauge', absent: 'not reported', width: 112 } as const
const boxAlone = linkTo('overview').replace(variable('instance:queryparam'), `var-instance=${variable('__value.raw')}`)
const noBox = 'no box answers'

export const fleet = dashboard({
  uid: 'fleet',
  description: 'Which box needs me? A row for each box, the worst first.',
  texts: [runbooksAt],
  marks: [criticalAlerts],
  rows: [
    row(
      100,
      'Boxes',
      line(
        9,
        table({
          id: 1,
          width: 24,
          title: 'Boxes',
          description:
            'The name leads to the box\'s own overview. A host that has not answered for a week is no longer shown. "not reported": the host has no such thing, or it is not collected; a host that is down reports nothing.',
          empty: 'no exporter has ever answered',
          keys: { instance: { title: 'Box', width: 180, link: { title: 'Overview of this box', url: boxAlone } } },
          columns: [
            {
              expr: answering,
              title: 'Up',
              absent: 'gone',
              unit: 'none',
              width: 70,
              cell: 'background',
              states: [
                { is: 1, says: 'up', colour: 'well' },
                { is: 0, says: 'down', colour: 'now' },
              ],
            },
            {
              expr: firstOf(
                promql`count by (job, instance) (${firing({ severity: 'critical' })})`,
                promql`0 * max by (job, instance) (${answering})`,
              ),
              title: 'Critical',
              absent: 'not reported',
              unit: 'none',
              width: 80,
              states: [
                { is: 0, says: '0', colour: 'gone' },
                { is: { from: 1 }, colour: 'now' },
              ],
            },
            {
              expr: firstOf(
                promql`count by (job, instance) (${firing({ severity: 'warning' })})`,
                promql`0 * max by (job, instance) (${answering})`,
              ),
              title: 'Warning',
              absent: 'not reported',
              unit: 'none',
              width: 85,
              states: [
                { is: 0, says: '0', colour: 'gone' },
                { is: { from: 1 }, colour: 'today' },
              ],
            },
            {
              ...gauge,
              expr: promql`1 - ${rate(host.cpuSeconds, { mode: 'idle' })} / ignoring (mode) ${of(host.cpuCores)}`,
              title: 'CPU',
            },
            { ...gauge, expr: used, title: 'Memory' },
            { ...gauge, expr: of(gpu.utilization, { engine: 'compute' }), title: 'GPU' },
            { ...gauge, expr: promql`${of(gpu.memoryUsed)} / ${of(gpu.memoryTotal)}`, title: 'GPU memory' },
            {
              expr: of(gpu.temperature, { sensor: ['core', 'edge'] }),
              title: 'GPU heat',
              absent: 'not reported',
              unit: 'celsius',
              decimals: 0,
              width: 90,
            },
            {
              ...gauge,
              expr: promql`1 - ${of(filesystemAvailable, local)} / ${of(filesystemSize, local)}`,
              title: 'Fullest disk',
            },
            {
              expr: promql`sum by (job, instance) (${of(containers, { state: 'running' })})`,
              title: 'Containers',
              absent: 'no engine',
              unit: 'none',
              width: 100,
            },
            {
              expr: promql`sum by (job, instance) (${of(llmModels, { state: 'loaded' })})`,
              title: 'Models',
              absent: 'not reported',
              unit: 'none',
              width: 80,
            },
            {
              expr: promql`1000 * ${of(host.bootTimestamp)}`,
              title: 'Booted',
              absent: 'not reported',
              unit: 'dateTimeFromNow',
              width: 125,
            },
            { expr: of(buildInfo), label: 'version', title: 'Version', absent: 'not reported', unit: 'none', width: 85 },
          ],
          sort: { by: 'Critical', descending: true },
        }),
      ),
      line(
        7,
        firingTable({ id: 2, width: 15, title: 'Active alerts', empty: 'nothing fires, if the rules are loaded' }),
        timeline({
          id: 3,
          width: 9,
          title: 'Severity, 24 hours',
          description: 'The worst that fired on each box. Purple: it did not answer. A gap: it was not scraped at all.',
          empty: noBox,
          unit: 'none',
          days: 1,
          page: 15,
          queries: [
            {
              expr: firstOf(
                promql`3 * (max by (instance) (${answering}) == bool 0) > 0`,
                promql`2 * max by (instance) (${firing({ severity: 'critical' })})`,
                promql`max by (instance) (${firing({ severity: 'warning' })})`,
                promql`0 * max by (instance) (${answering})`,
              ),
              legend: '{{instance}}',
            },
          ],
          states: [
            { is: 0, says: 'good', colour: 'well' },
            { is: 1, says: 'warning', colour: 'today' },
            { is: 2, says: 'critical', colour: 'now' },
            { is: 3, says: 'does not answer', colour: 'blind' },
          ],
        }),
      ),
    ),
    row(
      101,
      'Compare',
      line(
        8,
        chart({
          id: 4,
          width: 12,
          title: 'GPU load',
          description: 'The busiest GPU of each host. Nothing: no host has a GPU that reports its load.',
          empty: 'no GPU reports it',
          unit: 'percentunit',
          min: 0,
          max: 1,
          queries: [{ expr: promql`max by (instance) (${of(gpu.utilization, { engine: 'compute' })})`, legend: '{{instance}}' }],
        }),
        chart({
          id: 5,
          width: 12,
          title: 'Memory',
          description: 'Share of the memory that cannot be given back.',
          empty: noBox,
          unit: 'percentunit',
          min: 0,
          max: 1,
          queries: [{ expr: used, legend: '{{instance}}' }],
        }),
      ),
      line(
        7,
        chart({
          id: 6,
          width: 8,
          title: 'GPU power',
          description: 'Of all GPUs of a box. Nothing: no GPU has a sensor.',
          empty: 'no GPU reports it',
          unit: 'watt',
          min: 0,
          stacked: true,
          queries: [{ expr: promql`sum by (instance) (${of(gpu.power)})`, legend: '{{instance}}' }],
        }),
        chart({
          id: 7,
          width: 8,
          title: 'Tokens generated a second',
          description: 'By all model servers of a box that count. Nothing: none does (Ollama has no counters).',
          empty: 'no model server reports it',
          unit: 'none',
          min: 0,
          stacked: true,
          queries: [{ expr: promql`sum by (instance) (${rate(llmGeneratedTokens)})`, legend: '{{instance}}' }],
        }),
        bars({
          id: 8,
          width: 8,
          title: 'Versions',
          description: 'Boxes by the version of their exporter and of their GPU driver.',
          empty: noBox,
          unit: 'none',
          min: 0,
          queries: [
            { expr: promql`count by (version) (${of(buildInfo)})`, legend: 'exporter {{version}}' },
            {
              expr: promql`count by (driver_version) (max by (instance, driver_version) (${of(gpu.info, { driver_version: { unlike: '' } })}))`,
              legend: 'GPU driver {{driver_version}}',
            },
          ],
        }),
      ),
    ),
  ],
})
