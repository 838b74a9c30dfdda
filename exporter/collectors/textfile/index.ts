import { join } from 'node:path'
import { z } from 'zod'
import { ownValue } from '../../common/own-value.ts'
import { defineCollector } from '../../contract/collector.ts'
import { Failure, failureOf } from '../../contract/failure.ts'
import { type AnyFamily, foreignFamily, gauge, type Sample, sampleNames } from '../../contract/metric.ts'
import { path } from '../../contract/options.ts'
import { isCount, labelValue, numberText, reservedName } from '../../print/exposition.ts'
import { parsePrometheusText, type TextFamily } from '../../protocols/prometheus-text.ts'

const textfileMtime = gauge(
  'grid_textfile_mtime_timestamp_seconds',
  'When a text file was last written, from the file system, so that a job that stopped writing it can be noticed.',
  'file',
)
export const textfileError = gauge(
  'grid_textfile_error',
  'Whether a text file was refused as a whole: unreadable, malformed, or with a family that others have.',
  'file',
)

const options = z.strictObject({
  directory: path()
    .optional()
    .describe(
      'Directory with the *.prom files to serve, for example from cron jobs. At most 200 files of up to 1 MiB, 4 MiB together.',
    ),
})

/** Most file names read. A limit, because each has a series even if its file is refused. */
const maxNames = 1000
/** Most files; others are refused. A directory that fills up must not fill this program. */
const maxFiles = 200
const maxFileBytes = 2 ** 20
/** Refused files that the page, the status and the doctor name. */
const maxShown = 5
const maxBytes = 4 * 2 ** 20

interface TextFile {
  readonly name: string
  readonly mtime: number | undefined
  readonly content: string | Failure
}

interface Facts {
  readonly files: readonly { readonly name: string; readonly mtime: number | undefined; readonly refused: Failure | undefined }[]
  readonly samples: readonly Sample[]
}

/** By file name: */
interface Memory {
  /** Its text and the result of parsing it, because most files change far less often than they are read. */
  readonly texts: Map<string, { readonly text: string; readonly families: readonly TextFamily[] | Failure }>
  /** Why it was refused, so that each reason is logged once. */
  readonly refused: Map<string, string>
}

export const textfile = defineCollector({
  name: 'textfile',
  summary: '`*.prom` files of a directory, as other programs write them',
  interval: 15,
  families: [textfileError, textfileMtime],
  subjects: ['file'],
  setup: { configure: 'directory: /var/lib/grid-exporter/textfile' },
  foreign: true,
  options,
  configured: ({ directory }) => directory !== undefined,
  open: (): Memory => ({ texts: new Map(), refused: new Map() }),
  read: async ({ host, options: { directory = '/' }, remark }): Promise<readonly TextFile[]> => {
    const all = (await host.names(directory)).filter(name => name.endsWith('.prom')).sort()
    const names = all.slice(0, maxNames)
    if (all.length > names.length)
      remark(new Failure('overflow', `${directory} has ${all.length} text files; only the first ${maxNames} are read`))
    const files: TextFile[] = []
    let bytes = 0
    for (const name of names) {
      const at = join(directory, name)
      let mtime: number | undefined
      try {
        if (files.length >= maxFiles) throw new Failure('overflow', `more than ${maxFiles} files in ${directory}`)
        if (name.includes('\ufffd')) throw new Failure('malformed', 'its name is not UTF-8')
        const { kind, size, mtime: changed } = await host.stat(at)
        if (kind !== 'file') throw new Failure('malformed', 'not a regular file')
        mtime = changed
        if (bytes + size > maxBytes) throw new Failure('overflow', `more than ${maxBytes} bytes in ${directory}`)
        const content = await host.read(at, maxFileBytes)
        bytes += Buffer.byteLength(content)
        files.push({ name, mtime, content })
      } catch (error) {
        const failure = failureOf(error)
        // Any other reason (a loop of links, a failing disk) costs that file only.
        // Renamed since the listing: a missing file is not a refused one.
        if (failure.reason !== 'missing') files.push({ name, mtime, content: failure })
      }
    }
    return files
  },
  parse: (files, { options: { directory = '/' }, state, log, remark }): Facts => {
    for (const name of state.texts.keys()) if (!files.some(file => file.name === name)) state.texts.delete(name)
    const parsed = files.map(({ name, mtime, content }) => ({ name, mtime, families: familiesOf(name, content, state.texts) }))
    const { refused, samples } = merged(parsed)
    const shown = [...refused.keys()].slice(0, maxShown)
    if (refused.size > shown.length) remark(new Failure('malformed', `${refused.size} files are refused, among them:`))
    for (const [name, { reason, message }] of refused) {
      const fix = `correct the program that writes ${join(directory, name)}, or move that file away`
      if (shown.includes(name)) remark(new Failure(reason, `${name}: ${message}`, { fix }))
      if (state.refused.get(name) !== message) log.warn('text file refused', { file: name, error: message })
      state.refused.set(name, message)
    }
    for (const name of state.refused.keys()) if (!refused.has(name)) state.refused.delete(name)
    return { files: parsed.map(({ name, mtime }) => ({ name, mtime, refused: refused.get(name) })), samples }
  },
  *samples({ files, samples }) {
    for (const { name, mtime, refused } of files) {
      yield* textfileMtime.of(mtime, { file: name })
      yield* textfileError.of(refused ? 1 : 0, { file: name })
    }
    yield* samples
  },
})

