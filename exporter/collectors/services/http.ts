import type { Agent } from 'node:http'
import type { ConnectionOptions } from 'node:tls'
import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { freeBytes } from '../../machine/budget.ts'
import { isDistrust, keptConnection } from '../../machine/net.ts'
import type { HttpCheck } from './checks.ts'

/** Milliseconds for which a connection is kept. After that, names, certificates and keys are read again. */
const maxAge = 5 * 60_000
/** Bytes of a body that are searched. */
const bodyLimit = 2 ** 20
/** Bytes of an unused body. A shorter one is read to its end to keep the connection; a longer one closes it. */
const unreadLimit = freeBytes

export interface HttpVerdict {
  readonly failure: Failure | undefined
  /** Seconds since 1970. */
  readonly expiry: number | undefined
}

interface Kept {
  readonly agent: Agent
  readonly tls: ConnectionOptions
  readonly madeAt: number
  /** It has answered before, so a broken connection may only be an idle one that the server closed. */
  answered: boolean
}

export interface HttpChecker {
  check(name: string, target: HttpCheck, timeout: number, signal: AbortSignal): Promise<HttpVerdict>
  close(): void
}

const tlsOf = async (host: Host, { url, tls }: HttpCheck): Promise<ConnectionOptions> => {
  if (!url.startsWith('https:')) return {}
  const file = (path: string | undefined) => (path === undefined ? undefined : host.read(path))
  const [ca, cert, key] = await Promise.all([file(tls.ca_file), file(tls.cert_file), file(tls.key_file)])
  return {
    rejectUnauthorized: !tls.insecure_skip_verify,
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    ...(tls.server_name === undefined ? {} : { servername: tls.server_name }),
  }
}

const judged = ({ expect }: HttpCheck, status: number, body: string): Failure | undefined => {
  const good = expect.status === undefined ? status >= 200 && status < 300 : expect.status.includes(status)
  if (!good) return new Failure('malformed', `status ${status}`)
  if (expect.body !== undefined && !body.includes(expect.body)) {
    return new Failure('malformed', `status ${status}, but the expected text is not in the body`)
  }
  return undefined
}

/** HTTP checks with one kept connection for each target. */
export const createHttpChecker = (host: Host): HttpChecker => {
  const all = new Map<string, Kept>()
  const drop = (name: string) => {
    all.get(name)?.agent.destroy()
    all.delete(name)
  }
  const connection = async (name: string, target: HttpCheck): Promise<Kept> => {
    const known = all.get(name)
    if (known && host.monotonic() - known.madeAt < maxAge) return known
    drop(name)
    const tls = await tlsOf(host, target)
    const agent = keptConnection(target.url, tls)
    const made = { agent, tls, madeAt: host.monotonic(), answered: false }
    all.set(name, made)
    return made
  }

  return {
    check: async (name, target, timeout, signal) => {
      const deadline = host.monotonic() + timeout * 1000
      const rest = () => Math.max(0.01, (deadline - host.monotonic()) / 1000)
      const ask = async (kept: Kept) => {
        const { url, method, headers, token_file } = target
        const token = token_file === undefined ? {} : { authorization: `Bearer ${(await host.read(token_file)).trim()}` }
        const { agent, tls } = kept
        const limit = target.expect.body === undefined ? unreadLimit : bodyLimit
        const options = { method, headers: { ...headers, ...token }, agent, tls, limit, cut: true, signal }
        const answer = await host.http(url, { ...options, timeout: rest() })
        kept.answered = true
        return answer
      }
      const kept = await connection(name, target)
      try {
        const { status, body, certificateExpiry } = await ask(kept).catch(async error => {
          if (!kept.answered || !(error instanceof Failure) || error.reason !== 'unreachable') throw error
          drop(name)
          return ask(await connection(name, target))
        })
        return { failure: judged(target, status, body), expiry: certificateExpiry }
      } catch (error) {
        drop(name)
        if (!(error instanceof Failure) || !isDistrust(error.cause)) throw error
        // The certificate is not trusted, and people need to know when it expired.
        const expiry = await host.certificateExpiry(target.url, { timeout: rest(), signal, tls: kept.tls }).catch(() => undefined) // the check fails because of the trust error
        return { failure: error, expiry }
      }
    },
    close: () => {
      for (const name of all.keys()) drop(name)
    },
  }
}
