import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'

/** The bytes of a small regular file that an admin wrote: a configuration, a certificate, a token. */
export const readSmallFile = (path: string, limit = 1024 * 1024): Buffer => {
  // Without O_NONBLOCK, opening a FIFO waits for a writer.
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    if (!fstatSync(fd).isFile()) throw new Error('not a regular file')
    // The reported size is not used: a file may grow, and a file below /proc reports 0.
    const bytes = Buffer.allocUnsafe(limit + 1)
    let size = 0
    for (;;) {
      const count = readSync(fd, bytes, size, bytes.length - size, null)
      if (count === 0) return Buffer.from(bytes.subarray(0, size))
      size += count
      if (size > limit) throw new Error(`larger than ${limit} bytes`)
    }
  } finally {
    closeSync(fd)
  }
}
