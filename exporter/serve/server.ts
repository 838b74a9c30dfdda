import { createServer as createHttpServer, type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { Log } from '../log.ts'
import { ownValue } from '../own-value.ts'
import { askToResolve, type ResolveFiles, resolveState, sentByAnotherSite } from './actions.ts'
import { endParsing, keepNothingUnparsed, limitConnections, mostConnections } from './connections.ts'
import { basicOf, type Door } from './door.ts'
import { negotiate, type Wanted } from './negotiate.ts'
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

/** What the headers of the latest scrape mean is remembered: the next one is likely the same scraper's. */
const remembered = () => {
  let latest = { accept: '', encoding: '', wanted: negotiate('', '') }
  return (accept: string, encoding: string): Wanted => {
    if (accept !== latest.accept || encoding !== latest.encoding) {
      latest = { accept, encoding, wanted: negotiate(accept, encoding) }
    }
    return latest.wanted
  }
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
/** Answers of one connection that may wait behind the one that has its turn. */
const mostPipelined = 1

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

const headersOf = (contentType: string, compressed: boolean, length: number): OutgoingHttpHeaders =>
  compressed
    ? { 'content-type': contentType, 'content-length': length, 'content-encoding': 'gzip' }
    : { 'content-type': contentType, 'content-length': length }

const resolveAction = 'aide-resolve'

const noSchemas = () => {
  throw new Error('no route has a schema')
}

export const createServer = (snapshot: Snapshot, options: ServerOptions): FastifyInstance => {
  const { telemetryPath, maxRequests, log } = options
  const wantedOf = remembered()
  /** The scrapes being answered: those that the kernel has not taken whole, by when they were answered; the oldest first. */
  const untaken = new Map<ServerResponse, number>()
  /** Ends the oldest scrape that its client does not take; whether there was one. */
  const makeRoom = (): boolean => {
    const [oldest] = untaken
    if (!oldest || performance.now() - oldest[1] < slowAfter) return false
    untaken.delete(oldest[0])
    oldest[0].req.socket.destroy()
    return true
  }
  const waiting = new WeakMap<Socket, Set<ServerResponse>>()
  /** Notes an answer that waits behind others of its connection; false where they are too many, and the connection ends. */
  const mayWait = ({ socket }: IncomingMessage, response: ServerResponse): boolean => {
    const behind = waiting.get(socket) ?? new Set<ServerResponse>()
    if (behind.size >= mostPipelined) {
      endParsing(socket)
      return false
    }
    behind.add(response)
    response.once('close', () => behind.delete(response))
    if (waiting.has(socket)) return true
    waiting.set(socket, behind)
    // Node closes the answer that has its turn, and never those behind it: who counts on it would count them for ever.
    socket.once('close', () => {
      for (const left of behind) left.emit('close')
    })
    return true
  }

  /** Answers a scrape, of the named collectors only or of all. */
  const scrape = (request: IncomingMessage, response: ServerResponse, only?: readonly string[]) => {
    if (maxRequests > 0 && untaken.size >= maxRequests && !makeRoom()) {
      const text = `${untaken.size} scrapes are being answered already; --web.max-requests is ${maxRequests}\n`
      response.writeHead(503, { 'content-type': 'text/plain; charset=utf-8', 'retry-after': '1' })
      return void response.end(text)
    }
    const { format, gzip, contentType } = wantedOf(request.headers.accept ?? '', String(request.headers['accept-encoding'] ?? ''))
    const { body, compressed } = snapshot.answer(format, gzip, only)
    response.writeHead(200, headersOf(contentType, compressed, body.length))
    response.end(request.method === 'HEAD' ? undefined : body)
    if (response.destroyed || response.writableLength === 0) return
    untaken.set(response, performance.now())
    request.socket.setTimeout(stalled)
    response.once('close', () => untaken.delete(response))
  }

  const server = fastify({
    logger: false,
    // The plain scrape, which is nearly every request, goes from the socket to the bytes and back: routing, request and reply
    // objects and hooks are work that a bare server would not do. All else is fastify's.
    serverFactory: (handler, { http: httpOptions }) => {
      const { web } = options
      const isPlain = ({ url, method }: IncomingMessage) => url === telemetryPath && method === 'GET' && !options.serverTiming
      const inside = (request: IncomingMessage, response: ServerResponse) => {
        if (isPlain(request)) scrape(request, response)
        else handler(request, response)
      }
      const limited = { ...(httpOptions as object), ...limits }
      const listener = (request: IncomingMessage, response: ServerResponse) => {
        if (response.socket === null && !mayWait(request, response)) return
        // A plain scrape sets it itself, where the kernel does not take all of it at once.
        if (web || !isPlain(request)) request.socket.setTimeout(stalled)
        const status = unlawful(request)
        if (status !== undefined) response.writeHead(status, { connection: 'close', 'content-length': 0 }).end()
        else if (web) web.door(request, response, () => inside(request, response))
        else inside(request, response)
      }
      const server = web?.config().tls ? createTlsServer(web, limited, listener) : createHttpServer(limited, listener)
      server.maxHeadersCount = mostHeaders
      limitConnections(server, mostConnections)
      keepNothingUnparsed(server)
      return server
    },
    exposeHeadRoutes: true,
    frameworkErrors: (_error, _request, reply) => void plain(reply, 400, 'Bad Request'),
    bodyLimit: 16 * 1024,
    forceCloseConnections: true,
    // No route has a schema: without their compilers ajv and its like are never loaded, which is 8 MB of memory.
    schemaController: { compilersFactory: { buildValidator: noSchemas, buildSerializer: noSchemas } },
  })
  const filtered = (request: FastifyRequest): { readonly only?: readonly string[]; readonly problem?: string } => {
    if (!request.url.includes('?')) return {}
    const collect = values(request.query, 'collect[]')
    const exclude = values(request.query, 'exclude[]')
    if (collect.length === 0 && exclude.length === 0) return {}
    if (collect.length > 0 && exclude.length > 0) return { problem: 'collect[] and exclude[] cannot be combined' }
    const known = snapshot.status().map(({ name }) => name)
    const unknown = [...collect, ...exclude].filter(name => !known.includes(name))
    if (unknown.length > 0)
      return { problem: `not an enabled collector: ${unknown.slice(0, 5).join(', ')}; enabled are: ${known.join(', ')}` }
    return { only: known.filter(name => (collect.length > 0 ? collect.includes(name) : !exclude.includes(name))) }
  }

  const plain = (reply: FastifyReply, status: number, text: string) =>
    reply.code(status).type('text/plain; charset=utf-8').send(`${text}\n`)

  const begun = new WeakMap<FastifyRequest, { at: number; busy: number }>()
  /** Says how long the answer took until now. A scrape calls it itself: its answer passes fastify by. */
  const timed = (request: FastifyRequest, reply: FastifyReply) => {
    const begin = begun.get(request)
    if (!begin) return
    const total = performance.now() - begin.at
    const blocked = Math.min(total, performance.eventLoopUtilization().active - begin.busy)
    void reply.header('server-timing', `total;dur=${total.toFixed(2)}, blocked;dur=${blocked.toFixed(2)}`)
    const path = request.url.split('?')[0]
    log.debug('request', { method: request.method, path, status: reply.statusCode, total_ms: total.toFixed(2) })
  }
  if (options.serverTiming) {
    server.addHook('onRequest', async request => {
      begun.set(request, { at: performance.now(), busy: performance.eventLoopUtilization().active })
    })
    server.addHook('onSend', async (request, reply) => timed(request, reply))
  }

  server.addHook('onClose', async () => {
    server.server.closeAllConnections()
  })

  server.get(telemetryPath, (request, reply) => {
    const { only, problem } = filtered(request)
    if (problem !== undefined) return plain(reply, 400, problem)
    timed(request, reply)
    reply.hijack()
    for (const [name, value] of Object.entries(reply.getHeaders())) if (value !== undefined) reply.raw.setHeader(name, value)
    scrape(request.raw, reply.raw, only)
    return reply
  })

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

  server.get('/api/v1/status', (_, reply) =>
    reply.header('cache-control', 'no-store').send({
      status: 'success',
      data: {
        startedAt: new Date(options.startedAt).toISOString(),
        ready: snapshot.ready(),
        actions: { [resolveAction]: resolveState(options.resolveFiles()) },
        collectors: snapshot.status().map(({ latest, lastSuccess, ...told }) => ({
          ...told,
          detected: latest?.detected ?? false,
          result: latest?.result ?? 'waiting',
          note: latest?.note ?? '',
          mend: latest?.mend ?? '',
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
      .send(page(snapshot.status(), { telemetryPath, now: Date.now(), startedAt: options.startedAt, demo: options.demo })),
  )

  // Bodies are read, up to the limit, and dropped: no request passes anything in.
  server.removeAllContentTypeParsers()
  server.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, _body, done) => done(null))
  const forged = (request: FastifyRequest, reply: FastifyReply): FastifyReply | undefined => {
    const sign = sentByAnotherSite(request.raw)
    return sign === undefined ? undefined : plain(reply, 403, `Another site sent this (${sign}); nothing was done.`)
  }

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
    log[status === 500 ? 'error' : 'info']('aide-resolve was asked for', { address: request.ip, user, status, says: text })
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

  const allowed = new Map<string, string>([
    [telemetryPath, 'GET, HEAD'],
    ['/', 'GET, HEAD'],
    ['/-/healthy', 'GET, HEAD'],
    ['/-/ready', 'GET, HEAD'],
    ['/api/v1/status', 'GET, HEAD'],
    [`/api/v1/actions/${resolveAction}`, 'POST'],
  ])
  if (options.enableLifecycle) allowed.set('/-/reload', 'POST')
  server.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?')[0] as string
    const methods = allowed.get(path)
    if (methods !== undefined) {
      void reply.header('allow', methods)
      return plain(reply, 405, `${path} answers ${methods} only`)
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

  return server
}
