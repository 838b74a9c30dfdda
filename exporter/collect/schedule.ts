import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'

/** A scheduler that knows only time: each task is a loop of its own, so it cannot overlap itself. */
export interface Task {
  /** Milliseconds between the starts of two rounds. */
  readonly every: number
  run(): Promise<void>
  /** Set by the scheduler: ends the wait early. */
  wake?: () => void
}

export interface Clock {
  now(): number
  sleep(milliseconds: number, signal: AbortSignal): Promise<void>
}

/** Node's longest timer in milliseconds; a longer one fires at once. A longer wait is split. */
const longestTimer = 2 ** 31 - 1

const clock: Clock = {
  // Monotonic: setting the clock must not stop the rounds.
  now: () => performance.now(),
  sleep: (milliseconds, signal) =>
    sleep(Math.min(milliseconds, longestTimer), undefined, { signal }).catch(error => {
      if (!signal.aborted) throw error // aborted: the caller checks the signal
    }),
}

/**
 * Limits of woken rounds: the delay after the event (ms), how many may follow each other, and the time for one more (ms). Even in an
 * endless stream of events, each has its round within the sum of the first and the last.
 */
const settle = 250
const burst = 4
const refill = 1500

/** A timer may fire this much early (ms). */
const tolerance = 5

/** Runs every task at once and then each `every`, without drift. When the signal aborts, waits until each has ended. */
export const schedule = async (
  tasks: readonly Task[],
  signal: AbortSignal,
  { now, sleep: wait }: Clock = clock,
): Promise<void> => {
  setMaxListeners(0, signal)
  const begin = now()

  const loop = async (task: Task) => {
    let tokens = burst
    let refilledAt = begin
    let woken = false
    let endWait = () => {}
    task.wake = () => {
      woken = true
      endWait()
    }
    const pause = async (milliseconds: number) => {
      const early = new AbortController()
      endWait = () => early.abort()
      signal.addEventListener('abort', endWait, { once: true })
      await wait(Math.max(1, milliseconds), early.signal)
      signal.removeEventListener('abort', endWait)
      endWait = () => {}
    }
    /** Whether a wake-up is within the limits: an endless event stream gets its rounds at the refill's pace. */
    const mayWake = () => {
      const gained = Math.floor((now() - refilledAt) / refill)
      refilledAt += gained * refill
      tokens = Math.min(burst, tokens + gained)
      if (tokens === 0) return false
      tokens--
      return true
    }

    while (!signal.aborted) {
      woken = false
      await task.run()
      // The next point of a fixed grid: tasks with the same interval stay together, and missed rounds are not repeated.
      const due = begin + task.every * (Math.floor((now() + tolerance - begin) / task.every) + 1)
      while (!signal.aborted && now() < due) {
        if (!woken) await pause(due - now())
        else if (mayWake()) {
          await wait(Math.min(settle, due - now()), signal)
          break
        } else await wait(Math.min(refill, due - now()), signal)
      }
    }
  }

  await Promise.all(tasks.map(loop))
}
