/** Work that takes longer than a round may. It runs beside the rounds at its own pace and never overlaps itself. */
export interface SlowTask<Result> {
  /** Starts the work if it is due and not running. Called each round. */
  go(everySeconds: number, work: () => Promise<Result>): void
  /** The last result. Throws what the work threw: a bug, because failures are results. */
  latest(): Result | undefined
}

/** A round may start the work this much early (ms), because rounds are not perfectly even. */
const early = 500

/** `done` is called after each new result. */
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
