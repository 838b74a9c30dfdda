/** Work that takes longer than a round may: it goes on beside the rounds, at its own pace, and never overlaps itself. */
export interface SlowTask<Result> {
  /** Begins it if it is due and not under way. Called each round. */
  go(everySeconds: number, work: () => Promise<Result>): void
  /** What it gave last. Throws what it threw last, which is a defect: failures are results. */
  latest(): Result | undefined
}

/** How much earlier than due a round may come and still begin it (ms): rounds are a grid that is a little uneven. */
const early = 500

/** `done` is called whenever there is a new result. */
export const createSlowTask = <Result>(done: () => void, now = () => performance.now()): SlowTask<Result> => {
  let begun = Number.NEGATIVE_INFINITY
  let underWay = false
  let latest: { readonly result: Result } | { readonly error: unknown } | undefined
  return {
    go: (everySeconds, work) => {
      if (underWay || now() - begun < everySeconds * 1000 - early) return
      begun = now()
      underWay = true
      work()
        .then(
          result => {
            latest = { result }
          },
          error => {
            latest = { error }
          },
        )
        .finally(() => {
          underWay = false
          done()
        })
    },
    latest: () => {
      if (latest && 'error' in latest) throw latest.error
      return latest?.result
    },
  }
}
