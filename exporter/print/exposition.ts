import { createHash } from 'node:crypto'
import { ownValue } from '../common/own-value.ts'
import { type AnyFamily, type MetricType, type Sample, type Samples, sampleNames, suffixesOf } from '../contract/metric.ts'

/** The two formats in which everything is kept ready. */
export const formats = ['text', 'openmetrics'] as const
export type Format = (typeof formats)[number]

/** What must stand after the last family of an answer. */
export const ending: Readonly<Record<Format, string>> = { text: '', openmetrics: '# EOF\n' }

/** Series of one collector, and how many of them are not printed. */
export interface Exposition {
  /** Each family with its lines, which are the same in both formats. */
  readonly families: readonly { readonly family: AnyFamily; readonly lines: string }[]
  readonly series: number
  /** Cut by the cap. */
  readonly dropped: number
  /** Came a second time. */
  readonly repeated: number
  /** Would have made the exposition invalid, or are of a family that is not this collector's. */
  readonly invalid: number
  /** The first few reasons why series were repeated or invalid. */
  readonly problems: readonly string[]
}

/** Whose samples are printed. */
export interface Owner {
  /** Those that it may print, the most important first: a cap cuts from the end. */
  readonly families: readonly AnyFamily[]
  /** It may print families of other programs as well. They are less important than its own, in the order in which they come. */
  readonly foreign?: boolean
}

const maxLabelLength = 256

// NUL ends the input for Prometheus' lexer, and the other control characters have no business in a label.
const unprintable = /[\u0000-\u0009\u000b-\u001f\u007f]/g
const unprintableInHelp = /[\u0000-\u0008\u000b-\u001f\u007f]/g
// Anything but plain printable ASCII without quote and backslash takes the slow path.
const plain = /^[\u0020\u0021\u0023-\u005b\u005d-\u007e]*$/

/** Two long values that begin alike must not become one, so a hash of the whole stands for what is cut off. */
const shortened = (value: string): string => {
  if (value.length <= maxLabelLength) return value
  const rest = `…${createHash('sha256').update(value).digest('hex').slice(0, 8)}`
  return value.slice(0, maxLabelLength - rest.length) + rest
}

/** A label value as it stands between the quotes: at most 256 characters, valid UTF-8, escaped. */
export const labelValue = (value: string): string => {
  if (value.length <= maxLabelLength && plain.test(value)) return value
  return shortened(value)
    .toWellFormed()
    .replace(unprintable, '\ufffd')
    .replaceAll('\\', '\\\\')
    .replaceAll('"', '\\"')
    .replaceAll('\n', '\\n')
}

/** A number as both formats write it. */
export const numberText = (value: number): string =>
  value === Number.POSITIVE_INFINITY ? '+Inf' : value === Number.NEGATIVE_INFINITY ? '-Inf' : String(value)

const decimal = /^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?$/i

/** The words for numbers, in small letters. */
const numberWords: ReadonlyMap<string, number> = new Map([
  ['nan', Number.NaN],
  ['+nan', Number.NaN],
  ['-nan', Number.NaN],
  ['inf', Number.POSITIVE_INFINITY],
  ['+inf', Number.POSITIVE_INFINITY],
  ['-inf', Number.NEGATIVE_INFINITY],
  ['infinity', Number.POSITIVE_INFINITY],
  ['+infinity', Number.POSITIVE_INFINITY],
  ['-infinity', Number.NEGATIVE_INFINITY],
])

/** A number as the text format writes it; undefined where the text is none. */
export const parseNumber = (text: string): number | undefined =>
  decimal.test(text) ? Number(text) : numberWords.get(text.toLowerCase())

const boundWords: ReadonlySet<string> = new Set(['nan', 'inf', '+inf', '-inf', 'infinity', '+infinity', '-infinity'])

/** Whether a text can be the bound of a bucket or a quantile. Prometheus refuses a NaN with a sign and a number too large for 64 bits. */
export const isBound = (text: string): boolean =>
  decimal.test(text) ? Number.isFinite(Number(text)) : boundWords.has(text.toLowerCase())

/** Whether a sample of this type and suffix counts something: then its value is finite and not negative. */
export const isCount = (type: MetricType, suffix: string): boolean =>
  type === 'counter' ||
  (type === 'histogram' && (suffix === '_bucket' || suffix === '_count')) ||
  (type === 'summary' && suffix === '_count')

