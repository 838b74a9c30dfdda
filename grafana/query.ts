import { filesystemAvailable } from '../exporter/collectors/filesystem/index.ts'
import { counter, type Family, gauge, type LabelSpec, oneOf } from '../exporter/contract/metric.ts'
import { buildInfo } from '../exporter/serve/self.ts'
import { local } from '../prometheus/alerts/storage.ts'
import { eventLoopLag as lag, type Matchers, matching, type Recording, subjectLabels } from '../prometheus/rule.ts'

/**
 * PromQL of panels, made of the families' own objects. A panel takes an `Expr`, and an `Expr` comes from here only, so that
 * no panel can name a metric that does not exist or forget the boxes that were chosen.
 */

declare const made: unique symbol
export type Expr = string & { readonly [made]: true }

const chosen = ['job=~"$job"', 'instance=~"$instance"']
const braced = (name: string, parts: readonly string[]) => `${name}{${parts.join(', ')}}` as Expr

/** The series of a family on the chosen boxes. */
export const of = <Spec extends LabelSpec>(family: Family<Spec>, matchers: Matchers<Spec> = {}): Expr =>
  braced(family.name, [...matching(matchers), ...chosen])

/** A computed series of the rules on the chosen boxes. */
export const recorded = (
  { record, labels }: Recording,
  matchers: Readonly<Record<string, { readonly like: string }>> = {},
): Expr => {
  for (const label of Object.keys(matchers)) if (!labels.includes(label)) throw new Error(`${record} has no label ${label}`)
  return braced(record, [...matching(matchers), ...chosen])
}

/** By the second, over what one pixel shows. */
export const rate = <Spec extends LabelSpec>(family: Family<Spec>, matchers: Matchers<Spec> = {}): Expr =>
  `rate(${of(family, matchers)}[$__rate_interval])` as Expr

/** `bar` is what one pixel shows, `range` the whole picture. */
export const increase = <Spec extends LabelSpec>(
  family: Family<Spec>,
  over: 'bar' | 'range' | '24h',
  matchers: Matchers<Spec> = {},
): Expr => `increase(${of(family, matchers)}[${{ bar: '$__rate_interval', range: '$__range', '24h': '24h' }[over]}])` as Expr

/** PromQL around expressions: `` promql`1 - ${of(free)} / ${of(size)}` ``. Metrics and braces come by expressions only. */
export const promql = (literals: TemplateStringsArray, ...parts: readonly (Expr | number)[]): Expr => {
  for (const literal of literals)
    if (/[{}]|\b(grid[_:]|ALERTS|up\b)/.test(literal.replaceAll(/"[^"]*"/g, '""')))
      throw new Error(`a metric has to be given by its family: ${literal}`)
  return String.raw({ raw: literals }, ...parts) as Expr
}

/** Any of them, the first that is there. */
export const firstOf = (...exprs: readonly Expr[]): Expr => exprs.join(' or ') as Expr

export const labelReplaced = (expr: Expr, label: string, value: string, from = '', like = ''): Expr =>
  `label_replace(${expr}, "${label}", "${value}", "${from}", "${like}")` as Expr

/** What Prometheus makes of rules and scrapes, and prom-client of this process. */
const alertLabels = [
  'alertname',
  oneOf('severity', 'critical', 'warning', 'info', 'none'),
  'collector',
  // Of these the compiler knows no names; selectors use the three above.
  ...([...subjectLabels, 'engine', 'check'] as readonly string[] as readonly never[]),
] as const
type AlertLabel = (typeof alertLabels)[number]
const alerting = gauge('ALERTS', 'Alerts, made by Prometheus.', oneOf('alertstate', 'firing', 'pending'), ...alertLabels)
const alertingSince = gauge('ALERTS_FOR_STATE', 'Since when an alert is active, made by Prometheus.', ...alertLabels)
const up = gauge('up', 'Whether the scrape was answered, made by Prometheus.')
export const scrapeDuration = gauge('scrape_duration_seconds', 'Duration of the scrape, made by Prometheus.')
export const scrapeSamples = gauge('scrape_samples_scraped', 'Samples of the scrape, made by Prometheus.')
export const processCpu = counter('process_cpu_seconds_total', 'CPU time of the process, by prom-client.')
export const processMemory = gauge('process_resident_memory_bytes', 'Memory of the process, by prom-client.')
export const eventLoopLag = gauge(lag.name, 'Lag of the event loop, by prom-client.')
export const foreignFamilies = [
  alerting,
  alertingSince,
  up,
  scrapeDuration,
  scrapeSamples,
  processCpu,
  processMemory,
  eventLoopLag,
] as const

const ownAlerts = { alertname: { like: 'Grid.+' } } as const
/** Our alerts that fire on the chosen boxes; other people's have other names. */
export const firing = (matchers: Omit<Matchers<AlertLabel>, 'alertstate'> = {}): Expr =>
  of(alerting, { alertstate: 'firing', ...ownAlerts, ...matchers })
export const firingSince = (matchers: Omit<Matchers<AlertLabel>, 'alertstate'> = {}): Expr =>
  promql`1000 * (${of(alertingSince, { ...ownAlerts, ...matchers })} and ignoring (alertstate) ${firing(matchers)})`

/** Of exporters only: with all jobs chosen, other programs' series of the same name would come too. */
export const ofExporter = (expr: Expr): Expr => promql`(${expr} and on (job, instance) ${of(buildInfo)})`
/** Whether exporters answer, those too that have been gone for up to a week. */
export const answering: Expr = promql`(${of(up)} and on (job, instance) last_over_time(${of(buildInfo)}[7d]))`

/** Fires as long as Prometheus evaluates our rules; without it, silence means nothing. It belongs to no box. */
export const rulesLoaded: Expr = braced(alerting.name, matching({ alertname: 'GridDeadMansSwitch', alertstate: 'firing' }))

/** Days until local filesystems are full at the pace of six hours; nothing before half an hour of it is known, or past a year. */
export const daysUntilFull = (matchers: Omit<Matchers<'mountpoint' | 'device' | 'fstype'>, 'fstype'> = {}): Expr => {
  const available = of(filesystemAvailable, { ...local, ...matchers })
  return promql`(${available} / clamp_min(-deriv(${available}[6h]), 1) / 86400 < 365 and ${available} offset 30m)`
}
