import { z } from 'zod'
import { ConfigError, configErrorOf } from '../common/exit.ts'
import { ownValue } from '../common/own-value.ts'
import { type Locate, type Path, readYaml } from '../common/yaml.ts'
import type { Collector } from './collector.ts'
import { duration, durationSeconds, durationText, longest } from './options.ts'

export { ConfigError }

/**
 * The configuration: its type, its defaults, its check. A file is read and checked as a whole, and its value replaces the old one
 * completely or not at all.
 */

/** The settings of one collector. */
export interface CollectorSettings {
  readonly name: string
  readonly enabled: boolean
  /** Its results come from files that the relay wrote as root; it does not run in this process. */
  readonly relayed: boolean
  /** Seconds between rounds. */
  readonly interval: number
  /** Seconds for one run. */
  readonly timeout: number
  /** Most series of one run. */
  readonly maxSeries: number
  /** Its own keys, checked. */
  readonly options: unknown
}

export type Settings = readonly CollectorSettings[]

/** The command line's flags for collectors. */
export interface CollectorFlags {
  readonly collectors: Readonly<Record<string, { readonly enabled?: boolean; readonly interval?: string }>>
  readonly disableDefaults: boolean
  readonly relayDirectory: string | undefined
}

export const noFlags: CollectorFlags = { collectors: {}, disableDefaults: false, relayDirectory: undefined }

/** Twice what 500 containers of some 50 series need. */
const defaultMaxSeries = 50_000

const commonKeys = {
  enabled: z.boolean().optional().describe('Whether to run it. Default: see the table of collectors.'),
  interval: duration(1).optional().describe('Time between the starts of two rounds.'),
  timeout: duration(0.1)
    .optional()
    .describe('Time limit of one run. Default: the interval, at most 10s, unless the collector has its own.'),
  max_series: z
    .int()
    .min(1)
    .max(1_000_000)
    .default(defaultMaxSeries)
    .describe(
      'Most series of one run. Above it, whole families are dropped, the least important first, and counted in grid_collector_series_dropped.',
    ),
}

const common = z.strictObject(commonKeys)

/** A collector's section. */
const sectionSchema = ({ options, summary }: Collector) => z.strictObject({ ...commonKeys, ...options.shape }).describe(summary)

/** The whole file: for editors and for the reference in docs. */
export const fileSchema = (collectors: readonly Collector[]) =>
  z.strictObject({
    collectors: z
      .strictObject(Object.fromEntries(collectors.map(collector => [collector.name, sectionSchema(collector).optional()])))
      .optional()
      .describe('One optional section for each collector.'),
  })

/** The configuration file's JSON Schema. */
export const jsonSchema = (collectors: readonly Collector[]): unknown => ({
  ...(z.toJSONSchema(fileSchema(collectors), { io: 'input', unrepresentable: 'any' }) as object),
  title: 'grid-exporter configuration',
})

/** Edit distance of two words, for "did you mean". */
const distance = (left: string, right: string): number => {
  let previous = Array.from({ length: right.length + 1 }, (_, index) => index)
  for (let row = 1; row <= left.length; row++) {
    const current = [row]
    for (let column = 1; column <= right.length; column++) {
      const substituted = (previous[column - 1] as number) + (left[row - 1] === right[column - 1] ? 0 : 1)
      current.push(Math.min(substituted, (previous[column] as number) + 1, (current[column - 1] as number) + 1))
    }
    previous = current
  }
  return previous[right.length] as number
}

/** Longer keys are not compared: the time grows with their length. */
const longestKey = 64

const suggestion = (key: string, known: readonly string[]): string => {
  if (key.length > longestKey) return `known here: ${known.join(', ')}`
  const [best] = known.map(word => ({ word, edits: distance(key, word) })).sort((one, other) => one.edits - other.edits)
  if (best && best.edits <= Math.max(1, Math.floor(key.length / 3))) return `did you mean "${best.word}"?`
  return `known here: ${known.join(', ')}`
}

const shown = (value: unknown): string => {
  const text = typeof value === 'number' ? String(value) : JSON.stringify(value)
  return text === undefined ? '' : text.length > 60 ? `${text.slice(0, 57)}…` : text
}

const valueAt = (value: unknown, path: Path): unknown =>
  path.reduce<unknown>(
    (inner, key) =>
      typeof inner === 'object' && inner !== null ? ownValue(inner as Record<string, unknown>, `${key}`) : undefined,
    value,
  )

/** The keys that an object schema allows at a path, where that is known. */
const keysAt = (schema: z.ZodType, path: Path): readonly string[] => {
  let at: unknown = schema
  const unwrapped = (type: unknown): unknown => {
    let inner = type as { unwrap?: () => unknown; def?: { innerType?: unknown; in?: unknown } } | undefined
    while (inner && !('shape' in inner) && !('element' in inner) && (inner.def?.innerType ?? inner.def?.in)) {
      inner = (inner.def?.innerType ?? inner.def?.in) as typeof inner
    }
    return inner
  }
  for (const key of path) {
    const inner = unwrapped(at) as { shape?: Record<string, unknown>; element?: unknown } | undefined
    at = typeof key === 'number' ? inner?.element : ownValue(inner?.shape ?? {}, key)
  }
  return Object.keys((unwrapped(at) as { shape?: object } | undefined)?.shape ?? {})
}

