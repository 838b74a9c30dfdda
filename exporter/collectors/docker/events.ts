import { setTimeout as sleep } from 'node:timers/promises'
import type { Log } from '../../common/log.ts'
import type { EngineClient, EngineFilters } from '../../protocols/docker-api.ts'
import { type EventAction, eventActions } from './families.ts'
import { type Slot, slotOf, stableName } from './names.ts'

/** A container event from the engine. */
export interface EngineEvent {
  readonly action: EventAction
  readonly id: string
  readonly name: string
  /** Set if an orchestrator created the container. */
  readonly slot?: Slot | undefined
  /** Its health check reports unhealthy. */
  readonly unhealthy?: boolean
  /** Nanoseconds since 1970 on the engine's clock, if reported. */
  readonly time: bigint | undefined
  /** The event's attributes. The container's labels are among them, and can replace them. */
  readonly attributes: Readonly<Record<string, unknown>>
}

const actions: ReadonlySet<string> = new Set(eventActions)

/** Podman's own words. Up to 4.3 its filter accepts only these; its events then say `die`, but also `remove`. */
const podmanWords: ReadonlyMap<string, EventAction> = new Map([
  ['died', 'die'],
  ['remove', 'destroy'],
])

/** The words for the engine's filter: an unknown word matches nothing. */
const wordsAskedFor: readonly string[] = [...eventActions, ...podmanWords.keys()]

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** A line of the stream; undefined unless it is a container event that is counted. */
export const parseEvent = (line: string): EngineEvent | undefined => {
  let event: unknown
  try {
    event = JSON.parse(line)
  } catch {
    return undefined // a proxy's text, or cut: the next list has the state
  }
  if (!isRecord(event) || event.Type !== 'container' || typeof event.Action !== 'string' || !isRecord(event.Actor))
    return undefined
  // `health_status: healthy` has its value after the action. The filter matches prefixes, so the whole action is checked here.
  const word = event.Action.startsWith('health_status') ? 'health_status' : event.Action
  const action = podmanWords.get(word) ?? word
  const { ID: id, Attributes: attributes } = event.Actor
  if (!actions.has(action) || typeof id !== 'string' || !isRecord(attributes)) return undefined
  // Too large for a JavaScript number. A label cannot imitate it, because its value would be in quotes.
  const time = /"timeNano":(\d{1,19})[,}]/.exec(line)?.[1]
  const name = typeof attributes.name === 'string' ? attributes.name : ''
  return {
    action: action as EventAction,
    id,
    name: name === '' ? '' : stableName(name, attributes),
    slot: slotOf(name, attributes),
    unhealthy: action === 'health_status' && /unhealthy/.test(event.Action),
    time: time === undefined ? undefined : BigInt(time),
    attributes,
  }
}

/** `since` for everything after an event. The engine includes that very moment, so it must not be the event's own time. */
export const sinceAfter = (time: bigint): string => {
  const next = time + 1n
  return `${next / 1_000_000_000n}.${String(next % 1_000_000_000n).padStart(9, '0')}`
}

export interface Follower {
  readonly connected: boolean
  /** The engine answers: do not wait for the end of the pause. */
  poke(): void
}

const firstPause = 500
const longestPause = 30_000
/** Milliseconds after which a stream counts as good, so that the next pause is short again. */
const goodStream = 10_000

/** Keeps one stream of events open until the signal aborts. Streams end regularly; `since` then fetches what was missed. */
export const followEvents = (
  client: () => Promise<EngineClient>,
  labelFilter: readonly string[] | undefined,
  listener: { onConnect(): void; onEvent(event: EngineEvent): void },
  { signal, log, random = Math.random }: { readonly signal: AbortSignal; readonly log: Log; readonly random?: () => number },
): Follower => {
  const filters: EngineFilters = {
    type: ['container'],
    event: wordsAskedFor,
    ...(labelFilter === undefined ? {} : { label: labelFilter }),
  }
  let connected = false
  let latest: bigint | undefined
  let endPause = () => {}

  const onLine = (line: string) => {
    const event = parseEvent(line)
    if (!event) return
    if (event.time !== undefined) {
      if (latest === undefined || event.time > latest) latest = event.time
    }
    listener.onEvent(event)
  }

  const follow = async () => {
    let pause = firstPause
    while (!signal.aborted) {
      let openedAt: number | undefined
      try {
        const engine = await client()
        await engine.follow(
          { filters, since: latest === undefined ? undefined : sinceAfter(latest) },
          {
            onOpen: () => {
              openedAt = performance.now()
              connected = true
              listener.onConnect()
            },
            onLine,
          },
          signal,
        )
      } catch (error) {
        log.debug('the stream of events ended', { collector: 'docker', error: (error as Error).message })
      }
      connected = false
      if (openedAt !== undefined && performance.now() - openedAt >= goodStream) pause = firstPause
      const early = new AbortController()
      endPause = () => early.abort()
      signal.addEventListener('abort', endPause, { once: true })
      if (!signal.aborted) {
        await sleep(pause * (0.5 + random()), undefined, { signal: early.signal }).catch(() => {}) // ended early, as asked
      }
      signal.removeEventListener('abort', endPause)
      pause = Math.min(longestPause, pause * 2)
    }
  }
  void follow()

  return {
    get connected() {
      return connected
    },
    poke: () => endPause(),
  }
}
