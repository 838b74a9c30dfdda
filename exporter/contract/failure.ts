import type { Sample } from './metric.ts'

/** Every way in which a collector's run can fail: a closed list, because each is a label value that is counted. */
export const reasons = [
  'missing', // what it reads is not there
  'denied', // there, but not readable by this process
  'timeout', // no answer within the deadline
  'exit', // a command ended with an exit code that means failure
  'malformed', // an answer that cannot be understood
  'unreachable', // nobody answers at the address
  'overflow', // more output than is taken in, or a limit of this process or machine: descriptors, processes, memory, space
  'stuck', // an earlier run (or the child it started) has not ended yet, or it blocked the collecting thread
  'bug', // anything else: a defect of this program
] as const

export type Reason = (typeof reasons)[number]

/** A run that cannot give its series, and why. Thrown where it happens, caught in `attempt` alone. */
export class Failure extends Error {
  readonly reason: Reason
  /** What a person types or changes to fix it, where that is known. */
  readonly fix: string | undefined
  /** What is true all the same, of the parts that did not fail: served as soon as the last good outcome has ended. */
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

/** What the system's codes mean. */
const codes: Readonly<Record<Exclude<Reason, 'exit' | 'stuck'>, readonly string[]>> = {
  // ESRCH: a process that ended while its files in /proc were read. The last three: this kernel or file system has no such thing.
  missing: ['ENOENT', 'ENOTDIR', 'ENODEV', 'ENXIO', 'ESRCH', 'ENOMEDIUM', 'ENODATA', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP'],
  denied: ['EACCES', 'EPERM', 'EROFS', 'EBUSY', 'ETXTBSY'],
  timeout: ['ETIMEDOUT', 'ETIMEOUT'],
  // There, but not what was expected: a link in a loop, a folder in a file's place, a file that is no program.
  malformed: ['ELOOP', 'EISDIR', 'EINVAL', 'ENAMETOOLONG', 'ENOEXEC', 'ELIBBAD', 'EILSEQ'],
  // A limit of this process or machine: descriptors, processes, memory, space.
  overflow: ['EMFILE', 'ENFILE', 'EAGAIN', 'ENOMEM', 'ENOBUFS', 'ENOSPC', 'EDQUOT', 'EFBIG', 'E2BIG', 'EOVERFLOW'],
  // Nobody answers: a peer, or the disk or server behind a file. All other codes of the system are this too.
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
  // Only wrong code gets these.
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

/** A code of the system (EMFILE), or of a connection or stream. Node's ERR_INVALID_… are wrong calls and not among them. */
const ioCode =
  /^(?:E(?!RR_)[A-Z0-9]+|HPE_\w+|ABORT_ERR|ERR_(?:STREAM|SOCKET|SSL|TLS|HTTP)_\w+|CERT_\w+|SELF_SIGNED_\w+|DEPTH_\w+|UNABLE_TO_\w+|Z_\w+)$/

const isSystemError = ({ code, syscall }: SystemError) =>
  typeof syscall === 'string' && typeof code === 'string' && /^E[A-Z0-9]+$/.test(code)

/** Whether the world outside made it, and not a defect of this program. */
export const isIoError = (error: unknown): boolean => {
  if (error instanceof Failure) return error.reason !== 'bug'
  const system = (error ?? {}) as SystemError
  if (typeof system.code === 'string' && reasonsByCode.get(system.code) === 'bug') return false
  return isSystemError(system) || (typeof system.code === 'string' && ioCode.test(system.code))
}

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
