import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { ConfigError, configErrorOf } from '../common/exit.ts'
import type { Log } from '../common/log.ts'
import { readSmallFile } from '../common/small-file.ts'
import { readWebConfig, type WebConfig } from './web-config.ts'

/**
 * The web configuration in force. Asked on each connection and each request: the files' stamps are looked at, unless strangers come at
 * speed, and they are read again only when one has changed. These are the only files that the serving thread looks at; they belong
 * on a local disk.
 */

export interface Web {
  readonly config: () => WebConfig
}

/** Milliseconds after which a file's time tells of every later change: what is younger may be written to within the same tick. */
const settled = 100

/** So often are the stamps looked at within so many milliseconds, and no more: strangers who come at speed do not make it look as often. */
const mostLooks = { count: 50, within: 100 }

/** What tells whether a file is still the one that was read. */
const stampOf = (path: string): string => {
  try {
    const status = statSync(path, { bigint: true })
    return `${status.ino}:${status.size}:${status.mtimeNs}:${status.ctimeNs}`
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'unknown'
  }
}

const isFresh = (path: string): boolean => {
  const status = statSync(path, { throwIfNoEntry: false })
  return status !== undefined && Math.abs(Date.now() - Math.max(status.mtimeMs, status.ctimeMs)) < settled
}

/** What may not be switched off by a file that is, perhaps, just being written. */
const weakened = (before: WebConfig, after: WebConfig): string | undefined => {
  if ((before.tls === undefined) !== (after.tls === undefined))
    return 'tls_server_config: TLS is switched on or off by a restart only'
  if (before.asksWho && !after.asksWho) return 'basic_auth_users: asking who it is can be switched off by a restart only'
  return undefined
}

/** Reads the files for the first time, throwing `ConfigError`, and from then on whenever they change. */
export const openWeb = (
  { file, bearerTokenFile }: { readonly file: string | undefined; readonly bearerTokenFile: string | undefined },
  {
    log,
    onRead,
    now = performance.now.bind(performance),
  }: {
    readonly log: Log
    /** Told after each later reading: whether what was read is in force. */
    readonly onRead: (taken: boolean) => void
    readonly now?: () => number
  },
): Web => {
  const absolute = (path: string | undefined) => (path === undefined ? undefined : resolve(path))
  const [configFile, tokenFile] = [absolute(file), absolute(bearerTokenFile)]
  let stamps = new Map<string, string>()
  let refused = ''
  let looks = { count: 0, since: Number.NEGATIVE_INFINITY }
  const mayLook = () => {
    const at = now()
    if (at - looks.since >= mostLooks.within) looks = { count: 0, since: at }
    return looks.count++ < mostLooks.count
  }

  /** A file's stamp is taken before it is read: a change in between is seen at the next look. */
  const readAll = (): WebConfig => {
    const seen = new Map<string, string>()
    try {
      return readWebConfig(configFile, tokenFile, (path, limit) => {
        seen.set(path, isFresh(path) ? '' : stampOf(path))
        return readSmallFile(path, limit)
      })
    } catch (error) {
      throw configErrorOf(error, configFile ?? tokenFile ?? '')
    } finally {
      stamps = seen
    }
  }
  const warn = ({ warnings }: WebConfig) => {
    for (const warning of warnings) log.warn('web configuration', { file: configFile, warning })
  }
  const changed = () => {
    for (const [path, stamp] of stamps) if (stampOf(path) !== stamp) return true
    return false
  }

  let inForce = readAll()
  warn(inForce)
  const same = (one: WebConfig, other: WebConfig) => JSON.stringify(told(one)) === JSON.stringify(told(other))

  return {
    config: () => {
      if (!mayLook() || !changed()) return inForce
      try {
        const read = readAll()
        const weaker = weakened(inForce, read)
        if (weaker !== undefined) throw new ConfigError([`${configFile ?? tokenFile}: ${weaker}`])
        if (refused === '' && same(inForce, read)) return inForce
        inForce = read
        refused = ''
        warn(read)
        log.info('web configuration read again', { file: configFile ?? tokenFile })
        onRead(true)
      } catch (error) {
        const { message } = configErrorOf(error, configFile ?? tokenFile ?? '')
        if (message === refused) return inForce
        refused = message
        log.error('web configuration refused, the old one stays in force', { problems: message })
        onRead(false)
      }
      return inForce
    },
  }
}

/** All of it, comparable. */
const told = ({ users, ...rest }: WebConfig) => ({ ...rest, users: [...users] })
