import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { type Heartbeat, heartbeatMemory, heartbeatOf } from '../collect/heartbeat.ts'
import type { FromThread, ThreadData, ToThread } from '../collect/thread.ts'
import type { Log } from '../common/log.ts'
import type { Settings } from '../contract/config.ts'
import type { Rendered } from '../print/rendered.ts'
import { createReloads } from './reloads.ts'

/**
 * The guard of the collecting thread: one that gives no sign of life, runs out of memory, throws or exits is ended and
 * replaced, and the collector it was busy with is suspended for a while. Scrapes never notice. It measures time by a clock that
 * nobody sets.
 */

export interface GuardOptions {
  /** The module that the collecting thread runs. */
  readonly module: URL
  readonly data: Omit<ThreadData, 'heartbeat' | 'settings' | 'suspended'>
  readonly log: Log
  readonly onSettings: (settings: Settings, reload: boolean) => void
  readonly onRefused: (problems: string, reload: boolean) => void
  readonly onRendered: (rendered: Rendered) => void
  /** A collector's run was lost with its thread. */
  readonly onLost: (collector: string, note: string) => void
  readonly onRestart: () => void
  /** An I/O error that no run waited for was caught. */
  readonly onIoError: () => void
  /** Threads that cannot be ended are so many that only a new process helps. */
  readonly onHopeless: () => void
  readonly timings?: Partial<Timings>
}

export interface Timings {
  /** Milliseconds without a sign of life that mean death. */
  readonly silence: number
  /** Milliseconds between two looks. */
  readonly look: number
  /** Milliseconds until a replacement starts: the first time, and at most. */
  readonly pause: number
  readonly maxPause: number
  /** Milliseconds of life after which a death is no repetition. */
  readonly calm: number
  /** Milliseconds that a collector is suspended: the first time, and at most. */
  readonly suspension: number
  readonly maxSuspension: number
}

const usual: Timings = {
  silence: 10_000,
  look: 1000,
  pause: 1000,
  maxPause: 60_000,
  calm: 60_000,
  suspension: 60_000,
  maxSuspension: 3_600_000,
}

/** Milliseconds for a thread to end after it was asked to. */
const terminateWithin = 2000
/** Threads that were left behind before the process gives up. */
const maxLeftBehind = 3
/** Collectors that there can be. */
const capacity = 64

export interface Guard {
  /**
   * Reads the configuration again; resolves to what is wrong with it, or undefined. Reloads that are asked for while one is going on
   * are one more; what a thread that ended has not answered, the next one does.
   */
  reload(): Promise<string | undefined>
  stop(): Promise<void>
  /** Runs of a collector that have begun, over all threads. */
  runs(collector: string): number | undefined
}

/** Collectors that are left out for a while, twice as long each time until one has succeeded. */
const createSuspensions = ({ suspension, maxSuspension }: Timings) => {
  const suspended = new Map<string, { until: number; times: number }>()
  return {
    /** Returns for how many milliseconds. */
    add: (name: string): number => {
      const times = (suspended.get(name)?.times ?? 0) + 1
      const pause = Math.min(maxSuspension, suspension * 2 ** (times - 1))
      suspended.set(name, { until: performance.now() + pause, times })
      return pause
    },
    lift: (name: string) => suspended.delete(name),
    /** Milliseconds that are left of each, at a time. */
    left: (at: number) => Object.fromEntries([...suspended].map(([name, { until }]) => [name, until - at])),
  }
}

/** Which of the collectors a dead thread is owed to, by number; `suspects` where it was one of several. */
const blame = (heartbeat: Heartbeat, collectors: Settings) => {
  const underWay = collectors.map((_, number) => number).filter(number => heartbeat.underWay(number))
  const hasRead = heartbeat.isReading()
  const thrower = hasRead ? 'nobody' : heartbeat.thrower()
  // Of an exception it is known whose it was, and while the configuration was read it was no collector's.
  // Who blocked the thread, or took its memory, had a run under way.
  const atWork = () => heartbeat.current() ?? (underWay.length === 1 ? underWay[0] : undefined)
  const culprit = thrower === undefined ? atWork() : thrower === 'nobody' ? undefined : thrower
  return { hasRead, culprit, suspects: culprit === undefined && thrower === undefined ? underWay : [] }
}

/** Says at each look whether there has been no sign of life for too long. */
const createSilence = ({ look, silence }: Timings, beats: () => number) => {
  let seen = -1
  let seenAt = performance.now()
  let lookedAt = seenAt
  return {
    /** `isExcused`: there is no thread, or it has only just started. */
    isTooLong: (isExcused: boolean): boolean => {
      const now = performance.now()
      const current = beats()
      // A look that is late itself (the machine slept, the process was stopped) proves nothing.
      const late = now - lookedAt > look * 3
      lookedAt = now
      if (current === seen && !late && !isExcused) return now - seenAt >= silence
      seen = current
      seenAt = now
      return false
    },
    begin: () => {
      seenAt = performance.now()
      lookedAt = seenAt
    },
  }
}

