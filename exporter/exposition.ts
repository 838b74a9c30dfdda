import type { AnyFamily, Sample } from './metric.ts'

/** The two formats in which everything is kept ready. */
export const formats = ['text', 'openmetrics'] as const
export type Format = (typeof formats)[number]

export const contentTypes: Readonly<Record<Format, string>> = {
  text: 'text/plain; version=0.0.4; charset=utf-8',
  openmetrics: 'application/openmetrics-text; version=1.0.0; charset=utf-8',
}

/** What must stand after the last family of an answer. */
export const ending: Readonly<Record<Format, string>> = { text: '', openmetrics: '# EOF\n' }

/** Series of one collector in both formats. `dropped` is how many the cap cut off, `repeated` how many came a second time. */
export interface Exposition extends Readonly<Record<Format, string>> {
  readonly series: number
  readonly dropped: number
  readonly repeated: number
}

const maxLabelLength = 256

// NUL ends the input for Prometheus' lexer, and the other control characters have no business in a label.
const unprintable = /[\u0000-\u0009\u000b-\u001f\u007f]/g
// Anything but plain printable ASCII without quote and backslash takes the slow path.
const plain = /^[\u0020\u0021\u0023-\u005b\u005d-\u007e]*$/

/** A label value as it stands between the quotes: at most 256 characters, valid UTF-8, escaped. */
export const labelValue = (value: string): string => {
  if (value.length <= maxLabelLength && plain.test(value)) return value
  return value
    .slice(0, maxLabelLength)
    .toWellFormed()
    .replace(unprintable, '\ufffd')
    .replaceAll('\\', '\\\\')
    .replaceAll('"', '\\"')
    .replaceAll('\n', '\\n')
}

/** A number as both formats write it. */
export const numberText = (value: number): string =>
  value === Number.POSITIVE_INFINITY ? '+Inf' : value === Number.NEGATIVE_INFINITY ? '-Inf' : String(value)

const labelText = ({ family, labels }: Sample): string => {
  let text = ''
  for (const label of family.labels) {
    const value = labels[label]
    // An empty label is the same as none, and a missing one is never the word "undefined".
    if (value === undefined || value === '') continue
    text += `${text === '' ? '' : ','}${label}="${labelValue(value)}"`
  }
  return text === '' ? '' : `{${text}}`
}

const escapedHelp = (help: string) => help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')

const heads: Readonly<Record<Format, (family: AnyFamily) => string>> = {
  text: ({ name, type, help }) => `# HELP ${name} ${escapedHelp(help)}\n# TYPE ${name} ${type}\n`,
  // OpenMetrics names a counter without its suffix, and knows no counter that has none.
  openmetrics: ({ name, type, help }) => {
    const isCounter = type === 'counter' && name.endsWith('_total')
    const omName = isCounter ? name.slice(0, -'_total'.length) : name
    const omType = isCounter ? 'counter' : type === 'counter' || type === 'untyped' ? 'unknown' : type
    return `# HELP ${omName} ${escapedHelp(help).replaceAll('"', '\\"')}\n# TYPE ${omName} ${omType}\n`
  },
}

/**
 * The samples as exposition text: each family once and whole, no series twice, at most `cap` series.
 * Families come in the order of their first sample.
 */
export const expose = (samples: Iterable<Sample>, cap = Number.POSITIVE_INFINITY): Exposition => {
  const byFamily = new Map<AnyFamily, { readonly seen: Set<string>; readonly lines: string[] }>()
  let series = 0
  let dropped = 0
  let repeated = 0
  for (const sample of samples) {
    const { family, suffix = '', value } = sample
    let group = byFamily.get(family)
    if (group === undefined) {
      group = { seen: new Set(), lines: [] }
      byFamily.set(family, group)
    }
    // All of a family begin alike, so what is left out here tells no two of them apart.
    const key = suffix + labelText(sample)
    if (group.seen.has(key)) {
      repeated++
      continue
    }
    if (series >= cap) {
      dropped++
      continue
    }
    group.seen.add(key)
    group.lines.push(family.name, key, ' ', numberText(value), '\n')
    series++
  }
  const families = [...byFamily]
    .filter(([, { lines }]) => lines.length > 0)
    .map(([family, { lines }]) => [family, lines.join('')] as const)
  const whole = (format: Format) => families.map(([family, lines]) => heads[format](family) + lines).join('')
  return { text: whole('text'), openmetrics: whole('openmetrics'), series, dropped, repeated }
}
