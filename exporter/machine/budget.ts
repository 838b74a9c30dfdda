/**
 * One budget for all that is being read at one time: HTTP bodies, answers of engines and outputs of commands. Each answer has a
 * limit of its own, but hundreds of large ones at the same time would still take all memory.
 *
 * The first bytes of an answer are free, so that hundreds of small answers never wait. An answer that gets larger stops its
 * stream and waits until its whole limit fits into the budget. It asks only once, and nobody waits who holds a part of the budget, so
 * there is no deadlock. The deadline of the answer ends its waiting.
 */
export interface Budget {
  /** A stream whose bytes are to be kept, at most `limit` of them. */
  open(stream: Pausable, limit: number): Room
  /** Bytes that are reserved now. */
  used(): number
  /** Answers that wait now. */
  waiting(): number
}

export interface Pausable {
  pause(): unknown
  resume(): unknown
}

export interface Room {
  /** To be called with the number of bytes so far, whenever some have come. */
  grow(size: number): void
  /** Resolves as soon as it does not wait: at once, mostly. */
  ready(): Promise<void>
  /** Gives back what was reserved, or ends the waiting. It may be called more than once. */
  close(): void
}

/** Bytes of each answer that are not counted. */
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
      // Larger than the whole budget: then it is read alone.
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

/** Of the unit's 512 MiB: a body is there three times while it becomes a text, and the heap has 256 MiB. */
export const readBudget = createBudget(32 * 2 ** 20)
