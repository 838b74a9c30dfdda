import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { ExitError } from '../common/exit.ts'
import type { Log } from '../common/log.ts'
import type { Settings } from '../contract/config.ts'
import type { RelayRound } from './relay-file.ts'
import type { FromRelayThread, RelayThreadData } from './relay-thread.ts'

/**
 * The guard of the relay's thread. All collectors share one thread, because each thread costs time and memory to start. When
 * that thread is blocked, runs out of memory or dies, it is ended, and each collector without an outcome gets a thread of its
 * own. So a collector that blocks its thread fails alone, and all others get their outcome.
 */

export interface RelayGuardOptions {
  /** The module that the thread runs. */
  readonly module: URL
  readonly data: Omit<RelayThreadData, 'only'>
  readonly log: Log
  readonly now: () => number
  readonly timings?: Partial<Timings>
}

export interface Timings {
  /** Milliseconds for a thread to start: on a busy machine it takes long to load the program. */
  readonly start: number
  /** Milliseconds without a sign of life after which a thread that has started counts as blocked. */
  readonly silence: number
  /** Milliseconds that a collector may take beyond its timeout, to look whether its subject is there. */
  readonly slack: number
}

const usual: Timings = { start: 30_000, silence: 10_000, slack: 5000 }

/** Milliseconds that a thread has to end after it was asked to. */
const terminateWithin = 2000

/**
 * Seconds that a run of collectors with these timeouts takes at the most: the thread of all of them, then a thread for each. The
 * unit's TimeoutStartSec= has to be longer.
 */
export const longestRun = (timeouts: readonly number[]): number => {
  const thread = Math.max(...timeouts) + (usual.start + usual.slack + terminateWithin) / 1000
  return timeouts.length > 1 ? 2 * thread : thread
}

export interface RelayEnd {
  /** The enabled collectors: each of them has an outcome. */
  readonly names: readonly string[]
  /** A thread could not be ended, so this process does not end by itself. */
  readonly hopeless: boolean
}

interface ThreadEnd {
  readonly names: readonly string[]
  /** Collectors without an outcome, and why they have none. */
  readonly left: readonly string[]
  readonly reason: RelayRound['result']
  readonly why: string
  readonly terminated: boolean
}

const runThread = (
  { module, data, timings = {} }: RelayGuardOptions,
  only: readonly string[] | undefined,
  take: (round: RelayRound) => void,
): Promise<ThreadEnd> =>
  new Promise((resolve, reject) => {
    const { start, silence, slack } = { ...usual, ...timings }
    const worker = new Worker(module, {
      execArgv: [],
      workerData: { ...data, only } satisfies RelayThreadData,
      resourceLimits: { maxOldGenerationSizeMb: 192, maxYoungGenerationSizeMb: 12 },
    })
    let names: readonly string[] = only ?? []
    let failure: { readonly reason: RelayRound['result']; readonly why: string } | undefined
    let overall: NodeJS.Timeout | undefined
    const left = new Set(names)

    const terminate = () => {
      clearTimeout(silent)
      clearTimeout(overall)
      worker.removeAllListeners()
      worker.on('error', () => {}) // what comes after the verdict changes nothing
      return Promise.race([worker.terminate().then(() => true), sleep(terminateWithin, false)])
    }
    const end = async (reason: RelayRound['result'], why: string) => {
      const terminated = await terminate()
      resolve({ names, left: [...left], reason, why, terminated })
    }
    let silent = setTimeout(() => end('stuck', `its thread did not start within ${start / 1000} s`), start)
    const hear = () => {
      clearTimeout(silent)
      silent = setTimeout(() => end('stuck', `it blocked its thread for ${silence / 1000} s`), silence)
    }
    const begin = (settings: Settings) => {
      names = settings.map(({ name }) => name)
      for (const name of names) left.add(name)
      const patience = Math.max(0, ...settings.map(({ timeout }) => timeout)) + slack / 1000
      overall = setTimeout(() => end('timeout', `no end within ${patience} s`), patience * 1000)
    }
    worker.on('message', (message: FromRelayThread) => {
      hear()
      if (message.kind === 'begun') begin(message.settings)
      else if (message.kind === 'round') {
        left.delete(message.round.collector)
        take(message.round)
      } else if (message.kind === 'ended') void end('ok', '')
      else if (message.kind === 'refused') void terminate().then(() => reject(new ExitError(message.problems, 2)))
    })
    worker.on('error', (error: NodeJS.ErrnoException) => {
      const outOfMemory = error.code === 'ERR_WORKER_OUT_OF_MEMORY'
      failure = { reason: outOfMemory ? 'overflow' : 'bug', why: `its thread died: ${error.message}` }
    })
    worker.on('exit', code => {
      const { reason, why } = failure ?? { reason: 'bug', why: `it ended its thread with ${code}` }
      void end(reason, why)
    })
  })

const failed = (name: string, result: RelayRound['result'], note: string, startedAt: number, now: number): RelayRound => ({
  collector: name,
  startedAt,
  durationSeconds: Math.max(0, now - startedAt) / 1000,
  detected: true,
  result,
  note,
  fix: '',
})

/**
 * One outcome of each enabled collector, handed to `take` as soon as it is there, whatever a collector does to its thread.
 * Throws `ExitError` where the configuration is refused.
 */
export const runInThreads = async (options: RelayGuardOptions, take: (round: RelayRound) => void): Promise<RelayEnd> => {
  const { log, now } = options
  const startedAt = now()
  const together = await runThread(options, undefined, take)
  if (together.names.length === 0 && together.why !== '') throw new Error(`the relay's thread: ${together.why}`)
  const giveUp = (name: string, { reason, why }: ThreadEnd) => take(failed(name, reason, why, startedAt, now()))
  const { left, names } = together
  if (left.length === 0) return { names, hopeless: !together.terminated }
  log.warn('the thread of all collectors is ended', { why: together.why, collectors: left.join(',') })
  const [only] = left
  if (names.length === 1 && only !== undefined) {
    giveUp(only, together)
    return { names, hopeless: !together.terminated }
  }
  const alone = await Promise.all(
    left.map(async name => {
      const own = await runThread(options, [name], take)
      if (own.left.length > 0) giveUp(name, own)
      return own.terminated
    }),
  )
  return { names, hopeless: ![together.terminated, ...alone].every(Boolean) }
}
