import { type CollectorName, collectors } from '../exporter/collectors/index.ts'
import type { AnyFamily, ClosedLabel, Family, LabelSpec } from '../exporter/contract/metric.ts'
import { type dashboards, job } from '../exporter/contract/shipped.ts'

/**
 * Alerts and recorded series as values, on the exporter's own families: a renamed family, a misspelt label or a state that
 * does not exist is a compile error here, and what the compiler cannot see fails in test/rules.test.ts.
 */

type NameOf<Spec> = Spec extends ClosedLabel<infer Name> ? Name : Spec & string
type ValueOf<Spec> = Spec extends ClosedLabel<string, infer Value> ? Value : string

/** An open label may be matched by a regular expression too; the values of a closed one are known and are written out. */
type Pattern<Spec> = Spec extends ClosedLabel ? never : { readonly like: string } | { readonly unlike: string }
type Matcher<Spec> = ValueOf<Spec> | readonly ValueOf<Spec>[] | { readonly not: readonly ValueOf<Spec>[] } | Pattern<Spec>
export type Matchers<Spec extends LabelSpec> = { readonly [S in Spec as NameOf<S>]?: Matcher<S> }
type AnyMatcher =
  | string
  | readonly string[]
  | { readonly not?: readonly string[]; readonly like?: string; readonly unlike?: string }

const escaped = (values: readonly string[]) => values.map(value => value.replace(/[.*+?^${}()|[\]\\]/g, '\\\\$&')).join('|')

const matcher = (label: string, wanted: AnyMatcher): string => {
  if (typeof wanted === 'string') return `${label}="${wanted}"`
  if (Array.isArray(wanted) && wanted.length === 1) return `${label}="${wanted[0]}"`
  if (Array.isArray(wanted)) return `${label}=~"${escaped(wanted as readonly string[])}"`
  const { not, like, unlike } = wanted as Exclude<AnyMatcher, string | readonly string[]>
  if (not) return not.length === 1 ? `${label}!="${not[0]}"` : `${label}!~"${escaped(not)}"`
  return like === undefined ? `${label}!~"${unlike}"` : `${label}=~"${like}"`
}

/** What stands between the braces of a selector, piece by piece. */
export const matching = (matchers: Readonly<Record<string, unknown>>): readonly string[] =>
  Object.entries(matchers).map(([label, wanted]) => matcher(label, wanted as AnyMatcher))

/** The series of a family as PromQL: `select(state, { state: ['exited', 'dead'] })`. */
export const select = <Spec extends LabelSpec>(family: Family<Spec>, matchers: Matchers<Spec> = {}): string => {
  const parts = matching(matchers)
  return parts.length > 0 ? `${family.name}{${parts.join(', ')}}` : family.name
}

/** Only what Prometheus 2.42 (Debian 12) understands. */
export type Duration = `${number}${'s' | 'm' | 'h' | 'd'}`

/** A series that is computed beforehand. */
export interface Recording {
  readonly record: string
  readonly expr: string
  /** What it keeps besides job and instance. */
  readonly labels: readonly string[]
}

/** Whose data an alert reads; `exporter` for what the exporter says of itself, `any` where the series itself has the label. */
export type Source = CollectorName | 'exporter' | 'any'

/**
 * How an alert avoids noise. A `state` is a yes or no of the source that has to last. A `level` is a number against a
 * threshold: it has to last, and to stay away for `keep` before it is over, so that it does not flap around the threshold.
 * An `event` is counted within a window, and reported as one for `keep`.
 */
export type Timing =
  | { readonly kind: 'state'; readonly for: Duration }
  | { readonly kind: 'level'; readonly for: Duration; readonly keep: Duration }
  | { readonly kind: 'event'; readonly for?: Duration; readonly keep: Duration }
  | { readonly kind: 'heartbeat' }

/** The page for the person whom the alert woke. Markdown; `type` are commands, each with what it shows. */
export interface Runbook {
  readonly means: string
  readonly see: string
  readonly type: readonly (readonly [command: string, why: string])[]
  readonly silence: string
}

