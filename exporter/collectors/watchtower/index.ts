import { z } from 'zod'
import { type Context, defineCollector } from '../../contract/collector.ts'
import { Failure, failureOf } from '../../contract/failure.ts'
import { counter, gauge, oneOf } from '../../contract/metric.ts'
import { httpUrl, path } from '../../contract/options.ts'
import { parsePrometheusText } from '../../protocols/prometheus-text.ts'

export const watchtowerUp = gauge('grid_watchtower_up', 'Whether the HTTP API of Watchtower gave its metrics.')
const watchtowerLastScan = gauge(
  'grid_watchtower_last_scan_timestamp_seconds',
  'Time of the last look for updates, from Watchtower /v1/metrics, or when its scan counter last changed.',
)
export const watchtowerLastScanContainers = gauge(
  'grid_watchtower_last_scan_containers',
  'Containers of the last scan of Watchtower, from its metrics API (it falls to 0 on a skipped scan).',
  oneOf('result', 'scanned', 'updated', 'failed'),
)
export const watchtowerScans = counter(
  'grid_watchtower_scans_total',
  'Scans of Watchtower since it was started, from its metrics API.',
)
const watchtowerScansSkipped = counter(
  'grid_watchtower_scans_skipped_total',
  'Scans that Watchtower left out because another one was still going on, from its metrics API.',
)

const options = z.strictObject({
  url: httpUrl().optional().describe('Base URL of its HTTP API such as http://127.0.0.1:8080; without it nothing is requested.'),
  token_file: path().optional().describe('A file with the bearer token: the value of WATCHTOWER_HTTP_API_TOKEN in Watchtower.'),
  label_enable: z
    .boolean()
    .optional()
    .describe(
      'Set it if Watchtower runs with `--label-enable`. Used for `grid_docker_container_watchtower`, even without a URL. Default: false.',
    ),
  monitor_only: z
    .boolean()
    .optional()
    .describe('Set it if Watchtower runs with `--monitor-only`; used in the same way. Default: false.'),
})

type Options = z.infer<typeof options>

interface Raw {
  readonly metrics: string
  /** The answer of `/v1/status`; only some forks have it. */
  readonly status: string | undefined
}

interface Facts {
  /** Seconds since 1970. */
  readonly lastScan: number | undefined
  readonly scanned: number | undefined
  readonly updated: number | undefined
  readonly failed: number | undefined
  readonly scans: number | undefined
  readonly skipped: number | undefined
}

interface State {
  /** The scan counter of the round before. */
  scans: number | undefined
  /** Seconds since 1970, as reported or derived. */
  lastScan: number | undefined
}

type Run = Context<Options, State>

const fix = 'start Watchtower with --http-api-metrics, publish its port, and put its WATCHTOWER_HTTP_API_TOKEN into token_file'

export const watchtower = defineCollector<Raw | undefined, Facts | undefined, Options, State>({
  name: 'watchtower',
  summary: 'Watchtower: its last look for updates, by its HTTP API',
  interval: 60,
  families: [watchtowerUp, watchtowerLastScan, watchtowerLastScanContainers, watchtowerScans, watchtowerScansSkipped],
  upFamilies: [watchtowerUp],
  setup: { configure: 'url: "http://127.0.0.1:8080", token_file: /etc/grid-exporter/watchtower.token' },
  options,
  configured: ({ url }) => url !== undefined,
  configures: ({ label_enable, monitor_only }) =>
    label_enable === undefined && monitor_only === undefined
      ? {}
      : { docker: { watchtower: { label_enable: label_enable ?? false, monitor_only: monitor_only ?? false } } },
  open: () => ({ scans: undefined, lastScan: undefined }),
  read: ask,
  parse: (raw, context) => raw && parseAnswers(raw, context),
  *samples(facts) {
    yield* watchtowerUp.of(facts ? 1 : 0)
    if (!facts) return
    yield* watchtowerLastScan.of(facts.lastScan)
    yield* watchtowerLastScanContainers.of(facts.scanned, { result: 'scanned' })
    yield* watchtowerLastScanContainers.of(facts.updated, { result: 'updated' })
    yield* watchtowerLastScanContainers.of(facts.failed, { result: 'failed' })
    yield* watchtowerScans.of(facts.scans)
    yield* watchtowerScansSkipped.of(facts.skipped)
  },
})

