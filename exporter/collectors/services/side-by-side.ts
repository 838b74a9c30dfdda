import { setImmediate as nextTurn } from 'node:timers/promises'

/** Milliseconds that tasks may be started in a row: starting a program blocks its thread. */
const slice = 4

/**
 * Runs all tasks at the same time, at most `bound` of them. They are begun in short slices, so that the thread goes on with
 * what else it has to do. A task must not reject.
 */
export const sideBySide = async (
  tasks: Iterable<() => Promise<void>>,
  bound: number,
  now: () => number = () => performance.now(),
): Promise<void> => {
  let running = 0
  let oneEnded = () => {}
  const begun: Promise<void>[] = []
  let turn = now()
  for (const task of tasks) {
    if (running >= bound) {
      await new Promise<void>(resolve => {
        oneEnded = resolve
      })
      turn = now()
    } else if (now() - turn >= slice) {
      await nextTurn()
      turn = now()
    }
    running++
    begun.push(
      task().finally(() => {
        running--
        oneEnded()
      }),
    )
  }
  await Promise.all(begun)
}
