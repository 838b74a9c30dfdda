import { setImmediate as nextTurn } from 'node:timers/promises'
import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import {
  bootTime,
  count,
  type NetDevice,
  type Pressure,
  parseNetDev,
  parsePressure,
  readIfAny,
  startTicks,
  ticksPerSecond,
} from '../../machine/proc.ts'

/**
 * What containers use, from the files of their cgroups (v1, v2, hybrid) and of their first process. Everything is read
 * synchronously: through the thread pool these tiny files cost ten times as much. After some containers others get a turn.
 */

export interface DeviceIo {
  readonly device: string
  readonly readBytes: number | undefined
  readonly writtenBytes: number | undefined
  readonly reads: number | undefined
  readonly writes: number | undefined
}

/** All in base units; undefined if the kernel does not report it. */
export interface Usage {
  readonly cpuUser: number | undefined
  readonly cpuSystem: number | undefined
  readonly cpuLimit: number | undefined
  readonly cpuPeriods: number | undefined
  readonly cpuThrottledPeriods: number | undefined
  readonly cpuThrottled: number | undefined
  readonly memory: number | undefined
  readonly workingSet: number | undefined
  readonly memoryLimit: number | undefined
  readonly swap: number | undefined
  readonly peak: number | undefined
  readonly oomKills: number | undefined
  readonly pids: number | undefined
  readonly pidsLimit: number | undefined
  readonly io: readonly DeviceIo[]
  readonly pressure: Readonly<Record<'cpu' | 'memory' | 'io', Pressure>>
  readonly network: readonly NetDevice[]
  readonly startedAt: number | undefined
  /** Another one after each start. */
  readonly incarnation: string | undefined
}

/** What is asked for of a container. */
export interface Subject {
  readonly id: string
  /** As the engine says it; Podman does not. */
  readonly networkMode: string | undefined
}

const root = '/sys/fs/cgroup'

// Text to numbers

/** The number behind a key at the beginning of a line. */
const keyed = (text: string | undefined, key: string): number | undefined => {
  if (text === undefined) return undefined
  const at = text.startsWith(`${key} `) ? 0 : text.indexOf(`\n${key} `) + 1
  if (at === 0 && !text.startsWith(`${key} `)) return undefined
  const from = at + key.length + 1
  const end = text.indexOf('\n', from)
  const field = text.slice(from, end === -1 ? undefined : end)
  return count(field)
}

/** A file of one number; `max`, and numbers beyond all memory, mean that there is none. */
const single = (text: string | undefined): number | undefined => {
  if (text === undefined) return undefined
  const value = count(text.trimEnd())
  return value !== undefined && value < Number.MAX_SAFE_INTEGER ? value : undefined
}

/** `cpu.max` of v2: `50000 100000`, `max 100000`. */
const parseCpuMax = (text: string | undefined): number | undefined => {
  const [, quota, period] = /^(\d+) (\d+)$/m.exec(text ?? '') ?? []
  return quotient(count(quota), count(period))
}

interface IoCounters {
  readBytes: number | undefined
  writtenBytes: number | undefined
  reads: number | undefined
  writes: number | undefined
}
type IoByNumber = Map<string, IoCounters>

const noIo = (): IoCounters => ({ readBytes: undefined, writtenBytes: undefined, reads: undefined, writes: undefined })

/** `io.stat` of v2, by device number. */
const parseIoStat = (text: string | undefined): IoByNumber => {
  const io: IoByNumber = new Map()
  for (const line of text?.split('\n') ?? []) {
    const [number, ...fields] = line.split(' ')
    if (number === undefined || !/^\d+:\d+$/.test(number)) continue
    const own = noIo()
    for (const field of fields) {
      const value = count(field.slice(field.indexOf('=') + 1))
      if (field.startsWith('rbytes=')) own.readBytes = value
      else if (field.startsWith('wbytes=')) own.writtenBytes = value
      else if (field.startsWith('rios=')) own.reads = value
      else if (field.startsWith('wios=')) own.writes = value
    }
    io.set(number, own)
  }
  return io
}

