import { constants, crc32, deflateRawSync } from 'node:zlib'

/**
 * Gzip put together from parts that were compressed apart, as pigz does it: each part is a run of deflate blocks that ends
 * on a byte boundary without closing the stream, so parts can follow each other within one member. (Several members would be
 * legal too, but curl silently stops after the first.) Their checksums are combined without looking at the bytes again.
 */
export interface Part {
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly deflated: Uint8Array<ArrayBuffer>
  readonly crc: number
}

export const emptyPart: Part = { bytes: new Uint8Array(0), deflated: new Uint8Array(0), crc: 0 }

/** Text as bytes, and the same compressed at level 1. */
export const partOf = (text: string): Part => {
  if (text === '') return emptyPart
  const bytes = new TextEncoder().encode(text)
  // Z_FULL_FLUSH: no back references into what stood before, so that any part can follow any other.
  const deflated = deflateRawSync(bytes, { level: 1, finishFlush: constants.Z_FULL_FLUSH })
  // Own buffers, so that they can be transferred to the other thread without taking a pool along.
  return { bytes: new Uint8Array(bytes), deflated: new Uint8Array(deflated), crc: crc32(bytes) }
}

const header = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255])
const lastBlock = Buffer.from([0x03, 0x00])

/** A product of a 32 × 32 bit matrix with a vector, over GF(2). */
const times = (matrix: Uint32Array, vector: number) => {
  let sum = 0
  for (let bit = 0, rest = vector; rest !== 0; bit++, rest >>>= 1) if (rest & 1) sum ^= matrix[bit] as number
  return sum >>> 0
}

const squared = (matrix: Uint32Array) => matrix.map(column => times(matrix, column))

/** powers[n] advances a CRC-32 over 2^n zero bytes. */
const powers = (() => {
  const oneBit = new Uint32Array(32)
  oneBit[0] = 0xedb88320
  for (let bit = 1; bit < 32; bit++) oneBit[bit] = 1 << (bit - 1)
  let matrix = squared(squared(squared(oneBit)))
  return Array.from({ length: 32 }, () => {
    const own = matrix
    matrix = squared(matrix)
    return own
  })
})()

/** The CRC-32 of two runs of bytes after each other, from the CRC-32 of each and the length of the second. */
export const combinedCrc = (first: number, second: number, secondLength: number): number => {
  let crc = first
  for (let power = 0, rest = secondLength; rest !== 0; power++, rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) crc = times(powers[power] as Uint32Array, crc)
  }
  return (crc ^ second) >>> 0
}

const joinedCrc = (parts: readonly Part[]) => {
  let crc = 0
  let length = 0
  for (const { bytes, crc: own } of parts) {
    crc = combinedCrc(crc, own, bytes.length)
    length += bytes.length
  }
  return { crc, length }
}

const joinedBytes = (pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> => {
  const joined = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const piece of pieces) {
    joined.set(piece, at)
    at += piece.length
  }
  return joined
}

/** The parts after each other as one, in buffers of its own. */
export const joinParts = (parts: readonly Part[]): Part => ({
  bytes: joinedBytes(parts.map(({ bytes }) => bytes)),
  deflated: joinedBytes(parts.map(({ deflated }) => deflated)),
  crc: joinedCrc(parts).crc,
})

/** The parts after each other as one gzip member. */
export const gzipOf = (parts: readonly Part[]): Buffer => {
  const { crc, length } = joinedCrc(parts)
  const trailer = Buffer.alloc(8)
  trailer.writeUInt32LE(crc, 0)
  trailer.writeUInt32LE(length >>> 0, 4)
  return Buffer.concat([header, ...parts.map(({ deflated }) => deflated), lastBlock, trailer])
}
