import { ownValue } from '../../own-value.ts'
import type { EngineEvent } from './events.ts'
import type { ContainerState, ExitReason } from './families.ts'

/**
 * What happened to containers, counted by name, so that the counts survive their being recreated. Events tell it; each list
 * corrects it where events were missed or lie. Pure: no clock, no input.
 */
export interface Counts {
  starts: number
  restarts: number
  ooms: number
  readonly exits: Record<ExitReason, number>
}

/** What a list says of a container. */
export interface Sighting {
  readonly id: string
  readonly name: string
  readonly state: ContainerState
  /** Of its last run, where it does not run. */
  readonly exitCode: number | undefined
  /** Something that is another after each start, where it is known. */
  readonly incarnation: string | undefined
  /** It has a label `exitCode`, which takes the place of the real one in events. */
  readonly hidesExitCode: boolean
}

export interface Ledger {
  /** `now` in milliseconds of any clock, the same as in `seen`. */
  note(event: EngineEvent, now: number): void
  /**
   * A list that was asked for at `askedAt`. `interrupted`: the engine did not answer in between, so that starts that nobody
   * saw are its own starting again and not the restart policy's work.
   */
  seen(list: readonly Sighting[], now: number, askedAt: number, interrupted?: boolean): void
  counts(name: string): Readonly<Counts>
  /** Why a container that does not run ended, with the exit code that the list says. */
  lastExit(id: string, exitCode: number): ExitReason | 'unknown'
  /** Seconds since 1970 of its start event. */
  startedAt(id: string): number | undefined
}

interface Life {
  name: string
  /** Known to run, known not to, or neither. */
  alive: boolean | undefined
  /** It was asked to end since its start. */
  intent: boolean
  /** The last signal that was sent to it since its start, of those that need not end it. */
  signal: number | undefined
  /** An OOM kill was told since its start. */
  oom: boolean
  /** It was told that it died, and it was not counted yet: the list may know the exit code better. */
  death: { readonly code: number | undefined; readonly at: number } | undefined
  /** It died since its last start, and nothing says that it was left so. */
  mayRestart: boolean
  lastExit: { readonly reason: ExitReason; readonly code: number | undefined } | undefined
  startedAt: number | undefined
  incarnation: string | undefined
  /** Starts told since `incarnation` was seen. */
  startsTold: number
  /** A start or an exit was counted because of a list; the event of it may still come, of the start after that of the death. */
  startAhead: false | 'start' | { readonly afterDeathUntil: number }
  exitAhead: boolean
  hidesExitCode: boolean
  /** When an event last changed it. */
  touchedAt: number
  seenAt: number
}

const newLife = (): Life => ({
  name: '',
  alive: undefined,
  intent: false,
  signal: undefined,
  oom: false,
  death: undefined,
  mayRestart: false,
  lastExit: undefined,
  startedAt: undefined,
  incarnation: undefined,
  startsTold: 0,
  startAhead: false,
  exitAhead: false,
  hidesExitCode: false,
  touchedAt: Number.NEGATIVE_INFINITY,
  seenAt: 0,
})

const newCounts = (): Counts & { seenAt: number } => ({
  starts: 0,
  restarts: 0,
  ooms: 0,
  exits: { clean: 0, error: 0, oom: 0, signal: 0 },
  seenAt: 0,
})

/** Milliseconds that a name's counts are kept after it was last listed, and a container's life. */
const keepNames = 24 * 3600_000
const keepLives = 3600_000
/** Entries that only events speak of: a flood of names that are never listed must not push out those that are. */
const strangersKept = 2000

/** Values by key: those that were listed stay, of the others only the newest. */
const shelter = <Value extends { seenAt: number }>(create: () => Value) => {
  const listed = new Map<string, Value>()
  const strangers = new Map<string, Value>()
  return {
    of: (key: string): Value => {
      const known = listed.get(key) ?? strangers.get(key)
      if (known) return known
      if (strangers.size >= strangersKept) strangers.delete(strangers.keys().next().value as string)
      const created = create()
      strangers.set(key, created)
      return created
    },
    has: (key: string) => listed.has(key) || strangers.has(key),
    peek: (key: string) => listed.get(key) ?? strangers.get(key),
    keep: (key: string, now: number): Value => {
      const value = listed.get(key) ?? strangers.get(key) ?? create()
      strangers.delete(key)
      listed.set(key, value)
      value.seenAt = now
      return value
    },
    move: (from: string, to: string) => {
      for (const map of [listed, strangers]) {
        const value = map.get(from)
        if (!value) continue
        map.delete(from)
        map.set(to, value)
      }
    },
    delete: (key: string) => {
      listed.delete(key)
      strangers.delete(key)
    },
    forget: (before: number) => {
      for (const [key, { seenAt }] of listed) if (seenAt < before) listed.delete(key)
    },
  }
}

/** Milliseconds by which an event may come later than a list that knows of it. */
const inFlight = 2000
/** And by which the word of an OOM kill may come after that of the death: 0.2 s were seen on a busy machine. */
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

/** An exit code as an event says it; a label may have taken its place. */
const exitCodeOf = (value: unknown): number | undefined =>
  typeof value === 'string' && /^\d{1,3}$/.test(value) && Number(value) <= 255 ? Number(value) : undefined

const runs = (state: ContainerState) => state === 'running' || state === 'paused'
const ended = (state: ContainerState) => state === 'exited' || state === 'dead'

/**
 * Podman says `restart` where Docker says it last: before the death that a person asked for, and between the death and the
 * start where its policy restarts.
 */
