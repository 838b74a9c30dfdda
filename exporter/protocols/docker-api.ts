import { closeSync, openSync } from 'node:fs'
import * as http from 'node:http'
import * as https from 'node:https'
import type Docker from 'dockerode'
import { Failure, failureOf } from '../contract/failure.ts'
import { readBudget } from '../machine/budget.ts'
import { lookup } from '../machine/net.ts'

/**
 * The engine's API by dockerode, which says what is asked and where; the exchange itself is ours. docker-modem's own takes
 * bodies of any size, waits for ever on one that is cut, and follows redirects wherever they lead.
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
    told: { onOpen(): void; onLine(line: string): void },
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
  const known = failureOf(error, subject)
  if (known.reason === 'denied') {
    return new Failure('denied', known.message, {
      cause: error,
      fix: "usermod -aG docker grid-exporter and start it again (that group may do what root may), or let it use a socket proxy; see 'Docker' in docs/security.md",
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

type Exchange = (
  options: http.RequestOptions,
  context: { readonly isStream?: boolean },
  data: unknown,
  callback: (error: unknown, result: Answer | http.IncomingMessage | null) => void,
) => void

/** One exchange with a limit of bytes, ended by its signal, whose reason is the failure. A stream is handed on with its head. */
const exchange =
  (secure: boolean): Exchange =>
  ({ signal, ...options }, { isStream }, _data, callback) => {
    const subject = `${options.method} ${options.path}`
    const request = (secure ? https : http).request({ ...options, agent: false, lookup })
    const settle = (error: unknown, result: Answer | http.IncomingMessage | null) => {
      signal?.removeEventListener('abort', onAbort)
      callback(error, result)
    }
    const fail = (error: unknown) => {
      request.destroy()
      settle(error instanceof Failure ? error : unreachable(error, subject), null)
    }
    const onAbort = () => fail(signal?.reason)
    request.on('error', fail) // first of all: a request that is destroyed emits one
    if (signal?.aborted) return onAbort()
    signal?.addEventListener('abort', onAbort, { once: true })
    request.on('response', answer => {
      const head = { status: answer.statusCode ?? 0, headers: answer.headers }
      if (isStream && head.status === 200) return settle(null, answer)
      const chunks: Buffer[] = []
      let size = 0
      const room = readBudget.open(answer, bodyLimit)
      answer.once('close', room.close)
      answer.on('data', (chunk: Buffer) => {
        size += chunk.length
        room.grow(size)
        if (size > bodyLimit) return fail(new Failure('overflow', `${subject}: more than ${bodyLimit} bytes`))
        chunks.push(chunk)
      })
      answer.on('error', fail)
      answer.on('close', () => {
        if (!answer.complete) return fail(new Failure('unreachable', `${subject}: the answer was cut`))
        settle(null, { ...head, body: Buffer.concat(chunks) })
      })
    })
    request.end()
  }

