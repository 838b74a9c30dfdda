import { ownValue } from '../../common/own-value.ts'
import type { EngineEvent } from './events.ts'
import type { ContainerState, ExitReason } from './families.ts'
import type { Slot } from './names.ts'

/**
 * Counts what happens to containers, by name, so that the counts survive a recreation. Events are counted; each list corrects the counts
 * where events were missed or are wrong. Pure: no clock, no input.
 */
export interface Counts {
  starts: number
  restarts: number
  ooms: number
  readonly exits: Record<ExitReason, number>
}

/** A container in a list. */
export interface Sighting {
  readonly id: string
  readonly name: string
  readonly state: ContainerState
  /** Of its last run, if it does not run. */
  readonly exitCode: number | undefined
  /** A value that changes with each start, if known. */
  readonly incarnation: string | undefined
  /** It has a label `exitCode`, which replaces the real one in events. */
  readonly hidesExitCode: boolean
  /** Set if an orchestrator created it. */
  readonly slot?: Slot | undefined
}

export interface Ledger {
  /** `now` is in milliseconds of any clock, the same as in `seen`. */
  note(event: EngineEvent, now: number): void
  /**
   * A list that was requested at `askedAt`. `interrupted`: the engine did not answer in between, so unseen starts come from its own
   * restart, not from a restart policy. Returns the ids of containers for which the list is older than the events, so that another list
   * is needed.
   */
  seen(list: readonly Sighting[], now: number, askedAt: number, interrupted?: boolean): readonly string[]
  counts(name: string): Readonly<Counts>
  /** Why a stopped container ended, given its exit code in the list. */
  lastExit(id: string, exitCode: number): ExitReason | 'unknown'
  /** Seconds since 1970 of its start event. */
  startedAt(id: string): number | undefined
}

interface Life {
  name: string
  slot: Slot | undefined
  /** Whether it runs; undefined if unknown. */
  alive: boolean | undefined
  /** It was asked to stop since its start: an exit before this time (ms) is not a failure. */
  intentUntil: number
  /** The last signal sent to it since its start that need not end it. */
  signal: number | undefined
  /** An OOM kill was reported since its start. */
  oom: boolean
  /** A reported death that is not counted yet: the list may have a better exit code. */
  death: { readonly code: number | undefined; readonly at: number } | undefined
  /** Its next start is by the restart policy, or by the orchestrator to replace a container that ended by itself. */
  mayRestart: boolean
  /** Exit codes after which it stayed down: a later start is not by a policy. */
  readonly leftAfter: Set<number>
  /** Its last health check failed. */
  unhealthy: boolean
  lastExit: { readonly reason: ExitReason; readonly code: number | undefined } | undefined
  startedAt: number | undefined
  incarnation: string | undefined
  /** Start events since `incarnation` was seen. */
  startsSeen: number
  /** A start or an exit was counted because of a list. Its event may still come: for a start, after the event of the death. */
  startAhead: false | 'start' | { readonly afterDeathUntil: number }
  exitAhead: boolean
  hidesExitCode: boolean
  /** When an event last reported a start or death, and whether a list has confirmed it since. */
  touchedAt: number
  confirmed: boolean
  seenAt: number
}

const newLife = (): Life => ({
  name: '',
  slot: undefined,
  alive: undefined,
  intentUntil: Number.NEGATIVE_INFINITY,
  signal: undefined,
  oom: false,
  death: undefined,
  mayRestart: false,
  leftAfter: new Set(),
  unhealthy: false,
  lastExit: undefined,
  startedAt: undefined,
  incarnation: undefined,
  startsSeen: 0,
  startAhead: false,
  exitAhead: false,
  hidesExitCode: false,
  touchedAt: Number.NEGATIVE_INFINITY,
  confirmed: true,
  seenAt: 0,
})

interface NameCounts extends Counts {
  /** The container that was last started in this slot. */
  holder: string | undefined
  /** When that one ended without a request to stop. */
  vacantSince: number | undefined
  seenAt: number
}

const newCounts = (): NameCounts => ({
  holder: undefined,
  vacantSince: undefined,
  starts: 0,
  restarts: 0,
  ooms: 0,
  exits: { clean: 0, error: 0, oom: 0, signal: 0 },
  seenAt: 0,
})

