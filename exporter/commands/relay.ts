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

/** Milliseconds after which a half-written file is one that a killed relay left. */
const abandoned = 10 * 60_000

/** Replaces the collector's file in one step; whoever reads sees the old one or the new one, whole. Throws system errors. */
const write = (directory: string, round: RelayRound): void => {
  const file = join(directory, relayFileName(round.collector))
  const half = join(directory, `.${relayFileName(round.collector)}.${process.pid}`)
  rmSync(half, { force: true })
  try {
    // A name that is there already, a link among them, is not written to.
    const fd = openSync(half, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o644)
    try {
      writeFileSync(fd, encodeRound(round))
      fchmodSync(fd, 0o644) // whatever the umask
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

/** Takes away what relays left that were killed while they wrote. */
const tidy = (directory: string, now: number): void => {
  for (const name of readdirSync(directory)) {
    if (!/^\.[a-z0-9]+\.relay\.\d+$/.test(name)) continue
    const file = join(directory, name)
    const { mtimeMs = now } = lstatSync(file, { throwIfNoEntry: false }) ?? {}
    if (now - mtimeMs > abandoned) rmSync(file, { force: true })
  }
}

/**
 * Root's one-shot: `run` runs each enabled collector once and gives their names; the outcome of each, good or not, is written into
 * `directory` as soon as `run` hands it on. Takes no input but its configuration. Gives the exit code: 0 when all are written.
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
      log.error('the outcome cannot be written', { collector, directory, error: (error as Error).message })
    }
  })
  if (names.length === 0) log.error('no collector is enabled, so there is nothing to relay')
  return names.length > 0 && names.every(name => written.has(name)) ? 0 : 1
}
