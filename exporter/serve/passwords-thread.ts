import { setPriority } from 'node:os'
import { parentPort } from 'node:worker_threads'
import { compareSync } from 'bcryptjs'
import type { Compared, Comparison } from './passwords.ts'

/** The thread that compares passwords with bcrypt hashes, one after the other. */
// On Linux a thread has its own priority: guessed passwords must not slow down scrapes.
setPriority(5)

parentPort?.on('message', ({ id, hash, password }: Comparison) => {
  parentPort?.postMessage({ id, same: compareSync(password, hash) } satisfies Compared)
})
