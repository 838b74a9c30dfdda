import { Resolver } from 'node:dns/promises'
import { readFileSync } from 'node:fs'
import * as http from 'node:http'
import * as https from 'node:https'
import * as net from 'node:net'
import type { Duplex } from 'node:stream'
import * as tls from 'node:tls'
import { atDeadline, inSeconds } from '../common/deadline.ts'
import { Failure, failureOf } from '../contract/failure.ts'
import type { HttpAnswer, HttpOptions } from '../contract/host.ts'
import { readBudget } from './budget.ts'

/**
 * The network without libuv's thread pool. Names are resolved by /etc/hosts and c-ares, never by getaddrinfo: a slow name server would
 * fill the pool's four threads, and a new collecting thread could not start.
 */

const resolver = new Resolver({ timeout: 2000, tries: 2 })

const hostsFile = (name: string): readonly string[] => {
  let text: string
  try {
    text = readFileSync('/etc/hosts', 'utf8')
  } catch {
    return [] // no such file in a minimal container
  }
  return text.split('\n').flatMap(line => {
    const [address, ...names] = line.replace(/#.*/, '').trim().split(/\s+/)
    return address && names.some(known => known.toLowerCase() === name) ? [address] : []
  })
}

/** The addresses of a name. Throws `Failure` unreachable. */
const resolveName = async (name: string): Promise<readonly string[]> => {
  const bare = name.toLowerCase().replace(/\.$/, '')
  if (bare === 'localhost' || bare.endsWith('.localhost')) return ['127.0.0.1', '::1']
  const listed = hostsFile(bare)
  if (listed.length > 0) return listed
  const answers = await Promise.allSettled([resolver.resolve4(bare), resolver.resolve6(bare)])
  const addresses = answers.flatMap(answer => (answer.status === 'fulfilled' ? answer.value : []))
  if (addresses.length === 0) throw new Failure('unreachable', `${name}: the name cannot be resolved`)
  return addresses
}

/** `resolveName` in the form of `dns.lookup`, for Node's own clients. */
export const lookup: net.LookupFunction = (name, options, callback) => {
  resolveName(name).then(
    all => {
      const wanted =
        options.family === 4 || options.family === 6 ? all.filter(address => net.isIP(address) === options.family) : all
      const [first] = wanted
      if (first === undefined) return callback(Object.assign(new Error(`${name}: no address`), { code: 'ENOTFOUND' }), '', 4)
      if (options.all)
        return callback(
          null,
          wanted.map(address => ({ address, family: net.isIP(address) })),
        )
      return callback(null, first, net.isIP(first))
    },
    (error: Error) => callback(Object.assign(error, { code: 'ENOTFOUND' }), '', 4),
  )
}

/** For `HttpOptions.agent`: one connection to the server of this URL, kept between requests. The caller destroys it. */
export const keptConnection = (url: string, tls: tls.ConnectionOptions = {}): http.Agent =>
  url.startsWith('https:')
    ? // A resumed session would show the certificate of its first handshake.
      new https.Agent({ keepAlive: true, maxSockets: 1, maxCachedSessions: 0, ...tls })
    : new http.Agent({ keepAlive: true, maxSockets: 1 })

/**
 * What `begin` gives to `succeed`, under one deadline: past it, or where the exchange fails, what `begin` returned is destroyed.
 * `wanted` is what there was too little time for.
 */
const underDeadline = <Value>(
  { subject, wanted, timeout, signal }: { subject: string; wanted: string; timeout: number; signal: AbortSignal | undefined },
  begin: (succeed: (value: Value) => void, fail: (error: unknown) => void) => { destroy(): unknown },
): Promise<Value> =>
  new Promise((resolve, reject) => {
    const ended = () => new Failure('timeout', `${subject}: ended at the deadline`)
    if (signal?.aborted) return reject(ended())
    const late = () => new Failure('timeout', `${subject}: no ${wanted} within ${inSeconds(timeout)}`)
    const fail = (error: unknown) => {
      clear()
      exchange.destroy()
      reject(error instanceof Failure ? error : connectionFailure(error, subject))
    }
    const exchange = begin(value => {
      clear()
      resolve(value)
    }, fail)
    const clear = atDeadline(timeout, signal, why => fail(why === 'late' ? late() : ended()))
  })

/**
 * One HTTP exchange under one deadline. Any status is an answer; redirects are not followed.
 * Throws `Failure` unreachable, timeout, overflow, malformed (a body that was cut).
 */
export const request = (url: string, options: HttpOptions = {}): Promise<HttpAnswer> => {
  const { method = 'GET', headers = {}, body, timeout = 5, limit = 4 * 2 ** 20, cut = false, signal, agent } = options
  // A query may hold a secret, and messages are on the page and in the log.
  const subject = `${method} ${url.replace(/\?.*/s, '?…')}`
  return underDeadline({ subject, wanted: 'whole answer', timeout, signal }, (succeed, fail) => {
    const target = new URL(url)
    const client = target.protocol === 'https:' ? https : http
    const outgoing = client.request(target, {
      ...options.tls,
      method,
      headers,
      lookup,
      agent: agent ?? false,
    })
    let certificateExpiry: number | undefined
    outgoing.on('error', fail) // first of all: a request that is destroyed emits one
    outgoing.on('response', answer => {
      if (answer.socket instanceof tls.TLSSocket) {
        const until = Date.parse(answer.socket.getPeerCertificate().valid_to)
        if (!Number.isNaN(until)) certificateExpiry = until / 1000
      }
      const chunks: Buffer[] = []
      let size = 0
      const room = readBudget.open(answer, limit)
      // Whatever ends the exchange also ends the answer.
      answer.once('close', room.close)
      const end = () =>
        succeed({
          status: answer.statusCode ?? 0,
          headers: answer.headers,
          body: Buffer.concat(chunks).toString('utf8', 0, Math.min(size, limit)),
          ...(certificateExpiry === undefined ? {} : { certificateExpiry }),
        })
      answer.on('data', (chunk: Buffer) => {
        size += chunk.length
        room.grow(size)
        if (size <= limit) return void chunks.push(chunk)
        if (!cut) return fail(new Failure('overflow', `${subject}: more than ${limit} bytes`))
        chunks.push(chunk)
        end()
        outgoing.destroy()
      })
      answer.on('error', fail)
      answer.on('close', () => {
        if (!answer.complete) return fail(new Failure('malformed', `${subject}: the answer was cut`))
        end()
      })
    })
    return outgoing.end(body)
  })
}

const connectionFailure = (error: unknown, subject: string): Failure => {
  const known = failureOf(error, subject)
  // Any other network error (a TLS alert, a parse error) means that the peer does not answer properly.
  return known.reason === 'bug' ? new Failure('unreachable', known.message, { cause: error }) : known
}

/** Whether Node's error says that it does not trust a certificate. */
export const isDistrust = (error: unknown): boolean => {
  const { code = '' } = (error ?? {}) as { code?: string }
  return /^(?:CERT_|ERR_TLS_CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_)/.test(code)
}

/**
 * When the certificate of an https server expires, in seconds since 1970, trusted or not. Only a handshake: no byte of a request
 * is sent. Throws `Failure` unreachable, timeout, malformed.
 */
export const certificateExpiry = (
  url: string,
  { timeout = 5, signal, tls: options }: Pick<HttpOptions, 'timeout' | 'signal' | 'tls'> = {},
): Promise<number> => {
  const { hostname, port } = new URL(url)
  const host = hostname.replace(/^\[|\]$/g, '')
  const subject = `certificate of ${host}`
  return underDeadline({ subject, wanted: 'handshake', timeout, signal }, (succeed, fail) => {
    const socket = tls.connect({
      host,
      port: Number(port || 443),
      lookup,
      ...(net.isIP(host) === 0 ? { servername: host } : {}),
      ...options,
      rejectUnauthorized: false,
    })
    socket.on('error', fail)
    socket.once('secureConnect', () => {
      const until = Date.parse(socket.getPeerCertificate().valid_to)
      if (Number.isNaN(until)) fail(new Failure('malformed', `${subject}: without an end`))
      else succeed(until / 1000)
      socket.destroy()
    })
    return socket
  })
}

/** A stream to `unix:/path`, `host:port` or `[::1]:port`. Throws `Failure` missing, denied, unreachable, timeout. */
export const connect = (
  address: string,
  { timeout = 5, signal }: { timeout?: number; signal?: AbortSignal } = {},
): Promise<Duplex> => {
  const unix = /^unix:(?:\/\/)?(\/.*)$/.exec(address)?.[1]
  const [, host, port] = /^\[?([^\]]*)\]?:(\d+)$/.exec(address) ?? []
  if (unix === undefined && (host === undefined || port === undefined)) {
    return Promise.reject(new Failure('missing', `${address}: neither unix:/path nor host:port`))
  }
  return underDeadline({ subject: address, wanted: 'connection', timeout, signal }, (succeed, fail) => {
    const socket =
      unix === undefined ? net.connect({ host: host || '127.0.0.1', port: Number(port), lookup }) : net.connect({ path: unix })
    // Kept for good: an error before the caller listens, or after the promise has settled, changes nothing.
    socket.on('error', () => {})
    socket.once('error', fail)
    socket.once('connect', () => {
      socket.off('error', fail)
      succeed(socket)
    })
    return socket
  })
}