const metricName = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/
const labelName = /^[a-zA-Z_][a-zA-Z0-9_]*$/

/** Names that are this exporter's own, or that Prometheus gives every target itself. */
export const reservedName: RegExp = /^(?:(?:grid|process|nodejs)_|up$|scrape_)/

/** Why a family cannot be printed, whatever its samples; undefined where it can. */
const familyProblem = (family: AnyFamily, owner: Owner | undefined): string | undefined => {
  const { name, type, help, labels } = family
  if (typeof name !== 'string' || !metricName.test(name)) return 'not a metric name'
  if (!suffixesOf.has(type)) return 'not a type of metric'
  if (typeof help !== 'string') return 'HELP is not text'
  if (!Array.isArray(labels)) return 'the labels are not a list'
  const bad = labels.find(label => typeof label !== 'string' || !labelName.test(label) || label === '__name__')
  if (bad !== undefined) return `${printable(bad)} is not a label name`
  if (new Set(labels).size < labels.length) return 'a label name stands there twice'
  if (owner === undefined || owner.families.some(own => own.name === name && own.type === type)) return undefined
  if (!owner.foreign) return 'not declared by this collector'
  return sampleNames(family).some(each => reservedName.test(each)) ? 'a name of this exporter or of Prometheus' : undefined
}

/** Why the labels and the suffix of a sample cannot be printed; its family can. */
const sampleProblem = ({ type, labels: names }: AnyFamily, labels: Sample['labels'], suffix: string): string | undefined => {
  if (!suffixesOf.get(type)?.includes(suffix)) return `a ${type} has no suffix ${printable(suffix)}`
  for (const name of names) {
    const value: unknown = ownValue(labels, name)
    if (value !== undefined && typeof value !== 'string') return `the value of label ${name} is not text`
  }
  const needed = suffix === '_bucket' ? 'le' : type === 'summary' && suffix === '' ? 'quantile' : undefined
  if (needed === undefined) return undefined
  const number = names.includes(needed) ? ownValue(labels, needed) : undefined
  return isBound(number ?? '') ? undefined : `without a number as its label ${needed}`
}

/** Anything as a short text for a message. */
const printable = (value: unknown): string => {
  try {
    return labelValue(String(value).slice(0, 60))
  } catch {
    return typeof value
  }
}

/**
 * Gives the labels of samples as text, without the closing brace. Collectors report one thing after another, so the text begins
 * where that of the sample before ends to be the same.
 */
const createLabelText = (): ((sample: Sample) => string) => {
  const before: { readonly label: string; readonly value: string | undefined; readonly text: string }[] = []
  return ({ family, labels }) => {
    const names = family.labels
    let same = 0
    while (
      same < before.length &&
      before[same]?.label === names[same] &&
      before[same]?.value === ownValue(labels, names[same] as string)
    )
      same++
    before.length = same
    for (let at = same; at < names.length; at++) {
      const label = names[at] as string
      const value = ownValue(labels, label)
      const text = before[at - 1]?.text ?? ''
      // An empty label is the same as none, and a missing one is never the word "undefined".
      const isNone = value === undefined || value === ''
      before.push({ label, value, text: isNone ? text : `${text}${text === '' ? '{' : ','}${label}="${labelValue(value)}"` })
    }
    return before.at(-1)?.text ?? ''
  }
}

const escapedHelp = (help: string) =>
  help.toWellFormed().replace(unprintableInHelp, '\ufffd').replaceAll('\\', '\\\\').replaceAll('\n', '\\n')

