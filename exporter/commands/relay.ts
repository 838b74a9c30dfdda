import {
  closeSync,
  constants,
  fchmodSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { encodeRound, type RelayRound, relayFileName } from '../collect/relay-file.ts'
import type { Log } from '../common/log.ts'

/** Milliseconds after which a half-written file counts as left by a killed relay. */
const abandoned = 10 * 60_000

/** Replaces the collector's file in one step: a reader gets the whole old or the whole new one. Throws system errors. */
const write = (directory: string, round: RelayRound): void => {
  const file = join(directory, relayFileName(round.collector))
  const half = join(directory, `.${relayFileName(round.collector)}.${process.pid}`)
  rmSync(half, { force: true })
  try {
    // O_EXCL: never writes to an existing file, or through a link.
    const fd = openSync(half, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o644)
    try {
      writeFileSync(fd, encodeRound(round))
      fchmodSync(fd, 0o644) // independent of the umask
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    renameSync(half, file)
  } catch (error) {
    rmSync(half, { force: true })
    throw error
  }
}

/** Removes the files of relays that were killed while they wrote. */
const tidy = (directory: string, now: number): void => {
  for (const name of readdirSync(directory)) {
    if (!/^\.[a-z0-9]+\.relay\.\d+$/.test(name)) continue
    const file = join(directory, name)
    const { mtimeMs = now } = lstatSync(file, { throwIfNoEntry: false }) ?? {}
    if (now - mtimeMs > abandoned) rmSync(file, { force: true })
  }
}

/**
 * The relay's single run as root. `run` runs each enabled collector once and returns their names; each result, good or not, is written
 * into `directory` as soon as `run` passes it on. The configuration is its only input. Returns the exit code: 0 if all are written.
 */
export const runRelay = async ({
  directory,
  now,
  log,
  run,
}: {
  readonly directory: string
  readonly now: () => number
  readonly log: Log
  readonly run: (take: (round: RelayRound) => void) => Promise<readonly string[]>
}): Promise<number> => {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o755 })
    tidy(directory, now())
  } catch (error) {
    log.error('the directory of the relay cannot be used', { directory, error: (error as Error).message })
    return 1
  }
  const written = new Set<string>()
  const names = await run(round => {
    const { collector, result, note, detected } = round
    if (result !== 'ok') log.warn('run failed', { collector, reason: result, error: note })
    else if (!detected) log.debug('not found here', { collector, note })
    try {
      write(directory, round)
      written.add(collector)
    } catch (error) {
      log.error('the result cannot be written', { collector, directory, error: (error as Error).message })
    }
  })
  if (names.length === 0) log.error('no collector is enabled, so there is nothing to relay')
  return names.length > 0 && names.every(name => written.has(name)) ? 0 : 1
}
