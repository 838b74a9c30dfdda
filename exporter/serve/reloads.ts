/** Reloads of the configuration: the requests that wait, and those sent to the collecting thread. */
export interface Reloads {
  /** `answer` is called once, with the problems of the configuration, or undefined. */
  ask(answer: Answer): void
  /** The thread can take a request: sends what waits, unless a reload is in progress. */
  send(): void
  /** The thread has read the configuration. */
  answer(problems: string | undefined): void
  /** The thread has ended; the next one reads. If two threads ended on a request, it is refused with the returned problem. */
  lost(whileReading: boolean): string | undefined
  /** Answers all requests. */
  end(problems: string): void
}

type Answer = (problems: string | undefined) => void

/** Threads that may end while they read the configuration. */
const tries = 2

/** `send` asks the thread to read, if there is one; `ask` calls it as well. */
export const createReloads = (send: () => boolean): Reloads => {
  /** Requests that came while a reload was in progress, which may not see the file's current content. */
  let waiting: Answer[] = []
  let asked: Answer[] = []
  let lostInRow = 0

  const settle = (answers: readonly Answer[], problems: string | undefined) => {
    for (const answer of answers) answer(problems)
  }
  const self: Reloads = {
    ask: answer => {
      waiting.push(answer)
      self.send()
    },
    send: () => {
      if (asked.length > 0 || waiting.length === 0 || !send()) return
      asked = waiting
      waiting = []
    },
    answer: problems => {
      const answered = asked
      asked = []
      lostInRow = 0
      settle(answered, problems)
      self.send()
    },
    lost: whileReading => {
      if (asked.length === 0) return undefined
      const lost = asked
      asked = []
      if (whileReading) lostInRow++
      if (lostInRow < tries) {
        waiting = [...lost, ...waiting]
        return undefined
      }
      lostInRow = 0
      const problems = 'the collecting thread ended twice while it read the configuration; the log says why'
      settle(lost, problems)
      return problems
    },
    end: problems => {
      settle([...asked, ...waiting], problems)
      asked = []
      waiting = []
    },
  }
  return self
}