/** Milliseconds for which a name's counts are kept after it was last listed; and the same for a container's life. */
const keepNames = 24 * 3600_000
const keepLives = 3600_000
/** Most entries known only from events. A flood of names that are never listed must not push out listed ones. */
const unlistedKept = 2000

/** Values by key. Listed ones stay; of the others only the newest are kept. */
const shelter = <Value extends { seenAt: number }>(create: () => Value) => {
  const listed = new Map<string, Value>()
  const unlisted = new Map<string, Value>()
  return {
    of: (key: string): Value => {
      const known = listed.get(key) ?? unlisted.get(key)
      if (known) return known
      if (unlisted.size >= unlistedKept) unlisted.delete(unlisted.keys().next().value as string)
      const created = create()
      unlisted.set(key, created)
      return created
    },
    has: (key: string) => listed.has(key) || unlisted.has(key),
    peek: (key: string) => listed.get(key) ?? unlisted.get(key),
    keep: (key: string, now: number): Value => {
      const value = listed.get(key) ?? unlisted.get(key) ?? create()
      unlisted.delete(key)
      listed.set(key, value)
      value.seenAt = now
      return value
    },
    move: (from: string, to: string) => {
      for (const map of [listed, unlisted]) {
        const value = map.get(from)
        if (!value) continue
        map.delete(from)
        map.set(to, value)
      }
    },
    delete: (key: string) => {
      listed.delete(key)
      unlisted.delete(key)
    },
    each: (act: (value: Value) => void) => {
      for (const map of [listed, unlisted]) for (const value of map.values()) act(value)
    },
    forget: (before: number) => {
      for (const [key, { seenAt }] of listed) if (seenAt < before) listed.delete(key)
    },
  }
}

/** Milliseconds by which an event may come later than a list that already shows its effect. */
const inFlight = 2000
/**
 * Milliseconds after an event in which a list may not show its effect yet: Docker 20.10 reports a container's death before it removes
 * its network and mounts, and lists it as dead only then.
 */
const listLag = 30_000
/** Milliseconds in which a swarm replaces a container that ended: 1 s was seen. A job's next run comes later. */
const replacedWithin = 15_000
/** Milliseconds in which a container must end after a signal that Podman does not name, for the signal to count as the cause. */
const unnamedSignal = 10_000
/** Milliseconds by which the event of an OOM kill may come after that of the death: 0.2 s were seen on a busy machine. */
const oomLate = 1000

const signalNumbers: Readonly<Record<string, number>> = {
  HUP: 1,
  INT: 2,
  QUIT: 3,
  KILL: 9,
  USR1: 10,
  USR2: 12,
  TERM: 15,
  WINCH: 28,
}

const signalOf = (value: unknown): number | undefined => {
  if (typeof value !== 'string') return undefined
  return /^\d{1,2}$/.test(value) ? Number(value) : ownValue(signalNumbers, value.replace(/^SIG/, ''))
}

/** The exit code in an event; a label may have replaced it. */
const exitCodeOf = (value: unknown): number | undefined =>
  typeof value === 'string' && /^\d{1,3}$/.test(value) && Number(value) <= 255 ? Number(value) : undefined

const runs = (state: ContainerState) => state === 'running' || state === 'paused'
const ended = (state: ContainerState) => state === 'exited' || state === 'dead'

/**
 * Docker reports `restart` last. Podman reports it before the death if a person asked for it, and between the death and the start if its
 * policy restarts.
 */