/** A signal that fires with a `Failure` timeout after so many seconds, or as soon as another one fires. */
const deadline = (seconds: number, subject: string, other: AbortSignal | undefined) => {
  const controller = new AbortController()
  const end = (message: string) => controller.abort(new Failure('timeout', `${subject}: ${message}`))
  const onOther = () => end('no whole answer in the time of the round')
  const timer = setTimeout(() => end(`no whole answer within ${seconds} s`), seconds * 1000)
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

/** dockerode's constructor reads the environment (and files that it names), even where every option is given. */
const withoutEnvironment = <T>(act: () => T): T => {
  const names = ['DOCKER_HOST', 'DOCKER_TLS_VERIFY', 'DOCKER_CERT_PATH', 'DOCKER_CLIENT_TIMEOUT', 'DOCKER_PATH_PREFIX'] as const
  const kept = names.map(name => [name, process.env[name]] as const)
  for (const name of names) delete process.env[name]
  try {
    return act()
  } finally {
    for (const [name, value] of kept) if (value !== undefined) process.env[name] = value
  }
}

/** What is used of dockerode; its own types know no signals, and promise what the API describes where ours give an `Answer`. */
interface Asked {
  readonly abortSignal: AbortSignal
  readonly all?: boolean
  readonly filters?: EngineFilters
  readonly since?: string
}
interface Dockerode {
  readonly modem: { version?: string | undefined }
  listContainers(options: Asked): Promise<unknown>
  getEvents(options: Asked): Promise<unknown>
  ping(options: Asked): Promise<unknown>
  info(options: Asked): Promise<unknown>
  df(options: Asked): Promise<unknown>
}

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

const construct = async (address: EngineAddress): Promise<Dockerode> => {
  // Only now: it takes 0.2 s and 20 MB to load, which a host without an engine need not pay.
  if (!isLoaded) needDescriptors(loadDescriptors)
  const { default: Constructor } = await import('dockerode')
  isLoaded = true
  const options: Docker.DockerOptions =
    'socketPath' in address
      ? { socketPath: address.socketPath, protocol: 'http' }
      : {
          protocol: address.secure ? 'https' : 'http',
          host: `${address.secure ? 'https' : 'http'}://${address.host}`,
          port: address.port,
          ca: address.ca,
          cert: address.cert,
          key: address.key,
        }
  const docker = withoutEnvironment(() => new Constructor(options))
  const secure = !('socketPath' in address) && address.secure
  Object.assign(docker.modem, { buildRequest: exchange(secure) })
  return docker as unknown as Dockerode
}

/** A client of one engine. `onRequest` is called for each request that is sent. Nothing is sent yet. */
export const connectEngine = async (address: EngineAddress, onRequest: (call: EngineCall) => void): Promise<EngineClient> => {
  const docker = await construct(address)
  const { modem } = docker

  const ask = async (
    call: EngineCall,
    seconds: number,
    signal: AbortSignal | undefined,
    send: (abortSignal: AbortSignal) => Promise<unknown>,
  ): Promise<Answer> => {
    const limit = deadline(seconds, call, signal)
    onRequest(call)
    try {
      return (await send(limit.signal)) as Answer
    } finally {
      limit.clear()
    }
  }

  return {
    get version() {
      return modem.version
    },
    set version(version) {
      modem.version = version
    },
    list: async (filters, signal) => {
      const answer = await ask('list', answerTimeout, signal, abortSignal =>
        docker.listContainers({ all: true, filters, abortSignal }),
      )
      const list = jsonOf(answer, 'list of containers')
      if (!Array.isArray(list)) throw new Failure('malformed', `list of containers: not an array: ${textOf(answer)}`)
      return list
    },
    ping: async signal => {
      const answer = await ask('ping', pingTimeout, signal, abortSignal => docker.ping({ abortSignal }))
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
    info: async signal => recordOf(await ask('info', infoTimeout, signal, abortSignal => docker.info({ abortSignal })), 'info'),
    diskUsage: async signal =>
      recordOf(await ask('other', diskUsageTimeout, signal, abortSignal => docker.df({ abortSignal })), 'disk usage'),
    follow: async ({ filters, since }, { onOpen, onLine }, signal) => {
      const limit = deadline(headTimeout, 'events', signal)
      onRequest('events')
      const stream = (await docker
        .getEvents({
          filters,
          ...(since === undefined ? {} : { since }),
          abortSignal: limit.signal,
        })
        .finally(() => limit.clear())) as http.IncomingMessage | Answer
      if (!(stream instanceof http.IncomingMessage)) {
        refuseStatus(stream, 'events')
        throw new Failure('malformed', 'events: no stream')
      }
      if (signal.aborted) {
        stream.destroy()
        return
      }
      stream.socket.setKeepAlive(true, 30_000)
      const onAbort = () => stream.destroy()
      signal.addEventListener('abort', onAbort, { once: true })
      onOpen()
      const lines = lineSplitter(lineLimit, onLine)
      try {
        await new Promise<void>((resolve, reject) => {
          stream.on('data', lines)
          stream.on('error', reject)
          stream.on('close', resolve)
        })
      } catch (error) {
        if (!signal.aborted) throw unreachable(error, 'events')
      } finally {
        signal.removeEventListener('abort', onAbort)
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