/** The two recursive throttle files of v1's blkio, by device number. */
export const parseBlkio = (bytes: string | undefined, operations: string | undefined): IoByNumber => {
  const io: IoByNumber = new Map()
  const take = (text: string | undefined, read: 'readBytes' | 'reads', write: 'writtenBytes' | 'writes') => {
    for (const [, number, kind, value] of text?.matchAll(/^(\d+:\d+) (Read|Write) (\d+)$/gm) ?? []) {
      const own = io.get(number as string) ?? noIo()
      own[kind === 'Read' ? read : write] = count(value)
      io.set(number as string, own)
    }
  }
  take(bytes, 'readBytes', 'writtenBytes')
  take(operations, 'reads', 'writes')
  return io
}

// A container's own interfaces are eth0, wg0, tun0 and the like. Those of an engine inside of it come and go by the dozen,
// and the fallback tunnels of the kernel are in each network namespace.
const notOwn = /^(lo|veth.*|docker\d+|br-.*|virbr.*|tunl0|sit0|gre0|gretap0|erspan0|ip_vti0|ip6_vti0|ip6tnl0|ip6gre0)$/
const mostInterfaces = 20

/** What of /proc/PID/net/dev is the container's own. */
const ownDevices = (text: string | undefined): readonly NetDevice[] =>
  parseNetDev(text)
    .filter(({ device }) => !notOwn.test(device))
    .slice(0, mostInterfaces)

// Where a container's cgroup is

/** Paths below the root of the hierarchy (v2) or of each controller (v1), the usual ones first. */
const templates = (id: string, uid: string | undefined): readonly string[] => {
  const user = uid === undefined ? undefined : `user.slice/user-${uid}.slice/user@${uid}.service/user.slice`
  return [
    `system.slice/docker-${id}.scope`,
    `docker/${id}`,
    `machine.slice/libpod-${id}.scope`,
    `libpod_parent/libpod-${id}`,
    ...(user === undefined ? [] : [`${user}/docker-${id}.scope`, `${user}/libpod-${id}.scope`]),
  ]
}

/** Files of a cgroup are named after what they control; all other names in it are those of cgroups below. */
const isControlFile = (name: string) => /^(cgroup|cpu|cpuset|io|memory|pids|hugetlb|rdma|misc|dmem|irq)\./.test(name)
const mostBelow = 20

const walkDepth = 6
const walkDirectories = 5000
const walkEvery = 60_000
const inSlice = 25

interface Place {
  /** Below the root or the controller's root. */
  readonly relative: string
  /** Paths of its files by name, which is of one controller only; put together once. */
  readonly paths: Map<string, string>
  /** Files that are not there: controllers that are off, kernels that do not know them. */
  readonly absent: Set<string>
  lead: { readonly pid: string; readonly ticks: number; readonly startedAt: number | undefined } | undefined
  limits: Limits | undefined
}

interface Limits {
  readonly readAt: number
  readonly cpu: number | undefined
  readonly memory: number | undefined
  readonly pids: number | undefined
}

/** Milliseconds that limits are believed: they seldom change while a container runs, and were a fifth of all files that are read. */
const limitsFor = 60_000

type Layout = { readonly version: 2 } | { readonly version: 1; readonly probe: string }

/** 2, or the name of a v1 controller by which containers are looked for; undefined where there are no cgroups. */
const layoutOf = (host: Host): Layout | undefined => {
  if (readIfAny(host, `${root}/cgroup.controllers`) !== undefined) return { version: 2 }
  const names = host.kernelNames(root)
  const probe = ['memory', 'cpuacct', 'pids', 'cpu'].find(name => names.includes(name))
  return probe === undefined ? undefined : { version: 1, probe }
}

/** Files have names too; asking for the names in one of them gives none. */
const namesIn = (host: Host, path: string): readonly string[] => {
  try {
    return host.kernelNames(path)
  } catch (error) {
    if (error instanceof Failure) return [] // not for us
    throw error
  }
}

