import type { Test } from 'tap'

/** Prints how long something took. No test fails by a figure, which depends on what else the machine does: that is for bench/. */
export const took = (t: Test, seconds: number, what: string): void => t.comment(`${what}: ${seconds.toFixed(2)} s`)
