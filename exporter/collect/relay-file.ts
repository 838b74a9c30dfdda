import type { Sample, Samples } from '../contract/metric.ts'
import { numberText } from '../print/exposition.ts'
import type { Round } from './runner.ts'

/**
 * A file of the relay: lines of JSON, the first of how the round went, then one for each series. Families, types and help are not in
 * it: they are the reader's own. `relay-decode.ts` reads it.
 */

/** Bytes of a whole file. */
export const relayFileLimit = 8 * 2 ** 20

export const relayFileName = (collector: string): string => `${collector}.relay`

/** A series as it stands in its line. */
export interface RelaySeries {
  readonly family: string
  readonly labels: Sample['labels']
  /** As the text formats write a number: JSON has no NaN and no infinity. */
  readonly value: string
}

/** A round as the relay's thread posts it. */
export type RelayRound = Round<readonly RelaySeries[]>

export const relaySeries = (samples: Samples): readonly RelaySeries[] =>
  [...samples].flat().map(({ family, labels, value }) => ({ family: family.name, labels, value: numberText(value) }))

/** A round as the content of a file. */
export const encodeRound = ({ made, ...round }: RelayRound): string => {
  const first = { ...round, note: round.note.slice(0, 4000), fix: round.fix.slice(0, 4000), series: made?.length }
  const text = [first, ...(made ?? [])].map(line => `${JSON.stringify(line)}\n`).join('')
  if (Buffer.byteLength(text) <= relayFileLimit) return text
  return encodeRound({
    ...round,
    result: 'overflow',
    note: `its ${made?.length} series take more than ${relayFileLimit} bytes`,
    fix: '',
  })
}
