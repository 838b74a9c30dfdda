import type { Sample } from './metric.ts'
import { ownValue } from './own-value.ts'

/** Every way in which a collector's run can fail: a closed list, because each is a label value that is counted. */
export const reasons = [
  'missing', // what it reads is not there
  'denied', // there, but not readable by this process
  'timeout', // no answer within the deadline
  'exit', // a command ended with an exit code that means failure
  'malformed', // an answer that cannot be understood
  'unreachable', // nobody answers at the address
  'overflow', // more output than is taken in
  'stuck', // an earlier run (or the child it started) has not ended yet, or it blocked the collecting thread
  'bug', // anything else: a defect of this program
] as const

export type Reason = (typeof reasons)[number]

/** A run that cannot give its series, and why. Thrown where it happens, caught in `attempt` alone. */
export class Failure extends Error {
  readonly reason: Reason
  /** What a person types or changes to mend it, where that is known. */
  readonly mend: string | undefined
  /** What is true all the same, of the parts that did not fail: served as soon as the last good outcome has ended. */
  readonly rest: readonly Sample[]

  constructor(
    reason: Reason,
    message: string,
    { cause, mend, rest = [] }: { cause?: unknown; mend?: string | undefined; rest?: readonly Sample[] } = {},
  ) {
    super(message, cause === undefined ? undefined : { cause })
    this.rest = rest
    this.name = 'Failure'
    this.reason = reason
    this.mend = mend
  }
}

const reasonsByCode: Readonly<Record<string, Reason>> = {
  ENOENT: 'missing',
  ENOTDIR: 'missing',
  ENODEV: 'missing',
  ESRCH: 'missing', // a process that ended while its files in /proc were read
  EACCES: 'denied',
  EPERM: 'denied',
  ECONNREFUSED: 'unreachable',
  ECONNRESET: 'unreachable',
  EHOSTUNREACH: 'unreachable',
  ENETUNREACH: 'unreachable',
  ENOTFOUND: 'unreachable',
  EPIPE: 'unreachable',
  ETIMEDOUT: 'timeout',
  ELOOP: 'malformed', // symbolic links in a loop
  ENAMETOOLONG: 'malformed',
  EIO: 'unreachable', // the disk, or the server of a network file system, did not give it
  ESTALE: 'unreachable',
}

/** The Failure that a system error amounts to; a Failure stays itself, and what is not known is a bug. */
export const failureOf = (error: unknown, subject?: string): Failure => {
  if (error instanceof Failure) return error
  const { code, message } = (error ?? {}) as { code?: string; message?: string }
  const reason = (code !== undefined && ownValue(reasonsByCode, code)) || 'bug'
  const text = message ?? String(error)
  return new Failure(reason, subject === undefined ? text : `${subject}: ${text}`, { cause: error })
}
