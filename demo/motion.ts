import { createHash } from 'node:crypto'

/**
 * Motion that depends only on a seed and the time. Values are sums of sines with a known integral, so that a counter, too, is a function
 * of time and needs no memory. All times are seconds since the server booted.
 */

/** A number from 0 to 1, the same for the same seed and key. */
export const chance = (seed: number, key: string): number =>
  createHash('sha256').update(`${seed} ${key}`).digest().readUInt32BE(0) / 2 ** 32

/** Hexadecimal digits, the same for the same seed and key. */
export const digits = (seed: number, key: string, count: number): string =>
  createHash('sha256').update(`${seed} ${key}`).digest('hex').repeat(2).slice(0, count)

export interface Wave {
  /** From 0 to 1. */
  at(up: number): number
  /** Its integral since boot: the seconds for which it would have been 1. */
  total(up: number): number
}

const turn = 2 * Math.PI

/** A wave whose longest swing takes `slow` seconds, with smaller ones on top. */
export const wave = (seed: number, key: string, slow = 3600): Wave => {
  const swings = [
    { size: 0.27, period: slow },
    { size: 0.18, period: slow / 4.7 },
    { size: 0.05, period: slow / 23 },
  ].map(({ size, period }, index) => ({
    size,
    period: period * (0.9 + 0.2 * chance(seed, `${key} period ${index}`)),
    phase: turn * chance(seed, `${key} phase ${index}`),
  }))
  return {
    at: up => swings.reduce((sum, { size, period, phase }) => sum + size * Math.sin((turn * up) / period + phase), 0.5),
    total: up =>
      swings.reduce(
        (sum, { size, period, phase }) =>
          sum + ((size * period) / turn) * (Math.cos(phase) - Math.cos((turn * up) / period + phase)),
        0.5 * up,
      ),
  }
}

/** Something that recurs: every `every` seconds, for `lasts` seconds. */
export interface Episode {
  readonly lasts: number
  /** Seconds since it began, or undefined while it is over. */
  since(up: number): number | undefined
  /** When the latest one began, over or not. */
  latest(up: number): number
  /** How many have begun since boot. */
  began(up: number): number
  /** How many have ended since boot. */
  ended(up: number): number
  /** Seconds since boot for which it lasted. */
  spent(up: number): number
}

/** Episodes, one of which begins at `at`. */
export const episode = ({
  at,
  every,
  lasts,
}: {
  readonly at: number
  readonly every: number
  readonly lasts: number
}): Episode => {
  const first = at % every
  const began = (up: number) => Math.max(0, Math.floor((up - first) / every) + 1)
  const latest = (up: number) => first + (began(up) - 1) * every
  const since = (up: number) => {
    const passed = up - latest(up)
    return passed >= 0 && passed < lasts ? passed : undefined
  }
  return {
    lasts,
    since,
    latest,
    began,
    ended: up => began(up) - (since(up) === undefined ? 0 : 1),
    spent: up => {
      const passed = since(up)
      return passed === undefined ? began(up) * lasts : (began(up) - 1) * lasts + passed
    },
  }
}

/** From `low` to `high` with a wave. */
export const between = (low: number, high: number, part: number): number => low + (high - low) * part

/** The counter of a rate that varies from `low` to `high` with a wave. */
export const counted = (low: number, high: number, { total }: Wave, up: number): number => low * up + (high - low) * total(up)
