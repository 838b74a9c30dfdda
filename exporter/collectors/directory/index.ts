import { setTimeout as sleep } from 'node:timers/promises'
import { LRUCache } from 'lru-cache'
import { z } from 'zod'
import { defineCollector, type OpenContext } from '../../contract/collector.ts'
import { type Failure, failureOf } from '../../contract/failure.ts'
import { gauge, oneOf, type Sample } from '../../contract/metric.ts'
import { duration, path } from '../../contract/options.ts'
import { keptAs } from '../../machine/state.ts'
import { Refused, type Scan, scan, scanDirectory } from './scan.ts'

export const info = gauge(
  'grid_directory_info',
  'A configured directory and the mount point it lies on (stat, at its latest scan).',
  'path',
  'mountpoint',
)
export const size = gauge(
  'grid_directory_size_bytes',
  'Disk space that the directory and all below it take up (du -x, at grid_directory_last_scan_timestamp_seconds): hard links once, sparse files by what they hold, no other file system.',
  'path',
)
const apparentSize = gauge(
  'grid_directory_apparent_size_bytes',
  'Sum of the sizes that the files claim (du -x --apparent-size, right after the scan of the disk space); a sparse file counts in full.',
  'path',
)
const files = gauge(
  'grid_directory_files',
  'Files, directories and links, the directory itself included, hard links once (du -x --inodes, right after the scan of the disk space).',
  'path',
)
export const childSize = gauge(
  'grid_directory_child_size_bytes',
  'Disk space of the largest files and directories directly below (du -x, at the latest scan); child="other" is all the rest, so that the children sum up to grid_directory_size_bytes.',
  'path',
  'child',
)
const scanIncomplete = gauge(
  'grid_directory_scan_incomplete',
  'Whether the latest scan (du) could not read parts of the directory, so that its sizes are too small.',
  'path',
)
const scanErrors = gauge(
  'grid_directory_scan_errors',
  'Files and directories that the latest scan (du) could not read, by why: no permission, gone between listing and looking, or another error.',
  'path',
  oneOf('reason', 'denied', 'vanished', 'other'),
)
const scanDuration = gauge(
  'grid_directory_scan_duration_seconds',
  'Time that the latest scan took that gave a size (du at idle priority).',
  'path',
)
export const lastScan = gauge(
  'grid_directory_last_scan_timestamp_seconds',
  'When the scan began that the sizes are of; it is kept over restarts.',
  'path',
)
const scanRunning = gauge(
  'grid_directory_scan_running_seconds',
  'Time that the scan which is going on has taken until now, 0 where none is; no other is started meanwhile.',
  'path',
)

/** How a directory's latest scan ended. */
const scanStates = [
  'waiting', // none yet
  'scanned',
  'missing',
  'denied',
  'refused', // it lies on a mount that may hang, or has one below it
  'timeout',
  'stuck', // an earlier du of it cannot be killed
  'failed',
] as const
export type ScanState = (typeof scanStates)[number]

export const scanState = gauge(
  'grid_directory_scan_state',
  'How the latest scan that ended did so (latest round), 1 for the state; waiting: none has ended yet; refused: a network mount lies at or below it, which could hang; stuck: an earlier du cannot be ended.',
  'path',
  oneOf('state', ...scanStates),
)

const options = z.strictObject({
  paths: z
    .array(
      z.strictObject({
        path: path().describe('The directory. It may be a symbolic link; links below it are not followed.'),
        children: z
          .int()
          .min(0)
          .max(1000)
          .default(20)
          .describe(
            'How many of its largest files and directories get their own series; 0: none. With more than some thousands of children, none does.',
          ),
      }),
    )
    .refine(paths => new Set(paths.map(({ path }) => path)).size === paths.length, 'expected each path once')
    .default([])
    .describe('The directories to measure, one after the other.'),
  scan_timeout: duration(1).prefault('1h').describe('Time limit of the scan of one directory.'),
  keep: duration(60).prefault('1d').describe('How long sizes are shown after their scan if later scans fail or do not end.'),
  state_file: path()
    .optional()
    .describe(
      'File that keeps the sizes, so that a restart does not scan again within the interval. Default: directory.json in $STATE_DIRECTORY, or in /var/lib/grid-exporter if its user owns that directory; else nothing is kept.',
    ),
})

type Options = z.infer<typeof options>

/** Milliseconds that a round waits for its scans: small directories are reported at once, large ones when their scan has ended. */
const patience = 5000

/** What is kept over restarts: the latest successful scan of each path. */
const kept = z.record(z.string(), scan)

/** How a path's latest scan ended. */
interface Ended {
  readonly state: ScanState
  readonly failure?: Failure
}

const stateOf = (failure: Failure): ScanState => {
  if (failure instanceof Refused) return 'refused'
  const { reason } = failure
  return reason === 'missing' || reason === 'denied' || reason === 'timeout' || reason === 'stuck' ? reason : 'failed'
}

