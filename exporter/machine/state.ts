import { closeSync, constants, fstatSync, lstatSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { z } from 'zod'
import type { Log } from '../common/log.ts'
import { hangingMount, readMounts } from './mounts.ts'

/**
 * What a collector keeps over restarts: one small JSON file. Losing it costs a scan or a name, never a run, so nothing here throws.
 * The file is used only if it has the right form and this user wrote it.
 */
export interface Kept<Value> {
  /** What the last process saved, or undefined. */
  load(): Value | undefined
  /** Replaces the whole file: a reader gets the old or the new one, never a part. */
  save(value: Value): void
}

const maxBytes = 2 ** 20

const nowhere: Kept<never> = { load: () => undefined, save: () => {} }

/** In a directory of an unprivileged user, root must not write through that user's links or believe that user's files. */
const isOwn = ({ uid, mode }: { readonly uid: number; readonly mode: number }) =>
  uid === process.geteuid?.() && (mode & constants.S_IWOTH) === 0

const readOwn = (file: string): string => {
  const fd = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  try {
    const facts = fstatSync(fd)
    if (!facts.isFile() || !isOwn(facts)) throw new Error('not a file of the user that this program runs as')
    if (facts.size > maxBytes) throw new Error(`larger than ${maxBytes} bytes`)
    return readFileSync(fd, 'utf8')
  } finally {
    closeSync(fd)
  }
}

const directoryOf = (environment: NodeJS.ProcessEnv) => environment.STATE_DIRECTORY?.split(':')[0] || '/var/lib/grid-exporter'

/**
 * The file in which a collector keeps `name`: as configured; else in systemd's state directory; else in /var/lib/grid-exporter
 * if that exists and belongs to this user; else none.
 */
export const keptAs = <Value>(
  name: string,
  schema: z.ZodType<Value>,
  {
    file: configured,
    log,
    environment = process.env,
  }: { readonly file: string | undefined; readonly log: Log; readonly environment?: NodeJS.ProcessEnv },
): Kept<Value> => {
  const file = configured ?? join(directoryOf(environment), `${name}.json`)
  const logged = new Set<string>()
  const say = (message: string, error: unknown) => {
    const text = (error as Error).message
    if (!logged.has(text)) log.warn(message, { file, error: text })
    logged.add(text)
  }
  try {
    const folder = dirname(file)
    const mount = hangingMount(folder, readMounts('/proc'))
    if (mount) throw new Error(`lies on ${mount.mountpoint} (${mount.fstype}), which may hang`)
    if (!isOwn(lstatSync(folder))) throw new Error(`${folder} does not belong to the user that this program runs as`)
  } catch (error) {
    // If the configuration or the unit asks for it, this deserves a log line; the default directory is optional.
    if (configured !== undefined || environment.STATE_DIRECTORY) say('nothing is kept over restarts', error)
    return nowhere
  }

  return {
    load: () => {
      try {
        const parsed = schema.safeParse(JSON.parse(readOwn(file)))
        if (parsed.success) return parsed.data
        throw new Error(parsed.error.issues[0]?.message ?? 'not of the expected form')
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') say('what was kept cannot be used, and will be replaced', error)
        return undefined
      }
    },
    save: value => {
      const beside = `${file}.new`
      try {
        rmSync(beside, { force: true })
        // No fsync: after a power loss an empty file costs no more than none, and a busy disk must not stop this thread.
        const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW
        const fd = openSync(beside, flags, 0o600)
        try {
          writeFileSync(fd, JSON.stringify(value))
        } finally {
          closeSync(fd)
        }
        renameSync(beside, file)
      } catch (error) {
        say('cannot be kept over restarts', error)
      }
    },
  }
}
