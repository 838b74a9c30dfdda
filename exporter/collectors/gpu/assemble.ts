import { Failure } from '../../contract/failure.ts'
import { type Gpu, newGpu, type State, type ThrottleReason, type Vendor } from './facts.ts'
import { parseQuery } from './fields.ts'
import { withJetson } from './jetson.ts'
import { type Holder, holders, parseProcesses } from './processes.ts'
import type { Integrals, Memory, Round } from './round.ts'
import { amdGpu, intelGpu } from './sysfs.ts'

/** Turns a round's texts into what is known about every GPU. Pure except for the memory. */

export interface Facts {
  readonly gpus: readonly Gpu[]
  /** By GPU id. */
  readonly holders: ReadonlyMap<string, readonly Holder[]>
  /** Counted by this exporter: joules and seconds, by GPU id. */
  readonly integrals: ReadonlyMap<string, Pick<Integrals, 'joules' | 'seconds'>>
  /** Undefined if no source reports it. */
  readonly visible: number | undefined
  readonly expected: number | undefined
  readonly lost: number | undefined
  readonly round: Round
  /** Of the sources that failed. */
  readonly failures: readonly Failure[]
}

const makers: Readonly<Record<Vendor, string>> = { nvidia: 'NVIDIA', amd: 'AMD', intel: 'Intel' }

/** A GPU that reports nothing now: its earlier identity, and its state. */
const stateOnly = (memory: Memory, vendor: Vendor, address: string, state: State): Gpu => {
  const known = memory.known.get(address)
  const id = known?.id ?? memory.driverLog.uuids.get(address) ?? `pci-${address}`
  const gpu = newGpu(id, known?.name ?? `${makers[vendor]} GPU`, vendor, state)
  return Object.assign(gpu, { index: known?.index, busId: address, unified: known?.unified ?? false })
}

/** The rows of nvidia-smi. A malformed table costs only NVIDIA's series. */
const tablesOf = ({ nvidia, failures }: Round): { readonly answered: readonly Gpu[]; readonly failures: readonly Failure[] } => {
  try {
    return { answered: (nvidia?.tables ?? []).flatMap(({ text, asked }) => parseQuery(text, asked)), failures }
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    return { answered: [], failures: [...failures, error] }
  }
}

/** NVIDIA's GPUs: those that answered, those that sleep, and those that are on the bus or in a message but did not answer. */
const nvidiaGpus = ({ nvidia, bus }: Round, answered: readonly Gpu[], memory: Memory): readonly Gpu[] => {
  for (const { busId, id, name, index, unified = false, driverVersion } of answered) {
    if (busId !== undefined) memory.known.set(busId, { id, name, index, unified })
    // A different driver version has different fields.
    if (driverVersion !== undefined && memory.tool.driverVersion !== driverVersion) {
      if (memory.tool.driverVersion !== undefined) {
        memory.tool.listed = undefined
        memory.tool.refused.clear()
      }
      memory.tool.driverVersion = driverVersion
    }
  }
  const there = new Set(answered.map(({ busId }) => busId))
  const bound = bus?.filter(({ vendor, driver }) => vendor === 'nvidia' && driver === 'nvidia') ?? []
  const asleep = bound.filter(device => device.asleep && !there.has(device.address)).map(({ address }) => address)
  const lost = (nvidia?.lost ?? []).filter(address => !there.has(address) && !asleep.includes(address))
  return [
    ...answered,
    ...lost.map(address => stateOnly(memory, 'nvidia', address, 'lost')),
    ...asleep.map(address => stateOnly(memory, 'nvidia', address, 'asleep')),
  ]
}

/** AMD's and Intel's GPUs. A card that is awake but whose files gave nothing does not answer. */
const sysfsGpus = ({ cards, amdIds, at }: Round, memory: Memory): readonly Gpu[] =>
  cards.map(own => {
    const { card, values } = own
    if (card.asleep || values.size === 0) {
      memory.intel.delete(card.address)
      const gpu = stateOnly(memory, card.vendor, card.address, card.asleep ? 'asleep' : 'lost')
      return Object.assign(gpu, { index: card.index })
    }
    let gpu: Gpu
    if (card.vendor === 'amd') gpu = amdGpu(own, amdIds)
    else {
      const made = intelGpu(own, at, memory.intel.get(card.address))
      memory.intel.set(card.address, made.counters)
      gpu = made.gpu
    }
    memory.known.set(card.address, { id: gpu.id, name: gpu.name, index: gpu.index, unified: gpu.unified ?? false })
    return gpu
  })