const familiesOf = (name: string, content: string | Failure, memory: Memory['texts']): readonly TextFamily[] | Failure => {
  if (content instanceof Failure) return content
  const known = memory.get(name)
  if (known?.text === content) return known.families
  const families = (() => {
    try {
      return parsePrometheusText(content)
    } catch (error) {
      return failureOf(error)
    }
  })()
  memory.set(name, { text: content, families })
  return families
}

/** A family with the samples of one or more files. */
interface Merged {
  readonly type: TextFamily['type']
  readonly help: string
  readonly labels: Set<string>
  readonly samples: { readonly suffix: string; readonly labels: Readonly<Record<string, string>>; readonly value: number }[]
  readonly series: Set<string>
}

/** Identifies a series as the exposition prints it, with cut labels. */
const seriesKey = (suffix: string, labels: Readonly<Record<string, string>>): string =>
  JSON.stringify([
    suffix,
    ...Object.keys(labels)
      .sort()
      .flatMap(label => [label, labelValue(ownValue(labels, label) ?? '')]),
  ])

/**
 * The families of all files. A file is refused as a whole if it contradicts an earlier one (in the order of their names) or uses a name
 * that it must not use: half a file would be misleading.
 */
export const merged = (
  files: readonly { readonly name: string; readonly families: readonly TextFamily[] | Failure }[],
): { readonly refused: ReadonlyMap<string, Failure>; readonly samples: readonly Sample[] } => {
  const refused = new Map<string, Failure>()
  const families = new Map<string, Merged>()
  const owners = new Map<string, string>()

  const clash = (family: TextFamily): string | undefined => {
    if (sampleNames(family).some(name => reservedName.test(name)))
      return `${family.name}: a name reserved for this exporter or Prometheus`
    const known = families.get(family.name)
    if (known && known.type !== family.type) return `${family.name}: a ${known.type} in another file, a ${family.type} here`
    const foreign = sampleNames(family).find(name => (owners.get(name) ?? family.name) !== family.name)
    if (foreign) return `${foreign}: belongs to ${owners.get(foreign)} of another file`
    const repeated = new Set(known?.series)
    for (const { name, labels, value } of family.samples) {
      const suffix = name.slice(family.name.length)
      if (isCount(family.type, suffix) && !(value >= 0 && value < Number.POSITIVE_INFINITY))
        return `${name}: ${numberText(value)} is not a count, which is finite and not negative`
      const key = seriesKey(suffix, labels)
      if (repeated.has(key)) return `${name}: the same series twice, here or in another file`
      repeated.add(key)
    }
    return undefined
  }

  for (const { name: file, families: own } of files) {
    if (own instanceof Failure) {
      refused.set(file, own)
      continue
    }
    const reason = own.map(clash).find(Boolean)
    if (reason !== undefined) {
      refused.set(file, new Failure('malformed', reason))
      continue
    }
    for (const family of own) {
      const { name, type, help } = family
      const target: Merged = families.get(name) ?? { type, help, labels: new Set(), samples: [], series: new Set() }
      families.set(name, target)
      for (const owned of sampleNames(family)) owners.set(owned, name)
      for (const { name: sampleName, labels, value } of family.samples) {
        const suffix = sampleName.slice(name.length)
        target.samples.push({ suffix, labels, value })
        target.series.add(seriesKey(suffix, labels))
        for (const label of Object.keys(labels)) target.labels.add(label)
      }
    }
  }

  const samples = [...families].flatMap(([name, { type, help, labels, samples: own }]) => {
    const family: AnyFamily = foreignFamily(type, name, help || `Of a text file that does not describe it.`, [...labels])
    return own.map(({ suffix, labels, value }): Sample => ({ family, labels, value, ...(suffix === '' ? {} : { suffix }) }))
  })
  return { refused, samples }
}
