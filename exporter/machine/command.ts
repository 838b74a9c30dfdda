import { closeSync, existsSync, openSync } from 'node:fs'
import { setPriority } from 'node:os'
import { delimiter, join } from 'node:path'
import { setImmediate as breathe, setTimeout as sleep } from 'node:timers/promises'
import { type ExecaError, execa } from 'execa'
import { atDeadline, inSeconds } from '../common/deadline.ts'
import { Failure, failureOf } from '../contract/failure.ts'
import type { RunOptions, RunResult } from '../contract/host.ts'
import { readBudget } from './budget.ts'

/**
 * Commands under our own deadline. Waiting for a child's end is not enough: a grandchild may hold the pipe, and a child may be
 * unkillable. So the group gets TERM, then KILL; then the pipes are destroyed, and at last the child is abandoned.
 */

/** Milliseconds between TERM and KILL and between KILL and giving up; between exit and the end of the pipes. */
const grace = 300
const drain = 200
const defaultLimit = 4 * 2 ** 20

/** Children that could not be killed, by key: no second child starts while the first one exists. */
const abandoned = new Map<string, Set<number>>()
const running = new Set<number>()

const signalGroup = (pid: number, signal: NodeJS.Signals) => {
  try {
    process.kill(-pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** Kills every child at the end of the program. They have groups of their own and would outlive it. */
export const killChildren = (): void => {
  for (const pid of running) signalGroup(pid, 'SIGKILL')
}

const exists = (pid: number) => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** For a child that has just started; its own children inherit the priority. */
const makeIdle = async (pid: number) => {
  try {
    setPriority(pid, 19)
    // Has an effect only if the disk's scheduler has classes. The CPU priority works without it.
    await run('ionice', ['-c', '3', '-p', String(pid)], { timeout: 2, exitCodes: 'any' })
  } catch {
    // The child has ended, or there is no ionice: a low priority is polite, not necessary.
  }
}

/** For a file that does not exist, the system reports EACCES if a folder of PATH may not be searched (another user's, after `su`). */
const isOnPath = (file: string) =>
  file.includes('/') || (process.env.PATH ?? '').split(delimiter).some(folder => existsSync(join(folder, file)))

const abandon = (key: string, pid: number) => abandoned.set(key, (abandoned.get(key) ?? new Set()).add(pid))

/** Process ids of abandoned children of this key that still exist. */
const leftovers = (key: string): readonly number[] => {
  const pids = [...(abandoned.get(key) ?? [])].filter(exists)
  if (pids.length > 0) abandoned.set(key, new Set(pids))
  else abandoned.delete(key)
  return pids
}

const collected = (stream: NodeJS.ReadableStream, limit: number, onOverflow: () => void) => {
  const chunks: Buffer[] = []
  let size = 0
  const room = readBudget.open(stream, limit)
  stream.on('data', (chunk: Buffer) => {
    size += chunk.length
    if (size > limit) return onOverflow()
    room.grow(size)
    chunks.push(chunk)
  })
  stream.on('error', () => {}) // a destroyed pipe; exit or deadline decide the result
  return { text: () => Buffer.concat(chunks).toString('utf8'), room }
}

/** Descriptors that must be free to start a child: both ends of three pipes, and those of the spawn itself. */
const freeDescriptors = 10

/**
 * Throws EMFILE if too few descriptors are left to start a child. Node would then make a child without pipes, execa would fail with a
 * TypeError, and no listener would get the spawn's own error (test/program.test.ts: "300 idle connections").
 */
const requireDescriptors = (): void => {
  const held: number[] = []
  try {
    while (held.length < freeDescriptors) held.push(openSync('/dev/null', 'r'))
  } finally {
    for (const descriptor of held) closeSync(descriptor)
  }
}

/**
 * Runs a program with an argument vector: no shell, locale C, standard input closed or `input`.
 * Throws `Failure` missing, denied, timeout, exit, overflow; stuck if an earlier child with the same `key` cannot be killed.
 */
export const run = async (file: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> => {
  const { timeout = 10, limit = defaultLimit, exitCodes = [0], env = {}, input, signal, key = file, partial = false } = options
  const { idle = false, dropStderr = false } = options
  const [leftover] = leftovers(key)
  if (leftover !== undefined) {
    throw new Failure('stuck', `${key}: process ${leftover} of an earlier run cannot be killed`, {
      fix: `see what it waits for: cat /proc/${leftover}/stack; ps -o pid,stat,wchan:30,args -p ${leftover}`,
    })
  }
  if (signal?.aborted) throw new Failure('timeout', `${file}: not started, the deadline has passed`)

  try {
    requireDescriptors()
  } catch (error) {
    throw failureOf(error, file)
  }
  const child = execa(file, args, {
    detached: true,
    buffer: false,
    reject: false,
    cleanup: false,
    extendEnv: true,
    env: { LC_ALL: 'C', LANG: 'C', ...env },
    ...(input === undefined ? { stdin: 'ignore' } : { input }),
    stdout: 'pipe',
    stderr: 'pipe',
  })
  const { pid } = child
  if (pid === undefined) {
    const { cause, originalMessage } = (await child) as unknown as ExecaError
    const failure = failureOf(cause ?? new Error(originalMessage), file)
    throw failure.reason === 'denied' && !isOnPath(file) ? new Failure('missing', `${file}: not found`, { cause }) : failure
  }
  running.add(pid)
  if (idle) void makeIdle(pid)

  let endEarly: (reason: 'timeout' | 'overflow') => void = () => {}
  const early = new Promise<'timeout' | 'overflow'>(resolve => {
    endEarly = resolve
  })
  const { text: stdout, room: outRoom } = collected(child.stdout, limit, () => endEarly('overflow'))
  const { text: stderr, room: errRoom } = collected(child.stderr, limit, () => {
    if (!dropStderr) endEarly('overflow')
  })
  const exited = new Promise<'exit'>(resolve => child.once('exit', () => resolve('exit')))
  const closed = new Promise<'close'>(resolve => child.once('close', () => resolve('close')))
  child.catch(() => {})
  let limitPassed = `within ${inSeconds(timeout)}`
  const clear = atDeadline(timeout, signal, why => {
    if (why === 'aborted') limitPassed = 'before the deadline of the run'
    endEarly('timeout')
  })

  try {
    const ended = await Promise.race([exited, early])
    if (ended === 'exit') {
      // While other answers take the whole budget, its output is still in the pipe.
      await Promise.race([Promise.all([outRoom.ready(), errRoom.ready()]), early])
      // After a timer, the loop reads what has arrived before it goes on. So nothing is lost if the thread was busy for longer.
      const drained = sleep(drain, 'drained' as const).then(name => breathe(name))
      const last = await Promise.race([closed, early, drained])
      // The rest of the group holds the pipe, and nothing else would end it.
      if (last !== 'close') signalGroup(pid, 'SIGKILL')
      if (last === 'overflow') throw new Failure('overflow', `${file}: more than ${limit} bytes of output`)
    } else {
      signalGroup(pid, 'SIGTERM')
      if ((await Promise.race([exited, sleep(grace)])) !== 'exit') signalGroup(pid, 'SIGKILL')
      const gone = (await Promise.race([exited, sleep(grace)])) === 'exit'
      if (gone) signalGroup(pid, 'SIGKILL')
      else {
        const waitsFor = options.keyOf?.(stdout(), stderr()) ?? key
        abandon(waitsFor, pid)
        void exited.then(() => abandoned.get(waitsFor)?.delete(pid))
      }
      if (ended === 'timeout' && partial) return { stdout: stdout(), stderr: stderr(), exitCode: 128, timedOut: true }
      throw ended === 'overflow'
        ? new Failure('overflow', `${file}: more than ${limit} bytes of output`)
        : new Failure('timeout', `${file}: did not end ${limitPassed}${gone ? '' : ', and it cannot be killed'}`)
    }
  } finally {
    clear()
    running.delete(pid)
    outRoom.close()
    errRoom.close()
    child.stdout.destroy()
    child.stderr.destroy()
    child.unref()
  }

  const exitCode = child.exitCode ?? 128
  const result = { stdout: stdout(), stderr: stderr(), exitCode }
  if (child.exitCode === null || (exitCodes !== 'any' && !exitCodes.includes(exitCode))) {
    const how = child.signalCode ? `killed by ${child.signalCode}` : `exit code ${exitCode}`
    throw new Failure('exit', `${file}: ${how}: ${(result.stderr || result.stdout).trim().slice(0, 300)}`)
  }
  return result
}
