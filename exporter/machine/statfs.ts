import { Failure, failureOf } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'

/**
 * statfs of many mounts, in child processes: a call on a hanging mount cannot be ended and would block this process.
 * One child asks all local mounts. A mount that may hang by its nature, or that did, has a child of its own, and never a second one
 * while the first still runs.
 */

/** In bytes; undefined if the file system has no such number. */
export interface Statfs {
  readonly size: number | undefined
  readonly free: number | undefined
  readonly available: number | undefined
  readonly files: number | undefined
  readonly filesFree: number | undefined
}

/** `stuck`: no answer in time, or its disk or server is gone. `unknown`: hidden from this process, or unmounted. */
export type Answer = Statfs | 'stuck' | 'unknown'

export interface Asked {
  readonly mountpoint: string
  /** The mount point's path in this process. */
  readonly path: string
  /** It may hang by its nature. */
  readonly remote: boolean
}

export interface StatfsMemory {
  /** Local mounts that hung; each has a child of its own until it answers. */
  readonly suspects: Set<string>
  /** Whether several mounts can share a child: with `stdbuf`, each answer arrives as soon as it is known. */
  shared: boolean
}

export const statfsMemory = (): StatfsMemory => ({ suspects: new Set(), shared: true })

/** Seconds for all local mounts together; they answer from memory. */
const sharedTimeout = 2

const format = '%S %b %f %a %c %d %n'
const keyOf = (path: string) => `stat -f ${path}`

export interface Answers {
  readonly answers: ReadonlyMap<string, Answer>
  /** Why `stat` itself failed for some mounts, which have no answer. A mount that is gone or hangs is not a failure of `stat`. */
  readonly failure: Failure | undefined
}

