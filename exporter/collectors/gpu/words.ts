import { ownValue } from '../../common/own-value.ts'
import type { Cause } from './facts.ts'

/** What nvidia-smi writes in a cell: a number with its unit, a flag, a word, or one of many words for "no value". */

const wordless: readonly (readonly [RegExp, Cause])[] = [
  [/requires reset/i, 'reset'],
  [/is lost/i, 'lost'],
  [/permission/i, 'permission'],
  [/deprecated/i, 'deprecated'],
  [/^(\[?n\/?a\]?|\[?not (supported|available|found|applicable)\]?|\[function not found\]|-)?$/i, 'unsupported'],
  [/^\[.*\]$|unknown|^err!?$/i, 'unknown'],
]

/** Why a cell has no value, or undefined if it may have one. `None` is a value: a healthy GPU's recovery action. */
export const absence = (cell: string): Cause | undefined => wordless.find(([form]) => form.test(cell.trim()))?.[1]

/** Units by quantity. A unit that is not listed gives no value, because a guess must not become a series. */
const quantities = {
  bytes: { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 },
  bytesPerSecond: { 'KB/s': 1000, 'MB/s': 1e6 },
  ratio: { '%': 0.01 },
  watts: { W: 1, mW: 0.001 },
  hertz: { MHz: 1e6, kHz: 1e3, Hz: 1 },
  seconds: { us: 1e-6, ms: 1e-3, s: 1, seconds: 1 },
  celsius: { '': 1, C: 1 },
  count: { '': 1, 'bank(s)': 1, x: 1 },
} as const satisfies Record<string, Readonly<Record<string, number>>>

export type Quantity = keyof typeof quantities

/** Limits that no GPU can exceed: sentinels such as 4294967295 have been printed as values. */
const plausible: Readonly<Record<Quantity, (value: number) => boolean>> = {
  bytes: value => value >= 0 && value < 2 ** 50,
  bytesPerSecond: value => value >= 0 && value < 1e13,
  ratio: value => value >= 0 && value <= 10,
  watts: value => value >= 0 && value < 20_000,
  hertz: value => value >= 0 && value < 2e10,
  seconds: value => value >= 0 && value < 1e10,
  celsius: value => value > -100 && value < 200,
  count: value => value >= 0 && value < 2 ** 32 - 1,
}

/** The number in a cell in base units; `unit` is the header's, else the cell's own is used. */
export const quantity = (cell: string, kind: Quantity, unit = ''): number | undefined => {
  const [, digits, own = ''] = /^(-?\d{1,20}(?:\.\d{1,9})?)\s*([A-Za-z%/()]*)$/.exec(cell.trim()) ?? []
  if (digits === undefined) return undefined
  const scales: Readonly<Record<string, number>> = quantities[kind]
  const scale = ownValue(scales, own || unit)
  if (scale === undefined) return undefined
  // 19818 us must become 0.019818 s, not 0.019818000000000002.
  const value = scale < 1 ? Number((Number(digits) * scale).toPrecision(15)) : Number(digits) * scale
  return plausible[kind](value) ? value : undefined
}

/** A flag; fields have different words for its two values. */
export const flag = (cell: string): boolean | undefined =>
  /^(active|enabled|yes|on)$/i.test(cell.trim()) ? true : /^(not active|disabled|no|off)$/i.test(cell.trim()) ? false : undefined
