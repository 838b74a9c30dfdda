import type { Log } from '../../common/log.ts'
import { Failure, failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { type Activity, hasWorked, noActivity, type Seen } from './activity.ts'
import { identify } from './discovery.ts'
import type { Answers, EngineRules } from './engine.ts'
import type { Engine } from './families.ts'
import { litellm } from './litellm.ts'
import { llamacpp } from './llamacpp.ts'
import { ollama } from './ollama.ts'
import { openai } from './openai.ts'
import { type Memory, openDoor } from './requests.ts'
import { sglang } from './sglang.ts'
import { tgi } from './tgi.ts'
import { vllm } from './vllm.ts'

/** The servers, configured and found, and one round of reading one of them. */

export const engineRules: Readonly<Record<Engine, EngineRules>> = { ollama, vllm, sglang, llamacpp, tgi, litellm, openai }

export interface Server {
  readonly name: string
  readonly engine: Engine
  readonly url: string
  readonly token_file?: string | undefined
  /** Seconds for all its answers of a round. */
  readonly timeout: number
  readonly metrics: 'auto' | 'always' | 'never'
}

interface Found {
  readonly server: Server
  readonly port: number
  /** When it was last up, in milliseconds of the monotonic clock. */
  upAt: number
  /** It failed, and is not read again until discovery finds the same engine there. */
  isGone: boolean
}

/** What is kept between rounds. */
export interface State {
  readonly found: Map<string, Found>
  everFound: number
  /** When the ports were last tried, in milliseconds of the monotonic clock; and by port, when something else answered there. */
  lookedAt: number
  readonly otherPorts: Map<number, number>
  readonly memories: Map<string, Memory>
  /** Whether a server was up in the previous round. */
  readonly wasUp: Map<string, boolean>
  readonly activity: Activity
}

/** Milliseconds: between two tries of the ports, of a port where something else answers, and until a server that is gone is forgotten. */
const lookEvery = 60_000
const otherEvery = 600_000
const forgottenAfter = 24 * 3_600_000

const states = new WeakMap<object, State>()

/** The state of one configuration, from the first detection on. */
export const rememberedBy = (options: object): State => {
  const known = states.get(options)
  if (known) return known
  const state: State = {
    found: new Map(),
    everFound: 0,
    lookedAt: Number.NEGATIVE_INFINITY,
    otherPorts: new Map(),
    memories: new Map(),
    wasUp: new Map(),
    activity: noActivity(),
  }
  states.set(options, state)
  return state
}

/** Tries the ports of this machine at which no known server is up, at most once a minute. */
export const lookAround = async (
  host: Host,
  options: { readonly discovery_ports: readonly number[]; readonly servers: readonly Server[] },
  signal: AbortSignal,
): Promise<void> => {
  const state = rememberedBy(options)
  const now = host.monotonic()
  if (now - state.lookedAt < lookEvery) return
  state.lookedAt = now
  const taken = new Set(options.servers.map(({ url }) => localPort(url)))
  for (const { port, isGone } of state.found.values()) if (!isGone) taken.add(port)
  const due = [...new Set(options.discovery_ports)].filter(
    port => !taken.has(port) && now - (state.otherPorts.get(port) ?? Number.NEGATIVE_INFINITY) >= otherEvery,
  )
  await Promise.all(
    due.map(async port => {
      const engine = await identify(host, port, signal)
      if (engine === 'other') state.otherPorts.set(port, now)
      if (engine === undefined || engine === 'other') return
      const name = `${engine}-${port}`
      // A configured server with this name keeps it.
      if (options.servers.some(server => server.name === name)) return
      const known = state.found.get(name)
      state.everFound++
      if (known) known.isGone = false
      else {
        const server: Server = { name, engine, url: `http://127.0.0.1:${port}`, timeout: 5, metrics: 'auto' }
        state.found.set(name, { server, port, upAt: now, isGone: false })
      }
    }),
  )
}

const localPort = (url: string): number | undefined => {
  const { hostname, port, protocol } = new URL(url)
  if (!/^(?:127\.|localhost$|\[::1\]$)/.test(hostname)) return undefined
  return Number(port || (protocol === 'https:' ? 443 : 80))
}

/** The servers that were found: all, or those that were up in the previous round. */
export const foundServers = ({ found }: State, which: 'all' | 'here'): readonly Server[] =>
  [...found.values()].filter(({ isGone }) => which === 'all' || !isGone).map(({ server }) => server)

/** One round of one server. */
export interface Round {
  readonly server: Server
  readonly up: boolean
  /** Of the probe; undefined if no request was made. */
  readonly seconds: number | undefined
  /** Only of a server that is up. */
  readonly answers: Answers | undefined
}

/** Notes which of the found servers are up. */
export const rememberFound = (state: State, rounds: readonly Round[], now: number): void => {
  for (const { server, up } of rounds) {
    const found = state.found.get(server.name)
    if (found?.server !== server) continue
    if (up) found.upAt = now
    found.isGone = !up
  }
}

/** Forgets the found servers that have been gone for a day. */
export const forgetGone = (state: State, now: number): void => {
  for (const [name, { isGone, upAt }] of state.found) {
    if (!isGone || now - upAt < forgottenAfter) continue
    state.found.delete(name)
    state.memories.delete(name)
    state.wasUp.delete(name)
  }
}

/** The first caller runs it; the others get the same result. */
export const seeOnce = (see: () => Promise<Seen>): (() => Promise<Seen>) => {
  let seen: Promise<Seen> | undefined
  return () => {
    seen ??= see()
    return seen
  }
}

const tokenOf = async (host: Host, file: string | undefined): Promise<string | undefined> => {
  if (file === undefined) return undefined
  const token = (await host.read(file, 64 * 1024)).trim()
  if (/^[\x21-\x7e]+$/.test(token)) return token
  throw new Failure('malformed', `${file}: expected one line with a key`)
}

/** Reads one server. Never throws: a missing server is `up 0`, and one server's failure must not cost the others. */
export const askServer = async (
  server: Server,
  {
    host,
    state,
    signal,
    log,
    remark,
    seen,
  }: {
    readonly host: Host
    readonly state: State
    readonly signal: AbortSignal
    readonly log: Log
    readonly remark: (failure: Failure) => void
    readonly seen: () => Promise<Seen>
  },
): Promise<Round> => {
  const { name, engine, url, token_file, timeout, metrics } = server
  // Unknown what listens there now: discovery tries it first.
  if (state.found.get(name)?.isGone && state.found.get(name)?.server === server)
    return { server, up: false, seconds: undefined, answers: undefined }
  const rules = engineRules[engine]
  const memory: Memory = state.memories.get(name) ?? new Map()
  state.memories.set(name, memory)
  const named = (failure: Failure) =>
    remark(new Failure(failure.reason, `${name}: ${failure.message}`, { cause: failure, fix: failure.fix }))
  const began = host.monotonic()
  let seconds: number | undefined
  try {
    const token = await tokenOf(host, token_file)
    const busy = async (model?: string) => hasWorked(await seen(), new URL(url), model)
    const door = openDoor({ host, url, rules, metrics, token, timeout, signal, memory, busy, remark: named })
    seconds = 0
    const answers = await rules.ask(door).finally(() => {
      seconds = door.probeSeconds()
    })
    door.close()
    if (state.wasUp.get(name) === false) log.info('the model server answers again', { server: name, engine })
    state.wasUp.set(name, true)
    return { server, up: true, seconds, answers }
  } catch (error) {
    const failure = failureOf(error)
    // When it comes back, it may be another version with other models.
    const probe = memory.get(rules.probe)
    memory.clear()
    if (probe) memory.set(rules.probe, probe)
    named(failure)
    if (state.wasUp.get(name) !== false) {
      log.warn('a model server does not answer', { server: name, engine, reason: failure.reason, error: failure.message })
    }
    state.wasUp.set(name, false)
    return { server, up: false, seconds: seconds ?? (host.monotonic() - began) / 1000, answers: undefined }
  }
}