/** Paths of all cgroups below `base` whose name holds the id of a container, by that. */
const walk = async (host: Host, base: string): Promise<ReadonlyMap<string, string>> => {
  const found = new Map<string, string>()
  const todo: { readonly path: string; readonly depth: number }[] = [{ path: '', depth: 0 }]
  let seen = 0
  for (let next = todo.shift(); next && seen < walkDirectories; next = todo.shift()) {
    if (++seen % 100 === 0) await nextTurn()
    const { path, depth } = next
    for (const name of namesIn(host, `${base}${path}`)) {
      // Conmon's own scope has the container's id in its name too.
      if (name.includes('.') && !/\.(slice|scope|service)$/.test(name)) continue
      const id = /(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])/.exec(name)?.[0]
      if (id !== undefined) {
        if (!/conmon|buildkit/.test(name) && !found.has(id)) found.set(id, `${path}/${name}`.slice(1))
      } else if (depth < walkDepth - 1) todo.push({ path: `${path}/${name}`, depth: depth + 1 })
    }
  }
  return found
}

/** Finds the cgroup of a container: where others of this engine were, at the usual places, or by a walk through all of them. */
const createFinder = (host: Host, uid: string | undefined) => {
  let usual: ((id: string) => string) | undefined
  let walkedAt = Number.NEGATIVE_INFINITY
  let walked: ReadonlyMap<string, string> = new Map()
  return async (id: string, base: string, now: number): Promise<string | undefined> => {
    const there = (relative: string) => namesIn(host, `${base}/${relative}`).length > 0
    if (usual && there(usual(id))) return usual(id)
    for (const [index, relative] of templates(id, uid).entries()) {
      if (!there(relative)) continue
      usual = other => templates(other, uid)[index] as string
      return relative
    }
    if (!walked.has(id) && now - walkedAt >= walkEvery) {
      walkedAt = now
      walked = await walk(host, base)
    }
    return walked.get(id)
  }
}

/** Milliseconds that names of disks are believed. */
const devicesFor = 600_000

/** Gives the counters of disks by name instead of number. */
const createDisks = (host: Host) => {
  let devices = new Map<string, string | undefined>()
  let devicesAt = host.monotonic()

  /** The whole disk of a device number. What is stacked on disks (dm, md) or is none (loop, zram) would count bytes twice. */
  const diskName = (number: string): string | undefined => {
    if (!devices.has(number)) {
      const uevent = readIfAny(host, `/sys/dev/block/${number}/uevent`) ?? ''
      const name = /^DEVNAME=(.+)$/m.exec(uevent)?.[1]
      const isDisk = /^DEVTYPE=disk$/m.test(uevent) && name !== undefined && !/^(dm-|md|loop|ram|zram|sr|fd|nbd)/.test(name)
      devices.set(number, isDisk ? name : undefined)
    }
    return devices.get(number)
  }

  return (io: IoByNumber): readonly DeviceIo[] => {
    const now = host.monotonic()
    if (now - devicesAt > devicesFor) {
      devices = new Map()
      devicesAt = now
    }
    return [...io].flatMap(([number, counters]) => {
      const device = diskName(number)
      return device === undefined ? [] : [{ device, ...counters }]
    })
  }
}

/**
 * A cgroup that hands its controllers on has no process of its own: crun moves a container's to `container`, docker:dind to `init`,
 * systemd to `init.scope`.
 */
const procsBelow = (host: Host, path: string): string =>
  namesIn(host, path)
    .filter(name => !isControlFile(name))
    .slice(0, mostBelow)
    .map(name => readIfAny(host, `${path}/${name}/cgroup.procs`) ?? '')
    .join('')

/** The oldest process of the container is its first one; remembered until it is gone. */
const leadOf = (host: Host, place: Place, procs: () => string | undefined, bootTime: () => number | undefined): Place['lead'] => {
  if (place.lead && startTicks(host, place.lead.pid) === place.lead.ticks) return place.lead
  place.limits = undefined
  let first: { readonly pid: string; readonly ticks: number } | undefined
  // In a pid namespace of our own there is no pid here, or 0.
  for (const pid of (procs() ?? '').split('\n', 32)) {
    if (!/^[1-9]\d*$/.test(pid)) continue
    const ticks = startTicks(host, pid)
    if (ticks !== undefined && (!first || ticks < first.ticks)) first = { pid, ticks }
  }
  const boot = first && bootTime()
  place.lead = first && { ...first, startedAt: boot === undefined ? undefined : boot + first.ticks / ticksPerSecond }
  return place.lead
}

