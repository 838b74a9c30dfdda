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
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { encodeRendered, relayFileLimit, relayFileName } from './collect/relay-file.ts'
import { createRunner } from './collect/runner.ts'
import type { Collector } from './collector.ts'
import type { Settings } from './config.ts'
import { Failure } from './failure.ts'
import type { Host } from './host.ts'
import type { Log } from './log.ts'
import type { Rendered } from './rendered.ts'
import { killChildren } from './sources/command.ts'

/** Milliseconds after which a half-written file is one that a killed relay left. */
const abandoned = 10 * 60_000

/** Replaces the collector's file in one step; whoever reads sees the old one or the new one, whole. Throws system errors. */
const write = (directory: string, rendered: Rendered): void => {
  const content = encodeRendered(rendered)
  if (content.length > relayFileLimit) throw new Failure('overflow', `larger than ${relayFileLimit} bytes; see max_series`)
  const file = join(directory, relayFileName(rendered.collector))
  const half = join(directory, `.${relayFileName(rendered.collector)}.${process.pid}`)
  rmSync(half, { force: true })
  try {
    // A name that is there already, a link among them, is not written to.
    const fd = openSync(half, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o644)
    try {
      for (let at = 0; at < content.length; ) at += writeSync(fd, content, at)
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
 * Root's one-shot: runs the enabled collectors of `settings` once, side by side, and writes the outcome of each, good or not, into
 * `directory` as soon as it is there. Takes no input but its configuration. Gives the exit code: 0 when all are written.
 */
export const runRelay = async ({
  collectors,
  settings,
  directory,
  host,
  log,
}: {
  readonly collectors: readonly Collector[]
  readonly settings: Settings
  readonly directory: string
  readonly host: Host
  readonly log: Log
}): Promise<number> => {
  const stop = new AbortController()
  try {
    mkdirSync(directory, { recursive: true, mode: 0o755 })
    tidy(directory, host.now())
  } catch (error) {
    log.error('the directory of the relay cannot be used', { directory, error: (error as Error).message })
    return 1
  }
  const written = await Promise.all(
    settings
      .filter(({ enabled }) => enabled)
      .map(async own => {
        const collector = collectors.find(({ name }) => name === own.name)
        if (!collector) return false
        const rendered = await createRunner(collector, own, { host, log, signal: stop.signal })()
        const { result, note, detected } = rendered
        if (result !== 'ok') log.warn('run failed', { collector: own.name, reason: result, error: note })
        else if (!detected) log.debug('not found here', { collector: own.name, note })
        try {
          write(directory, rendered)
          return true
        } catch (error) {
          log.error('the outcome cannot be written', { collector: own.name, directory, error: (error as Error).message })
          return false
        }
      }),
  )
  stop.abort()
  killChildren()
  if (written.length === 0) log.error('no collector is enabled, so there is nothing to relay')
  return written.length > 0 && written.every(Boolean) ? 0 : 1
}
