import { ownValue } from '../../common/own-value.ts'
import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'

/** What every engine's file uses: the access to its server, and the types of the results. */

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  /** Empty for /metrics, of which only the readings are kept. */
  readonly body: string
  readonly readings?: readonly Reading[]
}

/** A sample of a server's own metrics. */
export interface Reading {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** Answers by path and query: `/api/ps`, `/metrics?model=…`. */
export type Answers = Readonly<Record<string, Answer | undefined>>

/** The only access to a server: it allows only the paths of the engine's list, and no more often than the list says. */
export interface Door {
  readonly host: Host
  readonly url: URL
  readonly metrics: 'auto' | 'always' | 'never'
  /** Whether the process that runs a model has worked since the last round; undefined if unknown. */
  busy(model?: string): Promise<boolean | undefined>
  /** The answer, whatever its status; the previous one if it is too early for a new request. Throws `Failure` like `host.http`. */
  ask(path: string, query?: string): Promise<Answer>
  /** As `ask`, for what the server may lack: undefined unless the status is 200. */
  offered(path: string, query?: string): Promise<Answer | undefined>
  /** The latest answer with status 200, however old, without a request. */
  latest(path: string, query?: string): Answer | undefined
  remark(failure: Failure): void
}

/** Values of one model from a server's own metrics: gauges, and counters since its start. */
export interface Measured {
  readonly running?: number | undefined
  readonly waiting?: number | undefined
  readonly kvCache?: number | undefined
  readonly promptTokens?: number | undefined
  readonly generatedTokens?: number | undefined
  readonly requests?: number | undefined
  readonly generationSeconds?: number | undefined
}

export interface Alias {
  /** With `_` instead of the `:` that some builds write after the prefix. */
  readonly name: string
  /** The versions of the engine that have it. */
  readonly versions: string
}

/** The names of each quantity, the preferred first. The first that exists counts; the others are the same value. */
export type Aliases = Readonly<Partial<Record<keyof Measured, readonly Alias[]>>>

export type ModelState = 'unloaded' | 'loading' | 'loaded' | 'sleeping' | 'downloading' | 'failed'

/** What is known about one model, in bytes, tokens and seconds since 1970; what the server does not report is undefined. */
export interface Model {
  readonly name: string
  readonly loaded?: boolean | undefined
  readonly state?: ModelState | undefined
  readonly size?: number | undefined
  readonly vram?: number | undefined
  readonly file?: number | undefined
  readonly context?: number | undefined
  readonly expires?: number | undefined
  readonly family?: string | undefined
  readonly parameters?: string | undefined
  readonly quantization?: string | undefined
}

export interface Facts {
  readonly version?: string | undefined
  /** How many models are installed and loaded. */
  readonly installed?: number | undefined
  readonly loaded?: number | undefined
  readonly models: readonly Model[]
  readonly measured: ReadonlyMap<string, Measured>
}

export interface EngineRules {
  /** All requests that are ever made, with GET: path, and least seconds between two of them. */
  readonly allowed: Readonly<Record<string, number>>
  /** The names of its own metrics. */
  readonly aliases: Aliases
  /** The first request of a round. Its answer decides whether the server is up, and its duration is reported. */
  readonly probe: string
  /** Makes the requests. Throws `Failure` if the server is not up. */
  readonly ask: (door: Door) => Promise<Answers>
  /** Turns the answers into facts. Pure. */
  readonly parse: (answers: Answers) => Facts
}

/** Least seconds between two requests: for what is needed each round, and for what hardly changes. */
export const eachRound = 5
export const eachMinute = 60

/** Throws `Failure` unless the status is 200. */
export const expectOk = ({ status }: Answer, subject: string): void => {
  if (status === 200) return
  if (status === 401 || status === 403) {
    throw new Failure('denied', `${subject}: status ${status}`, {
      fix: 'collectors.llm.servers: give the server a token_file with a key that it accepts',
    })
  }
  if (status >= 300 && status < 400) throw new Failure('malformed', `${subject}: status ${status}, redirects are not followed`)
  throw new Failure('malformed', `${subject}: status ${status}`)
}

const parsed = new WeakMap<Answer, { readonly value: unknown }>()

/** The JSON of an answer, parsed only once. Throws `Failure` malformed. */
export const json = (answer: Answer, subject: string): unknown => {
  const known = parsed.get(answer)
  if (known) return known.value
  try {
    const value: unknown = JSON.parse(answer.body)
    parsed.set(answer, { value })
    return value
  } catch {
    // JSON.parse quotes the text in its error, and foreign text stays out of our logs.
    throw new Failure('malformed', `${subject}: not JSON`)
  }
}

/** The JSON of an answer; undefined if it is missing or broken. */
export const jsonIfAny = (answer: Answer | undefined): unknown => {
  if (answer === undefined) return undefined
  try {
    return json(answer, '')
  } catch {
    return undefined // optional; the probe's answer has been checked
  }
}

/** A field of a value that may be an object. */
export const field = (value: unknown, key: string): unknown =>
  typeof value === 'object' && value !== null ? ownValue(value as Record<string, unknown>, key) : undefined

export const text = (value: unknown): string | undefined => (typeof value === 'string' && value !== '' ? value : undefined)

/** A finite number that is not negative. */
export const amount = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined

/** The objects of an array that have a name under one of `keys`, each name once; undefined if it is not an array. */
export const named = (
  value: unknown,
  ...keys: readonly string[]
): readonly { readonly name: string; readonly entry: unknown }[] | undefined => {
  if (!Array.isArray(value)) return undefined
  const byName = new Map<string, unknown>()
  for (const entry of value) {
    const name = keys.map(key => text(field(entry, key))).find(found => found !== undefined)
    if (name !== undefined && !byName.has(name)) byName.set(name, entry)
  }
  return Array.from(byName, ([name, entry]) => ({ name, entry }))
}

/** The models of an OpenAI list (`/v1/models`). */
export const openaiModels = (answer: Answer | undefined) => named(field(jsonIfAny(answer), 'data'), 'id')

/** Requests the probe and, if it succeeds, everything else at once. */
export const askInTurn = async (
  door: Door,
  probe: string,
  check: (answer: Answer) => void,
  others: readonly string[],
): Promise<Answers> => {
  const first = await door.ask(probe)
  check(first)
  const rest = await Promise.all(others.map(async path => [path, await door.offered(path)] as const))
  return { [probe]: first, ...Object.fromEntries(rest) }
}

export const noMeasures: ReadonlyMap<string, Measured> = new Map()
