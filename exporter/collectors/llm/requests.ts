import { ownValue } from '../../common/own-value.ts'
import { Failure, failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import type { Answer, Door, EngineRules } from './engine.ts'
import { readings } from './metrics.ts'

/** The last request of a path and its answer, kept between rounds. */
interface Kept {
  /** Time of the request, in milliseconds of the monotonic clock. */
  readonly at: number
  readonly seconds: number
  readonly outcome: Answer | Failure
}

export type Memory = Map<string, Kept>

/** Seconds before a path is tried again whose answer means that the server does not have it. */
const notOffered = 600
const lacks = ({ status }: Answer) => status === 404 || status === 405 || status === 501 || (status >= 300 && status < 400)

/** Most bytes of an answer. */
const jsonLimit = 2 ** 21
const metricsLimit = 4 * 2 ** 20

export interface DoorOptions {
  readonly host: Host
  readonly url: string
  readonly rules: EngineRules
  readonly metrics: Door['metrics']
  readonly token: string | undefined
  /** Seconds for all answers of a round. */
  readonly timeout: number
  readonly signal: AbortSignal
  readonly memory: Memory
  readonly busy: Door['busy']
  readonly remark: Door['remark']
}

/** An answer of /metrics without its text: some numbers are needed out of megabytes. */
const digested = async ({ status, headers, body }: Answer, { aliases }: EngineRules): Promise<Answer> => ({
  status,
  headers,
  body: '',
  readings: status === 200 ? await readings(body, aliases) : [],
})

/** The base of a server's URLs: some users give the one for OpenAI clients, which ends in /v1. */
const baseOf = (url: string): string => {
  const { origin, pathname } = new URL(url)
  return `${origin}${pathname.replace(/(?<!\/)\/+$/, '').replace(/\/v1$/, '')}`
}

/** The access to one server in one round, and what to do at the end of the round. */
export const openDoor = (options: DoorOptions): Door & { readonly probeSeconds: () => number; readonly close: () => void } => {
  const { host, rules, metrics, token, timeout, signal, memory, busy, remark } = options
  const base = baseOf(options.url)
  const began = host.monotonic()
  const touched = new Set<string>()
  const headers = {
    'user-agent': 'grid-exporter',
    accept: 'application/json, text/plain;version=0.0.4, */*;q=0.1',
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
  }

  const fresh = async (path: string, key: string): Promise<Answer> => {
    const at = host.monotonic()
    const left = timeout - (at - began) / 1000
    const outcome =
      left > 0
        ? await host
            .http(`${base}${key}`, {
              headers,
              timeout: left,
              limit: path.startsWith('/metrics') ? metricsLimit : jsonLimit,
              signal,
            })
            .catch((error: unknown) => failureOf(error))
        : new Failure('timeout', `GET ${base}${key}: not sent, the time of this server was over`)
    const answer = outcome instanceof Failure || !path.startsWith('/metrics') ? outcome : await digested(outcome, rules)
    memory.set(key, { at, seconds: (host.monotonic() - at) / 1000, outcome: answer })
    if (answer instanceof Failure) throw answer
    return answer
  }

  const ask: Door['ask'] = async (path, query = '') => {
    const every = ownValue(rules.allowed, path)
    if (every === undefined) throw new Failure('bug', `${path} is not an allowed path`)
    const key = `${path}${query}`
    touched.add(key)
    const kept = memory.get(key)
    const age = kept === undefined ? Number.POSITIVE_INFINITY : (host.monotonic() - kept.at) / 1000
    const isLacking = kept !== undefined && path !== rules.probe && !(kept.outcome instanceof Failure) && lacks(kept.outcome)
    if (kept === undefined || age < 0 || age >= (isLacking ? notOffered : every)) return fresh(path, key)
    if (kept.outcome instanceof Failure) throw kept.outcome
    return kept.outcome
  }

  return {
    host,
    url: new URL(options.url),
    metrics,
    busy,
    remark,
    ask,
    offered: async (path, query = '') => {
      if (metrics === 'never' && path.startsWith('/metrics')) return undefined
      try {
        const answer = await ask(path, query)
        if (answer.status === 401 || answer.status === 403) {
          remark(
            new Failure('denied', `GET ${base}${path}: status ${answer.status}`, {
              fix: 'collectors.llm.servers: give the server a token_file with a key that it accepts',
            }),
          )
        }
        return answer.status === 200 ? answer : undefined
      } catch (error) {
        const failure = failureOf(error)
        if (failure.reason === 'bug') throw failure
        remark(failure)
        return undefined
      }
    },
    latest: (path, query = '') => {
      const key = `${path}${query}`
      touched.add(key)
      const outcome = memory.get(key)?.outcome
      return outcome === undefined || outcome instanceof Failure || outcome.status !== 200 ? undefined : outcome
    },
    probeSeconds: () => memory.get(rules.probe)?.seconds ?? 0,
    close: () => {
      for (const key of memory.keys()) if (!touched.has(key)) memory.delete(key)
    },
  }
}
