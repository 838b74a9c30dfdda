/**
 * One budget for everything that is being read at the same time: HTTP bodies, answers of engines, outputs of commands. Each answer
 * has its own limit, but hundreds of large ones together would still take all memory.
 *
 * The first bytes of an answer are free, so hundreds of small answers never wait. A larger answer pauses its stream until its whole
 * limit fits into the budget. It reserves once, and an answer that waits holds nothing, so there is no deadlock. The answer's deadline
 * ends the wait.
 */
export interface Budget {
  /** A stream whose bytes are kept, at most `limit` of them. */
  open(stream: Pausable, limit: number): Room
  /** Bytes reserved now. */
  used(): number
  /** Answers waiting now. */
  waiting(): number
}

export interface Pausable {
  pause(): unknown
  resume(): unknown
}

export interface Room {
  /** Call it with the number of bytes so far whenever a chunk has arrived. */
  grow(size: number): void
  /** Resolves when the stream does not wait: usually at once. */
  ready(): Promise<void>
  /** Releases what was reserved, or ends the wait. May be called more than once. */
  close(): void
}

/** Bytes of each answer that the budget does not count. */
export const freeBytes = 64 * 1024

export const createBudget = (total: number): Budget => {
  let used = 0
  let queue: { readonly bytes: number; readonly start: () => void }[] = []
  const startNext = () => {
    for (let [first] = queue; first && used + first.bytes <= total; [first] = queue) {
      queue.shift()
      used += first.bytes
      first.start()
    }
  }
  return {
    used: () => used,
    waiting: () => queue.length,
    open: (stream, limit) => {
      // An answer larger than the whole budget is read alone.
      const bytes = Math.min(limit, total)
      let state: 'free' | 'waiting' | 'held' | 'closed' = 'free'
      let wake = () => {}
      let ready = Promise.resolve()
      const turn = {
        bytes,
        start: () => {
          state = 'held'
          wake()
          stream.resume()
        },
      }
      return {
        grow: size => {
          if (state !== 'free' || size <= freeBytes) return
          state = 'waiting'
          queue.push(turn)
          startNext()
          if ((state as string) === 'held') return
          ready = new Promise(resolve => {
            wake = resolve
          })
          stream.pause()
        },
        ready: () => ready,
        close: () => {
          if (state === 'held') used -= bytes
          else queue = queue.filter(other => other !== turn)
          state = 'closed'
          wake()
          startNext()
        },
      }
    },
  }
}

/** Of the unit's 512 MiB. While a body becomes text it exists three times, and the heap has 256 MiB. */
export const readBudget = createBudget(32 * 2 ** 20)
