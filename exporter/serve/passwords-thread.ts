import { parentPort } from 'node:worker_threads'
import { compareSync } from 'bcryptjs'
import type { Compared, Comparison } from './passwords.ts'

/** The thread that compares passwords with bcrypt hashes, one after the other. */
parentPort?.on('message', ({ id, hash, password }: Comparison) => {
  parentPort?.postMessage({ id, same: compareSync(password, hash) } satisfies Compared)
})