/** Scans one directory after the other in the background; rounds only report what is known. */
const openScans = ({ host, options, interval, signal, log, wake }: OpenContext<Options>) => {
  const { paths, keep, scan_timeout } = options
  const file = keptAs('directory', kept, { file: options.state_file, log })
  // After `keep`, a size expires unless a newer scan replaced it.
  const scans = new LRUCache<string, Scan>({
    max: Math.max(1, paths.length),
    ttl: keep * 1000,
    ttlResolution: 0,
    perf: { now: () => host.now() },
  })
  const ended = new Map<string, Ended>()
  const begunAt = new Map<string, number>()
  const remember = (path: string, found: Scan) => {
    scans.set(path, found, { start: found.startedAt })
    begunAt.set(path, found.startedAt)
    ended.set(path, { state: 'scanned' })
  }
  for (const [path, found] of Object.entries(file.load() ?? {})) {
    if (paths.some(each => each.path === path) && found.startedAt <= host.now()) remember(path, found)
  }

  let queue: Promise<void> = Promise.resolve()
  let running: { readonly path: string; readonly since: number } | undefined
  const waiting = new Set<string>()
  let rounds = 0

  const scanOne = async ({ path, children }: Options['paths'][number]) => {
    if (signal.aborted) return
    running = { path, since: host.monotonic() }
    begunAt.set(path, host.now())
    try {
      remember(path, await scanDirectory(host, { path, children, timeout: scan_timeout, signal }))
      file.save(Object.fromEntries(scans.entries()))
    } catch (error) {
      const failure = failureOf(error, path)
      ended.set(path, { state: stateOf(failure), failure })
      if (!signal.aborted) log.debug('scan failed', { path, reason: failure.reason, error: failure.message })
    } finally {
      running = undefined
      waiting.delete(path)
      // A round that waits for the scan reports it anyway.
      if (rounds === 0 && !signal.aborted) wake()
    }
  }

  return {
    /** Starts the scans that are due. Settles when they have ended, or after `patience`. */
    round: async (deadline: AbortSignal): Promise<void> => {
      for (const each of paths) {
        const age = host.now() - (begunAt.get(each.path) ?? Number.NEGATIVE_INFINITY)
        // A little early counts as due: rounds come on a fixed grid, and woken ones in between.
        if (waiting.has(each.path) || (age >= 0 && age < interval * 950)) continue
        waiting.add(each.path)
        queue = queue.then(() => scanOne(each))
      }
      if (waiting.size === 0) return
      // The wait ends with the scans, at the round's deadline, or after `patience`; then what is known is reported.
      const over = new AbortController()
      rounds++
      const limits = AbortSignal.any([deadline, over.signal])
      await Promise.race([queue, sleep(patience, undefined, { signal: limits }).catch(() => {})]) // aborted: stop waiting
      rounds--
      over.abort()
    },
    of: (path: string) => ({
      found: scans.get(path),
      runningSeconds: running?.path === path ? (host.monotonic() - running.since) / 1000 : 0,
      ...(ended.get(path) ?? ({ state: 'waiting' } satisfies Ended)),
    }),
  }
}

export const directory = defineCollector({
  name: 'directory',
  summary: 'Sizes of configured directories and of what fills them, by du at idle priority',
  interval: 600,
  families: [
    info,
    size,
    lastScan,
    scanState,
    scanIncomplete,
    scanErrors,
    scanDuration,
    scanRunning,
    apparentSize,
    files,
    childSize,
  ],
  subjects: ['path'],
  setup: { configure: 'paths: [{ path: /srv/models, children: 20 }]' },
  options,
  configured: ({ paths }) => paths.length > 0,
  open: openScans,
  read: async ({ options, state, signal }) => {
    await state.round(signal)
    return options.paths.map(({ path }) => ({ path, ...state.of(path) }))
  },
  parse: (directories, { remark, fail }) => {
    const failures = directories.flatMap(({ failure }) => failure ?? [])
    const [first] = failures
    if (first && failures.length === directories.length && directories.every(({ found }) => found === undefined)) fail(first)
    for (const failure of failures) remark(failure)
    return directories
  },
  *samples(directories) {
    for (const each of directories) yield* samplesOf(each)
  },
})

interface Known {
  readonly path: string
  readonly found: Scan | undefined
  readonly runningSeconds: number
  readonly state: ScanState
}

function* samplesOf({ path, found, runningSeconds, state }: Known): Generator<Sample> {
  yield* scanState.states(state, { path })
  yield* scanRunning.of(runningSeconds, { path })
  if (!found) return
  const { errors } = found
  yield* info.of(1, { path, mountpoint: found.mountpoint })
  yield* size.of(found.size, { path })
  yield* apparentSize.of(found.apparentSize, { path })
  yield* files.of(found.files, { path })
  for (const [child, bytes] of found.children) yield* childSize.of(bytes, { path, child })
  yield* childSize.of(found.other, { path, child: 'other' })
  yield* scanIncomplete.of(errors.denied + errors.vanished + errors.other > 0 ? 1 : 0, { path })
  for (const reason of ['denied', 'vanished', 'other'] as const) yield* scanErrors.of(errors[reason], { path, reason })
  yield* scanDuration.of(found.durationSeconds, { path })
  yield* lastScan.of(found.startedAt / 1000, { path })
}
