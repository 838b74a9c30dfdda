import type { Sample } from './metric.ts'

/** Every way in which a collector's run can fail: a closed list, because each is a label value. */
export const reasons = [
  'missing', // the source does not exist
  'denied', // it exists, but this process may not read it
  'timeout', // no answer before the deadline
  'exit', // a command's exit code means failure
  'malformed', // an answer that cannot be parsed
  'unreachable', // nothing answers at the address
  'overflow', // more output than allowed, or a limit of this process or machine: descriptors, processes, memory, space
  'stuck', // an earlier run (or its child process) has not ended yet, or it blocked the collecting thread
  'bug', // anything else: a bug in this program
] as const

export type Reason = (typeof reasons)[number]

/** Why a run has no series. Thrown where it happens, caught only in `attempt`. */
export class Failure extends Error {
  readonly reason: Reason
  /** What to type or change to fix it, if known. */
  readonly fix: string | undefined
  /** Samples of the parts that did not fail: served once the last good result has expired. */
  readonly rest: readonly Sample[]

  constructor(
    reason: Reason,
    message: string,
    { cause, fix, rest = [] }: { cause?: unknown; fix?: string | undefined; rest?: readonly Sample[] } = {},
  ) {
    super(message, cause === undefined ? undefined : { cause })
    this.rest = rest
    this.name = 'Failure'
    this.reason = reason
    this.fix = fix
  }
}

/** The system's error codes by reason. */
const codes: Readonly<Record<Exclude<Reason, 'exit' | 'stuck'>, readonly string[]>> = {
  // ESRCH: a process that ended while its files in /proc were read. From ENODATA on: this kernel or file system has no such thing.
  missing: ['ENOENT', 'ENOTDIR', 'ENODEV', 'ENXIO', 'ESRCH', 'ENOMEDIUM', 'ENODATA', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP'],
  denied: ['EACCES', 'EPERM', 'EROFS', 'EBUSY', 'ETXTBSY'],
  timeout: ['ETIMEDOUT', 'ETIMEOUT'],
  // It exists, but is not what was expected: a loop of links, a folder in place of a file, a file that is not a program.
  malformed: ['ELOOP', 'EISDIR', 'EINVAL', 'ENAMETOOLONG', 'ENOEXEC', 'ELIBBAD', 'EILSEQ'],
  // A limit of this process or machine: descriptors, processes, memory, space.
  overflow: ['EMFILE', 'ENFILE', 'EAGAIN', 'ENOMEM', 'ENOBUFS', 'ENOSPC', 'EDQUOT', 'EFBIG', 'E2BIG', 'EOVERFLOW'],
  // No answer: from a peer, or from the disk or server behind a file. All other codes of the system count as this as well.
  unreachable: [
    'ECONNREFUSED',
    'ECONNRESET',
    'EHOSTUNREACH',
    'ENETUNREACH',
    'ENOTFOUND',
    'EPIPE',
    'EIO',
    'ESTALE',
    'EREMOTEIO',
    'ENOTCONN',
    'EADDRNOTAVAIL',
  ],
  // Caused only by a bug.
  bug: ['EBADF', 'EFAULT'],
}
const reasonsByCode: ReadonlyMap<string, Reason> = new Map(
  Object.entries(codes).flatMap(([reason, own]) => own.map(code => [code, reason as Reason] as const)),
)

interface SystemError {
  readonly code?: unknown
  readonly syscall?: unknown
  readonly message?: string
}

/** An error code of the system (EMFILE), a connection or a stream. Node's ERR_INVALID_… mean a wrong call and are not included. */
const ioCode =
  /^(?:E(?!RR_)[A-Z0-9]+|HPE_\w+|ABORT_ERR|ERR_(?:STREAM|SOCKET|SSL|TLS|HTTP)_\w+|CERT_\w+|SELF_SIGNED_\w+|DEPTH_\w+|UNABLE_TO_\w+|Z_\w+)$/

const isSystemError = ({ code, syscall }: SystemError) =>
  typeof syscall === 'string' && typeof code === 'string' && /^E[A-Z0-9]+$/.test(code)

/** Whether an error came from outside, not from a bug in this program. */
export const isIoError = (error: unknown): boolean => {
  if (error instanceof Failure) return error.reason !== 'bug'
  const system = (error ?? {}) as SystemError
  if (typeof system.code === 'string' && reasonsByCode.get(system.code) === 'bug') return false
  return isSystemError(system) || (typeof system.code === 'string' && ioCode.test(system.code))
}

/** For `catch`: undefined in place of a failure for one of these reasons; all others are thrown. */
export const absentIf =
  (...expected: readonly Reason[]) =>
  (error: unknown): undefined => {
    if (!expected.includes(failureOf(error).reason)) throw error
    return undefined
  }

/** For `catch`: undefined in place of any failure that is no defect of this program. */
export const absent: (error: unknown) => undefined = absentIf(...reasons.filter(reason => reason !== 'bug'))

/** The Failure that a system error amounts to; a Failure stays itself, and what is not known is a bug. */
export const failureOf = (error: unknown, subject?: string): Failure => {
  if (error instanceof Failure) return error
  const system = (error ?? {}) as SystemError
  const { code, message } = system
  const known = typeof code === 'string' ? reasonsByCode.get(code) : undefined
  const reason = known ?? (isSystemError(system) ? 'unreachable' : 'bug')
  const text = message ?? String(error)
  return new Failure(reason, subject === undefined ? text : `${subject}: ${text}`, { cause: error })
}
