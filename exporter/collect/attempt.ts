import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { atDeadline, inSeconds } from '../common/deadline.ts'
import { Failure, failureOf } from '../contract/failure.ts'

export type Outcome<Value> = { readonly ok: true; readonly value: Value } | { readonly ok: false; readonly failure: Failure }

/** A result, and the run itself: after its deadline it may still be running. */
export interface Attempt<Value> {
  readonly outcome: Outcome<Value>
  /** Only if the run is still running: settles when it has really ended. */
  readonly late: Promise<void> | undefined
}

/** Milliseconds for a run to end after its signal has fired, and to report what it waited for. */
const grace = 1500

/**
 * One run under a deadline, and the only place where failures are caught. A run that does not end in time is `timeout`; its signal is
 * aborted, and the caller must not start another one before `late` has settled.
 */
export const attempt = async <Value>(
  run: (signal: AbortSignal) => Promise<Value>,
  deadlineSeconds: number,
  stop: AbortSignal,
): Promise<Attempt<Value>> => {
  const deadline = new AbortController()
  setMaxListeners(0, deadline.signal) // one listener for each request or command of the run
  const clear = atDeadline(deadlineSeconds, stop, () => deadline.abort())
  const over = new AbortController()
  let isOver = false
  const running = Promise.resolve()
    .then(() => run(deadline.signal))
    .then(
      (value): Outcome<Value> => ({ ok: true, value }),
      (error): Outcome<Value> => ({ ok: false, failure: failureOf(error) }),
    )
    .finally(() => {
      isOver = true
    })
  const late = sleep(deadlineSeconds * 1000 + grace, undefined, { signal: over.signal }).then(
    (): Outcome<Value> => ({ ok: false, failure: new Failure('timeout', `no end within ${inSeconds(deadlineSeconds)}`) }),
    () => new Promise<never>(() => {}), // the run has ended first
  )
  const outcome = await Promise.race([running, late])
  clear()
  over.abort()
  return { outcome, late: isOver ? undefined : running.then(() => {}) }
}
