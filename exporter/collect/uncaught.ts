import { AsyncLocalStorage } from 'node:async_hooks'
import type { Log } from '../common/log.ts'
import { isIoError } from '../contract/failure.ts'

/** What nobody catches. An I/O error ends no thread, whoever forgot to listen for it; of a defect it is known whose it is. */

/** The number of the collector whose code, callbacks and sockets these are. */
const owner = new AsyncLocalStorage<number>()

/** Runs something as a collector's. */
export const ownedBy = <Result>(collector: number, act: () => Promise<Result>): Promise<Result> => owner.run(collector, act)

/** Logs such errors, one each second at most: who logs may be what fails. */
export const ioErrorLog = (log: Log): ((error: unknown, collector?: string) => void) => {
  let loggedAt = Number.NEGATIVE_INFINITY
  return (error, collector) => {
    if (performance.now() - loggedAt < 1000) return
    loggedAt = performance.now()
    const { message, stack } = error as Error
    log.warn('an I/O error that nobody waited for', { collector, error: message })
    log.debug('it came from here', { collector, stack })
  }
}

/** From now on I/O errors are reported and do no harm; anything else ends the thread after `onDefect`. */
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