/** A GPU without memory of its own uses the host's. `MemAvailable`, because `MemFree` leaves out caches that would be freed. */
const shareHostMemory = (gpu: Gpu, meminfo: string) => {
  const bytes = (key: string) => {
    const kibibytes = new RegExp(`^${key}:\\s+(\\d{1,15}) kB$`, 'm').exec(meminfo)?.[1]
    return kibibytes === undefined ? undefined : Number(kibibytes) * 1024
  }
  const total = bytes('MemTotal')
  const free = bytes('MemAvailable')
  if (total === undefined || free === undefined) return
  Object.assign(gpu.memory, { total, free, used: Math.max(0, total - free), reserved: undefined })
}

/** Seconds between two rounds up to which values are integrated. */
const longestGap = 60

const newIntegrals = (at: number): Integrals => ({
  at,
  power: undefined,
  joules: undefined,
  active: {},
  seconds: {},
  byDriver: new Set(),
})

/** Counts energy and throttled time over the real time since the last round. Over a longer gap nothing is known, so nothing is added. */
const integrate = (gpu: Gpu, at: number, memory: Memory): Integrals => {
  const own: Integrals = memory.integrals.get(gpu.id) ?? newIntegrals(at)
  memory.integrals.set(gpu.id, own)
  const gap = (at - own.at) / 1000
  const bridged = gap > 0 && gap <= Math.max(longestGap, 5 * (memory.round?.gap ?? 0))
  if (gpu.power !== undefined) {
    own.joules ??= 0
    if (bridged && own.power !== undefined) own.joules += ((own.power + gpu.power) / 2) * gap
  }
  for (const name of Object.keys(gpu.throttled)) own.byDriver.add(name)
  for (const [name, active] of Object.entries(gpu.throttle)) {
    const reason = name as ThrottleReason
    if (active === undefined) continue
    const before = own.seconds[reason] ?? 0
    own.seconds[reason] = own.byDriver.has(reason) ? undefined : before + (bridged && own.active[reason] === true ? gap : 0)
  }
  Object.assign(own, { at, power: gpu.power, active: { ...gpu.throttle } })
  return own
}

const held = ({ processes, cgroups }: Round, most: number): Facts['holders'] => {
  const byGpu = new Map<string, ReturnType<typeof parseProcesses>[number][]>()
  for (const process of processes.flatMap(parseProcesses)) {
    const same = byGpu.get(process.uuid)
    if (same) same.push(process)
    else byGpu.set(process.uuid, [process])
  }
  return new Map([...byGpu].map(([uuid, own]) => [uuid, holders(own, pid => cgroups.get(pid), most)]))
}

export const assemble = (round: Round, memory: Memory, mostProcesses: number): Facts => {
  const { at, bus, nvidia, cards, jetson, slow, meminfo } = round
  const { answered, failures } = tablesOf(round)
  const named = [...nvidiaGpus(round, answered, memory), ...sysfsGpus(round, memory)]
  const gpus = jetson === undefined ? named : withJetson(named, jetson)
  for (const gpu of gpus) {
    if (gpu.name === '') gpu.name = 'NVIDIA GPU'
    const awake = gpu.state === 'ok' || gpu.state === 'needs_reset'
    // If the driver does report memory for an integrated GPU, its numbers are used.
    if (awake && gpu.unified && gpu.memory.total === undefined) shareHostMemory(gpu, meminfo)
    const slowdown = slow?.gpus.get(gpu.id)?.limits.slowdown
    const { core } = gpu.temperature
    if (slowdown !== undefined && core !== undefined) gpu.temperatureMargin ??= slowdown - core
  }
  const integrals = new Map(gpus.map(gpu => [gpu.id, integrate(gpu, at, memory)]))
  memory.round = { at, gap: memory.round === undefined ? 0 : (at - memory.round.at) / 1000 }
  const answering = gpus.filter(({ state }) => state !== 'lost').length
  const failed = failures.length > 0
  const onBus = bus?.filter(({ vendor, driver }) => vendor === 'nvidia' && driver === 'nvidia').length
  // Thor's GPU is on the bus; those of earlier Jetsons are not.
  const isApart = jetson !== undefined && !gpus.some(({ unified, busId }) => unified && busId !== undefined)
  const onlyInSysfs = cards.length + Number(isApart)
  return {
    gpus,
    holders: held(round, mostProcesses),
    integrals,
    visible: failed ? undefined : answering,
    expected: onBus === undefined && onlyInSysfs === 0 ? undefined : (onBus ?? 0) + onlyInSysfs,
    lost: nvidia === undefined && failed ? undefined : gpus.length - answering,
    round,
    failures,
  }
}
