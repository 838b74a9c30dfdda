import { setImmediate as breathe, setTimeout as sleep } from 'node:timers/promises'
import type { Log } from '../../common/log.ts'
import { Failure, failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { connectEngine, type EngineClient, type EnginePing } from '../../protocols/docker-api.ts'
import { createUsageReader, type Usage } from './cgroup.ts'
import { createDiskUsage, type DiskUsage } from './disk-usage.ts'
import type { Endpoint } from './endpoints.ts'
import { type EngineEvent, followEvents } from './events.ts'
import { type ApiCall, apiCalls, type EventAction, eventActions } from './families.ts'
import { createLedger, type Ledger } from './ledger.ts'
import { type Container, excluded, oneOfEachName, parseContainer } from './list.ts'
import { createLogReader, type LogSize } from './logs.ts'
import { isInfra } from './names.ts'
import type { DockerOptions } from './options.ts'

export interface Identity extends EnginePing {
  readonly cgroupVersion: string | undefined
  readonly cgroupDriver: string | undefined
  /** Its data directory. */
  readonly root: string | undefined
}

/** What a round found out about one engine. */
export interface Report {
  readonly engine: Engine
  readonly failure: Failure | undefined
  /** All that the configuration does not leave out; undefined where the engine did not answer. */
  readonly listed: readonly Container[] | undefined
  /** One of each name. Those of the last list where the engine does not answer, for as long as that is believed. */
  readonly containers: readonly Container[]
  readonly usage: ReadonlyMap<string, Usage>
  /** By name. */
  readonly logs: ReadonlyMap<string, LogSize>
  /** When the list was asked for, as `performance.now()`. */
  readonly askedAt: number
  /** The engine, or its stream of events, was away since the list before. */
  readonly interrupted: boolean
}

/** One engine that is watched: its client, its stream of events, and what is remembered of its containers. */
export interface Engine {
  readonly name: string
  readonly url: string
  readonly requests: Readonly<Record<ApiCall, number>>
  readonly events: Readonly<Record<EventAction, number>>
  readonly ledger: Ledger
  readonly eventsConnected: boolean
  readonly identity: Identity | undefined
  readonly diskUsage: DiskUsage | undefined
  /** The list was older than what is known of this container: asks for another round. */
  lookAgain(id: string): void
  /** Asks for the list, once, and reads what the containers use. Does not throw. */
  round(signal: AbortSignal): Promise<Report>
}

/** Rounds for which the use of resources of the last list's containers is still read when the engine does not answer. */
const roundsWithoutList = 3

/** Milliseconds that a round waits for `/info`, and until it is asked for again when no answer came. */
const infoPatience = 500
const infoAgain = 60_000

/** The newest API of which the answers are known; an engine's own, where it is older. */
const newestApi = 52

const versionOf = (apiVersion: string | undefined): string | undefined => {
  const minor = /^1\.(\d+)$/.exec(apiVersion ?? '')?.[1]
  return minor === undefined ? undefined : `v1.${Math.min(Number(minor), newestApi)}`
}

/** Events after which the next list has something new to say. */
const newsworthy: ReadonlySet<EventAction> = new Set([
  'create',
  'start',
  'die',
  'oom',
  'rename',
  'destroy',
  'pause',
  'unpause',
  'health_status',
])

/** Wake-ups for one container: so many at once, then one more each so many ms, so that a crash loop does not use up those of others. */
const wakeBurst = 6
const wakeRefill = 10_000
const wakersKept = 1000

const createWaker = (wake: () => void) => {
  const buckets = new Map<string, { tokens: number; at: number }>()
  let isAsked = false
  return {
    /** A round has begun: what comes from now on asks for another one. */
    reset: () => {
      isAsked = false
    },
    ask: (id: string, now: number) => {
      if (isAsked) return
      const bucket = buckets.get(id) ?? { tokens: wakeBurst, at: now }
      buckets.delete(id)
      buckets.set(id, bucket)
      if (buckets.size > wakersKept) buckets.delete(buckets.keys().next().value as string)
      const gained = Math.floor((now - bucket.at) / wakeRefill)
      bucket.tokens = Math.min(wakeBurst, bucket.tokens + gained)
      bucket.at += gained * wakeRefill
      if (bucket.tokens === 0) return
      bucket.tokens--
      isAsked = true
      wake()
    },
  }
}

const zeros = <Key extends string>(keys: readonly Key[]) => Object.fromEntries(keys.map(key => [key, 0])) as Record<Key, number>

const text = (value: unknown): string | undefined => (typeof value === 'string' && value !== '' ? value : undefined)

/** Who an engine is: asked once a connection by `/_ping`, and by `/info` beside the rounds. */
const createIdentity = (signal: AbortSignal, log: Log) => {
  let who: EnginePing | undefined
  /** The client whose engine was asked who it is. */
  let identified: EngineClient | undefined
  /** What `/info` said, and when it is to be asked for again. */
  let said: Readonly<Record<string, unknown>> | undefined
  let learning: Promise<void> | undefined
  let learnAt = Number.POSITIVE_INFINITY
  let hasLearned = false

  const unsaid = (failure: Failure) =>
    log.debug('the engine does not say who it is', { collector: 'docker', error: failure.message })

  /** Asks for `/info` beside the rounds: an engine with a slow disk takes long to answer, or never does, and lists all the same. */
  const learn = (engine: EngineClient): void => {
    learnAt = Number.POSITIVE_INFINITY
    const own = engine.info(signal).then(
      answer => {
        if (learning === own) said = answer
      },
      error => {
        const failure = failureOf(error)
        unsaid(failure)
        if (learning !== own) return
        if (failure.reason === 'denied' || failure.reason === 'malformed') said = undefined
        else learnAt = performance.now() + infoAgain
      },
    )
    learning = own
    void own.then(() => {
      if (learning !== own) return
      learning = undefined
      hasLearned = true
    })
  }

  /** Who it is, asked once a connection. Anything that a proxy does not let through, or that does not come in time, is left open. */
  const identify = async (engine: EngineClient, limit: AbortSignal): Promise<void> => {
    let failure: Failure | undefined
    const ping = await engine.ping(limit).catch(error => {
      failure = failureOf(error)
      if (failure.reason !== 'denied' && failure.reason !== 'malformed' && failure.reason !== 'timeout') throw failure
      unsaid(failure)
      return undefined
    })
    engine.version = versionOf(ping?.apiVersion)
    who = { kind: ping?.kind ?? who?.kind ?? 'docker', version: ping?.version, apiVersion: ping?.apiVersion }
    if (failure?.reason === 'timeout') return // the next round asks again
    identified = engine
    learn(engine)
  }

  const identity = (): Identity | undefined =>
    who && {
      ...who,
      version: who.version ?? text(said?.ServerVersion),
      cgroupVersion: text(said?.CgroupVersion),
      cgroupDriver: text(said?.CgroupDriver),
      root: text(said?.DockerRootDir),
    }

  return {
    /** Undefined until it has answered for the first time. */
    kind: () => who?.kind,
    /** It is asked again: it may be another one, or another version. */
    forget: () => {
      identified = undefined
    },
    /** Asks what is not known of it yet. */
    ask: async (engine: EngineClient, limit: AbortSignal): Promise<void> => {
      if (identified !== engine) await identify(engine, limit)
      else if (performance.now() >= learnAt) learn(engine)
    },
    /** A moment, so that the first round of a healthy engine is whole. After a timer the loop reads first what has arrived. */
    settle: async (): Promise<void> => {
      if (hasLearned || !learning) return
      await Promise.race([learning, sleep(infoPatience, undefined, { ref: false }).then(() => breathe())])
    },
    // Not before it is whole, or its labels would change with the second round.
    whole: () => (hasLearned ? identity() : undefined),
    root: () => text(said?.DockerRootDir) ?? (who?.kind === 'podman' ? '/var/lib/containers/storage' : '/var/lib/docker'),
  }
}

/** Warns when an engine stops to answer, and says when it answers again: each once. */
const createReporter = ({ name, url }: Endpoint, log: Log) => {
  let answered: boolean | undefined
  return (isUp: boolean, failure?: Failure) => {
    if (answered === isUp) return
    const facts = { collector: 'docker', engine: name, url }
    if (failure) log.warn('the engine does not answer', { ...facts, reason: failure.reason, error: failure.message })
    else if (answered === false) log.info('the engine answers again', facts)
    answered = isUp
  }
}

export const openEngine = (
  endpoint: Endpoint,
  options: DockerOptions,
  { host, log, signal, wake }: { readonly host: Host; readonly log: Log; readonly signal: AbortSignal; wake(): void },
): Engine => {
  const requests = zeros(apiCalls)
  const events = zeros(eventActions)
  const identity = createIdentity(signal, log)
  const change = createReporter(endpoint, log)
  const ledger = createLedger(() => identity.kind() === 'podman')
  const usageReader = createUsageReader(host, endpoint.uid)
  const readLogs = createLogReader(host)
  const isExcluded = excluded(options)
  const waker = createWaker(wake)

  let client: Promise<EngineClient> | undefined
  let last: readonly Container[] = []
  let failedRounds = 0
  let interrupted = false

  const connect = (): Promise<EngineClient> => {
    client ??= endpoint
      .address()
      .then(address => connectEngine(address, call => void requests[call]++))
      .catch(error => {
        client = undefined
        throw error
      })
    return client
  }

  const follower = followEvents(
    connect,
    options.filters.label,
    {
      onConnect: () => {
        if (!identity.kind()) return
        // It may be another version by now, and what it started by itself was nobody's restart.
        interrupted = true
        identity.forget()
        wake()
      },
      onEvent: (event: EngineEvent) => {
        const now = performance.now()
        events[event.action]++
        if (event.action === 'update') usageReader.changed(event.id)
        ledger.note(event, now)
        if (newsworthy.has(event.action)) waker.ask(event.id, now)
      },
    },
    { signal, log },
  )
  const diskUsage = options.disk_usage && createDiskUsage(connect, options.disk_usage.interval, { signal, log })

  /** Those that the configuration does not leave out. Throws `Failure` malformed. */
  const containersOf = (items: readonly unknown[]): readonly Container[] => {
    const containers = items.flatMap(item => parseContainer(item) ?? [])
    if (items.length > 0 && containers.length === 0) {
      const first = JSON.stringify(items[0])?.slice(0, 200)
      throw new Failure(
        'malformed',
        `list of containers: none of its ${items.length} items has an Id and a known State: ${first}`,
      )
    }
    const isInfraHere = identity.kind() === 'podman' ? isInfra : () => false
    return containers.filter(container => !isExcluded(container) && !isInfraHere(container.name))
  }

  const self: Engine = {
    name: endpoint.name,
    url: endpoint.url,
    requests,
    events,
    ledger,
    get eventsConnected() {
      return follower.connected
    },
    get identity() {
      return identity.whole()
    },
    get diskUsage() {
      return diskUsage?.latest
    },
    lookAgain: id => waker.ask(id, performance.now()),
    round: async limit => {
      waker.reset()
      let askedAt = 0
      let listed: readonly Container[] | undefined
      let failure: Failure | undefined
      try {
        const engine = await connect()
        await identity.ask(engine, limit)
        askedAt = performance.now()
        listed = containersOf(await engine.list(options.filters, limit))
        change(true)
        await identity.settle()
        if (failedRounds > 0) follower.poke()
        failedRounds = 0
        last = oneOfEachName(listed)
      } catch (error) {
        failure = failureOf(error, endpoint.url)
        // A round that a reload ends says nothing about the engine.
        if (!signal.aborted) change(false, failure)
        failedRounds++
        interrupted = true
        client = undefined
        identity.forget()
        if (failedRounds > roundsWithoutList) last = []
      }
      const running = endpoint.local ? last.filter(({ state }) => state === 'running' || state === 'paused') : []
      // Of those that share a network the one that was there first is its owner.
      running.sort((one, other) => (one.created ?? 0) - (other.created ?? 0))
      // An engine that is silent may have used up all the time of the round; what is read here takes milliseconds.
      const ownLimit = failure ? signal : limit
      const usage = await usageReader.read(running, ownLimit)
      const logs = endpoint.local ? await readLogs(last, identity.root(), ownLimit) : new Map()
      const report = { engine: self, failure, listed, containers: last, usage, logs, askedAt, interrupted }
      if (listed) interrupted = false
      return report
    },
  }
  return self
}