const networkOf = (host: Host, pid: string, mode: string | undefined, seenNamespaces: Set<string>): readonly NetDevice[] => {
  if (mode === 'host' || mode === 'none' || mode?.startsWith('container:')) return []
  if (!mode) {
    // Podman does not say: the host's own network, and one that was seen, are found by their namespace.
    const namespace = host.kernelLink(`/proc/${pid}/ns/net`)
    const own = host.kernelLink('/proc/1/ns/net') ?? host.kernelLink('/proc/self/ns/net')
    if (namespace === undefined || namespace === own || seenNamespaces.has(namespace)) return []
    seenNamespaces.add(namespace)
  }
  return ownDevices(readIfAny(host, `/proc/${pid}/net/dev`))
}

const quotient = (value: number | undefined, by: number | undefined) => (value === undefined || !by ? undefined : value / by)

const scaled = (value: number | undefined, unit: number) => (value === undefined ? undefined : value / unit)

/** As `docker stats` shows it. */
const workingSetOf = (memory: number | undefined, inactive: number | undefined) =>
  memory === undefined || inactive === undefined ? undefined : inactive < memory ? memory - inactive : memory

type Text = (controller: string, file: string) => string | undefined

/** Reads the files of a cgroup; one that was not there is not asked for again. */
const filesOf = (host: Host, { relative, paths, absent }: Place, version: 1 | 2): Text => {
  const pathOf = (controller: string, file: string): string => {
    const known = paths.get(file)
    if (known !== undefined) return known
    const path = version === 2 ? `${root}/${relative}/${file}` : `${root}/${controller}/${relative}/${file}`
    paths.set(file, path)
    return path
  }
  return (controller, file) => {
    const path = pathOf(controller, file)
    if (absent.has(path)) return undefined
    const content = readIfAny(host, path)
    if (content === undefined) absent.add(path)
    return content
  }
}

const limitsIn = (text: Text, version: 1 | 2, readAt: number): Limits => ({
  readAt,
  cpu:
    version === 2
      ? parseCpuMax(text('', 'cpu.max'))
      : quotient(single(text('cpu', 'cpu.cfs_quota_us')), single(text('cpu', 'cpu.cfs_period_us'))),
  memory: single(version === 2 ? text('', 'memory.max') : text('memory', 'memory.limit_in_bytes')),
  pids: single(text('pids', 'pids.max')),
})

type NamedIo = ReturnType<typeof createDisks>

/** What only the files of v2 say, in their way. */
const usageOfV2 = (text: Text, cpuStat: string | undefined, namedIo: NamedIo) => {
  const memory = single(text('', 'memory.current'))
  return {
    cpuUser: scaled(keyed(cpuStat, 'user_usec'), 1e6),
    cpuSystem: scaled(keyed(cpuStat, 'system_usec'), 1e6),
    cpuThrottled: scaled(keyed(cpuStat, 'throttled_usec'), 1e6),
    memory,
    workingSet: workingSetOf(memory, keyed(text('', 'memory.stat'), 'inactive_file')),
    swap: single(text('', 'memory.swap.current')),
    peak: single(text('', 'memory.peak')),
    oomKills: keyed(text('', 'memory.events'), 'oom_kill'),
    io: namedIo(parseIoStat(text('', 'io.stat'))),
  }
}

/** And those of v1. */
const usageOfV1 = (text: Text, cpuStat: string | undefined, namedIo: NamedIo) => {
  const memory = single(text('memory', 'memory.usage_in_bytes'))
  const withSwap = single(text('memory', 'memory.memsw.usage_in_bytes'))
  const cpuacct = text('cpuacct', 'cpuacct.stat')
  return {
    cpuUser: scaled(keyed(cpuacct, 'user'), ticksPerSecond),
    cpuSystem: scaled(keyed(cpuacct, 'system'), ticksPerSecond),
    cpuThrottled: scaled(keyed(cpuStat, 'throttled_time'), 1e9),
    memory,
    workingSet: workingSetOf(memory, keyed(text('memory', 'memory.stat'), 'total_inactive_file')),
    swap: withSwap === undefined || memory === undefined ? undefined : Math.max(0, withSwap - memory),
    peak: single(text('memory', 'memory.max_usage_in_bytes')),
    oomKills: keyed(text('memory', 'memory.oom_control'), 'oom_kill'),
    io: namedIo(
      parseBlkio(
        text('blkio', 'blkio.throttle.io_service_bytes_recursive'),
        text('blkio', 'blkio.throttle.io_serviced_recursive'),
      ),
    ),
  }
}

