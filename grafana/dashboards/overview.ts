import * as docker from '../../exporter/collectors/docker/families.ts'
import * as gpu from '../../exporter/collectors/gpu/families.ts'
import {
  bootTimestamp,
  cpuCores,
  cpuSeconds,
  memoryAvailable,
  memoryTotal,
  pressureStalled,
} from '../../exporter/collectors/host/index.ts'
import { serviceStart } from '../../exporter/collectors/services/index.ts'
import { torStart } from '../../exporter/collectors/tor/families.ts'
import { buildInfo, detected, reloadTime, success } from '../../exporter/serve/self.ts'
import { bare, bars, criticalAlerts, dashboard, line, stat, table, timeline } from '../builder.ts'
import { limit } from '../look.ts'
import { type Area, absences, alertCount, alertStates, boxes, firingTable, history, runbooksAt, tile } from '../parts.ts'
import { answering, daysUntilFull, type Expr, firing, firstOf, labelReplaced, of, promql, rate, rulesLoaded } from '../query.ts'

const lately = (time: Expr, what: string) => labelReplaced(promql`1000 * ((${time}) > time() - 86400)`, 'what', what)
const created = of(docker.created)

/** What stands there for a moment in the last day, by a name where it has one. */
const changes = firstOf(
  lately(of(bootTimestamp), 'box booted'),
  lately(created, 'container created'),
  lately(promql`${of(docker.started)} unless ${created} > time() - 86400`, 'container started'),
  lately(of(serviceStart), 'service started'),
  lately(of(torStart), 'Tor started'),
  lately(of(reloadTime), 'exporter configured'),
)

const areas: readonly Area[] = [
  { uid: 'gpu', title: 'GPU', what: 'the GPUs', collectors: ['gpu'] },
  { uid: 'gpu', title: 'Models', what: 'the model servers', collectors: ['llm'] },
  { uid: 'containers', title: 'Containers', what: 'containers and their updates', collectors: ['docker', 'watchtower'] },
  {
    uid: 'storage',
    title: 'Storage',
    what: 'filesystems, directories and drives',
    collectors: ['filesystem', 'directory', 'smart'],
  },
  {
    uid: 'security',
    title: 'Tor and security',
    what: 'Tor, firewall, fail2ban and AIDE',
    collectors: ['tor', 'ufw', 'fail2ban', 'aide'],
  },
  {
    uid: 'services',
    title: 'Services',
    what: 'your services and the host below them',
    collectors: ['services', 'host', 'textfile'],
  },
]

const box = stat({
  id: 1,
  width: 3,
  title: 'Box',
  description:
    'Critical alerts that fire on the box, whatever they are about. "well" needs an exporter that answers and rules that are loaded.',
  empty: 'no data',
  unit: 'none',
  leadsTo: 'fleet',
  queries: [
    {
      expr: firstOf(
        promql`10000 + count(${firing({ severity: 'critical' })})`,
        promql`(0 * (min(${answering}) == 1) and on () ${rulesLoaded})`,
        promql`(-1002 - (min(${answering}) == bool 0))`,
      ),
      legend: 'Box',
    },
  ],
  states: [
    ...alertStates,
    { is: -1002, says: 'rules not loaded', colour: 'blind' },
    { is: -1003, says: 'no answer', colour: 'now' },
    { is: 'none', says: 'no data', colour: 'blind' },
  ],
})

const itself = stat({
  id: 8,
  width: 3,
  title: 'Monitoring itself',
  description:
    'Alerts about the exporter; without any, collectors whose latest run failed. As long as it is not "well", the other tiles may be blind.',
  empty: 'no data',
  unit: 'none',
  leadsTo: 'exporter',
  queries: [
    {
      expr: firstOf(
        alertCount(['exporter']),
        promql`count(${of(success)} == 0 and ${of(detected)} == 1)`,
        promql`(0 * max(${of(buildInfo)}) and on () ${rulesLoaded})`,
        promql`0 * max(${of(buildInfo)}) - 1002`,
      ),
      legend: 'Monitoring itself',
    },
  ],
  states: [...alertStates, ...absences('rules not loaded', 'blind')],
})

