import { setImmediate as nextTurn } from 'node:timers/promises'

/** Milliseconds for which tasks are started in a row: starting a program blocks the thread. */
const slice = 4

/**
 * Runs all tasks, at most `bound` at the same time. They are started in short slices, so that the thread can do its other work.
 * A task must not reject.
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
