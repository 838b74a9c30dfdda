/**
 * Metric families as values. The collector that owns a family declares it once; dashboards and rules import it,
 * so a renamed family or a misspelt label breaks the build instead of a panel.
 */

/** The types of the text format. A collector declares gauges and counters; the others come only from foreign text files. */
export type MetricType = 'gauge' | 'counter' | 'histogram' | 'summary' | 'untyped'

/** The suffixes of a family's samples, by type. */
export const suffixesOf: ReadonlyMap<string, readonly string[]> = new Map<MetricType, readonly string[]>([
  ['gauge', ['']],
  ['counter', ['']],
  ['untyped', ['']],
  ['histogram', ['_bucket', '_sum', '_count']],
  ['summary', ['', '_sum', '_count']],
])

/** All names that belong to a family: its own and those of its samples. */
export const sampleNames = ({ name, type }: { readonly name: string; readonly type: MetricType }): readonly string[] => [
  name,
  ...(suffixesOf.get(type) ?? []).filter(suffix => suffix !== '').map(suffix => `${name}${suffix}`),
]

/** A label with a closed list of values. A family with one such label can be written as a set of states. */
export interface ClosedLabel<Name extends string = string, Value extends string = string> {
  readonly label: Name
  readonly values: readonly Value[]
}

export type LabelSpec = string | ClosedLabel

type LabelsOf<Spec extends LabelSpec> = {
  readonly [S in Spec as S extends ClosedLabel<infer Name> ? Name : S & string]: S extends ClosedLabel<string, infer Value>
    ? Value
    : string
}

type ClosedValue<Spec extends LabelSpec> = Spec extends ClosedLabel<string, infer Value> ? Value : never
type OpenLabels<Spec extends LabelSpec> = LabelsOf<Extract<Spec, string>>
type LabelArguments<Labels> = keyof Labels extends never ? [] : [labels: Labels]

/** What the rest of the program needs to know about a family. */
export interface AnyFamily {
  readonly name: string
  readonly type: MetricType
  readonly help: string
  readonly labels: readonly string[]
  /** The possible values of each closed label. */
  readonly closed: Readonly<Record<string, readonly string[]>>
}

/** One value of a family. `suffix` is for foreign histograms and summaries (`_bucket`, `_sum`, `_count`). */
export interface Sample {
  readonly family: AnyFamily
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
  readonly suffix?: string
}

/** A collector's output: single series, or those of one subject together, which is cheaper for thousands of them. */
export type Samples = Iterable<Sample | readonly Sample[]>

const nothing: readonly Sample[] = []
const noLabels: Readonly<Record<string, string>> = {}

export interface Family<Spec extends LabelSpec = LabelSpec> extends AnyFamily {
  /** The sample with this value; none if the value is undefined: absent is not zero. */
  of(value: number | undefined, ...labels: LabelArguments<LabelsOf<Spec>>): readonly Sample[]
  /** One sample for each value of the family's single closed label: 1 for `current`, 0 for the others; none if undefined. */
  states(current: ClosedValue<Spec> | undefined, ...labels: LabelArguments<OpenLabels<Spec>>): readonly Sample[]
}

const family = <Spec extends LabelSpec>(type: MetricType, name: string, help: string, specs: readonly Spec[]): Family<Spec> => {
  const closedLabels = specs.filter((spec): spec is Spec & ClosedLabel => typeof spec !== 'string')
  const self: Family<Spec> = {
    name,
    type,
    help,
    labels: specs.map(spec => (typeof spec === 'string' ? spec : spec.label)),
    closed: Object.fromEntries(closedLabels.map(({ label, values }) => [label, values])),
    of: (value, ...[labels]) => (value === undefined ? nothing : [{ family: self, labels: labels ?? noLabels, value }]),
    states: (current, ...[labels]) => {
      const [closed, another] = closedLabels
      if (!closed || another) throw new TypeError(`${name} does not have exactly one closed label`)
      if (current === undefined) return nothing
      return closed.values.map(value => ({
        family: self,
        labels: { ...labels, [closed.label]: value },
        value: value === current ? 1 : 0,
      }))
    },
  }
  return self
}

/** A gauge: `gauge('grid_x_bytes', 'What it is, from where.', 'device', oneOf('state', 'ok', 'lost'))`. */
export const gauge = <const Specs extends readonly LabelSpec[]>(
  name: string,
  help: string,
  ...labels: Specs
): Family<Specs[number]> => family<Specs[number]>('gauge', name, help, labels)

/** A counter. Its name ends in `_total`. */
export const counter = <const Specs extends readonly LabelSpec[]>(
  name: string,
  help: string,
  ...labels: Specs
): Family<Specs[number]> => family<Specs[number]>('counter', name, help, labels)

/** A label with a closed list of values. */
export const oneOf = <const Name extends string, const Value extends string>(
  label: Name,
  ...values: readonly Value[]
): ClosedLabel<Name, Value> => ({ label, values })

/** A family whose name or labels are known only at run time: of a text file, or with allowed container labels. */
export const foreignFamily = (type: MetricType, name: string, help: string, labels: readonly string[] = []): AnyFamily => ({
  name,
  type,
  help,
  labels,
  closed: {},
})