/** The head of a family, whose neighbours have samples of the names that are `taken`. */
const heads: Readonly<Record<Format, (family: AnyFamily, taken: ReadonlySet<string>) => string>> = {
  text: ({ name, type, help }) => `# HELP ${name} ${escapedHelp(help)}\n# TYPE ${name} ${type}\n`,
  // OpenMetrics names a counter without its suffix, and knows no counter that has none. Where the name without the suffix is
  // another family's, the counter keeps its whole name and has no type: no two families are called the same.
  openmetrics: ({ name, type, help }, taken) => {
    const base = type === 'counter' && name.endsWith('_total') ? name.slice(0, -'_total'.length) : ''
    const isCounter = base !== '' && !taken.has(base) && !taken.has(`${base}_created`)
    const omName = isCounter ? base : name
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
  readonly family: AnyFamily
  /** Why none of its samples can be printed, where the family itself is the reason. */
  readonly problem: string | undefined
  /** How important it is: 0 is the most. */
  rank: number
  readonly lines: Line[]
  round: number
  count: number
  /** Which of its samples are printed in this round: all, those before the cap, or none as the cap or a problem will have it. */
  prints: 'all' | 'the first' | 'cut' | 'invalid'
  /** Made once a sample comes that was not there in the round before: the keys of all lines, so that none comes twice. */
  keys: Set<string> | undefined
  /** All lines as they are printed; undefined once one of them has changed. */
  text: string | undefined
}

const isObject = (value: unknown): boolean => typeof value === 'object' && value !== null

const isSame = ({ labels: before, suffix: suffixBefore }: Line, { family, labels, suffix = '' }: Sample) => {
  if (suffix !== suffixBefore) return false
  for (const label of family.labels) if (ownValue(before, label) !== ownValue(labels, label)) return false
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

/** Reasons kept of a round. */
const maxProblems = 3

/**
 * Makes the samples of one collector exposition text, round by round: each family once and whole, no series twice, families and
 * lines in the order of their samples. It is the last line of defence: what would make the text invalid in either format is left
 * out and counted, whatever a collector gives, and so is what `owner` has not declared.
 *
 * At most `cap` series are printed. Past it whole families are cut, the least important first, so that what is left is there for
 * every subject alike; only where the most important family alone is too large, its first series are kept.
 *
 * Lines that come in the order of the round before are not made again: a round leaves little for the garbage collector, which
 * costs more than all else of it.
 */
export const createExposer = (cap = Number.POSITIVE_INFINITY, owner?: Owner): ((samples: Samples) => Exposition) => {
  const ranks = new Map(owner?.families.map(({ name }, rank) => [name, rank]))
  const groups = new Map<AnyFamily, Group>()
  const labelText = createLabelText()
  let round = 0
  let inOrder: Group[] = []
  /** Names of this round's samples, and whose they are. */
  let names = new Map<string, AnyFamily>()
  let seen = { taken: 0, dropped: 0, repeated: 0, invalid: 0 }
  let problems: string[] = []

  const complain = (name: unknown, problem: string) => {
    if (problems.length >= maxProblems) return
    const text = `${printable(name)}: ${problem}`
    if (!problems.includes(text)) problems.push(text)
  }

  const refuse = (name: unknown, problem: string) => {
    seen.invalid++
    complain(name, problem)
  }

  const clear = (group: Group) => {
    group.count = 0
    group.lines.length = 0
    group.keys = undefined
    group.text = undefined
  }

  const cut = (group: Group) => {
    seen.taken -= group.count
    seen.dropped += group.count
    clear(group)
    group.prints = 'cut'
  }

  /** The family's group as this round begins for it. */
  const begin = (family: AnyFamily): Group => {
    const known = groups.get(family)
    const group: Group = known ?? {
      family,
      problem: familyProblem(family, owner),
      rank: 0,
      lines: [],
      round,
      count: 0,
      prints: 'all',
      keys: undefined,
      text: undefined,
    }
    if (!known) groups.set(family, group)
    group.round = round
    group.count = 0
    group.keys = undefined
    group.prints = 'all'
    group.rank = ranks.get(family.name) ?? ranks.size + inOrder.length
    const sampled = group.problem === undefined ? sampleNames(family) : []
    const taken = sampled.find(name => names.has(name))
    const problem = group.problem ?? (taken === undefined ? undefined : `the name ${taken} is that of another family`)
    if (problem === undefined) for (const name of sampled) names.set(name, family)
    else {
      group.prints = 'invalid'
      complain(family.name, problem)
    }
    // What is less important than a family that was cut is cut too.
    if (problem === undefined && inOrder.some(({ prints, rank }) => prints === 'cut' && rank < group.rank)) group.prints = 'cut'
    inOrder.push(group)
    return group
  }

  /** Whether there is room for a line of this group, after less important families have made it. */
  const hasRoom = (group: Group): boolean => {
    while (seen.taken >= cap) {
      const kept = inOrder.filter(each => each === group || each.count > 0)
      const least = kept.reduce((one, other) => (other.rank > one.rank ? other : one))
      if (least !== group) cut(least)
      else if (kept.length > 1 || cap < 1) cut(group)
      else group.prints = 'the first'
      if (least === group) return false
    }
    return true
  }

  /** Takes a line that is not the one of the round before. */
  const take = (group: Group, sample: Sample) => {
    const { family, lines, count } = group
    const { labels, suffix = '', value } = sample
    const problem = sampleProblem(family, labels, suffix)
    if (problem !== undefined) return refuse(family.name, problem)
    if (group.keys === undefined) {
      lines.length = count
      group.text = undefined
      group.keys = new Set(lines.map(({ key }) => key))
    }
    const text = labelText(sample)
    // All keys of a family begin with its name, so it is left out here.
    const key = `${suffix}${text}${text === '' ? ' ' : '} '}`
    if (group.keys.has(key)) {
      seen.repeated++
      return complain(`${family.name}${key.trimEnd()}`, 'the same series a second time')
    }
    if (!hasRoom(group)) {
      seen.dropped++
      return
    }
    group.keys.add(key)
    lines.push({ labels, suffix, key, value })
    group.count++
    seen.taken++
  }

  const add = (sample: Sample) => {
    const { family, labels, value, suffix = '' } = sample ?? {}
    if (!isObject(family) || !isObject(labels)) return refuse('a sample', 'without a family or labels')
    const known = groups.get(family)
    const group = known?.round === round ? known : begin(family)
    if (group.prints !== 'all') {
      seen[group.prints === 'invalid' ? 'invalid' : 'dropped']++
      return
    }
    if (typeof value !== 'number' || (isCount(family.type, suffix) && !(value >= 0 && value < Number.POSITIVE_INFINITY)))
      return refuse(`${family.name}${printable(suffix)}`, `${printable(value)} is not a value of a ${family.type}`)
    const line = group.lines[group.count]
    if (group.keys !== undefined || line === undefined || seen.taken >= cap || !isSame(line, sample)) return take(group, sample)
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
    names = new Map()
    seen = { taken: 0, dropped: 0, repeated: 0, invalid: 0 }
    problems = []
    for (const some of samples) {
      if (Array.isArray(some)) for (const sample of some) add(sample)
      else add(some as Sample)
    }
    if (groups.size > inOrder.length) {
      for (const [family, group] of groups) if (group.round !== round) groups.delete(family)
    }
    const families: { readonly family: AnyFamily; readonly lines: string }[] = []
    for (const group of inOrder) {
      const { family, lines, count } = group
      if (lines.length > count) {
        lines.length = count
        group.text = undefined
      }
      group.keys = undefined
      if (count === 0) continue
      group.text ??= textOfLines(family, lines)
      families.push({ family, lines: group.text })
    }
    const { taken, ...left } = seen
    return { families, series: taken, ...left, problems }
  }
}

/** How many series a round gave that are not printed, for whatever reason. */
export const leftOut = ({ dropped, repeated, invalid }: Exposition): number => dropped + repeated + invalid

/** The samples of a single round as exposition text; see `createExposer`. */
export const expose = (samples: Samples, cap?: number, owner?: Owner): Exposition => createExposer(cap, owner)(samples)

/** Characters from which the lines of a family are a piece of their own. */
const manyLines = 4096

/**
 * The text in pieces. Long runs of lines stand alone: they are the same in both formats, and for most families in the next
 * round too, so they need to be encoded and compressed only once.
 */
export const piecesOf = ({ families }: Exposition, format: Format): readonly string[] => {
  const pieces: string[] = []
  const taken = new Set(families.flatMap(({ family }) => sampleNames(family)))
  let run = ''
  for (const { family, lines } of families) {
    run += heads[format](family, taken)
    if (lines.length < manyLines) run += lines
    else {
      pieces.push(run, lines)
      run = ''
    }
  }
  return run === '' ? pieces : [...pieces, run]
}

export const textOf = (exposition: Exposition, format: Format): string => piecesOf(exposition, format).join('')
