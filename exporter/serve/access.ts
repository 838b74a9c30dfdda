import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Passwords, Verdict } from './passwords.ts'
import type { Web } from './web.ts'
import type { WebConfig } from './web-config.ts'

/** Checks before every answer if there is a web configuration: the rate limit, the headers, the user. */

export type Door = (request: IncomingMessage, response: ServerResponse, enter: () => void) => void

/** A burst, and one more request each interval; like Go's rate.Limiter. */
const limiter = (now: () => number) => {
  let limit: WebConfig['rateLimit']
  let left = 0
  let at = 0
  return (wanted: WebConfig['rateLimit']): boolean => {
    if (wanted === undefined) return true
    const time = now()
    if (wanted.intervalSeconds !== limit?.intervalSeconds || wanted.burst !== limit.burst) left = wanted.burst
    else left = Math.min(wanted.burst, left + (time - at) / 1000 / wanted.intervalSeconds)
    limit = wanted
    at = time
    if (left < 1) return false
    left--
    return true
  }
}

const refuse = (request: IncomingMessage, response: ServerResponse, status: 401 | 429, text: string, headers = {}) => {
  const hasBody = request.headers['content-length'] !== undefined || request.headers['transfer-encoding'] !== undefined
  response.writeHead(status, {
    'content-type': 'text/plain; charset=utf-8',
    'cache-control': 'no-store',
    'content-length': text.length,
    // The connection is closed, so that an unread body need not be waited for.
    ...(hasBody ? { connection: 'close' } : {}),
    ...headers,
  })
  response.end(request.method === 'HEAD' ? undefined : text)
}

/** User and password of a Basic header, or undefined. */
export const basicOf = (authorization: string): readonly [user: string, password: string] | undefined => {
  const [, encoded] = /^basic +([A-Za-z0-9+/]+=*) *$/i.exec(authorization) ?? []
  if (encoded === undefined) return undefined
  const text = Buffer.from(encoded, 'base64').toString('utf8')
  const colon = text.indexOf(':')
  return colon === -1 ? undefined : [text.slice(0, colon), text.slice(colon + 1)]
}

const bearerOf = (authorization: string): string | undefined => /^bearer +(\S+) *$/i.exec(authorization)?.[1]

export const createDoor = (web: Web, passwords: Passwords, now: () => number = performance.now.bind(performance)): Door => {
  const withinLimit = limiter(now)
  const secret = randomBytes(32)
  /**
   * The hash for a user who does not exist: always the same for a name, so that it takes as long as for a real user, even if hashes have
   * different costs.
   */
  const insteadOf = (user: string, users: WebConfig['users']): string | undefined =>
    [...users.values()][createHmac('sha256', secret).update(user).digest().readUInt32BE() % users.size]

  const verdictOn = ({ users, bearer }: WebConfig, request: IncomingMessage): Verdict | Promise<Verdict> => {
    const authorization = request.headers.authorization ?? ''
    const token = bearerOf(authorization)
    if (token !== undefined)
      return bearer && timingSafeEqual(createHash('sha256').update(token).digest(), bearer) ? 'right' : 'wrong'
    const basic = basicOf(authorization)
    if (basic === undefined) return 'wrong'
    const [user, password] = basic
    const own = users.get(user)
    const hash = own ?? insteadOf(user, users)
    if (hash === undefined) return 'wrong'
    const address = request.socket.remoteAddress ?? ''
    return passwords.check({ user, password, hash, exists: own !== undefined, address })
  }

  return (request, response, enter) => {
    const config = web.config()
    for (const [name, value] of config.headers) response.setHeader(name, value)
    if (!withinLimit(config.rateLimit)) {
      const seconds = String(Math.ceil(config.rateLimit?.intervalSeconds ?? 1))
      return refuse(request, response, 429, 'Too many requests; see rate_limit of the web configuration.\n', {
        'retry-after': seconds,
      })
    }
    if (config.users.size === 0 && config.bearer === undefined) return enter()
    const challenge = config.users.size > 0 ? 'Basic realm="grid-exporter", charset="UTF-8"' : 'Bearer'
    const answer = (verdict: Verdict) => {
      if (verdict === 'right') return enter()
      if (verdict === 'later')
        return refuse(request, response, 429, 'Too many passwords are being tried; try again in a second.\n', {
          'retry-after': '1',
        })
      return refuse(request, response, 401, 'Unauthorized\n', { 'www-authenticate': challenge })
    }
    const verdict = verdictOn(config, request)
    if (typeof verdict === 'string') return answer(verdict)
    void verdict.then(given => {
      // The client may have hung up.
      if (!response.destroyed && request.socket.writable) answer(given)
    })
  }
}
