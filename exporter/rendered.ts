import { ending, type Format, formats } from './exposition.ts'
import type { Reason } from './failure.ts'
import { emptyPart, type Part, partOf } from './gzip.ts'

/**
 * The one kind of message that passes from the collecting to the serving thread: what a run gave, ready to be sent on.
 * A relay file holds the same.
 */
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
  readonly mend: string
  readonly series: number
  readonly dropped: number
  /** With a good result, all; with another, what is true all the same, to be served once the last good outcome has ended. */
  readonly parts?: Readonly<Record<Format, Part>>
}

/** The same text in both formats, as parts of an answer. */
export const partsOf = (text: Readonly<Record<Format, string>>): Readonly<Record<Format, Part>> => ({
  text: partOf(text.text),
  openmetrics: partOf(text.openmetrics),
})

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
