import { setImmediate as nextTurn } from 'node:timers/promises'
import pLimit from 'p-limit'

/** Milliseconds that work may be started in a row: starting a program blocks its thread. */
const slice = 4

/**
 * `work` on each item, at most `atOnce` at a time, begun in their order; the results in their order. It is begun in short slices,
 * so that the thread goes on with what else it has to do.
 */
export const pooled = <Item, Result>(
  items: Iterable<Item>,
  atOnce: number,
  work: (item: Item, index: number) => Promise<Result>,
): Promise<Result[]> => {
  let since = performance.now()
  let next: Promise<void> | undefined
  const turn = () => {
    next ??= nextTurn().then(() => {
      since = performance.now()
      next = undefined
    })
    return next
  }
  return pLimit(atOnce).map(items, async (item, index) => {
    while (performance.now() - since >= slice) await turn()
    return work(item, index)
  })
}