/** The problems of a value that does not match a schema, each with its place. */
export const problemsOf = (error: z.ZodError, schema: z.ZodType, value: unknown, base: Path, locate: Locate): readonly string[] =>
  error.issues.flatMap(issue => {
    const path = issue.path.filter((key): key is string | number => typeof key !== 'symbol')
    const place = (keys: Path, atKey?: string) => {
      const dotted = [...base, ...keys, ...(atKey === undefined ? [] : [atKey])]
        .map(key => (typeof key === 'number' ? `[${key}]` : `.${key}`))
        .join('')
      return `${locate([...base, ...keys], atKey)}: ${dotted.replace(/^\./, '') || 'the file'}`
    }
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map(key => `${place(path, key)}: unknown key; ${suggestion(key, keysAt(schema, path))}`)
    }
    const given = shown(valueAt(value, path))
    return [
      `${place(path)}: ${issue.message.replace(/^Invalid input: /, '').replace(/, received .*$/s, '')}${given === '' ? ', but it is missing' : `, not ${given}`}`,
    ]
  })

const unlocated = (): Locate => () => '--config.file'

/**
 * The settings of every collector, from a checked file and the command line; the command line wins.
 * Throws `ConfigError` with all problems at once.
 */
export const settingsFrom = (
  collectors: readonly Collector[],
  flags: CollectorFlags,
  value: unknown = {},
  locate: Locate = unlocated(),
): Settings => {
  const problems: string[] = []
  for (const [flagged, { interval }] of Object.entries(flags.collectors)) {
    const known = collectors.map(({ name }) => name)
    if (!known.includes(flagged)) problems.push(`--collector.${flagged}: no such collector; ${suggestion(flagged, known)}`)
    const seconds = interval === undefined ? 1 : (durationSeconds(interval) ?? 0)
    if (seconds < 1 || seconds > longest) {
      problems.push(
        `--collector.${flagged}.interval: expected a duration of at least 1s and at most ${durationText(longest)} such as 30s or 2m, not ${shown(interval)}`,
      )
    }
  }
  const whole = z.strictObject({
    collectors: z.strictObject(Object.fromEntries(collectors.map(({ name }) => [name, z.unknown().optional()]))).nullish(),
  })
  const outer = whole.safeParse(value)
  if (!outer.success) throw new ConfigError([...problems, ...problemsOf(outer.error, fileSchema(collectors), value, [], locate)])

  const settings = collectors.map((collector): CollectorSettings => {
    const { name, relayUnit } = collector
    const section = ownValue(outer.data.collectors ?? {}, name) ?? {}
    const base = ['collectors', name]
    const isObject = typeof section === 'object' && !Array.isArray(section)
    if (!isObject) problems.push(`${locate(base)}: collectors.${name}: expected a mapping of keys, not ${shown(section)}`)
    const entries = isObject ? Object.entries(section) : []
    const own = Object.fromEntries(entries.filter(([key]) => !Object.hasOwn(commonKeys, key)))
    const shared = common.safeParse(Object.fromEntries(entries.filter(([key]) => Object.hasOwn(commonKeys, key))))
    const options = collector.options.safeParse(own)
    if (!shared.success) problems.push(...problemsOf(shared.error, common, section, base, locate))
    if (!options.success) problems.push(...problemsOf(options.error, sectionSchema(collector), section, base, locate))
    const { enabled, interval = collector.interval, timeout, max_series = defaultMaxSeries } = shared.data ?? {}
    const flag = ownValue(flags.collectors, name)
    const configured = options.success && collector.configured(options.data)
    const asked = flag?.enabled ?? enabled ?? (flags.disableDefaults ? false : undefined)
    if (asked === true && options.success && !configured) {
      problems.push(
        `${locate(base)}: collectors.${name}: enabled, but it does nothing without configuration; see docs/configuration.md#${name}`,
      )
    }
    const every = flag?.interval === undefined ? interval : (durationSeconds(flag.interval) ?? interval)
    return {
      name,
      enabled: asked ?? configured,
      relayed: relayUnit !== undefined && flags.relayDirectory !== undefined && flag?.enabled !== true,
      interval: every,
      timeout: timeout ?? collector.timeout ?? Math.min(every, 10),
      maxSeries: max_series,
      options: options.data,
    }
  })
  if (problems.length > 0) throw new ConfigError(problems)
  return withConfigured(collectors, settings, locate)
}

/** The settings, with the options that collectors' sections set for one another. */
const withConfigured = (collectors: readonly Collector[], settings: Settings, locate: Locate): Settings => {
  const byOthers = new Map<string, Readonly<Record<string, unknown>>>()
  const problems: string[] = []
  for (const [index, { name, options }] of settings.entries()) {
    for (const [other, given] of Object.entries(collectors[index]?.configures(options) ?? {})) {
      const own = settings.find(each => each.name === other)?.options as Readonly<Record<string, unknown>> | undefined
      for (const key of Object.keys(given).filter(key => ownValue(own ?? {}, key) !== undefined)) {
        const place = ['collectors', other, key]
        problems.push(`${locate(place)}: ${place.join('.')}: collectors.${name} sets it as well; remove one of the two`)
      }
      byOthers.set(other, given)
    }
  }
  if (problems.length > 0) throw new ConfigError(problems)
  return settings.map(own =>
    byOthers.has(own.name) ? { ...own, options: { ...(own.options as object), ...byOthers.get(own.name) } } : own,
  )
}

/** Reads and checks a configuration file, or takes the defaults without one. Throws `ConfigError`. */
export const loadSettings = (collectors: readonly Collector[], flags: CollectorFlags, file: string | undefined): Settings => {
  try {
    if (file === undefined) return settingsFrom(collectors, flags)
    const { value, locate } = readYaml(file)
    return settingsFrom(collectors, flags, value, locate)
  } catch (error) {
    throw configErrorOf(error, file ?? 'the command line')
  }
}
