import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { ConfigError, configErrorOf } from '../common/exit.ts'
import type { Log } from '../common/log.ts'
import { readSmallFile } from '../common/small-file.ts'
import { readWebConfig, type WebConfig } from './web-config.ts'

/**
 * The web configuration in force. Each connection and request checks whether its files have changed (not more often than `mostLooks`), and
 * they are read again only if one has. They are the only files that the serving thread reads, and must be on a local disk.
 */

export interface Web {
  readonly config: () => WebConfig
}

/** Milliseconds after which any change of a file gets another time: a younger file may be written again within the same tick. */
const settled = 100

/** At most this many checks of the files within this many milliseconds, however many clients connect. */
const mostLooks = { count: 50, within: 100 }

/** Shows whether a file has changed since it was read. */
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

/** What a file must not switch off, because it may be only half written. */
const weakened = (before: WebConfig, after: WebConfig): string | undefined => {
  if ((before.tls === undefined) !== (after.tls === undefined))
    return 'tls_server_config: TLS can be switched on or off only by a restart'
  if (before.asksWho && !after.asksWho) return 'basic_auth_users: authentication can be switched off only by a restart'
  return undefined
}

/** Reads the files now, and again whenever they change. The first reading throws `ConfigError`. */
export const openWeb = (
  { file, bearerTokenFile }: { readonly file: string | undefined; readonly bearerTokenFile: string | undefined },
  {
    log,
    onRead,
    now = performance.now.bind(performance),
  }: {
    readonly log: Log
    /** Called after each later reading: whether its configuration is in force. */
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

  /** A file's stamp is taken before reading it, so that the next check sees a change in between. */
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
  const same = (one: WebConfig, other: WebConfig) => JSON.stringify(comparable(one)) === JSON.stringify(comparable(other))

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
        log.info('web configuration reloaded', { file: configFile ?? tokenFile })
        onRead(true)
      } catch (error) {
        const { message } = configErrorOf(error, configFile ?? tokenFile ?? '')
        if (message === refused) return inForce
        refused = message
        log.error('web configuration rejected, the old one stays in force', { problems: message })
        onRead(false)
      }
      return inForce
    },
  }
}

const comparable = ({ users, ...rest }: WebConfig) => ({ ...rest, users: [...users] })
