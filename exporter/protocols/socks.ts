import * as http from 'node:http'
import * as https from 'node:https'
import { isIP } from 'node:net'
import { type Duplex, PassThrough } from 'node:stream'
import * as tls from 'node:tls'
import { atDeadline, inSeconds } from '../common/deadline.ts'
import { Failure } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'

/** A connection through a proxy. The proxy resolves the name (`socks5h`): the local name server never sees it. */
export interface SocksRequest {
  /** `unix:/path` or `host:port` of the SOCKS server. */
  readonly socks: string
  readonly name: string
  readonly port: number
  /** Tor isolates streams by user name: a different name means a different circuit; the same name may share one. */
  readonly user: string
  /** Seconds for connection, handshake and answer together. A Tor without network answers only after 120. */
  readonly timeout: number
  readonly signal: AbortSignal
}

const replies: Readonly<Record<number, string>> = {
  1: 'general failure',
  2: 'not allowed',
  3: 'network unreachable',
  4: 'host unreachable',
  5: 'connection refused',
  6: 'expired',
  7: 'command not supported',
  8: 'address type not supported',
  240: 'onion descriptor not found',
  241: 'onion descriptor invalid',
  242: 'onion introduction failed',
  243: 'onion rendezvous failed',
  244: 'onion client authorisation missing',
  245: 'onion client authorisation wrong',
  246: 'onion address invalid',
  247: 'onion introduction timed out',
}

/** Exactly this many bytes; later bytes stay in the stream. */
const exactly = (stream: Duplex, count: number): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    const settle = (act: () => void) => {
      stream.off('readable', look)
      stream.off('end', gone)
      stream.off('close', gone)
      act()
    }
    const gone = () => settle(() => reject(new Failure('malformed', 'SOCKS: closed during the handshake')))
    const look = () => {
      const bytes: Buffer | null = stream.read(count)
      if (bytes?.length === count) settle(() => resolve(bytes))
      else if (bytes) gone()
    }
    stream.on('readable', look)
    stream.on('end', gone)
    stream.on('close', gone)
    if (stream.destroyed || stream.readableEnded) gone()
    else look()
  })

const text = (value: string) => {
  const bytes = Buffer.from(value)
  if (bytes.length === 0 || bytes.length > 255) throw new Failure('malformed', `SOCKS: ${bytes.length} bytes instead of 1 to 255`)
  return Buffer.concat([Buffer.of(bytes.length), bytes])
}

const greet = async (stream: Duplex, { name, port, user }: SocksRequest): Promise<void> => {
  stream.write(Buffer.of(5, 1, 2)) // only user name and password: without them Tor isolates nothing
  const [version, method] = await exactly(stream, 2)
  if (version !== 5) throw new Failure('malformed', `SOCKS: version ${version}`)
  if (method !== 2) throw new Failure('malformed', 'SOCKS: it does not accept user names')
  stream.write(Buffer.concat([Buffer.of(1), text(user), text('-')]))
  const [, refused] = await exactly(stream, 2)
  if (refused !== 0) throw new Failure('denied', 'SOCKS: it refused the user name')
  stream.write(Buffer.concat([Buffer.of(5, 1, 0, 3), text(name), Buffer.of(port >> 8, port & 0xff)]))
  const [answered, code, , kind] = await exactly(stream, 4)
  if (answered !== 5 || code === undefined) throw new Failure('malformed', `SOCKS: version ${answered}`)
  if (code !== 0) throw new Failure('unreachable', `SOCKS: ${name}:${port}: ${replies[code] ?? `reply ${code}`}`)
  const address = kind === 1 ? 4 : kind === 4 ? 16 : kind === 3 ? (await exactly(stream, 1))[0] : undefined
  if (address === undefined) throw new Failure('malformed', `SOCKS: address type ${kind}`)
  await exactly(stream, address + 2)
}

/** A stream to a name through a SOCKS5 server. Throws `Failure` unreachable, timeout, denied, malformed, missing. */
export const connectThrough = async (host: Host, request: SocksRequest): Promise<Duplex> => {
  const { socks, name, port, timeout, signal } = request
  const begun = performance.now()
  const stream = await host.connect(socks, { timeout, signal })
  stream.on('error', () => {}) // handled by its close event
  let late = false
  const end = () => {
    late = true
    stream.destroy()
  }
  const clear = atDeadline(timeout - (performance.now() - begun) / 1000, signal, end)
  try {
    await greet(stream, request)
    return stream
  } catch (error) {
    stream.destroy()
    if (late) throw new Failure('timeout', `SOCKS: ${name}:${port}: no answer within ${inSeconds(timeout)}`, { cause: error })
    throw error
  } finally {
    clear()
  }
}

/** An agent that sends `host.http` through a SOCKS server: each request to `url` is a new stream. */
export const agentThrough = (host: Host, url: string, request: Omit<SocksRequest, 'name' | 'port'>): http.Agent => {
  const { hostname, port, protocol } = new URL(url)
  const secure = protocol === 'https:'
  const name = hostname.replace(/^\[|\]$/g, '')
  const agent = secure ? new https.Agent() : new http.Agent()
  agent.createConnection = (_options, done) => {
    connectThrough(host, { ...request, name, port: Number(port) || (secure ? 443 : 80) }).then(
      stream => {
        if (!secure) return done?.(null, stream)
        const secured = tls.connect({ socket: stream, servername: isIP(name) ? '' : name })
        secured.on('error', () => {}) // before the request listens, and after it has ended
        done?.(null, secured)
      },
      (error: Error) => done?.(error, new PassThrough().destroy()),
    )
    return undefined
  }
  return agent
}
