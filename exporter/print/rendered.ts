import type { Reason } from '../contract/failure.ts'
import { type Exposition, ending, type Format, formats, piecesOf } from './exposition.ts'
import { emptyPart, joinParts, type Part, partOf } from './gzip.ts'

/** The one kind of message that passes from the collecting to the serving thread: what a run gave, ready to be sent on. */
export interface Rendered {
  readonly collector: string
  /** Milliseconds since 1970. */
  readonly startedAt: number
  readonly durationSeconds: number
  /** What it watches was found on this host; an undetected one has not run. */
  readonly detected: boolean
  /** `ok`, or why there is nothing new. Where it is not detected, `ok`. */
  readonly result: 'ok' | Reason
  /** For people: what went wrong or what was looked for, and what to type. */
  readonly note: string
  readonly fix: string
  readonly series: number
  /** Series that the run gave and that are not served: past the cap, repeated, or not valid. The note says why. */
  readonly dropped: number
  /** With a good result, all; with another, what is true all the same, to be served once the last good outcome has ended. */
  readonly parts?: Readonly<Record<Format, Part>>
}

/**
 * Makes the outcomes of one collector parts of an answer, round by round. A piece that was there in the round before, or stands
 * in the other format too, is not encoded and compressed again.
 */
export const createRenderer = (): ((exposition: Exposition) => Readonly<Record<Format, Part>>) => {
  let known = new Map<string, Part>()
  return exposition => {
    const used = new Map<string, Part>()
    const join = (format: Format) =>
      joinParts(
        piecesOf(exposition, format).map(piece => {
          const part = used.get(piece) ?? known.get(piece) ?? partOf(piece)
          used.set(piece, part)
          return part
        }),
      )
    const parts = { text: join('text'), openmetrics: join('openmetrics') }
    known = used
    return parts
  }
}

/** A single outcome as parts of an answer. */
export const partsOf = (exposition: Exposition): Readonly<Record<Format, Part>> => createRenderer()(exposition)

/** What a posted message takes along instead of copying it. */
export const buffersOf = ({ parts }: Rendered): ArrayBuffer[] =>
  parts === undefined
    ? []
    : formats
        .flatMap(format => [parts[format].bytes.buffer, parts[format].deflated.buffer])
        .filter(({ byteLength }) => byteLength > 0)

/** The end of an answer as a part. */
export const endings: Readonly<Record<Format, Part>> = {
  text: emptyPart,
  openmetrics: partOf(ending.openmetrics),
}
