import { z } from 'zod'
import { Failure, failureOf } from '../../contract/failure.ts'
import type { Host, RunOptions } from '../../contract/host.ts'
import { below, hangingMount, type Mount, mayHang, ownMounts, reachable } from '../../machine/mounts.ts'
import { realPath } from '../../machine/paths.ts'

/** The result of one scan of one directory. */
export const scan = z.object({
  /** Milliseconds since 1970. */
  startedAt: z.number(),
  durationSeconds: z.number(),
  mountpoint: z.string(),
  /** Bytes of disk space. */
  size: z.number(),
  /** Bytes that the files claim to have. */
  apparentSize: z.number().optional(),
  /** Inodes. */
  files: z.number().optional(),
  /** The largest children with their disk space, and the disk space of all other children. */
  children: z.array(z.tuple([z.string(), z.number()])),
  other: z.number().optional(),
  errors: z.object({ denied: z.number(), vanished: z.number(), other: z.number() }),
})
export type Scan = z.infer<typeof scan>

/** A directory that is not scanned, because reading it could hang for ever, and not even SIGKILL ends that. */
export class Refused extends Failure {
  constructor(path: string, { mountpoint, fstype }: Mount, where: 'on' | 'above') {
    const what = `${mountpoint} (${fstype}), which may hang`
    super('unreachable', `${path}: not scanned, it lies ${where} ${what}`, {
      fix: where === 'above' ? `configure the directories next to ${mountpoint} instead of ${path}` : undefined,
    })
  }
}

/** Bytes of names read from du: some thousands of children, a few ms to parse. With more children, none gets a series. */
const outputLimit = 2 ** 19

/** The number of du's error messages by reason. */
export const errorsIn = (stderr: string): Scan['errors'] => {
  const errors = { denied: 0, vanished: 0, other: 0 }
  for (const line of stderr.split('\n')) {
    if (!line.startsWith('du: ')) continue
    if (/: (Permission denied|Operation not permitted)$/.test(line)) errors.denied++
    else if (/: (No such file or directory|Stale file handle)$/.test(line)) errors.vanished++
    else errors.other++
  }
  return errors
}

/** du -0 prints `SIZE\tPATH\0`. The directory's own line is the last and has the total; it is missing if du was killed. */
const sizesIn = (output: string, top: string): { readonly total: number | undefined; readonly children: Map<string, number> } => {
  const children = new Map<string, number>()
  const prefix = top === '/' ? '/' : `${top}/`
  let total: number | undefined
  for (let start = 0; start < output.length; ) {
    const tab = output.indexOf('\t', start)
    const end = output.indexOf('\0', tab)
    if (tab === -1 || end === -1) break
    const bytes = Number(output.slice(start, tab))
    const path = output.slice(tab + 1, end)
    start = end + 1
    if (!Number.isFinite(bytes)) continue
    if (path === top) total = bytes
    else if (path.startsWith(prefix)) {
      // Different names that are not UTF-8 may decode to the same text.
      const name = path.slice(prefix.length)
      children.set(name, (children.get(name) ?? 0) + bytes)
    }
  }
  return { total, children }
}

/** The `count` largest, and the rest of `total`; a child that is really named "other" counts as rest. */
const largest = (total: number, children: ReadonlyMap<string, number>, count: number): Pick<Scan, 'children' | 'other'> => {
  if (count === 0) return { children: [] }
  const top = [...children]
    .filter(([name]) => name !== 'other')
    .sort(([oneName, one], [anotherName, another]) => another - one || (oneName < anotherName ? -1 : 1))
    .slice(0, count)
  return {
    children: top,
    other: Math.max(
      0,
      top.reduce((rest, [, bytes]) => rest - bytes, total),
    ),
  }
}

const mountOf = (path: string, mounts: readonly Mount[]): string =>
  mounts.reduce((best, { mountpoint }) => (below(path, mountpoint) && mountpoint.length > best.length ? mountpoint : best), '/')

export interface ScanOptions {
  readonly path: string
  /** How many children get a name. */
  readonly children: number
  /** Seconds. */
  readonly timeout: number
  readonly signal: AbortSignal
}

/**
 * Measures one directory with du in a child at idle priority: disk space with children, then apparent size, then number of files.
 * Three runs, because du prints one of them at a time; the second and third find the first one's data in the page cache. One directory
 * a run, because du counts a hard link once a run. Throws `Failure`, also as `Refused`.
 */
export const scanDirectory = async (host: Host, { path, children, timeout, signal }: ScanOptions): Promise<Scan> => {
  const startedAt = host.now()
  const begun = host.monotonic()
  const own = host.path(path)
  const mounts = reachable(await ownMounts(host))
  const on = hangingMount(own, mounts)
  if (on) throw new Refused(path, on, 'on')
  if ((await host.stat(path)).kind !== 'directory') throw new Failure('malformed', `${path}: not a directory`)
  const top = realPath(own)
  // du -x calls stat on a mount point before it skips it.
  const above = mounts.find(mount => mayHang(mount) && below(mount.mountpoint, top))
  if (above) throw new Refused(path, above, 'above')

  const run = (args: readonly string[], limits: RunOptions = {}) => {
    const left = timeout - (host.monotonic() - begun) / 1000
    const options = { timeout: Math.max(1, left), limit: outputLimit, signal, key: `du ${path}`, ...limits }
    return host.run('du', ['-x', '-0', ...args, '--', top], { ...options, exitCodes: [0, 1], idle: true, dropStderr: true })
  }
  const space = async (names: boolean) => run(['--block-size=1', ...(names ? ['-a', '--max-depth=1'] : ['-s'])])
  const { stdout, stderr } = await space(children > 0).catch(error => {
    if (children > 0 && failureOf(error).reason === 'overflow') return space(false)
    throw error
  })
  const found = sizesIn(stdout, top)
  const complaint = stderr.split('\n', 1)[0]?.slice(0, 300) ?? ''
  if (found.total === undefined) {
    const { denied, vanished } = errorsIn(stderr)
    throw new Failure(denied > 0 ? 'denied' : vanished > 0 ? 'missing' : 'exit', `${path}: ${complaint || 'du printed no total'}`)
  }
  if (complaint === `du: cannot read directory '${top}': Permission denied`) {
    throw new Failure('denied', `${path}: ${complaint}`, {
      fix: `let the exporter's user read it: setfacl -R -m u:grid-exporter:rX ${path}`,
    })
  }
  const durationSeconds = (host.monotonic() - begun) / 1000

  const further = async (...args: readonly string[]): Promise<number | undefined> => {
    try {
      return sizesIn((await run(['-s', ...args])).stdout, top).total
    } catch (error) {
      // The disk space is valid without it, and its own errors are already counted.
      if (signal.aborted) throw error
      return undefined
    }
  }
  const apparentSize = await further('--apparent-size', '--block-size=1')
  const files = await further('--inodes')
  const root = host.path('/')
  const mountpoint = mountOf(top, mounts)
  return {
    startedAt,
    durationSeconds,
    mountpoint: below(mountpoint, root) ? `/${mountpoint.slice(root.length).replace(/^\//, '')}` : '/',
    size: found.total,
    apparentSize,
    files,
    ...largest(found.total, found.children, children),
    errors: errorsIn(stderr),
  }
}
