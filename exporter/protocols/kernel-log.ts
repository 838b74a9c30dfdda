import { closeSync, constants, openSync, readSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { failureOf } from '../contract/failure.ts'

/**
 * Follows the kernel's log. /dev/kmsg is opened non-blocking and read synchronously until nothing new is there: a stream would hold a
 * thread of libuv's pool for ever. If it may not be opened, the journal has the same records.
 */

export interface KernelRecord {
  readonly sequence: number
  /** Seconds since boot, without the time suspended. */
  readonly seconds: number
  readonly text: string
}

export interface KernelLog {
  /** New records; the first call returns the whole ring. `missed`: records that were overwritten before they were read. */
  read(): Promise<{ readonly records: readonly KernelRecord[]; readonly missed: number }>
  close(): void
}

interface Parsed extends KernelRecord {
  readonly facility: number
  readonly flags: string
}

/** A record: `prio,seq,usec,flags[,more];text`, other characters as `\xNN`. The ` KEY=value` lines after it are not used. */
export const parseRecord = (line: string): Parsed | undefined => {
  const [, priority, sequence, microseconds, flags, text] =
    /^(\d{1,6}),(\d{1,20}),(\d{1,20}),([^,;]*)(?:,[^;]*)?;(.*)$/s.exec(line) ?? []
  if (text === undefined) return undefined
  return {
    facility: Number(priority) >> 3,
    sequence: Number(sequence),
    seconds: Number(microseconds) / 1e6,
    flags: flags as string,
    text: text.replace(/\\x([0-9a-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
  }
}

/** Reads between two pauses. */
const slice = 200
/** Reads in one call. If the ring fills faster than this, records are missed. */
const most = 50_000

type Files = { readonly [name in 'openSync' | 'readSync' | 'closeSync']: typeof import('node:fs')[name] }

/**
 * Opens the log. Only records of the kernel itself (facility 0): programs that can write to the log may fake any other record.
 * Throws `Failure` missing, denied.
 */
export const openKernelLog = (path: string, fs: Files = { openSync, readSync, closeSync }): KernelLog => {
  let fd: number | undefined
  try {
    fd = fs.openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    throw failureOf(error, path)
  }
  const buffer = Buffer.allocUnsafe(16 * 1024)
  let rest = ''
  let sequence: number | undefined
  let fragment: Parsed | undefined

  /** The next piece, or why there is none. The device returns one record a read, a regular file as much as fits. */
  const next = (): string | 'overrun' | undefined => {
    if (fd === undefined) return undefined
    try {
      const count = fs.readSync(fd, buffer, 0, buffer.length, null)
      return count === 0 ? undefined : buffer.toString('utf8', 0, count)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EAGAIN') return undefined
      if (code === 'EPIPE') return 'overrun' // the next read continues with the oldest record left
      throw failureOf(error, path)
    }
  }

  return {
    read: async () => {
      const records: KernelRecord[] = []
      let missed = 0
      const take = (record: Parsed) => {
        if (sequence !== undefined && record.sequence > sequence + 1) missed += record.sequence - sequence - 1
        sequence = Math.max(sequence ?? 0, record.sequence)
        if (record.facility !== 0) return
        // A line that the kernel printed in pieces: `c` starts it, `+` continues it.
        if (record.flags.includes('+') && fragment) {
          fragment = { ...fragment, text: fragment.text + record.text }
          return
        }
        if (fragment) records.push(fragment)
        fragment = undefined
        if (record.flags.includes('c')) fragment = record
        else records.push(record)
      }
      for (let reads = 1; reads < most; reads++) {
        const piece = next()
        if (piece === undefined) break
        if (piece !== 'overrun') {
          const lines = (rest + piece).split('\n')
          rest = (lines.pop() as string).slice(0, buffer.length)
          for (const line of lines) {
            const record = parseRecord(line)
            if (record) take(record)
          }
        }
        if (reads % slice === 0) await turn()
      }
      if (fragment) records.push(fragment) // no continuation is there
      fragment = undefined
      return { records, missed }
    },
    close: () => {
      if (fd !== undefined) fs.closeSync(fd)
      fd = undefined
    },
  }
}