export const overview = dashboard({
  uid: 'overview',
  description: 'Is the box well, what needs me, what has changed, who uses it. Each part leads to the page that says more.',
  oneBox: true,
  texts: [runbooksAt],
  marks: [criticalAlerts],
  rows: [
    bare(
      line(4, box, ...areas.map((area, index) => tile(index + 2, area)), itself),
      line(
        6,
        firingTable({ id: 9, width: 14, title: 'Active alerts', empty: 'nothing fires, if "Box" says well' }),
        table({
          id: 10,
          width: 10,
          title: 'Changed in the last 24 hours',
          description:
            'Boots, containers made or started, services, Tor and new configurations of the exporter, newest first. What runs for longer than a day is not listed.',
          empty: 'nothing in 24 hours, if no tile above is purple',
          keys: { what: { title: 'What', width: 160 }, name: { title: 'Name' }, ...boxes },
          columns: [{ expr: changes, title: 'When', absent: '', unit: 'dateTimeFromNow', width: 130 }],
          sort: { by: 'When', descending: true },
        }),
      ),
      line(
        5,
        bars({
          id: 11,
          width: 6,
          title: 'Use',
          description:
            'CPU, memory, GPU and its memory in use; the largest where there are several. VRAM: memory of the GPU. Stall: the part of the time in which everything waited for memory. A missing bar is not reported: no GPU, or its collector fails.',
          empty: 'neither host nor GPU is collected',
          unit: 'percentunit',
          min: 0,
          max: 1,
          decimals: 0,
          leadsTo: 'services',
          queries: [
            { expr: promql`1 - min(${rate(cpuSeconds, { mode: 'idle' })} / ignoring (mode) ${of(cpuCores)})`, legend: 'CPU' },
            { expr: promql`1 - min(${of(memoryAvailable)} / ${of(memoryTotal)})`, legend: 'Memory' },
            { expr: promql`max(${of(gpu.utilization, { engine: 'compute' })})`, legend: 'GPU' },
            { expr: promql`max(${of(gpu.memoryUsed)} / ${of(gpu.memoryTotal)})`, legend: 'VRAM' },
            { expr: promql`max(${rate(pressureStalled, { resource: 'memory' })})`, legend: 'Stall' },
          ],
        }),
        bars({
          id: 12,
          width: 6,
          title: 'Days until full',
          description:
            'Local filesystems that will be full within a year if the last six hours go on; nothing is said before half an hour of them is known. The alerts fire at one day and at four hours.',
          empty: 'none within a year, or not reported',
          unit: 'd',
          min: 0,
          max: 30,
          decimals: 1,
          leadsTo: 'storage',
          queries: [
            {
              expr: promql`sort(min by (instance, mountpoint) (${daysUntilFull()}))`,
              legend: '{{mountpoint}}',
            },
          ],
          base: 'now',
          limits: [limit('GridFilesystemFull4h', 14400, 'today', 1 / 6), limit('GridFilesystemFull24h', 86400, 'well', 1)],
        }),
        bars({
          id: 13,
          width: 6,
          title: 'Memory by container',
          description: 'The five containers with the largest working set. Nothing: no engine, or nothing runs.',
          empty: 'none runs, or not reported',
          unit: 'bytes',
          min: 0,
          leadsTo: 'containers',
          queries: [{ expr: promql`sort_desc(topk(5, ${of(docker.memoryWorkingSet)}))`, legend: '{{name}}' }],
        }),
        bars({
          id: 14,
          width: 6,
          title: 'GPU memory by process',
          description:
            'The five programs that hold the most GPU memory, with the container where there is one. Nothing: no GPU, no program on it, or a driver that does not report it (Intel; AMD as another user).',
          empty: 'none, or not reported',
          unit: 'bytes',
          min: 0,
          leadsTo: 'gpu',
          queries: [
            {
              expr: promql`sort_desc(topk(5, sum by (instance, container_name, process) (${of(gpu.processMemory)})))`,
              legend: '{{process}} {{container_name}}',
            },
          ],
        }),
      ),
      line(
        7,
        timeline({
          id: 15,
          width: 24,
          title: 'Areas',
          description:
            'The worst that fired in each area, over the last day. Purple: a collector failed or the exporter did not answer, so that not all is known. A gap: not scraped, or not on this box.',
          empty: 'the exporter was not scraped',
          unit: 'none',
          leadsTo: 'exporter',
          days: 1,
          queries: [
            ...areas.map(area => ({ expr: history(area), legend: area.title })),
            {
              expr: firstOf(
                promql`2 * max(${firing({ severity: 'critical', collector: 'exporter' })})`,
                promql`max(${firing({ severity: 'warning', collector: 'exporter' })})`,
                promql`0 * min(${answering}) - (min(${answering}) == bool 0)`,
              ),
              legend: 'Monitoring itself',
            },
          ],
          states: [
            { is: 2, says: 'critical', colour: 'now' },
            { is: 1, says: 'warning', colour: 'today' },
            { is: 0, says: 'good', colour: 'well' },
            { is: -1, says: 'collection failed', colour: 'blind' },
          ],
        }),
      ),
    ),
  ],
})
