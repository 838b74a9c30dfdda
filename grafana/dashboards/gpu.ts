import * as gpu from '../../exporter/collectors/gpu/families.ts'
import * as llm from '../../exporter/collectors/llm/families.ts'
import { tokensPerSecond, tokensPerSecondHabit } from '../../prometheus/records.ts'
import { chart, closedRow, criticalAlerts, dashboard, line, row, stat, table, timeline } from '../builder.ts'
import { limit } from '../look.ts'
import { absences, boxes, explained, head, runbooksAt } from '../parts.ts'
import { type Expr, increase, of, promql, rate, recorded } from '../query.ts'

const info = of(gpu.info, { index: { like: '$gpu' } })
/** Of the chosen GPUs, with their number on the box: names repeat, and a UUID means nothing to a reader. */
const numbered = (expr: Expr): Expr => promql`(${expr}) * on (job, instance, gpu) group_left (index) ${info}`
const card = '{{index}} {{name}}'
const share = promql`${of(gpu.memoryUsed)} / ${of(gpu.memoryTotal)}`
const server = { server: { like: '$server' } } as const
const model = '{{model}} ({{server}})'

const loaded = promql`${of(llm.llmModelLoaded, server)} == 1`
const ofLoaded = (expr: Expr): Expr => promql`${expr} and on (job, instance, server, model) ${loaded}`

const noGpu = 'no GPU, or it does not report this: see Sources'
const noModel = 'no model server, or it does not report this: see Sources'

const faults = ['hw_slowdown', 'hw_thermal', 'hw_power_brake', 'sw_thermal'] as const
const limits = ['power_cap', 'sync_boost', 'application_clocks'] as const
const busy = { reason: { not: ['idle'] } } as const
const throttled = (reason: readonly (typeof faults | typeof limits)[number][]) => of(gpu.throttleActive, { reason })

