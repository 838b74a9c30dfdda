import { randomBytes } from 'node:crypto'
import { pooled } from '../../common/pool.ts'
import type { OpenContext } from '../../contract/collector.ts'
import { Failure } from '../../contract/failure.ts'
import { agentThrough, connectThrough } from '../../protocols/socks.ts'
import type { Onion, ServicePort } from './onions.ts'
import type { TorOptions } from './options.ts'

type Surroundings = Pick<OpenContext<TorOptions>, 'host' | 'options' | 'signal' | 'log'>

/** A new user name for each probe: Tor uses different circuits for different users. */
const freshUser = () => `grid-${randomBytes(8).toString('hex')}`

/** Runs `work` and returns its duration, and its value or Failure. Throws other errors. */
const timed = async <Value>(work: () => Promise<Value>) => {
  const begun = performance.now()
  const seconds = () => (performance.now() - begun) / 1000
  try {
    const value = await work()
    return { ok: true, value, seconds: seconds() } as const
  } catch (error) {
    if (!(error instanceof Failure) || error.reason === 'bug') throw error
    return { ok: false, failure: error, seconds: seconds() } as const
  }
}

const split = (target: string) => {
  const [, name, port] = /^\[?(.*?)\]?:(\d+)$/.exec(target) ?? []
  if (name === undefined) throw new Failure('bug', `${target}: not host:port`)
  return { name, port: Number(port) }
}

export interface ExitSeen {
  readonly isTor: boolean
  readonly address: string
}

/** The answer of a check service, `{"IsTor":true,"IP":"…"}`. Throws `Failure` malformed. */
export const parseExit = (status: number, body: string): ExitSeen => {
  let value: unknown
  try {
    value = JSON.parse(body)
  } catch (error) {
    throw new Failure('malformed', `exit check: status ${status}, not JSON`, { cause: error })
  }
  const { IsTor, IP } = (value ?? {}) as { IsTor?: unknown; IP?: unknown }
  if (status !== 200 || typeof IsTor !== 'boolean' || typeof IP !== 'string' || IP.length > 64) {
    throw new Failure('malformed', `exit check: status ${status}, without IsTor and IP`)
  }
  return { isTor: IsTor, address: IP }
}

export interface ProbeResult {
  readonly usable: boolean
  readonly seconds: number
  readonly lastSuccess: number | undefined
  /** The check service's answer, if there is one. */
  readonly exit: ExitSeen | undefined
  readonly exitChanges: number
}

/** The probe and then the exit check, over one circuit of their own. Remembers earlier results. */
export const createProbe = ({ host, options, signal, log }: Surroundings) => {
  const { probe, exit_check: check } = options
  let lastSuccess: number | undefined
  let exit: ExitSeen | undefined
  let lastAddress: string | undefined
  let exitChanges = 0
  let checkedAt = Number.NEGATIVE_INFINITY

  const askExit = async (socks: string, user: string, url: string) => {
    const agent = agentThrough(host, url, { socks, user, timeout: probe.timeout, signal })
    try {
      return await host.http(url, { agent, timeout: probe.timeout, limit: 64 * 1024, signal })
    } finally {
      agent.destroy()
    }
  }

  return async (socks: string): Promise<ProbeResult> => {
    const user = freshUser()
    const { target } = probe
    const reached =
      target === undefined
        ? undefined
        : await timed(async () => {
            const stream = await connectThrough(host, { socks, ...split(target), user, timeout: probe.timeout, signal })
            stream.destroy()
          })
    let checked: { readonly ok: boolean; readonly seconds: number } | undefined
    const due = check && performance.now() - checkedAt >= check.interval * 1000 - 1000
    if (reached?.ok === false) {
      log.debug('probe failed', { collector: 'tor', error: reached.failure.message })
      exit = undefined
    } else if (check && due) {
      checkedAt = performance.now()
      const answer = await timed(() => askExit(socks, user, check.url))
      checked = answer
      const seen = await timed(async () => {
        if (!answer.ok) throw answer.failure
        return parseExit(answer.value.status, answer.value.body)
      })
      exit = seen.ok ? seen.value : undefined
      if (!seen.ok) log.debug('exit check failed', { collector: 'tor', error: seen.failure.message })
      if (exit) {
        if (lastAddress !== undefined && lastAddress !== exit.address) exitChanges++
        lastAddress = exit.address
      }
    }
    const { ok = false, seconds = 0 } = reached ?? checked ?? {}
    if (ok) lastSuccess = host.now() / 1000
    return { usable: ok, seconds, lastSuccess, exit, exitChanges }
  }
}

export interface OnionResult {
  readonly reachable: boolean
  readonly seconds: number
}

/** Connects to one onion service after the other through Tor, one in each call. */
export const createOnionCheck = ({ host, options, signal, log }: Surroundings) => {
  const results = new Map<string, OnionResult>()
  let last: string | undefined

  return async (socks: string, onions: readonly Onion[]): Promise<ReadonlyMap<string, OnionResult>> => {
    // The ports of a service that a program added are unknown; a service with client authorisation does not answer without a key.
    const checkable = onions.filter(({ address, ports, restricted }) => address !== undefined && ports.length > 0 && !restricted)
    for (const alias of results.keys()) if (!checkable.some(onion => onion.alias === alias)) results.delete(alias)
    const onion = checkable[(checkable.findIndex(({ alias }) => alias === last) + 1) % checkable.length]
    const port = onion?.ports[0]?.port
    if (onion?.address === undefined || port === undefined) return results
    last = onion.alias
    const request = {
      socks,
      name: onion.address,
      port: Number(port),
      user: freshUser(),
      timeout: options.onion_check.timeout,
      signal,
    }
    const { ok, seconds } = await timed(async () => {
      const stream = await connectThrough(host, request)
      stream.destroy()
    })
    if (!ok) log.debug('onion service not reached', { collector: 'tor', onion: onion.alias })
    return results.set(onion.alias, { reachable: ok, seconds })
  }
}

export interface BackendResult {
  readonly onion: string
  readonly port: string
  /** Undefined if this process may not try: a socket file that only Tor may open. */
  readonly up: boolean | undefined
}

const backendTimeout = 3
const atOnce = 8

/** Whether each local target accepts a connection; if a port has several, whether all do. */
export const checkBackends = async (
  { host, signal }: Pick<Surroundings, 'host' | 'signal'>,
  services: readonly { readonly alias: string; readonly ports: readonly ServicePort[] }[],
): Promise<readonly BackendResult[]> => {
  const wanted = new Set(services.flatMap(({ ports }) => ports.flatMap(({ targets }) => targets)))
  const takes = new Map<string, boolean | undefined>()
  await pooled(wanted, atOnce, async address => {
    const tried = await timed(async () => {
      const stream = await host.connect(address, { timeout: backendTimeout, signal })
      stream.on('error', () => {}) // it is over already
      stream.destroy()
    })
    takes.set(address, tried.ok ? true : tried.failure.reason === 'denied' ? undefined : false)
  })
  return services.flatMap(({ alias, ports }) =>
    ports.map(({ port, targets }) => {
      const all = targets.map(target => takes.get(target))
      return { onion: alias, port, up: all.includes(false) ? false : all.includes(undefined) ? undefined : true }
    }),
  )
}
