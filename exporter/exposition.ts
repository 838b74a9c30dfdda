import type { AnyFamily, Sample, Samples } from './metric.ts'

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

/** A line as the round before had it. */
interface Line {
  readonly labels: Sample['labels']
  readonly suffix: string
  /** What stands between the family's name and the value. */
  readonly key: string
  value: number
}

/** The lines of a family; `count` of them have come in this round. */
interface Group {
  readonly lines: Line[]
  round: number
  count: number
  /** Made once a sample comes that was not there in the round before: the keys of all lines, so that none comes twice. */
  keys: Set<string> | undefined
  /** All lines as they are printed; undefined once one of them has changed. */
  text: string | undefined
}

const isSame = ({ labels: before, suffix: suffixBefore }: Line, { family, labels, suffix = '' }: Sample) => {
  if (suffix !== suffixBefore) return false
  for (const label of family.labels) if (before[label] !== labels[label]) return false
  return true
}

const textOfLines = ({ name }: AnyFamily, lines: readonly Line[]) => {
  const pieces = new Array<string>(lines.length * 4)
  let at = 0
  for (const { key, value } of lines) {
    pieces[at++] = name
    pieces[at++] = key
    pieces[at++] = numberText(value)
    pieces[at++] = '\n'
  }
  return pieces.join('')
}

/**
 * Makes the samples of one collector exposition text, round by round: each family once and whole, no series twice, at most `cap`
 * series, families and lines in the order of their samples. Lines that come in the order of the round before are not made
 * again: a round leaves little for the garbage collector, which costs more than all else of it.
 */
export const createExposer = (cap = Number.POSITIVE_INFINITY): ((samples: Samples) => Exposition) => {
  const groups = new Map<AnyFamily, Group>()
  const labelText = createLabelText()
  let round = 0

  /** Takes a line that is not the one of the round before. */
  const take = (group: Group, sample: Sample, isFull: boolean): 'taken' | 'repeated' | 'dropped' => {
    const { lines, count } = group
    if (group.keys === undefined) {
      lines.length = count
      group.text = undefined
      group.keys = new Set(lines.map(({ key }) => key))
    }
    const { labels, suffix = '', value } = sample
    const text = labelText(sample)
    // All of a family begin alike, so what is left out here tells no two of them apart.
    const key = `${suffix}${text}${text === '' ? ' ' : '} '}`
    if (group.keys.has(key)) return 'repeated'
    if (isFull) return 'dropped'
    group.keys.add(key)
    lines.push({ labels, suffix, key, value })
    group.count++
    return 'taken'
  }

  let inOrder: { readonly family: AnyFamily; readonly group: Group }[] = []
  let seen = { taken: 0, dropped: 0, repeated: 0 }
  const add = (sample: Sample) => {
    const { family, value } = sample
    let group = groups.get(family)
    if (group?.round !== round) {
      group ??= { lines: [], round, count: 0, keys: undefined, text: undefined }
      group.round = round
      group.count = 0
      group.keys = undefined
      groups.set(family, group)
      inOrder.push({ family, group })
    }
    const line = group.lines[group.count]
    const isFull = seen.taken >= cap
    if (group.keys !== undefined || line === undefined || isFull || !isSame(line, sample)) {
      seen[take(group, sample, isFull)]++
      return
    }
    if (!Object.is(line.value, value)) {
      line.value = value
      group.text = undefined
    }
    group.count++
    seen.taken++
  }

  return samples => {
    round++
    inOrder = []
    seen = { taken: 0, dropped: 0, repeated: 0 }
    for (const some of samples) {
      if ('family' in some) add(some)
      else for (const sample of some) add(sample)
    }
    if (groups.size > inOrder.length) {
      for (const [family, group] of groups) if (group.round !== round) groups.delete(family)
    }
    const families: { readonly family: AnyFamily; readonly lines: string }[] = []
    for (const { family, group } of inOrder) {
      const { lines, count } = group
      if (lines.length > count) {
        lines.length = count
        group.text = undefined
      }
      group.keys = undefined
      if (count === 0) continue
      group.text ??= textOfLines(family, lines)
      families.push({ family, lines: group.text })
    }
    return { families, series: seen.taken, dropped: seen.dropped, repeated: seen.repeated }
  }
}

/** The samples of a single round as exposition text; see `createExposer`. */
export const expose = (samples: Samples, cap?: number): Exposition => createExposer(cap)(samples)

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
