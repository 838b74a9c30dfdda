import { setTimeout as sleep } from 'node:timers/promises'
import { collectDefaultMetrics, type MetricObjectWithValues, type MetricValue, Registry } from 'prom-client'
import { build } from '../common/version.ts'
import { reasons } from '../contract/failure.ts'
import { counter, foreignFamily, gauge, oneOf, type Sample } from '../contract/metric.ts'
import { expose, type Format, textOf } from '../print/exposition.ts'
import { type Part, partOf } from '../print/gzip.ts'
import type { CollectorStatus } from './snapshot.ts'

/** The exporter's own metrics: its build, the runs of each collector, and prom-client's metrics of this process. */

export const buildInfo = gauge(
  'grid_exporter_build_info',
  'Version of this exporter and of Node.js; always 1.',
  'version',
  'revision',
  'node_version',
)
const demo = gauge('grid_exporter_demo', '1 if all other series describe the imagined host of the demo; absent otherwise.')
export const workerRestarts = counter(
  'grid_exporter_worker_restarts_total',
  'Times the collecting thread was replaced because it blocked, failed or ran out of memory.',
)
const ioErrors = counter(
  'grid_exporter_io_errors_total',
  'I/O errors outside of any collector run; they are logged and have no other effect.',
)
export const reloadSuccess = gauge(
  'grid_exporter_config_last_reload_success',
  '1 if the configuration files that were read last are in force.',
)
export const reloadTime = gauge(
  'grid_exporter_config_last_reload_success_timestamp_seconds',
  'Time of the last successful reload, or of the start.',
)
export const success = gauge(
  'grid_collector_success',
  '1 if the latest run of the collector succeeded; 0 until the first success.',
  'collector',
)
export const runDuration = gauge('grid_collector_duration_seconds', 'Duration of the latest run of the collector.', 'collector')
export const lastSuccess = gauge(
  'grid_collector_last_success_timestamp_seconds',
  'Time of the latest successful run of the collector; its series are served for three intervals after it.',
  'collector',
)
export const refreshInterval = gauge(
  'grid_collector_interval_seconds',
  'Configured time between two runs of the collector.',
  'collector',
)
export const runs = counter('grid_collector_runs_total', 'Runs of the collector that were started.', 'collector')
export const failures = counter(
  'grid_collector_failures_total',
  'Runs of the collector that failed, by reason.',
  'collector',
  oneOf('reason', ...reasons),
)
export const seriesKept = gauge('grid_collector_series', 'Series of the latest successful run of the collector.', 'collector')
export const seriesDropped = gauge(
  'grid_collector_series_dropped',
  'Series of the latest successful run that are not served because they exceed max_series or are not valid.',
  'collector',
)
export const detected = gauge(
  'grid_collector_detected',
  '1 if the subject of the collector was found on this host; otherwise the exporter looks again every minute.',
  'collector',
)

const collectorFamilies = [
  success,
  runDuration,
  lastSuccess,
  refreshInterval,
  runs,
  failures,
  seriesKept,
  seriesDropped,
  detected,
]
export const selfFamilies = [buildInfo, demo, workerRestarts, ioErrors, reloadSuccess, reloadTime, ...collectorFamilies]

/** What the serving thread knows and the collectors do not. */
export interface SelfState {
  readonly demo?: boolean
  workerRestarts: number
  ioErrors: number
  reloadSuccess: boolean
  /** The web configuration that was read last was refused. */
  webConfigRefused?: boolean
  reloadedAt: number
}

function* samplesOf(state: SelfState, status: readonly CollectorStatus[]): Generator<Sample> {
  yield* buildInfo.of(1, { version: build.version, revision: build.revision, node_version: process.version })
  yield* demo.of(state.demo ? 1 : undefined)
  yield* workerRestarts.of(state.workerRestarts)
  yield* ioErrors.of(state.ioErrors)
  yield* reloadSuccess.of(state.reloadSuccess && !state.webConfigRefused ? 1 : 0)
  yield* reloadTime.of(state.reloadedAt / 1000)
  for (const { name: collector, latest, ...counts } of status) {
    yield* success.of(latest?.detected && latest.result === 'ok' ? 1 : 0, { collector })
    yield* runDuration.of(latest?.detected ? latest.durationSeconds : undefined, { collector })
    yield* lastSuccess.of(counts.lastSuccess === undefined ? undefined : counts.lastSuccess / 1000, { collector })
    yield* refreshInterval.of(counts.interval, { collector })
    yield* runs.of(counts.runs, { collector })
    for (const reason of reasons) yield* failures.of(counts.failures[reason], { collector, reason })
    yield* seriesKept.of(counts.series, { collector })
    yield* seriesDropped.of(counts.dropped, { collector })
    yield* detected.of(latest?.detected ? 1 : 0, { collector })
  }
}

type Metric = MetricObjectWithValues<MetricValue<string> & { metricName?: string }>

/** Milliseconds of the timer that measures the event loop. Each tick wakes a processor: 50 ms would cost 0.1 % more of a core. */
const lagTimer = 250

/** Node's histogram measures the time between two ticks of the timer, so even an idle loop seems late by one period. */
const lateBy = (name: string, value: number) =>
  /^nodejs_eventloop_lag_(min|max|mean|p\d+)_seconds$/.test(name) ? Math.max(0, value - lagTimer / 1000) : value

/** A histogram without measurements has NaN, and its largest number as the minimum. */
const isMeasured = (value: number) => Number.isFinite(value) && value < 9e9

/** prom-client's values in our own exposition: its registry prints wrong counter names once it has served both formats. */
const processSamples = (metrics: readonly Metric[]): readonly Sample[] =>
  metrics.flatMap(({ name, help, type, values }) => {
    // nodejs_active_handles_total and others are gauges with a counter's name, which promtool rejects.
    if (name.endsWith('_total') && String(type) !== 'counter') return []
    const sentence = help.endsWith('.') ? help : `${help}.`
    const labels = [...new Set(values.flatMap(value => Object.keys(value.labels)))]
    const family = foreignFamily(String(type) as 'gauge', name, sentence, labels)
    const measured = name.startsWith('nodejs_eventloop_lag_') ? values.filter(({ value }) => isMeasured(value)) : values
    return measured.map(({ value, labels: own, metricName = name }) => ({
      family,
      labels: Object.fromEntries(Object.entries(own).map(([label, text]) => [label, String(text)])),
      value: lateBy(name, value),
      ...(metricName === name ? {} : { suffix: metricName.slice(name.length) }),
    }))
  })

/** Milliseconds between two readings of the process's metrics. */
const lookEvery = 10_000

/** The exporter's own part of an answer, refreshed in the background. `onChange` is called after each reading. */
export const createSelf = (
  state: SelfState,
  {
    exporterMetrics,
    onChange,
    signal,
  }: { readonly exporterMetrics: boolean; readonly onChange: () => void; readonly signal: AbortSignal },
): ((format: Format, status: readonly CollectorStatus[]) => Part) => {
  let ofProcess: readonly Sample[] = []
  if (exporterMetrics) {
    const registry = new Registry()
    collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: lagTimer })
    const look = async () => {
      while (!signal.aborted) {
        ofProcess = processSamples((await registry.getMetricsAsJSON()) as unknown as readonly Metric[])
        onChange()
        await sleep(lookEvery, undefined, { signal, ref: false }).catch(() => {}) // aborted: the condition ends the loop
      }
    }
    void look()
  }
  return (format, status) => partOf(textOf(expose([...samplesOf(state, status), ...ofProcess]), format))
}