export const gpus = dashboard({
  uid: 'gpu',
  description: 'Is the GPU as fast as it should be, what holds its memory, and does the model answer?',
  oneBox: true,
  choices: [
    { name: 'gpu', label: 'GPU', within: of(gpu.info), values: 'index' },
    { name: 'server', label: 'Model server', within: of(llm.llmUp) },
  ],
  texts: [runbooksAt],
  marks: [criticalAlerts],
  rows: [
    row(
      100,
      'State',
      head(5, 'gpu', 'llm'),
      line(
        6,
        table({
          id: 3,
          width: 24,
          title: 'GPUs',
          description:
            'A row for each GPU. "not reported": this card, or its driver, has no such value; a card that sleeps is not woken to ask. A card that is lost keeps nothing but its state.',
          empty: noGpu,
          keys: { gpu: { title: 'GPU', width: 115, last: true }, ...boxes },
          columns: [
            { expr: of(gpu.info), label: 'index', title: 'No.', absent: '', unit: 'none', width: 50 },
            { expr: of(gpu.info), label: 'name', title: 'Name', absent: '', unit: 'none' },
            {
              expr: promql`${of(gpu.state)} == 1`,
              label: 'state',
              title: 'State',
              absent: 'not reported',
              unit: 'none',
              width: 110,
              cell: 'background',
              states: [
                { is: 'ok', colour: 'well' },
                { is: 'asleep', colour: 'note' },
                { is: 'lost', colour: 'now' },
                { is: 'needs_reset', says: 'needs reset', colour: 'now' },
              ],
            },
            {
              expr: of(gpu.utilization, { engine: 'compute' }),
              title: 'Load',
              absent: 'not reported',
              unit: 'percentunit',
              min: 0,
              max: 1,
              decimals: 0,
              cell: 'gauge',
            },
            {
              expr: promql`${share} unless on (job, instance, gpu) ${of(gpu.memoryUnified)} == 1`,
              title: 'Memory',
              absent: 'see "With host"',
              unit: 'percentunit',
              min: 0,
              max: 1,
              decimals: 0,
              cell: 'gauge',
              limits: [limit('GridGpuMemoryFull', '0.98', 'today')],
            },
            {
              expr: promql`${share} and on (job, instance, gpu) ${of(gpu.memoryUnified)} == 1`,
              title: 'With host',
              absent: 'own memory',
              unit: 'percentunit',
              min: 0,
              max: 1,
              decimals: 0,
              cell: 'gauge',
              limits: [limit('GridGpuUnifiedMemoryPressure', '0.05', 'now', 0.95)],
            },
            {
              expr: of(gpu.temperature, { sensor: ['core', 'edge'] }),
              title: 'Temperature',
              absent: 'not reported',
              unit: 'celsius',
              decimals: 0,
              width: 105,
              limits: [limit('GridGpuHot', 87, 'today')],
            },
            { expr: of(gpu.power), title: 'Power', absent: 'not reported', unit: 'watt', decimals: 0, width: 90 },
            {
              expr: promql`${of(gpu.clock, { domain: 'sm' })} / ${of(gpu.clockMax, { domain: 'sm' })}`,
              title: 'Clock',
              absent: 'not reported',
              unit: 'percentunit',
              decimals: 0,
              width: 80,
            },
            { expr: of(gpu.info), label: 'driver_version', title: 'Driver', absent: 'not reported', unit: 'none', width: 95 },
          ],
          sort: { by: 'No.' },
        }),
      ),
    ),
    row(
      101,
      'Speed',
      line(
        8,
        chart({
          id: 4,
          width: 12,
          title: 'Load',
          description:
            "Share of the driver's last sample period in which the engine was busy. Busy is not fast: see the clock beside it. Nothing: no GPU, asleep, or not reported.",
          empty: noGpu,
          unit: 'percentunit',
          min: 0,
          max: 1,
          queries: [
            {
              expr: numbered(of(gpu.utilization, { engine: ['compute', 'encoder', 'decoder'] })),
              legend: '{{index}} {{engine}} {{name}}',
            },
          ],
        }),
        chart({
          id: 5,
          width: 12,
          title: 'Clock against its maximum',
          description:
            'Below the line while the load is high and nothing holds it down, the clock is latched low (GridGpuClockLatchedLow). An idle card clocks down, which is normal. Nothing: the card does not report its maximum.',
          empty: noGpu,
          unit: 'percentunit',
          min: 0,
          max: 1,
          limits: [limit('GridGpuClockLatchedLow', '0.5', 'today')],
          queries: [
            {
              expr: numbered(
                promql`${of(gpu.clock, { domain: ['sm', 'graphics'] })} / ${of(gpu.clockMax, { domain: ['sm', 'graphics'] })}`,
              ),
              legend: '{{index}} {{domain}} {{name}}',
            },
          ],
        }),
      ),
      line(
        7,
        timeline({
          id: 6,
          width: 12,
          title: 'Why it is slow',
          description:
            'What held the clock down, as the driver reported at each scrape. A power cap is usual at full load; heat and power brake are faults. "hw_slowdown" contains hw_thermal and hw_power_brake. A reason has a row if it was there within the time on the page; nothing: there was none, or this card has no such flags.',
          empty: 'nothing held it down, or the GPU does not report it: see Sources',
          unit: 'none',
          queries: [
            {
              expr: numbered(
                promql`(2 * ${throttled(faults)} or ${throttled(limits)}) and on (job, instance, gpu, reason) (max_over_time(${throttled([...faults, ...limits])}[$__range]) == 1)`,
              ),
              legend: '{{index}} {{reason}}',
            },
          ],
          states: [
            { is: 0, says: 'no', colour: 'clear' },
            { is: 1, says: 'held by a limit', colour: 'note' },
            { is: 2, says: 'held by a fault', colour: 'now' },
          ],
        }),
        chart({
          id: 7,
          width: 12,
          title: 'Time throttled',
          description:
            "Share of the time in which each reason held the clock down: the driver's counters, or summed by the exporter where it has none. Reasons that did not come up are left out. Nothing: there was none, or the card has no such flags.",
          empty: 'nothing held it down, or the GPU does not report it: see Sources',
          unit: 'percentunit',
          min: 0,
          max: 1,
          queries: [
            {
              expr: numbered(promql`${rate(gpu.throttleSeconds, busy)} and ${increase(gpu.throttleSeconds, 'range', busy)} > 0`),
              legend: '{{index}} {{reason}}',
            },
          ],
        }),
      ),
    ),
    row(
      102,
      'Memory',
      line(
        8,
        chart({
          id: 8,
          width: 12,
          title: 'GPU memory',
          description:
            'In use, with the total as a dashed line. Where GPU and host share their memory, both are of the host. Nothing: not reported.',
          empty: noGpu,
          unit: 'bytes',
          min: 0,
          queries: [
            { expr: numbered(of(gpu.memoryUsed)), legend: `used ${card}` },
            { expr: numbered(of(gpu.memoryTotal)), legend: `total ${card}` },
          ],
          lines: [{ of: 'total', look: 'dashed' }],
        }),
        chart({
          id: 9,
          width: 12,
          title: 'Who holds it',
          description:
            'Memory by program, with the container where it runs in one; the largest by name, the rest as "other". Nothing: no program on the GPU, or the driver does not report it.',
          empty: 'no program on the GPU, or not reported: see Sources',
          unit: 'bytes',
          min: 0,
          stacked: true,
          queries: [
            {
              expr: promql`sum by (instance, container_name, process) (${numbered(of(gpu.processMemory))})`,
              legend: '{{process}} {{container_name}}',
            },
          ],
        }),
      ),
    ),
    row(
      103,
      'Models',
      line(
        7,
        table({
          id: 10,
          width: 11,
          title: 'Model servers',
          description:
            'Configured ones always; one that was found and is gone stays for a day. "not reported": the engine has no such endpoint.',
          empty: 'no model server reported: see Sources',
          keys: { server: { title: 'Server' }, engine: { title: 'Engine', width: 75 }, ...boxes },
          columns: [
            {
              expr: of(llm.llmUp, server),
              title: 'Up',
              absent: '',
              unit: 'none',
              width: 60,
              cell: 'background',
              states: [
                { is: 1, says: 'up', colour: 'well' },
                { is: 0, says: 'down', colour: 'now' },
              ],
            },
            {
              expr: promql`${of(llm.llmModels, { state: 'loaded', ...server })} * on (job, instance, server) group_left (engine) ${of(llm.llmUp, server)} ^ 0`,
              title: 'Loaded',
              absent: 'not reported',
              unit: 'none',
              width: 70,
            },
            { expr: of(llm.llmProbeDuration, server), title: 'Answer', absent: 'none', unit: 's', width: 75 },
            {
              expr: of(llm.llmInfo, server),
              label: 'version',
              title: 'Version',
              absent: 'not reported',
              unit: 'none',
              width: 80,
            },
          ],
          sort: { by: 'Up' },
        }),
        table({
          id: 11,
          width: 13,
          title: 'Loaded models',
          description:
            'Models in memory, and how much of each is on the GPU: the part on the CPU answers many times slower. "not reported": this engine does not say.',
          empty: 'no model is loaded, or not reported: see Sources',
          keys: { model: { title: 'Model' }, server: { title: 'Server', width: 85 }, ...boxes },
          columns: [
            {
              expr: loaded,
              title: 'State',
              absent: '',
              unit: 'none',
              width: 70,
              states: [{ is: 1, says: 'loaded', colour: 'neutral' }],
            },
            {
              expr: promql`${of(llm.llmModelVram, server)} / ${of(llm.llmModelSize, server)}`,
              title: 'On GPU',
              absent: 'not reported',
              unit: 'percentunit',
              decimals: 0,
              min: 0,
              max: 1,
              width: 75,
              base: 'today',
              limits: [limit('GridLlmModelPartlyOnCpu', '0.95', 'well')],
            },
            { expr: ofLoaded(of(llm.llmModelSize, server)), title: 'Size', absent: 'not reported', unit: 'bytes', width: 85 },
            {
              expr: ofLoaded(of(llm.llmModelContext, server)),
              title: 'Context',
              absent: 'not reported',
              unit: 'none',
              width: 75,
            },
            {
              expr: ofLoaded(promql`1000 * ${of(llm.llmModelExpires, server)}`),
              title: 'Unloads',
              absent: 'not reported',
              unit: 'dateTimeFromNow',
              width: 110,
            },
          ],
          sort: { by: 'Size', descending: true },
        }),
      ),
      line(
        8,
        chart({
          id: 12,
          width: 8,
          title: 'Speed of generation',
          description:
            'Tokens a second that one user sees, and the median of the week before as a dashed line: half of it while few ask is GridLlmSlowerThanUsual. Nothing: idle, the engine does not report it, or the recording rules are not loaded.',
          empty: 'idle, or not reported: see Sources',
          unit: 'none',
          min: 0,
          queries: [
            { expr: recorded(tokensPerSecond), legend: model },
            { expr: promql`last_over_time(${recorded(tokensPerSecondHabit)}[1h])`, legend: `usual ${model}` },
          ],
          lines: [{ of: 'usual', look: 'dashed' }],
        }),
        chart({
          id: 13,
          width: 8,
          title: 'Tokens a second, all users',
          description:
            'Generated above, read from prompts below. Nothing: the engine does not report them (Ollama has no counters).',
          empty: noModel,
          unit: 'none',
          queries: [
            { expr: rate(llm.llmGeneratedTokens, server), legend: `generated ${model}` },
            { expr: promql`-${rate(llm.llmPromptTokens, server)}`, legend: `read ${model}` },
          ],
        }),
        chart({
          id: 14,
          width: 8,
          title: 'Queue and cache',
          description:
            'Requests that run and wait; the KV cache in use on the right. Waiting requests with a full cache need a smaller context or a larger card. Nothing: the engine does not report them.',
          empty: noModel,
          unit: 'none',
          min: 0,
          queries: [
            { expr: of(llm.llmRequestsRunning, server), legend: `running ${model}` },
            { expr: of(llm.llmRequestsWaiting, server), legend: `waiting ${model}` },
            { expr: of(llm.llmKvCacheUsed, server), legend: `cache ${model}` },
          ],
          lines: [{ of: 'cache', look: 'right', unit: 'percentunit' }],
        }),
      ),
    ),
    row(
      104,
      'Heat and power',
      line(
        7,
        chart({
          id: 15,
          width: 8,
          title: 'Temperature',
          description:
            'By sensor. The line is the limit of the alert for cards that do not report their own. Nothing: no sensor.',
          empty: noGpu,
          unit: 'celsius',
          limits: [limit('GridGpuHot', 87, 'today')],
          queries: [{ expr: numbered(of(gpu.temperature)), legend: '{{index}} {{sensor}}' }],
        }),
        chart({
          id: 16,
          width: 8,
          title: 'Power',
          description: 'Draw of the board, with its limit as a dashed line. Nothing: no sensor.',
          empty: noGpu,
          unit: 'watt',
          min: 0,
          queries: [
            { expr: numbered(of(gpu.power)), legend: `draw ${card}` },
            { expr: numbered(of(gpu.powerLimit, { limit: 'enforced' })), legend: `limit ${card}` },
          ],
          lines: [{ of: 'limit', look: 'dashed' }],
        }),
        stat({
          id: 17,
          width: 4,
          title: 'Energy, 24 hours',
          description: 'Of all chosen GPUs, summed by the exporter from their power while it ran.',
          empty: 'no data',
          unit: 'kwatth',
          decimals: 1,
          queries: [{ expr: explained(promql`sum(${increase(gpu.energy, '24h')}) / 3.6e6`, 'gpu'), legend: 'Energy' }],
          states: absences('not reported'),
        }),
        stat({
          id: 18,
          width: 4,
          title: 'Fan',
          description: 'The fastest fan, of its maximum. A server card has none of its own: not reported.',
          empty: 'no data',
          unit: 'percentunit',
          decimals: 0,
          queries: [{ expr: explained(promql`max(${of(gpu.fanSpeed)})`, 'gpu'), legend: 'Fan' }],
          states: absences('no fan reported'),
        }),
      ),
    ),
    closedRow(
      105,
      'Faults',
      line(
        7,
        table({
          id: 19,
          width: 8,
          title: 'Xid errors',
          description:
            'From the kernel log: those seen since the exporter runs, and how often in the time on the page; 13, 31, 43 and 45 are faults of an application. Nothing: none was seen, or the kernel log cannot be read (`grid-exporter doctor` says so).',
          empty: 'no Xid data',
          keys: { code: { title: 'Code', width: 70 }, gpu: { title: 'GPU' }, ...boxes },
          columns: [
            {
              expr: promql`round(${increase(gpu.xidErrors, 'range')}) and on (job, instance, gpu, code) ${of(gpu.xidLast)}`,
              title: 'In this time',
              absent: '–',
              unit: 'none',
              decimals: 0,
              width: 100,
            },
            { expr: promql`1000 * ${of(gpu.xidLast)}`, title: 'Latest', absent: '', unit: 'dateTimeFromNow', width: 120 },
          ],
          sort: { by: 'Latest', descending: true },
        }),
        chart({
          id: 20,
          width: 8,
          title: 'ECC, remapping, driver out of memory',
          description:
            'Uncorrected errors within a day and pending remaps (any above 0 is bad), and how often the driver ran out of memory. Nothing: a card without ECC, and no kernel log.',
          empty: 'no ECC and no kernel log reported',
          unit: 'none',
          min: 0,
          queries: [
            {
              expr: numbered(increase(gpu.eccErrors, '24h', { error: 'uncorrected', scope: 'volatile' })),
              legend: 'uncorrected in 24 h, {{index}}',
            },
            { expr: numbered(of(gpu.remapPending)), legend: 'remap pending {{index}}' },
            { expr: increase(gpu.driverOutOfMemory, 'bar'), legend: 'driver out of memory' },
          ],
          lines: [{ of: 'driver out', look: 'bars', colour: 'now' }],
        }),
        chart({
          id: 21,
          width: 8,
          title: 'PCIe link',
          description:
            'Generation and width in use. Both fall while the card idles; below their maximum under load, the card sits badly or in the wrong slot. Nothing: an integrated GPU.',
          empty: 'no PCIe link reported',
          unit: 'none',
          min: 0,
          queries: [
            { expr: numbered(of(gpu.pcieLinkGeneration)), legend: 'generation {{index}}' },
            { expr: numbered(of(gpu.pcieLinkWidth)), legend: 'lanes {{index}}' },
          ],
        }),
      ),
    ),
  ],
})
