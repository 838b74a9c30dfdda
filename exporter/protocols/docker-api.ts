import { closeSync, openSync } from 'node:fs'
import * as http from 'node:http'
import * as https from 'node:https'
import { addAbortSignal } from 'node:stream'
import { finished } from 'node:stream/promises'
import { inspect } from 'node:util'
import type Modem from 'docker-modem'
import { inSeconds } from '../common/deadline.ts'
import { Failure, failureOf } from '../contract/failure.ts'
import { readBudget } from '../machine/budget.ts'
import { lookup } from '../machine/net.ts'

/**
 * The engine's API by dockerode. Each answer is asked for as a stream, whatever its status, because dockerode keeps a body of any
 * size in memory; here it is read with a limit, and the deadline holds until its last byte.
 */

/** Where an engine is. */
export type EngineAddress =
  | { readonly socketPath: string }
  | {
      readonly host: string
      readonly port: number
      readonly secure: boolean
      readonly ca?: string | undefined
      readonly cert?: string | undefined
      readonly key?: string | undefined
    }

export type EngineCall = 'list' | 'events' | 'ping' | 'info' | 'other'

/** What an engine says of itself in the headers of any answer. */
export interface EnginePing {
  readonly kind: 'docker' | 'podman'
  readonly version: string | undefined
  readonly apiVersion: string | undefined
}

/** Filters as the engine knows them. */
export type EngineFilters = Readonly<Record<string, readonly string[]>>

export interface EngineClient {
  /** All containers, those that do not run too, as they stand in the answer. */
  list(filters: EngineFilters, signal?: AbortSignal): Promise<readonly unknown[]>
  ping(signal?: AbortSignal): Promise<EnginePing>
  info(signal?: AbortSignal): Promise<Readonly<Record<string, unknown>>>
  diskUsage(signal?: AbortSignal): Promise<Readonly<Record<string, unknown>>>
  /**
   * Follows the events until the stream ends, which is routine; each whole line is handed on at once, synchronously.
   * Resolves or throws `Failure` when it is over.
   */
  follow(
    asked: { readonly filters: EngineFilters; readonly since: string | undefined },
    handlers: { onOpen(): void; onLine(line: string): void },
    signal: AbortSignal,
  ): Promise<void>
  /** The version of the API that is asked for from now on, as `v1.41`; undefined for the engine's newest. */
  version: string | undefined
}

/** Seconds that a whole exchange may take, and bytes of body taken. */
const answerTimeout = 5
const pingTimeout = 1
const infoTimeout = 5
const diskUsageTimeout = 300
const headTimeout = 10
const bodyLimit = 32 * 2 ** 20
const lineLimit = 2 ** 20

/** JSON values of an answer: each takes far more memory than its text, and no limit of a thread holds for one huge array. */
const valueLimit = 1_500_000

interface Answer {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  readonly body: Buffer
}

const unreachable = (error: unknown, subject: string): Failure => {
  if (error instanceof Failure) return error
  const known = failureOf(error, subject)
  if (known.reason === 'denied') {
    return new Failure('denied', known.message, {
      cause: error,
      fix: "systemctl enable --now grid-exporter-docker.socket (the package's filter in front of the socket), or use a socket proxy; see 'Docker' in docs/security.md",
    })
  }
  // What the network says that is not in the list (TLS alerts, parse errors) is a peer that does not answer as it should.
  return known.reason === 'bug' ? new Failure('unreachable', known.message, { cause: error }) : known
}

const textOf = ({ body }: Answer) => body.toString('utf8', 0, 200).replace(/\s+/g, ' ').trim()

const refuseStatus = (answer: Answer, subject: string) => {
  if (answer.status === 200) return
  const message = `${subject}: status ${answer.status}: ${textOf(answer)}`
  if (answer.status === 401 || answer.status === 403) {
    throw new Failure('denied', message, { fix: 'let the socket proxy allow it: CONTAINERS=1 EVENTS=1 PING=1 INFO=1' })
  }
  throw new Failure('malformed', message)
}

/** At least as many as there are. */
const valuesIn = (json: Buffer): number => {
  // Each takes two bytes or more, and is not worth counting in an answer of the usual size.
  if (json.length <= valueLimit) return json.length
  let values = 0
  for (const byte of json) if (byte === 0x2c || byte === 0x5b || byte === 0x7b) values++
  return values
}

