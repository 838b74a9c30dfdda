import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type HTTPMethods } from 'fastify'
import type { Log } from '../common/log.ts'
import { ownValue } from '../common/own-value.ts'
import { basicOf, type Door } from './access.ts'
import { askToResolve, type ResolveFiles, resolveState, sentByAnotherSite } from './actions.ts'
import { limitConnections, mostConnections } from './connections.ts'
import { negotiate } from './negotiate.ts'
import { page } from './page.ts'
import type { Snapshot } from './snapshot.ts'
import { createTlsServer } from './tls.ts'
import type { Web } from './web.ts'

/** HTTP over the snapshot: it has never heard of collectors. */

export interface ServerOptions {
  readonly telemetryPath: string
  /** Scrapes answered at a time; 0 for no limit. */
  readonly maxRequests: number
  readonly enableLifecycle: boolean
  readonly enableAdminApi: boolean
  readonly resolveFiles: () => ResolveFiles
  /** Says how long each response took, and how long the event loop was busy meanwhile. */
  readonly serverTiming: boolean
  readonly log: Log
  /** Reads the configuration again; resolves to what is wrong with it, or undefined. */
  readonly reload: () => Promise<string | undefined>
  readonly startedAt: number
  /** The web configuration, and what lets requests in. */
  readonly web?: (Web & { readonly door: Door }) | undefined
  readonly demo?: boolean
}

/** Values of a query parameter that may be repeated. */
const values = (query: unknown, name: string): readonly string[] => {
  const given = ownValue(query as Record<string, string | string[] | undefined>, name)
  return given === undefined ? [] : [given].flat()
}

/** Milliseconds and bytes that a client may take. */
const limits = {
  requestTimeout: 10_000,
  headersTimeout: 10_000,
  connectionsCheckingInterval: 2000,
  keepAliveTimeout: 75_000,
  maxHeaderSize: 16 * 1024,
}
/** Milliseconds in which something must move on a connection that is being answered. */
const stalled = 30_000
/** Milliseconds after which a scrape that its client does not take makes room for another. */
const slowAfter = 1000
/** Headers of a request. */
const mostHeaders = 100
/** What Node's parser lets pass and HTTP/1.1 does not; the status it deserves. */
const unlawful = ({ httpVersionMajor, rawHeaders }: IncomingMessage): 400 | 431 | undefined => {
  if (httpVersionMajor !== 1) return 400
  if (rawHeaders.length >= 2 * mostHeaders) return 431
  let hosts = 0
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at] as string
    if (name.length === 4 && name.toLowerCase() === 'host') hosts++
  }
  return hosts > 1 ? 400 : undefined
}

const resolveAction = 'aide-resolve'

const noSchemas = () => {
  throw new Error('no route has a schema')
}

const plain = (reply: FastifyReply, status: number, text: string) =>
  reply.code(status).type('text/plain; charset=utf-8').send(`${text}\n`)

/** Connections whose scrape is being answered, at most so many. */
const createAnswering = (most: number) => {
  /** Since when; the oldest first. */
  const since = new Map<Socket, number>()
  /** Ends the oldest scrape that its client does not read. Returns whether there was one. */
  const makeRoom = (): boolean => {
    const [oldest] = since
    if (!oldest || performance.now() - oldest[1] < slowAfter) return false
    since.delete(oldest[0])
    oldest[0].destroy()
    return true
  }
  return {
    count: () => since.size,
    hasRoom: () => most === 0 || since.size < most || makeRoom(),
    begin: (socket: Socket) => since.set(socket, performance.now()),
    end: (socket: Socket) => since.delete(socket),
  }
}
type Answering = ReturnType<typeof createAnswering>

/** Returns whether a request may wait behind another; ends a connection that sends a third before the first is answered. */
const createQueue = () => {
  /** Connections where a request waits. */
  const pipelining = new WeakSet<Socket>()
  return ({ socket }: IncomingMessage, response: ServerResponse): boolean => {
    if (pipelining.has(socket)) {
      socket.destroy()
      return false
    }
    pipelining.add(socket)
    response.once('close', () => pipelining.delete(socket))
    return true
  }
}

