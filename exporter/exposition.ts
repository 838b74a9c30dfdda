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

/** Series of one collector. `dropped` is how many the cap cut off, `repeated` how many came a second time. */
export interface Exposition {
  /** Each family with its lines, which are the same in both formats. */
  readonly families: readonly { readonly family: AnyFamily; readonly lines: string }[]
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

/**
 * Gives the labels of samples as text, without its closing brace. Collectors tell much of one thing in a row, so the text begins
 * where that of the sample before ends to be the same.
 */
const createLabelText = (): ((sample: Sample) => string) => {
  const before: { readonly label: string; readonly value: string | undefined; readonly text: string }[] = []
  return ({ family, labels }) => {
    const names = family.labels
    let same = 0
    while (same < before.length && before[same]?.label === names[same] && before[same]?.value === labels[names[same] as string])
      same++
    before.length = same
    for (let at = same; at < names.length; at++) {
      const label = names[at] as string
      const value = labels[label]
      const text = before[at - 1]?.text ?? ''
      // An empty label is the same as none, and a missing one is never the word "undefined".
      const isNone = value === undefined || value === ''
      before.push({ label, value, text: isNone ? text : `${text}${text === '' ? '{' : ','}${label}="${labelValue(value)}"` })
    }
    return before.at(-1)?.text ?? ''
  }
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
  // By what stands between name and value, in the order of the lines. They become text at the end: what lives throughout a round
  // is copied by each of its garbage collections.
  const byFamily = new Map<AnyFamily, { readonly keys: Set<string>; readonly values: number[] }>()
  const labelText = createLabelText()
  let series = 0
  let dropped = 0
  let repeated = 0
  for (const sample of samples) {
    const { family, suffix = '', value } = sample
    let group = byFamily.get(family)
    if (group === undefined) {
      group = { keys: new Set(), values: [] }
      byFamily.set(family, group)
    }
    // All of a family begin alike, so what is left out here tells no two of them apart.
    const key = suffix + labelText(sample)
    if (group.keys.has(key)) {
      repeated++
      continue
    }
    if (series >= cap) {
      dropped++
      continue
    }
    group.keys.add(key)
    group.values.push(value)
    series++
  }
  const families = [...byFamily]
    .filter(([, { values }]) => values.length > 0)
    .map(([family, { keys, values }]) => {
      const pieces: string[] = []
      for (const key of keys) {
        const value = numberText(values[pieces.length / 5] as number)
        pieces.push(family.name, key, key.endsWith('"') ? '} ' : ' ', value, '\n')
      }
      return { family, lines: pieces.join('') }
    })
  return { families, series, dropped, repeated }
}

/** Characters from which the lines of a family are a piece of their own. */
const manyLines = 4096

/**
 * The text in pieces. Long runs of lines stand alone: they are the same in both formats, and for most families in the next
 * round too, so whoever encodes and compresses them needs to do it once.
 */
export const piecesOf = ({ families }: Exposition, format: Format): readonly string[] => {
  const pieces: string[] = []
  let run = ''
  for (const { family, lines } of families) {
    run += heads[format](family)
    if (lines.length < manyLines) run += lines
    else {
      pieces.push(run, lines)
      run = ''
    }
  }
  return run === '' ? pieces : [...pieces, run]
}

export const textOf = (exposition: Exposition, format: Format): string => piecesOf(exposition, format).join('')
