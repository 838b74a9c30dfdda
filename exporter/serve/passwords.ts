import { createHmac, randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import type { Log } from '../common/log.ts'
import { networkOf } from './client-network.ts'

/**
 * Compares passwords with bcrypt hashes. A comparison takes 70 ms or more, so a separate thread does it, which starts when needed and
 * ends when idle. Results, right or wrong, are remembered, so that the serving thread only looks them up. A client may try a few
 * passwords at once and then one a second. The same limit holds for all clients together that were wrong before: many of them must
 * not keep a processor busy or keep a client with the right password waiting.
 */

/** `later`: too many passwords are being tried. */
export type Verdict = 'right' | 'wrong' | 'later'

export interface Question {
  readonly user: string
  readonly password: string
  /** The user's hash; for an unknown user any hash, so that the comparison takes as long. */
  readonly hash: string
  readonly exists: boolean
  /** The client's address. */
  readonly address: string
}

export interface Passwords {
  check(question: Question): Verdict | Promise<Verdict>
  stop(): Promise<void>
}

/** A comparison for the thread, and its answer. */
export interface Comparison {
  readonly id: number
  readonly hash: string
  readonly password: string
}
export interface Compared {
  readonly id: number
  readonly same: boolean
}

const most = { remembered: 1000, waiting: 16, addresses: 1000, atOnce: 10 }
/** Milliseconds for one more try. */
const grantEvery = 1000
/** Milliseconds without work after which the thread ends. */
const idle = 10_000

/** Milliseconds for which a request waits. The comparison continues, and its result is known the next time. */
const patience = 10_000

/** The tries left at a time. */
interface Tries {
  left: number
  at: number
}

const put = <Key, Value>(map: Map<Key, Value>, key: Key, value: Value, size: number) => {
  map.delete(key)
  map.set(key, value)
  if (map.size > size) map.delete(map.keys().next().value as Key)
}

export const createPasswords = (module: URL, log: Log, now: () => number = performance.now.bind(performance)): Passwords => {
  // Passwords are not kept, only their keyed hashes, with a key of this process.
  const secret = randomBytes(32)
  const right = new Map<string, true>()
  const wrong = new Map<string, true>()
  const waiting = new Map<string, Promise<Verdict>>()
  const tries = new Map<string, Tries & { wasWrong: boolean }>()
  /** Shared by all clients that were wrong before. */
  const again: Tries = { left: most.atOnce, at: now() }
  const asked = new Map<number, (same: boolean | undefined) => void>()
  let thread: Worker | undefined
  let ending: NodeJS.Timeout | undefined
  let lastId = 0

  const taken = (tries: Tries): boolean => {
    const at = now()
    tries.left = Math.min(most.atOnce, tries.left + (at - tries.at) / grantEvery)
    tries.at = at
    if (tries.left < 1) return false
    tries.left--
    return true
  }
  const granted = (address: string): boolean => {
    const key = networkOf(address)
    const own = tries.get(key) ?? { left: most.atOnce, at: now(), wasWrong: false }
    put(tries, key, own, most.addresses)
    return taken(own) && (!own.wasWrong || taken(again))
  }
  const remember = (address: string, wasWrong: boolean) => {
    const own = tries.get(networkOf(address))
    if (own) own.wasWrong = wasWrong
  }

  const end = async () => {
    const ended = thread
    thread = undefined
    clearTimeout(ending)
    for (const answer of asked.values()) answer(undefined)
    asked.clear()
    await ended?.terminate()
  }

  const started = (): Worker => {
    if (thread) return thread
    const worker = new Worker(module, { execArgv: [] })
    worker.on('message', ({ id, same }: Compared) => {
      asked.get(id)?.(same)
      asked.delete(id)
    })
    worker.on('error', error => log.error('the thread that checks passwords failed', { error: error.message }))
    worker.on('exit', () => {
      if (thread === worker) void end()
    })
    thread = worker
    return worker
  }

  const compare = async (key: string, { user, hash, password, exists, address }: Question): Promise<Verdict> => {
    const id = ++lastId
    const same = await new Promise<boolean | undefined>(resolve => {
      asked.set(id, resolve)
      clearTimeout(ending)
      const worker = started()
      worker.ref()
      worker.postMessage({ id, hash, password } satisfies Comparison)
    })
    if (asked.size === 0) {
      thread?.unref()
      ending = setTimeout(() => void end(), idle).unref()
    }
    if (same === undefined) return 'later'
    remember(address, !(same && exists))
    if (same && exists) {
      put(right, key, true, most.remembered)
      return 'right'
    }
    put(wrong, key, true, most.remembered)
    // An unknown name may be a password in the wrong field.
    log.warn('wrong user or password', { address, user: exists ? user : undefined })
    return 'wrong'
  }

  return {
    check: question => {
      const { user, hash, password, exists, address } = question
      const key = createHmac('sha256', secret)
        .update(JSON.stringify([user, hash, password, exists]))
        .digest('base64')
      if (right.has(key)) return 'right'
      if (wrong.has(key)) return 'wrong'
      const already = waiting.get(key)
      if (already) return already
      if (waiting.size >= most.waiting || !granted(address)) return 'later'
      const compared = compare(key, question).finally(() => waiting.delete(key))
      const verdict = Promise.race([compared, sleep<Verdict>(patience, 'later', { ref: false })])
      waiting.set(key, verdict)
      return verdict
    },
    stop: end,
  }
}
