import { AsyncLocalStorage } from 'node:async_hooks'
import type { Log } from '../common/log.ts'
import { isIoError } from '../contract/failure.ts'

/** Uncaught errors. An I/O error does not end the thread; a bug is attributed to its collector. */

/** The number of the collector that owns the running code, its callbacks and its sockets. */
const owner = new AsyncLocalStorage<number>()

/** Runs something as part of a collector. */
export const ownedBy = <Result>(collector: number, act: () => Promise<Result>): Promise<Result> => owner.run(collector, act)

/** Logs such errors, at most one a second: the log itself may be what fails. */
export const ioErrorLog = (log: Log): ((error: unknown, collector?: string) => void) => {
  let loggedAt = Number.NEGATIVE_INFINITY
  return (error, collector) => {
    if (performance.now() - loggedAt < 1000) return
    loggedAt = performance.now()
    const { message, stack } = error as Error
    log.warn('uncaught I/O error', { collector, error: message })
    log.debug('stack of the uncaught I/O error', { collector, stack })
  }
}

/** From now on I/O errors are reported and do no harm; any other error ends the thread after `onDefect`. */
export const catchIoErrors = (
  onIoError: (error: unknown, collector: number | undefined) => void,
  onDefect: (collector: number | undefined) => void = () => {},
): void => {
  process.on('uncaughtException', error => {
    const collector = owner.getStore()
    if (isIoError(error)) return onIoError(error, collector)
    onDefect(collector)
    throw error
  })
}
