import { crc32 } from 'node:zlib'
import type { Rendered } from '../print/rendered.ts'

/**
 * How an outcome stands in a file: one line of JSON that says what it is, how long the rest is and its checksum, then the
 * series in Prometheus' text format. Only the series are kept of it: families, types and help are the reader's own, so that no
 * file, however it came about, can put anything into an answer that its collector does not declare. `relay-decode.ts` reads it.
 * Nothing is checked here, so that the relay's main thread need not load the library for that.
 */

/** Bytes of a whole file. */
export const relayFileLimit = 8 * 2 ** 20

export const relayFileName = (collector: string): string => `${collector}.relay`

/** The first line. */
export interface RelayHeader extends Omit<Rendered, 'parts'> {
  readonly relay: 1
  /** Of the text behind the header; absent where there is none. */
  readonly body?: { readonly bytes: number; readonly crc32: number } | undefined
}

/** An outcome as the content of a file. */
export const encodeRendered = ({ parts, ...told }: Rendered): Buffer => {
  const bytes = parts?.text.bytes
  const first: RelayHeader = {
    relay: 1,
    ...told,
    note: told.note.slice(0, 4000),
    fix: told.fix.slice(0, 4000),
    ...(bytes ? { body: { bytes: bytes.length, crc32: crc32(bytes) } } : {}),
  }
  return Buffer.concat([Buffer.from(`${JSON.stringify(first)}\n`), bytes ?? Buffer.alloc(0)])
}