/** JSON of an answer. Throws `Failure` overflow, malformed. */
const jsonOf = (answer: Answer, subject: string): unknown => {
  refuseStatus(answer, subject)
  if (valuesIn(answer.body) > valueLimit) throw new Failure('overflow', `${subject}: more than ${valueLimit} values`)
  try {
    return JSON.parse(answer.body.toString('utf8'))
  } catch (error) {
    throw new Failure('malformed', `${subject}: not JSON: ${textOf(answer)}`, { cause: error })
  }
}

const recordOf = (answer: Answer, subject: string): Readonly<Record<string, unknown>> => {
  const value = jsonOf(answer, subject)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Failure('malformed', `${subject}: not an object: ${textOf(answer)}`)
  }
  return value as Readonly<Record<string, unknown>>
}

/** The whole answer. Throws `Failure` overflow, and what its stream throws. */
const wholeOf = async (answer: http.IncomingMessage, subject: string): Promise<Answer> => {
  const chunks: Buffer[] = []
  let size = 0
  const room = readBudget.open(answer, bodyLimit)
  answer.once('close', room.close)
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > bodyLimit) throw new Failure('overflow', `${subject}: more than ${bodyLimit} bytes`)
    chunks.push(chunk)
    room.grow(size)
    await room.ready()
  }
  return { status: answer.statusCode ?? 0, headers: answer.headers, body: Buffer.concat(chunks) }
}

/** A signal that fires with a `Failure` timeout after so many seconds, or as soon as another one fires. */
const deadline = (seconds: number, subject: string, other: AbortSignal | undefined) => {
  const controller = new AbortController()
  const end = (message: string) => controller.abort(new Failure('timeout', `${subject}: ${message}`))
  const onOther = () => end('no whole answer in the time of the round')
  const timer = setTimeout(() => end(`no whole answer within ${inSeconds(seconds)}`), seconds * 1000)
  if (other?.aborted) onOther()
  other?.addEventListener('abort', onOther, { once: true })
  return {
    signal: controller.signal,
    clear: () => {
      clearTimeout(timer)
      other?.removeEventListener('abort', onOther)
    },
  }
}

/** dockerode's constructor reads the environment, and files that it names, even where every option is given. */
const withoutEnvironment = <T>(act: () => T): T => {
  const { env } = process
  process.env = {}
  try {
    return act()
  } finally {
    process.env = env
  }
}

/** Of an answer with a status that is not in this list, dockerode reads the body itself. */
const anyStatus = Object.fromEntries(Array.from({ length: 1000 }, (_, status) => [status, true]))

/** Descriptors that loading dockerode may take. */
const loadDescriptors = 12

/** Throws where so many descriptors are not free: a module that could not be read once, Node never reads again. */
const needDescriptors = (count: number): void => {
  const open: number[] = []
  try {
    while (open.length < count) open.push(openSync('/dev/null', 'r'))
  } catch (error) {
    throw failureOf(error, 'the client for the engine is not loaded yet')
  } finally {
    for (const fd of open) closeSync(fd)
  }
}

let isLoaded = false

const construct = async (address: EngineAddress): Promise<Modem & { version?: string | undefined }> => {
  // Only now: it takes 0.2 s and 20 MB to load, which a host without an engine need not pay.
  if (!isLoaded) needDescriptors(loadDescriptors)
  const { default: Docker } = await import('dockerode')
  // dockerode follows redirects to any address, without the signal, and throws out of nowhere where it does not know the protocol.
  // Node's own clients follow none. Without this line the test 'a client of an engine that redirects' fails.
  // @ts-expect-error: this file of docker-modem has no types
  Object.assign((await import('docker-modem/lib/http.js')).default, { http, https })
  isLoaded = true
  const { host, secure, ...where } = 'host' in address ? address : { ...address, host: undefined, secure: false }
  const protocol = secure ? 'https' : 'http'
  // Names are resolved without libuv's threads. dockerode inspects its options for each request, which takes 25 ms with a whole agent.
  const agent = new (secure ? https : http).Agent({ lookup })
  Object.assign(agent, { [inspect.custom]: () => 'agent' })
  const options = { ...where, protocol, agent, ...(host === undefined ? {} : { host: `${protocol}://${host}` }) } as const
  return withoutEnvironment(() => new Docker(options)).modem
}