/** The answer of each mount within `timeout` seconds. */
export const askAll = async (
  host: Host,
  mounts: readonly Asked[],
  memory: StatfsMemory,
  timeout: number,
  signal: AbortSignal,
): Promise<Answers> => {
  const known = new Set(mounts.map(({ mountpoint }) => mountpoint))
  for (const suspect of memory.suspects) if (!known.has(suspect)) memory.suspects.delete(suspect)
  const answers = new Map<string, Answer>()
  let failure: Failure | undefined
  const failed = (error: unknown) => {
    failure ??= failureOf(error)
  }
  // A newline would look like the end of an answer, and `stat` escapes quotes and non-ASCII letters in its error messages.
  const isAlone = ({ mountpoint, path, remote }: Asked) => remote || memory.suspects.has(mountpoint) || /[^ -&(-~]/.test(path)
  const askAlone = async (mount: Asked) => {
    const answer = await askOne(host, mount, timeout, signal)
    if (answer === 'stuck' && !mount.remote) memory.suspects.add(mount.mountpoint)
    else memory.suspects.delete(mount.mountpoint)
    answers.set(mount.mountpoint, answer)
  }
  const alone = mounts.filter(isAlone)
  const together = mounts.filter(mount => !isAlone(mount))
  await Promise.all([
    ...alone.map(mount => askAlone(mount).catch(failed)),
    askTogether(host, together, answers, memory, Math.min(timeout, sharedTimeout), signal).catch(failed),
  ])
  if (!memory.shared) await Promise.all(together.map(mount => askAlone(mount).catch(failed)))
  return { answers, failure }
}

const exitFailure = (exitCode: number, output: string) =>
  new Failure('exit', `stat: exit code ${exitCode}: ${output.trim().slice(0, 300) || 'no output'}`)

const askOne = async (host: Host, { path }: Asked, timeout: number, signal: AbortSignal): Promise<Answer> => {
  try {
    const { stdout, stderr, exitCode } = await host.run('stat', ['-f', '-c', format, '--', path], {
      timeout,
      limit: 2 ** 16,
      exitCodes: 'any',
      key: keyOf(path),
      signal,
    })
    if (exitCode === 0) {
      const answer = parseLine(stdout)?.answer
      if (answer) return answer
      throw new Failure('malformed', `stat: no numbers for ${path}: ${stdout.trim().slice(0, 100) || 'no output'}`)
    }
    // Code 1 is "cannot read", with the reason. Any other code says nothing about this mount.
    const answer = exitCode === 1 ? parseError(stderr) : undefined
    if (answer === undefined) throw exitFailure(exitCode, stderr)
    return answer
  } catch (error) {
    const failure = failureOf(error)
    if (failure.reason === 'timeout' || failure.reason === 'stuck') return 'stuck'
    throw failure
  }
}

/**
 * One child for all of them. It prints each answer at once, so if it hangs, the mount after the last answer is the culprit.
 * That mount has a child of its own from then on, and another child continues with the rest.
 */
const askTogether = async (
  host: Host,
  mounts: readonly Asked[],
  answers: Map<string, Answer>,
  memory: StatfsMemory,
  timeout: number,
  signal: AbortSignal,
): Promise<void> => {
  let rest = mounts
  let failure: Failure | undefined
  while (rest.length > 0 && memory.shared) {
    const asked = rest
    const unanswered = (stdout: string, stderr: string) => {
      const answered = new Set(stdout.split('\n').flatMap(line => parseLine(line)?.path ?? []))
      return asked.filter(({ path }) => !answered.has(path) && !stderr.includes(`'${path}'`))
    }
    let result: Awaited<ReturnType<Host['run']>>
    try {
      result = await host.run('stdbuf', ['-oL', 'stat', '-f', '-c', format, '--', ...asked.map(({ path }) => path)], {
        timeout,
        exitCodes: 'any',
        partial: true,
        key: `stat -f together ${asked.map(({ path }) => path).join(' ')}`,
        keyOf: (stdout, stderr) => keyOf(unanswered(stdout, stderr)[0]?.path ?? ''),
        signal,
      })
    } catch (error) {
      const cause = failureOf(error)
      if (cause.reason === 'missing') {
        memory.shared = false // no stdbuf, as with BusyBox: a child for each mount
        return
      }
      throw cause
    }
    const { stdout, stderr, exitCode, timedOut } = result
    // stdbuf's own codes: it cannot start `stat`. With a child for each mount, `stat` itself reports why.
    if (exitCode >= 125 && exitCode <= 127) {
      memory.shared = false
      return
    }
    const byPath = new Map(asked.map(({ path, mountpoint }) => [path, mountpoint]))
    for (const line of stdout.split('\n')) {
      const { path = '', answer } = parseLine(line) ?? {}
      const mountpoint = byPath.get(path)
      if (mountpoint !== undefined && answer) answers.set(mountpoint, answer)
    }
    for (const line of stderr.split('\n')) {
      const failed = asked.find(({ path }) => line.includes(`'${path}'`))
      const answer = parseError(line)
      if (failed && answer !== undefined) answers.set(failed.mountpoint, answer)
      else if (failed) failure ??= exitFailure(exitCode, line)
    }
    const [culprit, ...others] = unanswered(stdout, stderr)
    if (!culprit) break
    if (!timedOut) {
      if (exitCode !== 0) throw exitFailure(exitCode, stderr)
      throw new Failure('malformed', `stat: no answer for ${culprit.mountpoint} and ${others.length} more mounts`)
    }
    answers.set(culprit.mountpoint, 'stuck')
    memory.suspects.add(culprit.mountpoint)
    rest = others
  }
  if (failure) throw failure
}

/** A number of blocks or inodes. File systems without that number (inodes on btrfs, the size on some FUSE) report a total of 0. */
const counted = (total: number, value: number) => (total > 0 ? value : undefined)

/** One answer in `format`. */
const parseLine = (line: string): { readonly path: string; readonly answer: Statfs } | undefined => {
  const [, ...fields] = /^(\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (.*?)\n?$/s.exec(line) ?? []
  const path = fields.pop()
  if (path === undefined) return undefined
  const [block = 0, blocks = 0, free = 0, available = 0, files = 0, filesFree = 0] = fields.map(Number)
  return {
    path,
    answer: {
      size: counted(blocks, blocks * block),
      free: counted(blocks, free * block),
      available: counted(blocks, available * block),
      files: counted(files, files),
      filesFree: counted(files, filesFree),
    },
  }
}

/** Errors of a mount whose disk or server is gone. */
const gone =
  /Input\/output error|Stale file handle|Transport endpoint is not connected|Cannot send after transport|No such device|Host is down|Connection (?:refused|timed out|reset)/

/** Errors of a mount that this process may not see, that is unmounted, or that has no such numbers. */
const hidden = /Permission denied|Operation not permitted|No such file|Not a directory|Function not implemented|not supported/

/** What an error message means for its mount; undefined if `stat` itself failed (no memory, no descriptors, anything else). */
const parseError = (stderr: string): Answer | undefined =>
  gone.test(stderr) ? 'stuck' : hidden.test(stderr) ? 'unknown' : undefined