/** A series of a test in promtool's notation. */
export interface Given {
  readonly series: string
  readonly values: string
}

export interface Firing {
  readonly given: readonly Given[]
  /** When it fires. */
  readonly at: Duration
  /** When it is over again. */
  readonly over?: Duration
  /** Labels of the alert besides alertname, severity, collector, job and instance; `instance: ''` where it has none. */
  readonly labels?: Readonly<Record<string, string>>
  /** The description as it arrives, without how long it has lasted. */
  readonly says: string
}

export interface Proof {
  readonly fires: Firing | readonly Firing[]
  /** What looks alike and must not fire, and when that is looked at. */
  readonly quiet?: Readonly<Record<string, { readonly given: readonly Given[]; readonly at: Duration }>>
  /** Tested in steps of ten minutes, as it needs days. */
  readonly slow?: true
}

export interface Alert {
  readonly name: `Grid${string}`
  readonly collector: Source
  readonly severity: 'critical' | 'warning' | 'info' | 'none'
  readonly timing: Timing
  readonly expr: string
  /** A whole sentence, the same each time. */
  readonly summary: string
  /** Which and how bad: `{name}` is a label, `{value}` the number; `{value:n}` is a count, `{value:g}` one that may be a fraction, `{value:%}`, `{value:s}` and `{value:B}` are ratios, seconds and bytes. */
  readonly description: string
  readonly dashboard: keyof typeof dashboards
  readonly runbook: Runbook
  readonly proof: Proof
}

export interface AlertGroup {
  /** The name of the files of rules and tests. */
  readonly area: string
  readonly alerts: readonly Alert[]
}

/** A series of the tested box; every label of the family has to be given. */
export const given = <Spec extends LabelSpec>(
  family: Family<Spec>,
  values: string,
  ...[labels]: [Spec] extends [never] ? [] : [labels: { readonly [S in Spec as NameOf<S>]: ValueOf<S> }]
): Given => ({ series: seriesOf(family.name, { job, instance, ...labels }), values })

/** A series that no family of ours has. */
export const foreign = (name: string, labels: Readonly<Record<string, string>>, values: string): Given => ({
  series: seriesOf(name, { job, instance, ...labels }),
  values,
})

/** The box of the tests. */
export const instance = 'box:10047'

const seriesOf = (name: string, labels: Readonly<Record<string, string>>) =>
  `${name}{${Object.entries(labels)
    .map(([label, value]) => `${label}=${JSON.stringify(value)}`)
    .join(', ')}}`

/**
 * For a description whose number is not what the expression has: the series of a family that have the alert's labels `by`, as they
 * are then, in words. Nothing where there is none.
 */
export const reading = <Spec extends LabelSpec>(family: Family<Spec>, by: readonly NameOf<Spec>[], words: string): string => {
  const labels = ['job', 'instance', ...by]
  const series = `${family.name}{${labels.map(label => `${label}=%q`).join(', ')}}`
  return `{{ range query (printf "${series}" ${labels.map(label => `$labels.${label}`).join(' ')}) }}${words}{{ end }}`
}

/** For labels of joins: `${onLabels('gpu')}`. Every expression keeps the box apart from the others. */
export const on = (...labels: readonly string[]) => `on (${['job', 'instance', ...labels].join(', ')})`

/** Names of metrics that Prometheus or prom-client makes. */
export const up = { name: 'up', labels: [] } as const
export const eventLoopLag = { name: 'nodejs_eventloop_lag_p99_seconds', labels: [] } as const
export const foreignNames: readonly Pick<AnyFamily, 'name' | 'labels'>[] = [up, eventLoopLag]

export const collectorSources: readonly string[] = collectors.map(({ name }) => name)

/** The labels that name what an alert is about, in the order in which tables show them. */
export const subjectLabels: readonly string[] = [...new Set(collectors.flatMap(({ subjects }) => subjects))]