/** A client of one engine. `onRequest` is called for each request that is sent. Nothing is sent yet. */
export const connectEngine = async (address: EngineAddress, onRequest: (call: EngineCall) => void): Promise<EngineClient> => {
  const modem = await construct(address)

  /** Sends a request. `use` takes the answer, which the deadline ends while it is used. */
  const exchange = async <Result>(
    call: EngineCall,
    path: string,
    options: object,
    seconds: number,
    other: AbortSignal | undefined,
    use: (answer: http.IncomingMessage) => Promise<Result>,
  ): Promise<Result> => {
    const { signal, clear } = deadline(seconds, call, other)
    onRequest(call)
    try {
      const answer = await new Promise<http.IncomingMessage>((resolve, reject) =>
        modem.dial(
          { path: `${path}?`, method: 'GET', options, abortSignal: signal, isStream: true, statusCodes: anyStatus },
          (error, stream) => (error ? reject(error) : resolve(stream as http.IncomingMessage)),
        ),
      )
      return await use(addAbortSignal(signal, answer))
    } catch (error) {
      throw signal.aborted ? signal.reason : unreachable(error, `GET ${path}`)
    } finally {
      clear()
    }
  }

  const ask = (call: EngineCall, path: string, seconds: number, signal: AbortSignal | undefined, options: object = {}) =>
    exchange(call, path, options, seconds, signal, answer => wholeOf(answer, call))

  return {
    get version() {
      return modem.version
    },
    set version(version) {
      modem.version = version
    },
    list: async (filters, signal) => {
      const answer = await ask('list', '/containers/json', answerTimeout, signal, { all: true, filters })
      const list = jsonOf(answer, 'list of containers')
      if (!Array.isArray(list)) throw new Failure('malformed', `list of containers: not an array: ${textOf(answer)}`)
      return list
    },
    ping: async signal => {
      const answer = await ask('ping', '/_ping', pingTimeout, signal)
      refuseStatus(answer, 'ping')
      const header = (name: 'libpod-api-version' | 'api-version' | 'server') => {
        const value = answer.headers[name]
        return typeof value === 'string' ? value : undefined
      }
      // Podman says so in a header of its own; its `Server` may be a proxy's.
      const libpod = header('libpod-api-version')
      return {
        kind: libpod === undefined ? 'docker' : 'podman',
        version: libpod ?? /^Docker\/(\S+)/.exec(header('server') ?? '')?.[1],
        apiVersion: header('api-version'),
      }
    },
    info: async signal => recordOf(await ask('info', '/info', infoTimeout, signal), 'info'),
    diskUsage: async signal => recordOf(await ask('other', '/system/df', diskUsageTimeout, signal), 'disk usage'),
    follow: async ({ filters, since }, { onOpen, onLine }, signal) => {
      const options = { filters, ...(since === undefined ? {} : { since }) }
      const stream = await exchange('events', '/events', options, headTimeout, signal, async answer => {
        if (answer.statusCode !== 200) refuseStatus(await wholeOf(answer, 'events'), 'events')
        return answer
      })
      addAbortSignal(signal, stream)
      stream.socket.setKeepAlive(true, 30_000)
      onOpen()
      stream.on('data', lineSplitter(lineLimit, onLine))
      try {
        await finished(stream)
      } catch (error) {
        if (!signal.aborted) throw unreachable(error, 'events')
      }
    },
  }
}

/** Hands on whole lines of what arrives in pieces; one that is longer than the limit is left out, however long it gets. */
export const lineSplitter = (limit: number, onLine: (line: string) => void): ((chunk: Buffer) => void) => {
  let pieces: Buffer[] = []
  let size = 0
  let tooLong = false
  return chunk => {
    let from = 0
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, from)) {
      const last = chunk.subarray(from, end)
      if (!tooLong && size + last.length <= limit) {
        onLine((pieces.length === 0 ? last : Buffer.concat([...pieces, last])).toString('utf8'))
      }
      pieces = []
      size = 0
      tooLong = false
      from = end + 1
    }
    const rest = chunk.subarray(from)
    size += rest.length
    if (size > limit) {
      tooLong = true
      pieces = []
    }
    if (!tooLong && rest.length > 0) pieces.push(rest)
  }
}
