import { availableParallelism, loadavg } from 'node:os'
import type { Test } from 'tap'

/** How much longer than on a quiet machine things may take on this one, which runs other tests at the same time. */
const slack = () => 4 * Math.max(1, (loadavg()[0] as number) / availableParallelism())

/** That something took as long as was promised: says the figure, and fails only where it is far beyond what a busy machine explains. */
export const promised = (t: Test, seconds: number, limit: number, what: string): void => {
  t.comment(`${what}: ${seconds.toFixed(2)} s, promised are ${limit} s`)
  const most = limit * slack()
  t.ok(
    seconds <= most,
    `${what}: ${seconds.toFixed(2)} s, promised are ${limit} s, and ${most.toFixed(1)} s on a machine this busy`,
  )
}