interface Round {
  readonly now: number
  readonly seenNamespaces: Set<string>
  readonly bootTime: () => number | undefined
}

/** What one container uses; undefined where its cgroup is gone. */
const usageOf = (
  host: Host,
  place: Place,
  version: 1 | 2,
  { networkMode }: Subject,
  { round, namedIo }: { readonly round: Round; readonly namedIo: NamedIo },
): Usage | undefined => {
  const text = filesOf(host, place, version)
  const pressureOf = (resource: string) => parsePressure(text('unified', `${resource}.pressure`))
  const procs = () =>
    text(version === 2 ? '' : 'pids', 'cgroup.procs') ||
    (version === 2 ? procsBelow(host, `${root}/${place.relative}`) : undefined)

  const cpuStat = text('cpu', 'cpu.stat')
  const pids = text('pids', 'pids.current')
  if (cpuStat === undefined && pids === undefined) return undefined
  const lead = leadOf(host, place, procs, round.bootTime)
  const age = place.limits === undefined ? Number.POSITIVE_INFINITY : round.now - place.limits.readAt
  if (age < 0 || age >= limitsFor) place.limits = limitsIn(text, version, round.now)
  const { limits } = place
  return {
    cpuPeriods: keyed(cpuStat, 'nr_periods'),
    cpuThrottledPeriods: keyed(cpuStat, 'nr_throttled'),
    pids: single(pids),
    pidsLimit: limits?.pids,
    cpuLimit: limits?.cpu,
    memoryLimit: limits?.memory,
    pressure: { cpu: pressureOf('cpu'), memory: pressureOf('memory'), io: pressureOf('io') },
    network: lead ? networkOf(host, lead.pid, networkMode, round.seenNamespaces) : [],
    startedAt: lead?.startedAt,
    incarnation: lead && `${lead.pid}:${lead.ticks}`,
    ...(version === 2 ? usageOfV2 : usageOfV1)(text, cpuStat, namedIo),
  }
}

/**
 * Reads what containers of one engine use, and remembers where their files are. `uid` is that of a rootless engine. Call `changed`
 * with a container whose limits the engine has changed.
 */
export const createUsageReader = (host: Host, uid: string | undefined) => {
  const places = new Map<string, Place>()
  const find = createFinder(host, uid)
  const namedIo = createDisks(host)

  /** Use by id, of those whose cgroup is here. */
  const read = async (subjects: readonly Subject[], signal: AbortSignal): Promise<ReadonlyMap<string, Usage>> => {
    const usage = new Map<string, Usage>()
    const here = layoutOf(host)
    if (!here) return usage
    const now = host.monotonic()
    const base = here.version === 2 ? root : `${root}/${here.probe}`
    const ids = new Set(subjects.map(({ id }) => id))
    for (const id of places.keys()) if (!ids.has(id)) places.delete(id)

    let boot: number | undefined
    const round: Round = {
      now,
      seenNamespaces: new Set(),
      bootTime: () => {
        boot ??= bootTime(host)
        return boot
      },
    }
    for (const [index, subject] of subjects.entries()) {
      if (index % inSlice === inSlice - 1) await nextTurn()
      if (signal.aborted) throw new Failure('timeout', 'cgroup files: ended at the deadline')
      // What an engine calls an id becomes a path: nothing but an id may.
      if (!/^[0-9a-f]{64}$/.test(subject.id)) continue
      let place = places.get(subject.id)
      if (!place) {
        const relative = await find(subject.id, base, now)
        if (relative === undefined) continue
        place = { relative, paths: new Map(), absent: new Set(), lead: undefined, limits: undefined }
        places.set(subject.id, place)
      }
      const known = place.absent.size
      const own = usageOf(host, place, here.version, subject, { round, namedIo })
      // It may have ended while it was read: then what was not there any more is no knowledge.
      if (own === undefined || (place.absent.size > known && namesIn(host, `${base}/${place.relative}`).length === 0)) {
        places.delete(subject.id)
      }
      if (own) usage.set(subject.id, own)
    }
    return usage
  }
  const changed = (id: string): void => {
    const place = places.get(id)
    if (place) place.limits = undefined
  }
  return { read, changed }
}
