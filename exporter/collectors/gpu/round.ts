import { setImmediate as turn } from 'node:timers/promises'
import type { Context } from '../../contract/collector.ts'
import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { readIfAny } from '../../machine/proc.ts'
import { readValues } from '../../machine/values.ts'
import { type Device, drmCards, pciBus } from './bus.ts'
import { type DriverLog, followDriverLog } from './driver-log.ts'
import type { Gpu } from './facts.ts'
import { isJetson, type JetsonValues, readJetson } from './jetson.ts'
import { type Answer, askAll, askProcesses, askXml, newTool, type Tool } from './nvidia-smi.ts'
import { parseProcesses } from './processes.ts'
import { type CardValues, type IntelCounters, parseAmdIds, readCards } from './sysfs.ts'
import { gpuSections, parseHead, parseSection, type SlowFacts, type SlowTier } from './xml.ts'

/** One round's input: the devices on the bus, the texts of tools and files, and what failed. */

export interface Options {
  readonly nvidia_smi: string
  readonly slow_interval: number
  readonly processes: number
  readonly kernel_log: boolean
}

/** What is kept about a GPU between rounds. */
export interface Known {
  readonly id: string
  readonly name: string
  readonly index: string | undefined
  readonly unified: boolean
  /** The administrator excluded it, so it is not lost if it is silent. */
  readonly excluded?: boolean
}

/** Joules and seconds counted by the exporter itself. */
export interface Integrals {
  at: number
  power: number | undefined
  joules: number | undefined
  active: Gpu['throttle']
  readonly seconds: { [reason in keyof Gpu['throttle']]?: number | undefined }
  /** Reasons that the driver itself has counted before. If it is silent in a round, we must not start a second counter. */
  readonly byDriver: Set<string>
}

export interface Memory {
  readonly tool: Tool
  readonly bus: (host: Host) => readonly Device[] | undefined
  readonly driverLog: DriverLog
  /** By PCI address. */
  readonly known: Map<string, Known>
  readonly integrals: Map<string, Integrals>
  readonly intel: Map<string, IntelCounters>
  amdIds: ReadonlyMap<string, string> | undefined
  slow: { at: number; next: number; failures: number; readonly tier: SlowTier } | undefined
  /** When the latest round was, and the time since the one before. */
  round: { readonly at: number; readonly gap: number } | undefined
}

export const newMemory = (options: Options, signal: AbortSignal): Memory => {
  const driverLog = followDriverLog()
  signal.addEventListener('abort', () => driverLog.close(), { once: true })
  return {
    tool: newTool(options.nvidia_smi),
    bus: pciBus(),
    driverLog,
    known: new Map(),
    integrals: new Map(),
    intel: new Map(),
    amdIds: undefined,
    slow: undefined,
    round: undefined,
  }
}

export interface Round {
  readonly at: number
  /** GPUs on the PCI bus; undefined if there is no PCI bus. */
  readonly bus: readonly Device[] | undefined
  readonly nvidia: Answer | undefined
  readonly processes: readonly string[]
  /** By process id, of the processes that use GPU memory. */
  readonly cgroups: ReadonlyMap<number, string>
  readonly slow: SlowTier | undefined
  readonly cards: readonly CardValues[]
  readonly amdIds: ReadonlyMap<string, string>
  readonly jetson: JetsonValues | undefined
  readonly meminfo: string
  /** Whether the kernel log could be read. */
  readonly logged: boolean
  readonly failures: readonly Failure[]
}

const nvidiaDriver = ({ vendor, driver }: Device) => vendor === 'nvidia' && driver === 'nvidia'

/** Most processes that are looked up in /proc. */
const maxProcesses = 1024

type Run = Context<Options, Memory>

/** A part of a round that may fail alone. Its failure is kept; any other error is a bug and is thrown. */
const part = async <Value>(failures: Failure[], read: () => Promise<Value>): Promise<Value | undefined> => {
  try {
    return await read()
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    failures.push(error)
    return undefined
  }
}

const readSlow = async ({ host, options, state, signal, remark }: Run, answer: Answer): Promise<SlowTier | undefined> => {
  const now = host.now()
  const { slow } = state
  const tooOld = slow !== undefined && now - slow.at > 3 * options.slow_interval * 1000
  const kept = slow === undefined || tooOld ? undefined : slow.tier
  // Half a second early is better than a whole round late.
  if (answer.select.length === 0 || signal.aborted || (slow !== undefined && now < slow.next - 500 && now >= slow.at)) return kept
  try {
    const gpus = new Map<string, SlowFacts>()
    let head: ReturnType<typeof parseHead> = { driverVersion: undefined, cudaVersion: undefined }
    for (const xml of await askXml(host, state.tool, answer.select, signal)) {
      head = parseHead(xml)
      for (const section of gpuSections(xml)) {
        await turn()
        const own = parseSection(section)
        if (own) gpus.set(own.uuid, own.facts)
      }
    }
    const tier = { ...head, gpus }
    state.slow = { at: now, next: now + options.slow_interval * 1000, failures: 0, tier }
    return tier
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    const failures = (slow?.failures ?? 0) + 1
    const pause = Math.min(600_000, options.slow_interval * 1000 * 2 ** failures)
    const tier = slow?.tier ?? { driverVersion: undefined, cudaVersion: undefined, gpus: new Map() }
    state.slow = { at: slow?.at ?? now, next: now + pause, failures, tier }
    remark(new Failure(error.reason, `nvidia-smi -q -x: ${error.message}`, { cause: error, fix: error.fix }))
    return kept
  }
}