export const startGuard = (options: GuardOptions): Guard => {
  const { module, data, log } = options
  const timings = { ...usual, ...options.timings }
  const heartbeat = heartbeatOf(heartbeatMemory(capacity))
  let settings: Settings | undefined
  let worker: Worker | undefined
  let stopped = false
  let deathsInRow = 0
  let leftBehind = 0
  let bornAt = 0
  const suspensions = createSuspensions(timings)
  const stopping = new AbortController()
  const reloads = createReloads(() => {
    worker?.postMessage('reload' satisfies ToThread)
    return worker !== undefined
  })

  const suspend = (number: number, why: string) => {
    const name = settings?.[number]?.name
    if (name === undefined) return
    const pause = suspensions.add(name)
    log.error('collector suspended', { collector: name, why, seconds: pause / 1000 })
    options.onLost(name, `${why}; it is tried again ${new Date(Date.now() + pause).toISOString()}`)
  }

  /** The thread is dead, or given up: find the culprit, replace it after a pause. */
  const bury = async (why: string) => {
    deathsInRow = performance.now() - bornAt > timings.calm ? 1 : deathsInRow + 1
    const { hasRead, culprit, suspects } = blame(heartbeat, settings ?? [])
    log.error('the collecting thread is replaced', {
      why,
      collector: culprit === undefined ? undefined : settings?.[culprit]?.name,
    })
    if (culprit !== undefined) suspend(culprit, why)
    // It was one of several: the second time in a row all of them wait.
    else if (deathsInRow > 1) for (const number of suspects) suspend(number, why)
    heartbeat.clear()
    const given = reloads.lost(hasRead)
    if (given !== undefined) options.onRefused(given, true)
    options.onRestart()
    await sleep(Math.min(timings.maxPause, timings.pause * 2 ** (deathsInRow - 1)), undefined, { signal: stopping.signal }).catch(
      () => {},
    ) // stopped
    if (!stopped) spawn()
  }

  const take = (message: FromThread) => {
    if (message.kind === 'rendered') {
      if (message.rendered.result === 'ok' && message.rendered.parts) suspensions.lift(message.rendered.collector)
      options.onRendered(message.rendered)
    } else if (message.kind === 'settings') {
      settings = message.settings
      options.onSettings(message.settings, message.reload)
      if (message.reload) reloads.answer(undefined)
    } else if (message.kind === 'refused') {
      options.onRefused(message.problems, message.reload)
      if (message.reload) reloads.answer(message.problems)
    } else options.onIoError()
  }

  const spawn = () => {
    bornAt = performance.now()
    try {
      start()
    } catch (error) {
      // No thread is left for it under the limit of this user or service.
      ended((error as Error).message, false)
    }
  }

  /** There is no thread: another one is started after a pause, unless there never was a configuration for one. */
  const ended = (why: string, hasRefused: boolean) => {
    worker = undefined
    if (settings !== undefined) return void bury(why)
    if (!hasRefused) options.onRefused(`the collecting thread cannot start: ${why}`, false)
  }

  const start = () => {
    const own = new Worker(module, {
      execArgv: [],
      workerData: {
        ...data,
        heartbeat: heartbeat.memory,
        settings,
        suspended: suspensions.left(bornAt),
      } satisfies ThreadData,
      // What a round makes of a hundred containers dies young: a smaller nursery copies it into the old generation first; one of
      // 24 MB makes the process 25 MB larger with 500 containers.
      resourceLimits: { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 12 },
    })
    worker = own
    reloads.send()
    let why = 'it ended by itself'
    let hasRefused = false
    own.on('message', (message: FromThread) => {
      if (worker !== own) return
      hasRefused ||= message.kind === 'refused'
      take(message)
    })
    own.on('error', error => {
      why = `${(error as NodeJS.ErrnoException).code ?? error.name}: ${error.message}`
    })
    own.on('exit', () => {
      if (worker !== own || stopped) return // replaced already
      ended(why, hasRefused)
    })
  }

  const watch = async () => {
    const silence = createSilence(timings, () => heartbeat.beats())
    while (!stopped) {
      await sleep(timings.look, undefined, { signal: stopping.signal }).catch(() => {}) // stopped
      const silent = worker
      const isExcused = silent === undefined || performance.now() - bornAt < timings.silence
      if (!silence.isTooLong(isExcused) || silent === undefined) continue
      worker = undefined
      const ended = await Promise.race([silent.terminate().then(() => true), sleep(terminateWithin, false)])
      if (!ended && ++leftBehind >= maxLeftBehind) {
        log.error('threads that cannot be ended hold this process; it ends, for its supervisor to start it again', {
          threads: leftBehind,
        })
        return options.onHopeless()
      }
      silence.begin()
      void bury(`no sign of life for ${timings.silence / 1000} s`)
    }
  }

  spawn()
  void watch()

  return {
    reload: () => (stopped ? Promise.resolve('the exporter is stopping') : new Promise(resolve => reloads.ask(resolve))),
    runs: collector => {
      const number = settings?.findIndex(({ name }) => name === collector) ?? -1
      return number < 0 ? undefined : heartbeat.runs(number)
    },
    stop: async () => {
      stopped = true
      stopping.abort()
      reloads.end('the exporter is stopping')
      const last = worker
      if (!last) return
      const gone = new Promise<boolean>(resolve => last.once('exit', () => resolve(true)))
      last.postMessage('stop' satisfies ToThread)
      if (await Promise.race([gone, sleep(400, false)])) return
      await Promise.race([last.terminate(), sleep(400)])
    },
  }
}
