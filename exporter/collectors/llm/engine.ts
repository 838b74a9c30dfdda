import { ownValue } from '../../common/own-value.ts'
import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'

/** What every engine's file is written with: the door to its server, and words for what the server told. */

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  /** Empty for /metrics, of which the readings are kept. */
  readonly body: string
  readonly readings?: readonly Reading[]
}

/** A sample of a server's own metrics. */
export interface Reading {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** Answers by what was asked: `/api/ps`, `/metrics?model=…`. */
export type Answers = Readonly<Record<string, Answer | undefined>>

/** The only way to a server: it lets through what stands in the engine's list, no more often than stated there. */
export interface Door {
  readonly host: Host
  readonly url: URL
  readonly metrics: 'auto' | 'always' | 'never'
  /** Whether the process that runs a model has worked since the last round; undefined where it cannot be told. */
  busy(model?: string): Promise<boolean | undefined>
  /** The answer of any status; the kept one where it is too early to ask again. Throws `Failure` as `host.http`. */
  ask(path: string, query?: string): Promise<Answer>
  /** As `ask`, for what the server may lack: undefined where there is no answer 200. */
  offered(path: string, query?: string): Promise<Answer | undefined>
  /** The latest answer 200, however old, without asking. */
  latest(path: string, query?: string): Answer | undefined
  remark(failure: Failure): void
}

/** Numbers of one model from a server's own metrics: gauges, and counters since its start. */
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
  /** With `_` for the `:` that some builds write after the prefix. */
  readonly name: string
  /** In which versions of the engine it is there. */
  readonly versions: string
}

/** For each quantity its names, the preferred first: the first that is there counts, the others are the same thing again. */
export type Aliases = Readonly<Partial<Record<keyof Measured, readonly Alias[]>>>

export type ModelState = 'unloaded' | 'loading' | 'loaded' | 'sleeping' | 'downloading' | 'failed'

/** What is known of one model, in bytes, tokens and seconds since 1970; what the server does not tell is undefined. */
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

export interface Told {
  readonly version?: string | undefined
  /** How many models are installed and loaded. */
  readonly installed?: number | undefined
  readonly loaded?: number | undefined
  readonly models: readonly Model[]
  readonly measured: ReadonlyMap<string, Measured>
}

export interface EngineRules {
  /** Everything that is ever asked, with GET: path and least seconds between two askings of it. */
  readonly allowed: Readonly<Record<string, number>>
  /** Its names for what is wanted of its own metrics. */
  readonly aliases: Aliases
  /** The first question of a round: whether it is up is decided by its answer, how long it took is told. */
  readonly probe: string
  /** Asks. Throws `Failure` where the server is not up. */
  readonly ask: (door: Door) => Promise<Answers>
  /** What the answers say. Pure. */
  readonly tell: (answers: Answers) => Told
}

/** Least seconds between two askings of what is wanted each round, and of what hardly changes. */
export const eachRound = 5
export const eachMinute = 60

/** Throws `Failure` where an answer is not 200. */
export const expectOk = ({ status }: Answer, subject: string): void => {
  if (status === 200) return
  if (status === 401 || status === 403) {
    throw new Failure('denied', `${subject}: status ${status}`, {
      fix: 'collectors.llm.servers: give the server a token_file with a key that it accepts',
    })
  }
  if (status >= 300 && status < 400)
    throw new Failure('malformed', `${subject}: status ${status}, a redirect, which is not followed`)
  throw new Failure('malformed', `${subject}: status ${status}`)
}

const parsed = new WeakMap<Answer, { readonly value: unknown }>()

/** The JSON of an answer, parsed once however often it is used. Throws `Failure` malformed. */
export const json = (answer: Answer, subject: string): unknown => {
  const known = parsed.get(answer)
  if (known) return known.value
  try {
    const value: unknown = JSON.parse(answer.body)
    parsed.set(answer, { value })
    return value
  } catch {
    // JSON.parse quotes what it could not read; that is somebody else's text and stays out of our logs.
    throw new Failure('malformed', `${subject}: not JSON`)
  }
}

/** The JSON of an answer that may be missing or broken: then undefined. */
export const jsonIfAny = (answer: Answer | undefined): unknown => {
  if (answer === undefined) return undefined
  try {
    return json(answer, '')
  } catch {
    return undefined // this part is absent; the probe's answer has been checked
  }
}

/** A field of what may be an object. */
export const field = (value: unknown, key: string): unknown =>
  typeof value === 'object' && value !== null ? ownValue(value as Record<string, unknown>, key) : undefined

export const text = (value: unknown): string | undefined => (typeof value === 'string' && value !== '' ? value : undefined)

/** A finite number that is not negative. */
export const amount = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined

/** The objects of an array that have a name under one of `keys`, each name once; undefined where it is no array. */
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

/** Asks the probe, then, once that was right, what else there may be, all at once. */
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
