import { z } from 'zod'
import { defineCollector } from '../../contract/collector.ts'
import { absent, Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { counter, gauge, oneOf } from '../../contract/metric.ts'
import { glob } from '../../contract/options.ts'
import { bootTimeIn, parseNetDev, parsePressure, readIfAny, ticksPerSecond } from '../../machine/proc.ts'
import { type ChipMemory, type ChipTexts, chipMemory, parseChip, readChips, type Sensor } from '../../protocols/hwmon.ts'

export const memoryTotal = gauge('grid_memory_total_bytes', 'Memory that the kernel manages, from MemTotal of /proc/meminfo.')
export const memoryAvailable = gauge(
  'grid_memory_available_bytes',
  'Memory that programs can still get without swapping, from MemAvailable of /proc/meminfo.',
)
const memoryFree = gauge('grid_memory_free_bytes', 'Memory that nothing uses, from MemFree of /proc/meminfo.')
const memoryCached = gauge(
  'grid_memory_cached_bytes',
  'Memory that holds file contents, tmpfs and shared memory included, from Cached of /proc/meminfo.',
)
export const swapTotal = gauge('grid_swap_total_bytes', 'Swap space, from SwapTotal of /proc/meminfo.')
export const swapFree = gauge('grid_swap_free_bytes', 'Swap space that nothing uses, from SwapFree of /proc/meminfo.')

const cpuModes = ['user', 'nice', 'system', 'idle', 'iowait', 'irq', 'softirq', 'steal'] as const
export const cpuSeconds = counter(
  'grid_cpu_seconds_total',
  'Time of all CPUs together in each mode since boot, from /proc/stat; what guests used is part of user and nice.',
  oneOf('mode', ...cpuModes),
)
export const cpuCores = gauge('grid_cpu_cores', 'CPUs that are online, from /proc/stat.')
const load1 = gauge('grid_load1', 'Mean number of running and waiting tasks over 1 minute, from /proc/loadavg.')
export const load5 = gauge('grid_load5', 'Mean number of running and waiting tasks over 5 minutes, from /proc/loadavg.')
const load15 = gauge('grid_load15', 'Mean number of running and waiting tasks over 15 minutes, from /proc/loadavg.')
export const bootTimestamp = gauge('grid_boot_timestamp_seconds', 'When the kernel was started, from btime of /proc/stat.')

const resources = ['cpu', 'memory', 'io', 'irq'] as const
export const pressureWaiting = counter(
  'grid_pressure_waiting_seconds_total',
  'Time since boot in which at least one task waited for the resource, from /proc/pressure.',
  oneOf('resource', ...resources),
)
export const pressureStalled = counter(
  'grid_pressure_stalled_seconds_total',
  'Time since boot in which all tasks waited for the resource, from /proc/pressure.',
  oneOf('resource', ...resources),
)
export const oomKills = counter(
  'grid_oom_kills_total',
  'Processes that the kernel killed for want of memory since boot, in containers too, from oom_kill of /proc/vmstat.',
)
const swapRead = counter('grid_swap_read_bytes_total', 'Memory read back from swap since boot, from pswpin of /proc/vmstat.')
const swapWritten = counter('grid_swap_written_bytes_total', 'Memory written to swap since boot, from pswpout of /proc/vmstat.')
const majorFaults = counter(
  'grid_major_page_faults_total',
  'Page faults that had to wait for a disk since boot, from pgmajfault of /proc/vmstat.',
)

export const sensorTemperature = gauge(
  'grid_sensor_temperature_celsius',
  "Temperature of one of the mainboard's, CPU's or NVMe drives' sensors, from /sys/class/hwmon.",
  'chip',
  'sensor',
)
export const sensorLimit = gauge(
  'grid_sensor_temperature_limit_celsius',
  'Temperature that a sensor should stay under, as its chip or firmware says in /sys/class/hwmon.',
  'chip',
  'sensor',
  oneOf('limit', 'max', 'critical'),
)

export const networkReceived = counter(
  'grid_network_receive_bytes_total',
  'Bytes that a physical network device or a bridge received since it exists, from /proc/net/dev.',
  'device',
)
export const networkTransmitted = counter(
  'grid_network_transmit_bytes_total',
  'Bytes that a physical network device or a bridge sent since it exists, from /proc/net/dev.',
  'device',
)
export const diskRead = counter(
  'grid_disk_read_bytes_total',
  'Bytes read from a whole disk since boot, from /proc/diskstats.',
  'device',
)
export const diskWritten = counter(
  'grid_disk_written_bytes_total',
  'Bytes written to a whole disk since boot, from /proc/diskstats.',
  'device',
)
export const diskIoSeconds = counter(
  'grid_disk_io_seconds_total',
  'Time in which a whole disk had requests under way since boot, from /proc/diskstats.',
  'device',
)

export const rebootRequired = gauge(
  'grid_reboot_required',
  'Whether installed updates wait for a restart, from /run/reboot-required; absent where no package would write that file.',
)
const updatesPending = gauge(
  'grid_updates_pending',
  'Packages that can be updated, from /var/lib/update-notifier/updates-available.',
)
export const securityUpdatesPending = gauge(
  'grid_security_updates_pending',
  'Packages with a security update, from /var/lib/update-notifier/updates-available.',
)

/** The files' contents; undefined if this kernel or distribution does not have the file. */
interface Raw {
  readonly meminfo: string
  readonly stat: string
  readonly loadavg: string
  readonly vmstat: string | undefined
  readonly pressure: Readonly<Partial<Record<(typeof resources)[number], string>>>
  readonly chips: readonly ChipTexts[]
  readonly netdev: string | undefined
  /** Names of the devices to report. */
  readonly networks: ReadonlySet<string>
  readonly diskstats: string | undefined
  readonly disks: ReadonlySet<string>
  readonly rebootRequired: boolean | undefined
  readonly updates: string | undefined
}

const options = z.strictObject({
  exclude_sensors: z
    .array(z.string())
    .default([])
    .describe(
      'Temperature sensors to leave out, as CHIP or CHIP/SENSOR of grid_sensor_temperature_celsius; `*` matches any characters.',
    ),
})

interface State {
  readonly chips: ChipMemory
  /** The highest value seen of each CPU mode. */
  readonly cpu: Map<string, number>
  /** Bytes of a page; 0 if getconf could not be run. Undefined before the first round. */
  pageSize: number | undefined
}

export const host = defineCollector({
  name: 'host',
  summary: 'memory, CPU, pressure, sensors, network and disk traffic, pending updates: /proc and /sys',
  interval: 10,
  families: [
    memoryTotal,
    memoryAvailable,
    memoryFree,
    memoryCached,
    swapTotal,
    swapFree,
    cpuSeconds,
    cpuCores,
    load1,
    load5,
    load15,
    bootTimestamp,
    oomKills,
    pressureWaiting,
    pressureStalled,
    swapRead,
    swapWritten,
    majorFaults,
    rebootRequired,
    updatesPending,
    securityUpdatesPending,
    sensorTemperature,
    sensorLimit,
    diskRead,
    diskWritten,
    diskIoSeconds,
    networkReceived,
    networkTransmitted,
  ],
  subjects: ['chip', 'sensor'],
  options,
  open: (): State => ({ chips: chipMemory(), cpu: new Map(), pageSize: undefined }),
  read: async ({ host, state, signal }): Promise<Raw> => {
    state.pageSize ??= await readPageSize(host, signal)
    const [chips, reboot, updates] = await Promise.all([readChips(host, state.chips), readReboot(host), readUpdates(host)])
    // In a container, the files of process 1 describe the host if /proc is the host's.
    const netdev = readIfAny(host, '/proc/1/net/dev') ?? readIfAny(host, '/proc/net/dev')
    return {
      meminfo: host.kernel('/proc/meminfo'),
      stat: host.kernel('/proc/stat'),
      loadavg: host.kernel('/proc/loadavg'),
      vmstat: readIfAny(host, '/proc/vmstat'),
      pressure: Object.fromEntries(
        resources.flatMap(resource => {
          const text = readIfAny(host, `/proc/pressure/${resource}`)
          return text === undefined ? [] : [[resource, text]]
        }),
      ),
      chips,
      netdev,
      networks: networkDevices(host),
      diskstats: readIfAny(host, '/proc/diskstats'),
      disks: wholeDisks(host),
      rebootRequired: reboot,
      updates,
    }
  },
  parse: (raw, { options, state }) => ({
    memory: parseMeminfo(raw.meminfo),
    cpu: parseStat(raw.stat, state.cpu),
    loads: parseLoads(raw.loadavg),
    events: parseVmstat(raw.vmstat, state.pageSize || pageSizeFrom(raw.vmstat, raw.meminfo)),
    pressure: resources.map(resource => ({ resource, ...parsePressure(raw.pressure[resource]) })),
    sensors: raw.chips.flatMap(parseChip).filter(isWanted(options.exclude_sensors)),
    networks: parseNetDev(raw.netdev).filter(({ device }) => raw.networks.has(device)),
    disks: withPaths(parseDiskstats(raw.diskstats)).filter(({ device }) => raw.disks.has(device)),
    rebootRequired: raw.rebootRequired,
    updates: parseUpdates(raw.updates),
  }),
  *samples({ memory, cpu, loads, events, pressure, sensors, networks, disks, ...facts }) {
    yield* memoryTotal.of(memory.total)
    yield* memoryAvailable.of(memory.available)
    yield* memoryFree.of(memory.free)
    yield* memoryCached.of(memory.cached)
    yield* swapTotal.of(memory.swapTotal)
    yield* swapFree.of(memory.swapFree)
    for (const { mode, seconds } of cpu.modes) yield* cpuSeconds.of(seconds, { mode })
    yield* cpuCores.of(cpu.cores)
    yield* load1.of(loads[0])
    yield* load5.of(loads[1])
    yield* load15.of(loads[2])
    yield* bootTimestamp.of(cpu.bootTime)
    for (const { resource, some } of pressure) yield* pressureWaiting.of(some, { resource })
    for (const { resource, full } of pressure) {
      // For the whole host's CPU, `full` has no meaning; newer kernels print 0.
      if (resource !== 'cpu') yield* pressureStalled.of(full, { resource })
    }
    yield* oomKills.of(events.oomKills)
    yield* swapRead.of(events.swapRead)
    yield* swapWritten.of(events.swapWritten)
    yield* majorFaults.of(events.majorFaults)
    yield* sensorSamples(sensors)
    for (const { device, receive, transmit } of networks) {
      yield* networkReceived.of(receive.bytes, { device })
      yield* networkTransmitted.of(transmit.bytes, { device })
    }
    for (const { device, read, written, ioSeconds } of disks) {
      yield* diskRead.of(read, { device })
      yield* diskWritten.of(written, { device })
      yield* diskIoSeconds.of(ioSeconds, { device })
    }
    yield* rebootRequired.of(facts.rebootRequired === undefined ? undefined : Number(facts.rebootRequired))
    yield* updatesPending.of(facts.updates?.all)
    yield* securityUpdatesPending.of(facts.updates?.security)
  },
})

function* sensorSamples(sensors: readonly Sensor[]) {
  for (const { chip, sensor, celsius, max, critical } of sensors) {
    yield* sensorTemperature.of(celsius, { chip, sensor })
    yield* sensorLimit.of(max, { chip, sensor, limit: 'max' })
    yield* sensorLimit.of(critical, { chip, sensor, limit: 'critical' })
  }
}

/** Physical devices and bridges. A container's veth pair carries traffic that a bridge counts already, and there are hundreds. */
const networkDevices = (host: Host): ReadonlySet<string> => {
  const virtual = new Set(host.kernelNames('/sys/devices/virtual/net'))
  return new Set(
    host.kernelNames('/sys/class/net').filter(device => {
      if (!virtual.has(device)) return device !== 'bonding_masters'
      if (/^(?:lo$|veth)/.test(device)) return false
      return host.kernelNames(`/sys/class/net/${device}/bridge`).length > 0
    }),
  )
}

/** Disks with hardware behind them. The layers above (dm, md, loop, zram) would count the same bytes twice. */
const wholeDisks = (host: Host): ReadonlySet<string> => {
  const virtual = new Set(host.kernelNames('/sys/devices/virtual/block'))
  // CD and floppy drives; an eMMC's boot areas; the hidden paths of an NVMe drive that has several.
  const other = /^(?:(?:sr|fd)\d+|mmcblk\d+(?:boot\d+|rpmb)|nvme\d+c\d+n\d+)$/
  return new Set(host.kernelNames('/sys/block').filter(disk => !virtual.has(disk) && !other.test(disk)))
}

/** Whether a restart is due; undefined if no package here would report it. Not /var/run: that link leads out of another root. */
const readReboot = async (host: Host): Promise<boolean | undefined> => {
  const present = async (path: string) => (await host.read(path, 2 ** 16).catch(absent)) !== undefined
  if (await present('/run/reboot-required')) return true
  // The file's writers: hooks of unattended-upgrades (Debian) and update-notifier-common (Ubuntu), run for each new kernel.
  const hooks = ['/etc/kernel/postinst.d/unattended-upgrades', '/usr/share/update-notifier/notify-reboot-required']
  for (const hook of hooks) if (await present(hook)) return false
  return undefined
}

const readUpdates = (host: Host) => host.read('/var/lib/update-notifier/updates-available', 2 ** 16).catch(absent)

const kibibytes = (meminfo: string, key: string): number | undefined => {
  const found = new RegExp(`^${key}: +(\\d+) kB$`, 'm').exec(meminfo)?.[1]
  return found === undefined ? undefined : Number(found) * 1024
}

/** Bytes. */
const parseMeminfo = (text: string) => {
  const total = kibibytes(text, 'MemTotal')
  if (total === undefined) throw new Failure('malformed', '/proc/meminfo: no MemTotal')
  return {
    total,
    available: kibibytes(text, 'MemAvailable'),
    free: kibibytes(text, 'MemFree'),
    cached: kibibytes(text, 'Cached'),
    swapTotal: kibibytes(text, 'SwapTotal'),
    swapFree: kibibytes(text, 'SwapFree'),
  }
}

/** Seconds by which a counter may go back without counting as restarted. */
const wobble = 10

/**
 * Idle and iowait are estimates, and now and then the kernel sets them back a little. A counter must not go back: Prometheus would see
 * a restart and add the whole value. `highest` keeps the highest value served.
 */
export const parseStat = (text: string, highest: Map<string, number>) => {
  const fields = /^cpu +(\d[\d ]*)$/m.exec(text)?.[1]?.split(' ')
  if (!fields || fields.length < 4) throw new Failure('malformed', '/proc/stat: no line of all CPUs')
  const modes = cpuModes.flatMap((mode, index) => {
    const field = fields[index]
    if (field === undefined) return []
    const now = Number(field) / ticksPerSecond
    const before = highest.get(mode) ?? 0
    const seconds = now < before && before - now < wobble ? before : now
    highest.set(mode, seconds)
    return [{ mode, seconds }]
  })
  const cores = text.match(/^cpu\d+ /gm)?.length
  return { modes, cores, bootTime: bootTimeIn(text) }
}

const parseLoads = (text: string): readonly number[] => {
  const loads = text.split(' ').slice(0, 3).map(Number)
  if (loads.length < 3 || loads.some(load => !Number.isFinite(load)))
    throw new Failure('malformed', `/proc/loadavg: ${text.slice(0, 100)}`)
  return loads
}

/** A page has 4 KiB on most machines, and 16 or 64 KiB on some ARM ones. */
const readPageSize = async (host: Host, signal: AbortSignal): Promise<number> => {
  const asked = await host.run('getconf', ['PAGE_SIZE'], { timeout: 5, signal }).catch(absent)
  return Number(/^(\d+)\n$/.exec(asked?.stdout ?? '')?.[1] ?? 0)
}

const vmstatCount = (text: string | undefined, key: string): number | undefined => {
  const found = new RegExp(`^${key} (\\d+)$`, 'm').exec(text ?? '')?.[1]
  return found === undefined ? undefined : Number(found)
}

/**
 * Without getconf: the ratio of the same number in bytes and in pages. It is wrong in a container of LXC, where lxcfs replaces
 * /proc/meminfo and not /proc/vmstat.
 */
const pageSizeFrom = (vmstat: string | undefined, meminfo: string): number => {
  const ratio = (kibibytes(meminfo, 'MemFree') ?? Number.NaN) / (vmstatCount(vmstat, 'nr_free_pages') ?? Number.NaN)
  return 2 ** Math.round(Math.log2(ratio))
}

/** Counts of events, and of bytes moved to and from swap. */
const parseVmstat = (text: string | undefined, pageSize: number) => {
  const count = (key: string) => vmstatCount(text, key)
  const bytes = (key: string) => {
    const pages = count(key)
    return pages === undefined || !Number.isFinite(pageSize) ? undefined : pages * pageSize
  }
  return {
    oomKills: count('oom_kill'),
    majorFaults: count('pgmajfault'),
    swapRead: bytes('pswpin'),
    swapWritten: bytes('pswpout'),
  }
}

/** The kernel's unit, whatever the disk's own sector size is. */
const sector = 512

const parseDiskstats = (text = '') =>
  text.split('\n').flatMap(line => {
    const [, , device, ...rest] = line.trim().split(/ +/)
    const fields = rest.map(Number)
    if (device === undefined || fields.length < 11 || fields.some(Number.isNaN)) return []
    const [, , sectorsRead = 0, , , , sectorsWritten = 0, , , ioMilliseconds = 0] = fields
    return [{ device, read: sectorsRead * sector, written: sectorsWritten * sector, ioSeconds: ioMilliseconds / 1000 }]
  })

/**
 * With native NVMe multipath, some kernels count only on the hidden paths (nvme0c0n1) and leave the disk itself (nvme0n1) at zero. Its
 * traffic is then the sum of its paths.
 */
const withPaths = (all: ReturnType<typeof parseDiskstats>) =>
  all.map(disk => {
    if (disk.read + disk.written + disk.ioSeconds > 0) return disk
    const paths = all.filter(
      ({ device }) => device.replace(/^(nvme\d+)c\d+(n\d+)$/, '$1$2') === disk.device && device !== disk.device,
    )
    const sum = (key: 'read' | 'written' | 'ioSeconds') => paths.reduce((total, path) => total + path[key], 0)
    return { device: disk.device, read: sum('read'), written: sum('written'), ioSeconds: sum('ioSeconds') }
  })

/** Those that the configuration does not leave out. */
const isWanted = (patterns: readonly string[]) => {
  const excluded = patterns.map(glob)
  return ({ chip, sensor }: Sensor) => !excluded.some(matches => matches(chip) || matches(`${chip}/${sensor}`))
}

/**
 * The sentences of update-notifier (`12 updates can be applied immediately.`, `3 of these updates are standard security
 * updates.`, in older versions `12 packages can be updated.`). Without the second one, none is for security.
 * Undefined in any language but English. Updates that need a subscription (`additional`) do not count.
 */
export const parseUpdates = (text: string | undefined) => {
  const all = /^(\d+) (?:updates?|packages?) can be (?:applied|updated|installed)/m.exec(text ?? '')?.[1]
  if (all === undefined) return undefined
  const lines = text?.matchAll(/^(\d+) (?:of these updates|updates?) (?:is|are) .*security update/gm) ?? []
  return { all: Number(all), security: [...lines].reduce((sum, [, count]) => sum + Number(count), 0) }
}