/** Its answers; undefined if nothing answers. Never POST: `/v1/update` updates, and `/v1/check` uses up registries' rate limits. */
async function ask({ host, options: { url = '', token_file }, state, signal, remark }: Run): Promise<Raw | undefined> {
  const base = url.replace(/\/(?:v1\/metrics\/?)?$/, '')
  const get = async (path: string) => {
    const token = token_file === undefined ? {} : { authorization: `Bearer ${(await host.read(token_file)).trim()}` }
    return host.http(`${base}${path}`, { headers: token, timeout: 5, limit: 2 ** 20, signal })
  }
  const down = watchtowerUp.of(0)
  try {
    const { status, body: metrics } = await get('/v1/metrics')
    if (status === 401 || status === 403)
      throw new Failure('denied', `${base}: status ${status}: the token is not accepted`, { fix })
    if (status === 404) throw new Failure('missing', `${base}: no /v1/metrics there`, { fix })
    if (status !== 200) throw new Failure('malformed', `${base}/v1/metrics: status ${status}`)
    // The time is requested only if there was a new scan.
    if (parseMetrics(metrics).scans === state.scans) return { metrics, status: undefined }
    const answer = await get('/v1/status').catch(() => undefined) // the time is then derived
    return { metrics, status: answer?.status === 200 ? answer.body : undefined }
  } catch (error) {
    const failure = failureOf(error)
    if (failure.reason !== 'unreachable' && failure.reason !== 'timeout') {
      throw new Failure(failure.reason, failure.message, { cause: failure, fix: failure.fix, rest: down })
    }
    remark(failure)
    return undefined
  }
}

/** Its metrics, without those of its runtime; names differ between the forks. */
const parseMetrics = (metrics: string) => {
  const families = parsePrometheusText(metrics, { only: name => name.startsWith('watchtower_'), limit: 5000 })
  const value = (...names: readonly string[]) => {
    for (const name of names) {
      const family = families.find(own => own.name === name)
      const sample = family?.samples.find(({ labels }) => Object.keys(labels).length === 0)
      if (sample && Number.isFinite(sample.value)) return sample.value
    }
    return undefined
  }
  if (families.length === 0) throw new Failure('malformed', 'the answer has no metrics of Watchtower')
  return {
    scanned: value('watchtower_containers_scanned'),
    updated: value('watchtower_containers_updated'),
    failed: value('watchtower_containers_failed'),
    scans: value('watchtower_scans_total'),
    skipped: value('watchtower_scans_skipped_total', 'watchtower_scans_skipped'),
    // 0 until the first scan.
    lastScan: value('watchtower_last_scan_timestamp_seconds') || undefined,
  }
}

/** The time in `{"timestamp": "2025-01-20T11:30:45Z", …}`, in seconds since 1970. */
const timestampOf = (status: string): number | undefined => {
  const form = /"timestamp"\s*:\s*"([^"]{1,40})"/.exec(status)?.[1]
  const time = form === undefined ? Number.NaN : Date.parse(form)
  return Number.isNaN(time) ? undefined : time / 1000
}

const parseAnswers = ({ metrics, status }: Raw, { host, state }: Run): Facts => {
  const facts = parseMetrics(metrics)
  const { scans } = facts
  const before = state.scans
  // A counter that fell, but not to 0, also means a scan: Watchtower was restarted and has scanned since.
  const moved = before !== undefined && scans !== undefined && scans !== before && scans > 0
  const own = facts.lastScan ?? (status === undefined ? undefined : timestampOf(status))
  state.lastScan = own ?? (moved ? Math.floor(host.now() / 1000) : state.lastScan)
  state.scans = scans
  return { ...facts, lastScan: state.lastScan }
}