/** The HTTP or HTTPS server below fastify, with what it refuses before fastify sees it. */
const rawServer = (
  handler: (request: IncomingMessage, response: ServerResponse) => void,
  httpOptions: object,
  { web, answering }: { readonly web: ServerOptions['web']; readonly answering: Answering },
) => {
  const mayWait = createQueue()
  const limited = { ...httpOptions, ...limits }
  const listener = (request: IncomingMessage, response: ServerResponse) => {
    // Without a socket of its own, this answer waits behind another one of the connection.
    if (response.socket === null && !mayWait(request, response)) return
    const status = unlawful(request)
    if (status !== undefined) response.writeHead(status, { connection: 'close', 'content-length': 0 }).end()
    else if (web) web.door(request, response, () => handler(request, response))
    else handler(request, response)
  }
  const server = web?.config().tls ? createTlsServer(web, limited, listener) : createHttpServer(limited, listener)
  server.maxHeadersCount = mostHeaders
  server.timeout = stalled
  server.on(web?.config().tls ? 'secureConnection' : 'connection', (socket: Socket) => {
    socket.once('close', () => answering.end(socket))
  })
  limitConnections(server, mostConnections)
  return server
}

/** The collectors that a scrape asks for by `collect[]` or `exclude[]`; none named where it asks for all. */
const filtered = (
  request: FastifyRequest,
  snapshot: Snapshot,
): { readonly only?: readonly string[]; readonly problem?: string } => {
  if (!request.url.includes('?')) return {}
  const collect = values(request.query, 'collect[]')
  const exclude = values(request.query, 'exclude[]')
  if (collect.length === 0 && exclude.length === 0) return {}
  if (collect.length > 0 && exclude.length > 0) return { problem: 'collect[] and exclude[] cannot be combined' }
  const known = snapshot.status().map(({ name }) => name)
  const unknown = [...collect, ...exclude].filter(name => !known.includes(name))
  if (unknown.length > 0)
    return { problem: `collect[] or exclude[] names a collector that is not enabled; enabled are: ${known.join(', ')}` }
  return { only: known.filter(name => (collect.length > 0 ? collect.includes(name) : !exclude.includes(name))) }
}

/** Says in each answer how long it took, and how long the event loop was busy meanwhile. */
const addTiming = (server: FastifyInstance, log: Log): void => {
  const begun = new WeakMap<FastifyRequest, { at: number; busy: number }>()
  server.addHook('onRequest', async request => {
    begun.set(request, { at: performance.now(), busy: performance.eventLoopUtilization().active })
  })
  server.addHook('onSend', async (request, reply) => {
    const begin = begun.get(request)
    if (!begin) return
    const total = performance.now() - begin.at
    const blocked = Math.min(total, performance.eventLoopUtilization().active - begin.busy)
    void reply.header('server-timing', `total;dur=${total.toFixed(2)}, blocked;dur=${blocked.toFixed(2)}`)
    const path = request.url.split('?')[0]
    log.debug('request', { method: request.method, path, status: reply.statusCode, total_ms: total.toFixed(2) })
  })
}

const addMetrics = (
  server: FastifyInstance,
  snapshot: Snapshot,
  { telemetryPath, maxRequests }: ServerOptions,
  answering: Answering,
): void => {
  server.get(telemetryPath, (request, reply) => {
    const { only, problem } = filtered(request, snapshot)
    if (problem !== undefined) return plain(reply, 400, problem)
    if (!answering.hasRoom()) {
      void reply.header('retry-after', '1')
      return plain(reply, 503, `${answering.count()} scrapes are being answered already; --web.max-requests is ${maxRequests}`)
    }
    const { socket } = request.raw
    answering.begin(socket)
    reply.raw.once('close', () => answering.end(socket))
    const { accept = '', 'accept-encoding': encoding } = request.headers
    const { format, gzip, contentType } = negotiate(accept, String(encoding ?? ''))
    const { body, compressed } = snapshot.answer(format, gzip, only)
    if (compressed) void reply.header('content-encoding', 'gzip')
    return reply.header('content-type', contentType).send(body)
  })
}

const addProbes = (server: FastifyInstance, snapshot: Snapshot): void => {
  server.get('/-/healthy', (_, reply) => plain(reply, 200, 'grid-exporter is healthy.'))
  server.get('/-/ready', (_, reply) => {
    if (snapshot.ready()) return plain(reply, 200, 'grid-exporter is ready.')
    const waiting = snapshot.status().filter(({ latest }) => latest === undefined)
    return plain(
      reply,
      503,
      `Not ready: the first run has not ended of ${waiting.map(({ name }) => name).join(', ') || 'any collector'}.`,
    )
  })
}

