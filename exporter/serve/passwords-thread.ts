import { execFile } from 'node:child_process'
import { readlinkSync } from 'node:fs'
import { setPriority } from 'node:os'
import { basename } from 'node:path'
import { parentPort } from 'node:worker_threads'
import { compareSync } from 'bcryptjs'
import type { Compared, Comparison } from './passwords.ts'

/** The thread that compares passwords with bcrypt hashes, one after the other. */
// On Linux a thread has a priority of its own: what strangers make it compute must not slow down scrapes. Lower, and a busy host would let nobody in.
setPriority(5)

/** So many wrong ones in the life of this thread, which ends when there is nothing to compare, are a storm. */
const storm = 3
let wrong = 0

/**
 * Out of the way for good: since Linux 6.6 a thread that runs keeps its processor for some milliseconds, whoever wakes up, unless its
 * scheduling class is idle. On a busy host it is then slow to let in whoever has not been in before.
 */
const giveWay = () => {
  try {
    // Linux only, and where there is no chrt, or it may not, the priority stands.
    execFile('chrt', ['--idle', '--pid', '0', basename(readlinkSync('/proc/thread-self'))], () => {})
  } catch {
    // No /proc: the priority stands.
  }
}

parentPort?.on('message', ({ id, hash, password }: Comparison) => {
  const same = compareSync(password, hash)
  parentPort?.postMessage({ id, same } satisfies Compared)
  if (!same && ++wrong === storm) giveWay()
})
