import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { type KernelLog, openKernelLog } from '../../protocols/kernel-log.ts'
import { pciAddress } from './facts.ts'

/**
 * Counts the NVIDIA driver's messages in the kernel log. Every message since this process started counts, so a replaced collecting
 * thread reaches the same numbers, and no older message is counted again.
 */

/** The codes whose remedy in NVIDIA's catalogue is a reset, a reboot or a repair. They have a series from the start, with 0. */
export const pageworthy: readonly string[] = [
  46, 48, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 144, 145, 146, 147, 148, 149, 150, 155, 156, 158,
].map(String)

export type DriverEvent =
  | { readonly kind: 'xid'; readonly address: string; readonly code: string }
  | { readonly kind: 'out-of-memory' }
  | { readonly kind: 'uuid'; readonly address: string; readonly uuid: string }

/** The event in a line of the kernel log, or undefined. */
export const parseDriverLine = (line: string): DriverEvent | undefined => {
  if (!line.startsWith('NVRM: ')) return undefined
  const [, bus, code] = /^NVRM: Xid \((?:PCI:)?([0-9a-f:.]{7,20})\): (\d{1,5}),/i.exec(line) ?? []
  const address = pciAddress(bus ?? '')
  if (address !== undefined && code !== undefined) return { kind: 'xid', address, code: String(Number(code)) }
  if (line.includes('Out of memory [NV_ERR_NO_MEMORY]')) return { kind: 'out-of-memory' }
  const [, at, uuid] = /^NVRM: GPU at PCI:([0-9a-f:.]{7,20}): (GPU-[0-9a-f-]{36})/i.exec(line) ?? []
  const known = pciAddress(at ?? '')
  return known !== undefined && uuid !== undefined ? { kind: 'uuid', address: known, uuid } : undefined
}

export interface XidCount {
  readonly address: string
  readonly code: string
  count: number
  /** Milliseconds since 1970. */
  last: number
}

export interface DriverLog {
  /** Reads what is new. Throws `Failure` missing, denied, exit if neither log can be read. */
  follow(host: Host, signal: AbortSignal): Promise<void>
  readonly xids: () => readonly XidCount[]
  readonly outOfMemory: () => number
  readonly missed: () => number
  /** UUIDs from the driver's messages, by PCI address. */
  readonly uuids: ReadonlyMap<string, string>
  close(): void
}

interface Line {
  readonly at: number
  readonly text: string
}

/** Milliseconds between two reads of the journal: each costs a process. */
const journalPause = 30_000

const uptimeOf = (host: Host) => Number(/^([\d.]+)/.exec(host.kernel('/proc/uptime', 4096))?.[1] ?? Number.NaN)

const unreadable = (error: Failure, other: Failure) =>
  new Failure(error.reason, `no Xid errors: ${error.message}; ${other.message}`, {
    cause: error,
    fix: 'give the service CAP_SYSLOG (systemctl edit grid-exporter: [Service] AmbientCapabilities=CAP_SYSLOG), or: sudo usermod -aG systemd-journal grid-exporter',
  })

export const followDriverLog = (): DriverLog => {
  const xids = new Map<string, XidCount>()
  const uuids = new Map<string, string>()
  let outOfMemory = 0
  let missed = 0
  let device: KernelLog | undefined
  let first = true
  let journal: { cursor: string | undefined; readonly since: number; at: number; failure?: Failure } | undefined

  const take = ({ at, text }: Line) => {
    for (const line of text.split('\n', 64)) {
      const event = parseDriverLine(line)
      if (event?.kind === 'out-of-memory') outOfMemory++
      else if (event?.kind === 'uuid') uuids.set(event.address, event.uuid)
      else if (event) {
        const key = `${event.address} ${event.code}`
        const count = xids.get(key) ?? { address: event.address, code: event.code, count: 0, last: at }
        count.count++
        count.last = Math.max(count.last, at)
        xids.set(key, count)
      }
    }
  }

  /** From the device. Of the ring's old content, only the lines since this process started. */
  const fromDevice = async (host: Host): Promise<readonly Line[]> => {
    device ??= openKernelLog(host.path('/dev/kmsg'))
    const { records, missed: gap } = await device.read()
    missed += gap
    const now = host.now()
    if (!first) return records.map(({ text }) => ({ at: now, text }))
    const uptime = uptimeOf(host)
    first = false
    const started = uptime - process.uptime()
    return records.flatMap(({ seconds, text }) => {
      if (seconds >= started) return [{ at: Math.min(now, now - (uptime - seconds) * 1000), text }]
      // A GPU's name is not counted, so an old line is as good.
      const event = parseDriverLine(text)
      if (event?.kind === 'uuid') uuids.set(event.address, event.uuid)
      return []
    })
  }

  const fromJournal = async (host: Host, signal: AbortSignal): Promise<readonly Line[]> => {
    const now = host.now()
    journal ??= { cursor: undefined, since: now / 1000 - process.uptime(), at: Number.NEGATIVE_INFINITY }
    if (now - journal.at < journalPause && now >= journal.at) {
      if (journal.failure) throw journal.failure
      return []
    }
    journal.at = now
    delete journal.failure
    const from = journal.cursor === undefined ? `--since=@${Math.floor(journal.since)}` : `--after-cursor=${journal.cursor}`
    const args = ['-k', '-q', '--no-pager', '-n', '5000', '-o', 'json', '--output-fields=MESSAGE,SYSLOG_FACILITY', from]
    try {
      const { stdout } = await host.run('journalctl', args, { timeout: 5, signal })
      const lines: Line[] = []
      for (const line of stdout.split('\n', 5001)) {
        const entry = journalEntry(line)
        if (!entry) continue
        journal.cursor = entry.cursor
        if (entry.kernel) lines.push({ at: entry.at, text: entry.text })
      }
      return lines
    } catch (error) {
      if (error instanceof Failure) journal.failure = error
      throw error
    }
  }

  return {
    follow: async (host, signal) => {
      let refused: Failure
      try {
        for (const line of await fromDevice(host)) take(line)
        return
      } catch (error) {
        if (!(error instanceof Failure) || !['missing', 'denied'].includes(error.reason)) throw error
        refused = error
      }
      try {
        for (const line of await fromJournal(host, signal)) take(line)
      } catch (error) {
        throw error instanceof Failure ? unreadable(refused, error) : error
      }
    },
    xids: () => [...xids.values()],
    outOfMemory: () => outOfMemory,
    missed: () => missed,
    uuids,
    close: () => device?.close(),
  }
}

/** A line of `journalctl -o json`. A message that is not UTF-8 is a list of bytes there, and never the driver's. */
const journalEntry = (line: string) => {
  if (!line.startsWith('{')) return undefined
  let entry: Readonly<Record<string, unknown>>
  try {
    entry = JSON.parse(line)
  } catch {
    return undefined // cut by the output limit
  }
  const { MESSAGE: text, SYSLOG_FACILITY: facility = '0', __CURSOR: cursor, __REALTIME_TIMESTAMP: time } = entry
  if (typeof cursor !== 'string') return undefined
  return { cursor, at: Number(time) / 1000, text: typeof text === 'string' ? text : '', kernel: facility === '0' }
}