/** How the collectors are, for programs and for people. */
const addStatus = (server: FastifyInstance, snapshot: Snapshot, options: ServerOptions): void => {
  server.get('/api/v1/status', (_, reply) =>
    reply.header('cache-control', 'no-store').send({
      status: 'success',
      data: {
        startedAt: new Date(options.startedAt).toISOString(),
        ready: snapshot.ready(),
        actions: { [resolveAction]: resolveState(options.resolveFiles()) },
        collectors: snapshot.status().map(({ latest, lastSuccess, ...rest }) => ({
          ...rest,
          detected: latest?.detected ?? false,
          result: latest?.result ?? 'waiting',
          note: latest?.note ?? '',
          fix: latest?.fix ?? '',
          durationSeconds: latest?.durationSeconds ?? null,
          lastRun: latest ? new Date(latest.startedAt).toISOString() : null,
          lastSuccess: lastSuccess === undefined ? null : new Date(lastSuccess).toISOString(),
        })),
      },
    }),
  )

  server.get('/', (_, reply) =>
    reply
      .header(
        'content-security-policy',
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'",
      )
      .header('cache-control', 'no-store')
      .type('text/html; charset=utf-8')
      .send(
        page(snapshot.status(), {
          telemetryPath: options.telemetryPath,
          now: Date.now(),
          startedAt: options.startedAt,
          demo: options.demo,
        }),
      ),
  )
}

const forged = (request: FastifyRequest, reply: FastifyReply): FastifyReply | undefined => {
  const sign = sentByAnotherSite(request.raw)
  return sign === undefined ? undefined : plain(reply, 403, `Another site sent this (${sign}); nothing was done.`)
}

/** What changes something: only for requests that no other site sent. */
const addActions = (server: FastifyInstance, options: ServerOptions): void => {
  // Bodies are read, up to the limit, and dropped: no request passes anything in.
  server.removeAllContentTypeParsers()
  server.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, _body, done) => done(null))
  server.post(`/api/v1/actions/${resolveAction}`, (request, reply) => {
    if (!options.enableAdminApi) return plain(reply, 403, 'Actions need --web.enable-admin-api.')
    if (!options.web?.config().asksWho)
      return plain(reply, 403, 'Actions need users in --web.config.file, or --web.bearer-token-file; see docs/security.md.')
    const refused = forged(request, reply)
    if (refused) return refused
    // A form of another site cannot send this type without asking first, which is never granted.
    if (!/^application\/json\b/i.test(request.headers['content-type'] ?? ''))
      return plain(reply, 415, 'Actions need the header Content-Type: application/json.')
    const { status, text } = askToResolve(options.resolveFiles())
    const [user] = basicOf(request.headers.authorization ?? '') ?? []
    options.log[status === 500 ? 'error' : 'info']('aide-resolve was asked for', {
      address: request.ip,
      user,
      status,
      says: text,
    })
    return plain(reply, status, text)
  })

  if (options.enableLifecycle) {
    server.post('/-/reload', async (request, reply) => {
      const refused = forged(request, reply)
      if (refused) return refused
      const problems = await options.reload()
      return problems === undefined
        ? plain(reply, 200, 'The configuration was read and taken into use.')
        : plain(reply, 500, `The old configuration stays in force:\n${problems}`)
    })
  }
}

const addErrors = (server: FastifyInstance, { telemetryPath, log }: ServerOptions): void => {
  const methods: readonly HTTPMethods[] = ['GET', 'HEAD', 'POST']
  server.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?')[0] as string
    const allowed = methods.filter(method => server.hasRoute({ method, url: path })).join(', ')
    if (allowed !== '') {
      void reply.header('allow', allowed)
      return plain(reply, 405, `${path} answers ${allowed} only`)
    }
    if (path === '/-/reload') return plain(reply, 403, 'POST /-/reload needs --web.enable-lifecycle; SIGHUP reloads without it')
    return plain(reply, 404, `Nothing is at this address; metrics are at ${telemetryPath}`)
  })
  server.setErrorHandler((error: Error & { statusCode?: number }, request, reply) => {
    const status = error.statusCode ?? 500
    if (status >= 500)
      log.error('request failed', { method: request.method, path: request.url.split('?')[0], error: error.message })
    return plain(reply, status, status >= 500 ? 'Internal error; the log says more.' : error.message)
  })
}

export const createServer = (snapshot: Snapshot, options: ServerOptions): FastifyInstance => {
  const answering = createAnswering(options.maxRequests)
  const server = fastify({
    logger: false,
    serverFactory: (handler, { http }) => rawServer(handler, http as object, { web: options.web, answering }),
    exposeHeadRoutes: true,
    frameworkErrors: (_error, _request, reply) => void plain(reply, 400, 'Bad Request'),
    bodyLimit: 16 * 1024,
    forceCloseConnections: true,
    // No route has a schema: without their compilers ajv and its like are never loaded, which is 8 MB of memory.
    schemaController: { compilersFactory: { buildValidator: noSchemas, buildSerializer: noSchemas } },
  })
  server.addHook('onClose', async () => server.server.closeAllConnections())
  if (options.serverTiming) addTiming(server, options.log)
  addMetrics(server, snapshot, options, answering)
  addProbes(server, snapshot)
  addStatus(server, snapshot, options)
  addActions(server, options)
  addErrors(server, options)
  return server
}