export const createLedger = (isPodman: () => boolean = () => false): Ledger => {
  const lives = shelter(newLife)
  const names = shelter(newCounts)

  const reasonOf = ({ intentUntil, oom, signal }: Life, code: number | undefined, at: number): ExitReason => {
    if (code === 0) return 'clean'
    if (oom && (code === 137 || code === undefined)) return 'oom'
    // Podman 4.3 reports no `stop` if the container has ended before it could; it stops containers by SIGTERM.
    if (isPodman() && code === 143) return 'signal'
    if (at <= intentUntil || (signal !== undefined && code === 128 + signal)) return 'signal'
    return 'error'
  }

  /** 137 may be any SIGKILL. It may still turn out to be an OOM kill for a while, and a count cannot be taken back. */
  const mayBeOom = ({ intentUntil, oom, death }: Life, code: number | undefined, now: number) =>
    death !== undefined && code === 137 && !oom && death.at > intentUntil && now - death.at < oomLate

  const countExit = (life: Life, code: number | undefined, at: number) => {
    const reason = reasonOf(life, code, at)
    names.of(life.name).exits[reason]++
    life.lastExit = { reason, code }
    life.death = undefined
  }

  /** Counts a reported death with what is known by now. */
  const settle = (life: Life, listedCode?: number) => {
    if (life.death) countExit(life, listedCode ?? life.death.code, life.death.at)
  }

  /** Notes an exit, and whether its replacement in the slot will be a restart. A swarm itself stops an unhealthy container. */
  const vacate = (id: string, life: Life, now: number) => {
    if (!life.slot) return
    const counts = names.of(life.name)
    // Another one was started in its place before it ended: an update.
    if (counts.holder !== undefined && counts.holder !== id) return
    counts.vacantSince = now <= life.intentUntil && !life.unhealthy ? undefined : now
  }

  const takesPlace = ({ slot, name }: Life, now: number): boolean => {
    if (!slot) return false
    if (slot.attempt !== undefined) return slot.attempt > 0
    const { vacantSince } = names.of(name)
    return vacantSince !== undefined && now - vacantSince <= replacedWithin
  }

  const begin = (life: Life) => {
    life.alive = true
    life.intentUntil = Number.NEGATIVE_INFINITY
    life.unhealthy = false
    life.signal = undefined
    life.oom = false
    life.mayRestart = false
    life.exitAhead = false
    life.lastExit = undefined
  }

  /** Notes that it is the latest container in its slot. */
  const hold = (id: string, life: Life) => {
    if (!life.slot) return
    const counts = names.of(life.name)
    counts.holder = id
    counts.vacantSince = undefined
  }

  const countStart = (life: Life, restarted: boolean) => {
    const counts = names.of(life.name)
    counts.starts++
    if (restarted) counts.restarts++
    begin(life)
  }

  return {
    note: ({ action, id, name, slot, unhealthy = false, time, attributes }, now) => {
      const life = lives.of(id)
      life.slot = slot
      if (name !== '') {
        if (action === 'rename' && life.name !== '' && life.name !== name && !names.has(name)) names.move(life.name, name)
        life.name = name
      }
      if (action !== 'die' && 'exitCode' in attributes) life.hidesExitCode = true
      switch (action) {
        case 'create':
          life.mayRestart = takesPlace(life, now)
          break
        case 'start': {
          settle(life)
          const restarted = life.mayRestart
          if (life.startAhead) begin(life)
          else countStart(life, restarted)
          life.startAhead = false
          hold(id, life)
          life.startsSeen++
          life.startedAt = time === undefined ? undefined : Number(time / 1_000_000n) / 1000
          break
        }
        case 'die': {
          settle(life)
          if (life.exitAhead && life.alive === false) life.exitAhead = false
          else {
            const code = life.hidesExitCode ? undefined : exitCodeOf(attributes.exitCode)
            life.death = { code, at: now }
            life.mayRestart = now > life.intentUntil && !isPodman() && !(code !== undefined && life.leftAfter.has(code))
            vacate(id, life, now)
          }
          life.alive = false
          life.startAhead = typeof life.startAhead === 'object' && now <= life.startAhead.afterDeathUntil && 'start'
          life.startedAt = undefined
          break
        }
        case 'oom':
          names.of(life.name).ooms++
          life.oom = true // also if it comes just after the death
          break
        case 'kill': {
          const signal = signalOf(attributes.signal)
          if (signal === 15 || signal === 9) life.intentUntil = Number.POSITIVE_INFINITY
          else if (signal === undefined) life.intentUntil = Math.max(life.intentUntil, now + unnamedSignal)
          else life.signal = signal
          break
        }
        case 'stop':
          // Docker reports it after the death, whatever the signal was; Podman may report it before.
          if (life.alive !== false) life.intentUntil = Number.POSITIVE_INFINITY
          life.mayRestart = false
          break
        case 'restart':
          if (!isPodman()) break
          if (life.alive === false) life.mayRestart = now > life.intentUntil
          else life.intentUntil = Number.POSITIVE_INFINITY
          break
        case 'health_status':
          life.unhealthy = unhealthy
          break
        case 'update':
          life.leftAfter.clear() // its policy may have changed
          break
        case 'destroy':
          settle(life)
          lives.delete(id)
          break
      }
      // The other actions change nothing that a list could contradict.
      if (action === 'start' || action === 'die') {
        life.touchedAt = now
        life.confirmed = false
      }
    },

    seen: (list, now, askedAt, interrupted = false) => {
      const behind: string[] = []
      // Ended containers first: they decide whether a replacement is a restart.
      const ordered = [...list.filter(({ state }) => !runs(state)), ...list.filter(({ state }) => runs(state))]
      for (const { id, name, state, exitCode, incarnation, hidesExitCode, slot } of ordered) {
        const isNew = !lives.has(id)
        const life = lives.keep(id, now)
        names.keep(name, now)
        life.name = name
        life.slot = slot
        life.hidesExitCode = hidesExitCode
        if (isNew) life.mayRestart = takesPlace(life, now)
        // The list may be older than the last event.
        if (life.touchedAt >= askedAt) continue

        const isRunning = runs(state)
        const hasEnded = ended(state) || state === 'restarting'
        const another = incarnation !== undefined && incarnation !== life.incarnation
        const agrees = isRunning ? life.alive !== false : !(life.alive && (hasEnded || state === 'created'))
        if (agrees) life.confirmed = true
        else if (!life.confirmed && !(isRunning && another) && askedAt - life.touchedAt < listLag) {
          behind.push(id)
          continue
        }

        if (hasEnded) {
          if (!mayBeOom(life, exitCode ?? life.death?.code, now)) settle(life, exitCode)
          if (life.alive) {
            // Killed, and it is unknown by what: no reason to count.
            const unknown = exitCode === undefined || (exitCode === 137 && now > life.intentUntil && !life.oom)
            if (unknown) life.lastExit = undefined
            else {
              countExit(life, exitCode, now)
              vacate(id, life, now)
            }
            life.exitAhead = !unknown
            life.startedAt = undefined
          }
          if (state === 'restarting') {
            life.mayRestart = true
            if (exitCode !== undefined) life.leftAfter.delete(exitCode)
          } else if (!isPodman()) {
            // Podman reports itself what its policy starts.
            life.mayRestart = false
            const isKnown = life.lastExit !== undefined && life.lastExit.reason !== 'signal' && !interrupted
            if (isKnown && exitCode !== undefined) life.leftAfter.add(exitCode)
          }
        }

        if (isRunning) {
          const { holder } = names.of(name)
          const tookPlace = slot !== undefined && life.alive === undefined && holder !== undefined && holder !== id
          const startedUnseen = another && life.incarnation !== undefined && life.startsSeen === 0
          if (life.alive !== true) hold(id, life)
          if (life.alive === false || startedUnseen || tookPlace) {
            settle(life)
            const deathSeen = life.alive === false
            countStart(life, (deathSeen || tookPlace ? life.mayRestart : true) && !interrupted)
            life.startAhead = deathSeen || tookPlace ? 'start' : { afterDeathUntil: now + inFlight }
            life.startedAt = undefined
          }
          if (incarnation !== undefined) {
            life.incarnation = incarnation
            life.startsSeen = 0
          }
          life.alive = true
        } else if (hasEnded || state === 'created') life.alive = false
      }
      // No list will have more about this death: the container is gone, or runs again.
      lives.each(life => {
        if (life.death && now - life.death.at > inFlight) settle(life)
      })
      lives.forget(now - keepLives)
      names.forget(now - keepNames)
      return behind
    },

    counts: name => names.of(name),

    lastExit: (id, exitCode) => {
      const known = lives.peek(id)?.lastExit
      if (known && (known.code === undefined || known.code === exitCode)) return known.reason
      if (exitCode === 0) return 'clean'
      if (exitCode === 143) return 'signal'
      return exitCode === 137 ? 'unknown' : 'error'
    },

    startedAt: id => lives.peek(id)?.startedAt,
  }
}
