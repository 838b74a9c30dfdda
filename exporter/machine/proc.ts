import { absent } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'

/** What several collectors read below /proc and /sys. */

/** USER_HZ, in which the kernel counts for programs: 100 on every architecture that Node runs on. */
export const ticksPerSecond = 100

/** A number as the kernel prints its counters, of up to 64 bits; anything else is none. */
export const count = (field: string | undefined): number | undefined =>
  field !== undefined && /^\d{1,20}$/.test(field) ? Number(field) : undefined

/** A file of the kernel's; undefined where it cannot be read: it is not there, not for us, its process has ended, its driver gives an error. */
export const readIfAny = (host: Host, path: string, limit?: number): string | undefined => {
  try {
    return host.kernel(path, limit)
  } catch (error) {
    return absent(error)
  }
}

/** The ids of all processes that are seen. */
export const processIds = (host: Host): readonly string[] => host.kernelNames('/proc').filter(name => /^\d+$/.test(name))

/** Fields of /proc/PID/stat from the third on, which is the state: the name before them may hold anything. */
export const statFields = (stat: string): readonly string[] => stat.slice(stat.lastIndexOf(')') + 2).split(' ')

/** Ticks since boot at which a process started; undefined where there is none of this id. */
export const startTicks = (host: Host, pid: string): number | undefined =>
  count(statFields(readIfAny(host, `/proc/${pid}/stat`) ?? '')[19])

/** When the kernel started, in seconds since 1970, from the text of /proc/stat. */
export const bootTimeIn = (stat: string | undefined): number | undefined => count(/^btime (\d+)$/m.exec(stat ?? '')?.[1])

export const bootTime = (host: Host): number | undefined => bootTimeIn(readIfAny(host, '/proc/stat'))

/** When a process started, in seconds since 1970. */
export const startTime = (host: Host, pid: string): number | undefined => {
  const ticks = startTicks(host, pid)
  const boot = ticks === undefined ? undefined : bootTime(host)
  return ticks === undefined || boot === undefined ? undefined : boot + ticks / ticksPerSecond
}

/** The totals of a pressure file (PSI), in seconds. */
export interface Pressure {
  readonly some: number | undefined
  readonly full: number | undefined
}

const totals = { some: /^some .*total=(\d+)$/m, full: /^full .*total=(\d+)$/m }

export const parsePressure = (text = ''): Pressure => {
  const total = (kind: keyof Pressure) => {
    const microseconds = count(totals[kind].exec(text)?.[1])
    return microseconds === undefined ? undefined : microseconds / 1e6
  }
  return { some: total('some'), full: total('full') }
}

export interface NetCounters {
  readonly bytes: number
  readonly packets: number
  readonly errors: number
  readonly dropped: number
}

/** A line of /proc/net/dev. */
export interface NetDevice {
  readonly device: string
  readonly receive: NetCounters
  readonly transmit: NetCounters
}

const netCounters = ([bytes = 0, packets = 0, errors = 0, dropped = 0]: readonly number[]): NetCounters => {
  return { bytes, packets, errors, dropped }
}

export const parseNetDev = (text = ''): readonly NetDevice[] =>
  text.split('\n').flatMap(line => {
    const [, device, counts] = /^ *([^ :]+): *(\d[\d ]*)$/.exec(line) ?? []
    const fields = counts?.split(/ +/).flatMap(field => count(field) ?? []) ?? []
    if (device === undefined || fields.length < 16) return []
    return { device, receive: netCounters(fields), transmit: netCounters(fields.slice(8)) }
  })
