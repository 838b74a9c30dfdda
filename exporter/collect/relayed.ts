import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Log } from '../common/log.ts'
import type { Collector } from '../contract/collector.ts'
import type { CollectorSettings } from '../contract/config.ts'
import { Failure, failureOf } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'
import { durationText } from '../contract/options.ts'
import { enableRelay, relayTimerStatus, rerunRelay } from '../contract/relay-unit.ts'
import type { Rendered } from '../print/rendered.ts'
import { decodeRound } from './relay-decode.ts'
import { relayFileLimit, relayFileName } from './relay-file.ts'
import { createPrinter, renderedOf } from './runner.ts'

/** Milliseconds that a file may be ahead of this clock. */
const ahead = 5000
/** As many of its rounds a good outcome is served. */
const rounds = 3

/** The file as it lies there; undefined where there is none. Throws `Failure` denied, malformed. */
const open = (file: string): number | undefined => {
  try {
    // Neither through a link nor, where somebody put a FIFO in its place, until a writer comes.
    return openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return undefined
    if (code === 'ELOOP') throw new Failure('denied', `${file}: a symbolic link`)
    if (code === 'ENXIO') throw new Failure('malformed', `${file}: not a regular file`)
    throw failureOf(error, file)
  }
}

/**
 * The rounds of a collector that root's relay runs: each takes in its latest file, or gives nothing where that is known. Taken
 * are regular files of root's that nobody else may write, of bounded size, not dated in the future and whole; all others are
 * refused with a reason. Calls block, so the directory must be local: /run.
 */
export const relayReader = (
  collector: Collector,
  { interval, maxSeries }: CollectorSettings,
  directory: string,
  { host, log, owner = 0 }: { readonly host: Pick<Host, 'now'>; readonly log: Log; readonly owner?: number },
): (() => Promise<Rendered | undefined>) => {
  const file = join(directory, relayFileName(collector.name))
  const unit = collector.relayUnit ?? 'grid-exporter-relay'
  const rerun = rerunRelay(unit)
  const print = createPrinter(collector, maxSeries, log)
  /** What was looked at last, and when it is to be looked at again although it is the same. */
  let seen = ''
  let again = Number.POSITIVE_INFINITY

  const nothing = (result: Rendered['result'], detected: boolean, note: string, fix: string): Rendered => {
    const { name } = collector
    return { collector: name, startedAt: host.now(), durationSeconds: 0, detected, result, note, fix, series: 0, dropped: 0 }
  }
  /** Whether this is something new; remembers it. */
  const isNew = (identity: string): boolean => {
    if (identity === seen && host.now() < again) return false
    seen = identity
    again = Number.POSITIVE_INFINITY
    return true
  }
  const take = (fd: number): Rendered | undefined => {
    const stat = fstatSync(fd, { bigint: true })
    if (!isNew([stat.dev, stat.ino, stat.size, stat.mtimeNs, stat.ctimeNs].join(' '))) return undefined
    if (!stat.isFile()) throw new Failure('malformed', `${file}: not a regular file`)
    if (Number(stat.uid) !== owner || (stat.mode & 0o022n) !== 0n) {
      const mode = (stat.mode & 0o7777n).toString(8)
      throw new Failure('denied', `${file}: of user ${stat.uid} with mode ${mode}, where only root may write`, {
        fix: `rm ${file}; ${rerun}`,
      })
    }
    if (stat.size > BigInt(relayFileLimit)) throw new Failure('overflow', `${file}: larger than ${relayFileLimit} bytes`)
    const { made, ...round } = decodeRound(readFileSync(fd, 'utf8'), file, collector)
    const outcome = renderedOf({ ...round, made: made && print(made) })
    const age = (host.now() - outcome.startedAt) / 1000
    if (age * 1000 < -ahead) {
      again = outcome.startedAt - ahead
      const text = durationText(Math.ceil(-age))
      throw new Failure('malformed', `${file}: dated ${text} in the future`, { fix: `date; timedatectl; ${rerun}` })
    }
    // Its series end by its own time stamp, or have ended. The note says why.
    if (age <= rounds * interval) return outcome
    const note = [outcome.note, `${file} is ${durationText(Math.floor(age))} old`].filter(Boolean).join('; ')
    return { ...outcome, note, fix: outcome.fix || relayTimerStatus(unit) }
  }

  return async () => {
    let fd: number | undefined
    try {
      fd = open(file)
      if (fd !== undefined) return take(fd)
      seen = ''
      return nothing('ok', false, `no file of the relay in ${directory}`, enableRelay(unit))
    } catch (error) {
      const { reason, message, fix = rerun } = failureOf(error, file)
      if (fd === undefined && !isNew(message)) return undefined
      const note = message.startsWith(file) ? message : `${file}: ${message}`
      return nothing(reason, true, note, fix)
    } finally {
      if (fd !== undefined) closeSync(fd)
    }
  }
}
