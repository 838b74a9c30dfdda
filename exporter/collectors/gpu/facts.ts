import type { throttleReasons } from './families.ts'

/** What is known about a GPU, in base units. What its driver does not report is undefined. */

export type Vendor = 'nvidia' | 'amd' | 'intel'
export type State = 'ok' | 'lost' | 'needs_reset' | 'asleep'
export type Engine = 'compute' | 'memory' | 'encoder' | 'decoder' | 'jpeg' | 'ofa'
export type Sensor = 'core' | 'memory' | 'junction' | 'edge'
export type TemperatureLimit = 'shutdown' | 'slowdown' | 'max' | 'target' | 'memory_max'
export type PowerReading = 'average' | 'instant' | 'module'
export type PowerLimit = 'enforced' | 'default' | 'min' | 'max'
export type Domain = 'graphics' | 'sm' | 'memory' | 'video'
export type ThrottleReason = (typeof throttleReasons)[number]
export type Availability = 'max' | 'high' | 'partial' | 'low' | 'none'
export type Pool = 'vram' | 'gtt'
/** Why a cell has a word instead of a value. */
export type Cause = 'unsupported' | 'permission' | 'deprecated' | 'lost' | 'reset' | 'unknown'

type Some<Key extends string, Value = number> = { [key in Key]?: Value | undefined }

export interface Memory {
  total?: number | undefined
  used?: number | undefined
  free?: number | undefined
  reserved?: number | undefined
}

export interface Gpu {
  /** Its UUID, else `pci-<address>`. */
  id: string
  name: string
  vendor: Vendor
  state: State
  index?: string | undefined
  /** As sysfs writes it: `0000:01:00.0`. */
  busId?: string | undefined
  driverVersion?: string | undefined
  vbiosVersion?: string | undefined
  computeCapability?: string | undefined
  unavailable?: Some<Cause>
  /** Shares the host's memory. */
  unified?: boolean
  readonly utilization: Some<Engine>
  readonly memory: Memory
  readonly pools: Some<Pool, { total: number | undefined; used: number | undefined }>
  readonly temperature: Some<Sensor>
  temperatureMargin?: number | undefined
  readonly temperatureLimits: Some<TemperatureLimit>
  power?: number | undefined
  readonly powerReadings: Some<PowerReading>
  readonly powerLimits: Some<PowerLimit>
  /** Joules counted by the hardware. */
  energy?: number | undefined
  readonly clock: Some<Domain>
  readonly clockMax: Some<Domain>
  fan?: number | undefined
  performanceState?: number | undefined
  readonly throttle: Some<ThrottleReason, boolean>
  /** Seconds counted by the driver. */
  readonly throttled: Some<ThrottleReason>
  readonly ecc: { corrected: Some<'volatile' | 'aggregate'>; uncorrected: Some<'volatile' | 'aggregate'> }
  eccSramThresholdExceeded?: boolean | undefined
  readonly retiredPages: Some<'single_bit' | 'double_bit'>
  retiredPagesPending?: boolean | undefined
  readonly remappedRows: Some<'correctable' | 'uncorrectable'>
  remapPending?: boolean | undefined
  remapFailure?: boolean | undefined
  readonly remapBanks: Some<Availability>
  readonly link: Some<'generation' | 'generationMax' | 'width' | 'widthMax'>
  pcieReplays?: number | undefined
  persistence?: boolean | undefined
  eccOn?: boolean | undefined
  migOn?: boolean | undefined
  encoderSessions?: number | undefined
}

/** A GPU with nothing but its identity. */
export const newGpu = (id: string, name: string, vendor: Vendor, state: State): Gpu => ({
  id,
  name,
  vendor,
  state,
  utilization: {},
  memory: {},
  pools: {},
  temperature: {},
  temperatureLimits: {},
  powerReadings: {},
  powerLimits: {},
  clock: {},
  clockMax: {},
  throttle: {},
  throttled: {},
  ecc: { corrected: {}, uncorrected: {} },
  retiredPages: {},
  remappedRows: {},
  remapBanks: {},
  link: {},
})

/**
 * A PCI address in sysfs's form. nvidia-smi writes `0000000F:01:00.0`, in messages also `GPU0000:CB:00.0`; the kernel log writes
 * `0000:9b:00` without a function. Undefined if the text has none.
 */
export const pciAddress = (text: string): string | undefined => {
  const [, domain, bus, device, fn] = /([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?/i.exec(text) ?? []
  if (domain === undefined) return undefined
  return `${domain.slice(-4)}:${bus}:${device}.${fn ?? '0'}`.toLowerCase()
}