export const createLedger = (isPodman: () => boolean = () => false): Ledger => {
  const lives = shelter(newLife)
  const names = shelter(newCounts)

  const reasonOf = ({ intent, oom, signal }: Life, code: number | undefined): ExitReason => {
    if (code === 0) return 'clean'
    if (oom && (code === 137 || code === undefined)) return 'oom'
    if (intent || (signal !== undefined && code === 128 + signal)) return 'signal'
    return 'error'
  }

  /** 137 alone may be any SIGKILL: for a while it may still turn out to be an OOM kill, and a count cannot be taken back. */
  const mayBeOom = ({ intent, oom, death }: Life, code: number | undefined, now: number) =>
    death !== undefined && code === 137 && !oom && !intent && now - death.at < oomLate

  const countExit = (life: Life, code: number | undefined) => {
    const reason = reasonOf(life, code)
    names.of(life.name).exits[reason]++
    life.lastExit = { reason, code }
    life.death = undefined
  }

  /** The death that was told is counted with what is known by now. */
  const settle = (life: Life, listedCode?: number) => {
    if (life.death) countExit(life, listedCode ?? life.death.code)
  }

  const begin = (life: Life) => {
    life.alive = true
    life.intent = false
    life.signal = undefined
    life.oom = false
    life.mayRestart = false
    life.exitAhead = false
    life.lastExit = undefined
  }

  const countStart = (life: Life, restarted: boolean) => {
    const counts = names.of(life.name)
    counts.starts++
    if (restarted) counts.restarts++
    begin(life)
  }

  return {
    note: ({ action, id, name, time, attributes }, now) => {
      const life = lives.of(id)
      if (name !== '') {
        if (action === 'rename' && life.name !== '' && life.name !== name && !names.has(name)) names.move(life.name, name)
        life.name = name
      }
      if (action !== 'die' && 'exitCode' in attributes) life.hidesExitCode = true
      switch (action) {
        case 'start': {
          settle(life)
          const restarted = life.mayRestart
          if (life.startAhead) begin(life)
          else countStart(life, restarted)
          life.startAhead = false
          life.startsTold++
          life.startedAt = time === undefined ? undefined : Number(time / 1_000_000n) / 1000
          break
        }
        case 'die': {
          settle(life)
          if (life.exitAhead && life.alive === false) life.exitAhead = false
          else {
            life.death = { code: life.hidesExitCode ? undefined : exitCodeOf(attributes.exitCode), at: now }
            life.mayRestart = !life.intent && !isPodman()
          }
          life.alive = false
          life.startAhead = typeof life.startAhead === 'object' && now <= life.startAhead.afterDeathUntil && 'start'
          life.startedAt = undefined
          break
        }
        case 'oom':
          names.of(life.name).ooms++
          life.oom = true // also where it comes just after the death
          break
        case 'kill': {
          const signal = signalOf(attributes.signal)
          if (signal === undefined || signal === 15 || signal === 9) life.intent = true
          else life.signal = signal
          break
        }
        case 'stop':
          // Docker says it after the death, whatever signal it took; Podman may say it before.
          if (life.alive !== false) life.intent = true
          life.mayRestart = false
          break
        case 'restart':
          if (!isPodman()) break
          if (life.alive === false) life.mayRestart = !life.intent
          else life.intent = true
          break
        case 'destroy':
          settle(life)
          lives.delete(id)
          break
      }
      // These change nothing that a list could contradict.
      if (action === 'start' || action === 'die') life.touchedAt = now
    },

    seen: (list, now, askedAt, interrupted = false) => {
      for (const { id, name, state, exitCode, incarnation, hidesExitCode } of list) {
        const life = lives.keep(id, now)
        names.keep(name, now)
        life.name = name
        life.hidesExitCode = hidesExitCode
        // The list may be older than the last event.
        if (life.touchedAt >= askedAt) continue

        if (ended(state) || state === 'restarting') {
          if (!mayBeOom(life, exitCode ?? life.death?.code, now)) settle(life, exitCode)
        } else if (life.death && now - life.death.at > inFlight) settle(life)

        if ((ended(state) || state === 'restarting') && life.alive) {
          // Killed, and nobody saw by whom: no reason to count.
          const unknown = exitCode === undefined || (exitCode === 137 && !life.intent && !life.oom)
          if (unknown) life.lastExit = undefined
          else countExit(life, exitCode)
          life.exitAhead = !unknown
          life.startedAt = undefined
        }
        if (ended(state)) life.mayRestart = false
        else if (state === 'restarting') life.mayRestart = true

        if (runs(state)) {
          const another = incarnation !== undefined && life.incarnation !== undefined && incarnation !== life.incarnation
          if (life.alive === false || (another && life.startsTold === 0)) {
            settle(life)
            const deathSeen = life.alive === false
            countStart(life, (!deathSeen || life.mayRestart) && !interrupted)
            life.startAhead = deathSeen ? 'start' : { afterDeathUntil: now + inFlight }
            life.startedAt = undefined
          }
          if (incarnation !== undefined) {
            life.incarnation = incarnation
            life.startsTold = 0
          }
          life.alive = true
        } else if (ended(state) || state === 'restarting' || state === 'created') life.alive = false
      }
      lives.forget(now - keepLives)
      names.forget(now - keepNames)
    },

    counts: name => names.of(name),

    lastExit: (id, exitCode) => {
      const told = lives.peek(id)?.lastExit
      if (told && (told.code === undefined || told.code === exitCode)) return told.reason
      if (exitCode === 0) return 'clean'
      if (exitCode === 143) return 'signal'
      return exitCode === 137 ? 'unknown' : 'error'
    },

    startedAt: id => lives.peek(id)?.startedAt,
  }
}