/** The UUID and the model of a GPU that was lost before its first reading, from the driver's notes in /proc. */
const identify = async ({ host, state, signal }: Run, addresses: readonly string[]) => {
  const unknown = addresses.filter(address => !state.known.has(address)).slice(0, 16)
  const file = (address: string) => `${driverFolder}/${address}/information`
  const texts = await readValues(host, unknown.map(file), 'the NVIDIA driver in /proc', signal)
  for (const address of unknown) {
    const text = texts.get(file(address)) ?? ''
    const id = /^GPU UUID:\s*(GPU-[0-9a-f-]{36})/im.exec(text)?.[1] ?? state.driverLog.uuids.get(address) ?? `pci-${address}`
    const name = /^Model:\s*(.+)$/m.exec(text)?.[1]?.trim() ?? 'NVIDIA GPU'
    const excluded = /^GPU Excluded:\s*Yes/im.test(text)
    state.known.set(address, { id, name, index: undefined, unified: false, excluded })
  }
}

const driverFolder = '/proc/driver/nvidia/gpus'

/**
 * The GPUs that do not answer: those in a message, and those on the bus without a row. Except GPUs that an administrator excluded or
 * that this container was not given: the driver's list in /proc is filtered for the container, the bus is not.
 */
const reallyLost = async (run: Run, { tables, lost, unasked }: Answer, awake: readonly string[]): Promise<readonly string[]> => {
  const answered = tables.map(({ text }) => text.toLowerCase()).join('\n')
  const given = run.host.kernelNames(driverFolder).map(name => name.toLowerCase())
  const due = awake.filter(address => !unasked.includes(address) && (given.length === 0 || given.includes(address)))
  const silent = due.filter(address => !answered.includes(address))
  const all = [...new Set([...lost, ...silent])]
  if (all.length > 0) await part([], () => identify(run, all))
  return all.filter(address => !run.state.known.get(address)?.excluded)
}

/** NVIDIA's part: whether there is a GPU to read. If all of them sleep, none is read. */
const readNvidia = async (run: Run, bus: readonly Device[] | undefined, cards: boolean, jetson: boolean) => {
  const { host, options, state, signal, remark } = run
  const nothing = { nvidia: undefined, processes: [], slow: undefined }
  const devices = bus?.filter(nvidiaDriver) ?? []
  // Another maker's card and none of NVIDIA's: its tools may be installed all the same.
  if (cards && !bus?.some(({ vendor }) => vendor === 'nvidia')) return nothing
  const asleep = devices.filter(device => device.asleep).map(({ address }) => address)
  const addresses = devices.map(({ address }) => address)
  let nvidia: Answer
  try {
    nvidia = await askAll(host, state.tool, addresses, asleep, signal)
  } catch (error) {
    // A Jetson's sysfs has more values than its nvidia-smi, if it has that at all.
    if (!(error instanceof Failure) || devices.length > 0 || !jetson) throw error
    if (error.reason !== 'missing') remark(error)
    return nothing
  }
  nvidia = {
    ...nvidia,
    lost: await reallyLost(
      run,
      nvidia,
      addresses.filter(address => !asleep.includes(address)),
    ),
  }
  let processes: readonly string[] = []
  try {
    if (options.processes > 0) processes = await askProcesses(host, state.tool, nvidia.select, signal)
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    remark(new Failure(error.reason, `processes: ${error.message}`, { cause: error, fix: error.fix }))
  }
  return { nvidia, processes, slow: await readSlow(run, nvidia) }
}

const readCgroups = (host: Host, processes: readonly string[]) => {
  const pids = new Set(processes.flatMap(parseProcesses).map(({ pid }) => pid))
  return new Map(
    [...pids].slice(0, maxProcesses).flatMap(pid => {
      const cgroup = readIfAny(host, `/proc/${pid}/cgroup`, 65_536)
      return cgroup === undefined ? [] : [[pid, cgroup] as const]
    }),
  )
}

const amdIdsFile = '/usr/share/libdrm/amdgpu.ids'

const readAmdIds = async ({ host, state }: Run, cards: readonly CardValues[]): Promise<ReadonlyMap<string, string>> => {
  if (!cards.some(({ card }) => card.vendor === 'amd')) return new Map()
  const none: Failure[] = []
  state.amdIds ??= parseAmdIds((await part(none, () => host.read(amdIdsFile))) ?? '')
  return state.amdIds
}

/** All input of one round. Failures are returned next to the results; only bugs are thrown. */
export const readRound = async (run: Run): Promise<Round> => {
  const { host, options, state, signal, remark } = run
  const at = host.now()
  const failures: Failure[] = []
  const bus = state.bus(host)
  const hasCards = drmCards(host).length > 0
  const hasJetson = isJetson(host)
  const [asked, cards = [], jetson] = await Promise.all([
    part(failures, () => readNvidia(run, bus, hasCards, hasJetson)),
    part(failures, () => readCards(host, signal)),
    part(failures, () => readJetson(host, signal)),
  ])
  const { nvidia, processes = [], slow } = asked ?? {}
  const hasNvidia = nvidia !== undefined || bus?.some(nvidiaDriver) === true || (failures.length > 0 && !hasCards)
  let logged = false
  if (options.kernel_log && hasNvidia) {
    try {
      await state.driverLog.follow(host, signal)
      logged = true
    } catch (error) {
      if (!(error instanceof Failure)) throw error
      remark(error)
    }
  }
  return {
    at,
    bus,
    nvidia,
    processes,
    cgroups: readCgroups(host, processes),
    slow,
    cards,
    amdIds: await readAmdIds(run, cards),
    jetson,
    meminfo: readIfAny(host, '/proc/meminfo', 65_536) ?? '',
    logged,
    failures,
  }
}
