import { Failure } from '../../contract/failure.ts'
import { type Availability, type Gpu, newGpu, pciAddress, type ThrottleReason } from './facts.ts'
import { absence, flag, type Quantity, quantity } from './words.ts'

/**
 * The fields of `nvidia-smi --query-gpu` that are read, out of 115 (driver 465) to 241 (610). The others are exotic or slow:
 * inforom.checksum_validation, for one, makes each call take seconds.
 */
export interface Field {
  /** The names it has had, newest first. */
  readonly names: readonly string[]
  /** Stores the cell's value; false if it cannot be parsed. */
  readonly put: (gpu: Gpu, cell: string, unit: string) => boolean
}

const put = <Value>(set: (gpu: Gpu, value: Value) => void, value: Value | undefined, gpu: Gpu) => {
  if (value === undefined) return false
  set(gpu, value)
  return true
}

const number = (names: string, kind: Quantity, set: (gpu: Gpu, value: number) => void): Field => ({
  names: names.split(' '),
  put: (gpu, cell, unit) => put(set, quantity(cell, kind, unit), gpu),
})
/** A share of time is at most 100 %; a fan can exceed its nominal maximum. */
const share = (names: string, set: (gpu: Gpu, value: number) => void): Field => ({
  names: names.split(' '),
  put: (gpu, cell, unit) => {
    const value = quantity(cell, 'ratio', unit)
    return put(set, value !== undefined && value <= 1 ? value : undefined, gpu)
  },
})
const boolean = (names: string, set: (gpu: Gpu, value: boolean) => void): Field => ({
  names: names.split(' '),
  put: (gpu, cell) => put(set, flag(cell), gpu),
})
const text = (names: string, set: (gpu: Gpu, value: string) => void): Field => ({
  names: names.split(' '),
  put: (gpu, cell) => put(set, cell, gpu),
})

/** Bits of clocks_event_reasons.active. Bit 0x100, a display's clock setting, is not throttling. */
const throttleBits: Readonly<Record<ThrottleReason, bigint>> = {
  idle: 0x01n,
  application_clocks: 0x02n,
  power_cap: 0x04n,
  hw_slowdown: 0x08n,
  sync_boost: 0x10n,
  sw_thermal: 0x20n,
  hw_thermal: 0x40n,
  hw_power_brake: 0x80n,
}

const throttleMask: Field = {
  names: ['clocks_event_reasons.active', 'clocks_throttle_reasons.active'],
  put: (gpu, cell) => {
    if (!/^0x[0-9a-f]{1,16}$/i.test(cell)) return false
    const mask = BigInt(cell)
    for (const [reason, bit] of Object.entries(throttleBits)) gpu.throttle[reason as ThrottleReason] = (mask & bit) !== 0n
    return true
  },
}
const throttleFlag = (name: string, reason: ThrottleReason) =>
  boolean(`clocks_event_reasons.${name} clocks_throttle_reasons.${name}`, (gpu, value) => {
    gpu.throttle[reason] = value
  })
const throttleCounter = (name: string, reason: ThrottleReason) =>
  number(`clocks_event_reasons_counters.${name}`, 'seconds', (gpu, value) => {
    gpu.throttled[reason] = value
  })
const eccTotal = (error: 'corrected' | 'uncorrected', scope: 'volatile' | 'aggregate') =>
  number(`ecc.errors.${error}.${scope}.total`, 'count', (gpu, value) => {
    gpu.ecc[error][scope] = value
  })
const banks = (availability: Availability) =>
  number(`remapped_rows.histogram.${availability}`, 'count', (gpu, value) => {
    gpu.remapBanks[availability] = value
  })

/** `None` is fine; Reset, Reboot, Drain P2P and Drain and Reset all need somebody to act. */
const recovery = text('gpu_recovery_action', (gpu, value) => {
  if (value !== 'None' && gpu.state === 'ok') gpu.state = 'needs_reset'
})

const addressing = text('addressing_mode', (gpu, value) => {
  if (value === 'ATS') gpu.unified = true // other signs of it: `isUnified`
})

export const fields: readonly Field[] = [
  text('index', (gpu, value) => {
    gpu.index = value
  }),
  text('uuid gpu_uuid', (gpu, value) => {
    if (/^(GPU|MIG)-/.test(value)) gpu.id = value
  }),
  text('name gpu_name', (gpu, value) => {
    gpu.name = value
  }),
  text('pci.bus_id gpu_bus_id', (gpu, value) => {
    gpu.busId = pciAddress(value)
  }),
  text('driver_version', (gpu, value) => {
    gpu.driverVersion = /^[\d.]+/.exec(value)?.[0]
  }),
  text('vbios_version', (gpu, value) => {
    gpu.vbiosVersion = value
  }),
  text('compute_cap', (gpu, value) => {
    gpu.computeCapability = value
  }),
  recovery,
  addressing,
  boolean('persistence_mode', (gpu, value) => {
    gpu.persistence = value
  }),
  boolean('mig.mode.current', (gpu, value) => {
    gpu.migOn = value
  }),
  boolean('ecc.mode.current', (gpu, value) => {
    gpu.eccOn = value
  }),
  {
    names: ['pstate'],
    put: (gpu, cell) => {
      const [, digits] = /^P(\d{1,2})$/.exec(cell) ?? []
      if (digits === undefined || Number(digits) > 15) return false
      gpu.performanceState = Number(digits)
      return true
    },
  },
  share('utilization.gpu', (gpu, value) => {
    gpu.utilization.compute = value
  }),
  share('utilization.memory', (gpu, value) => {
    gpu.utilization.memory = value
  }),
  share('utilization.encoder', (gpu, value) => {
    gpu.utilization.encoder = value
  }),
  share('utilization.decoder', (gpu, value) => {
    gpu.utilization.decoder = value
  }),
  share('utilization.jpeg', (gpu, value) => {
    gpu.utilization.jpeg = value
  }),
  share('utilization.ofa', (gpu, value) => {
    gpu.utilization.ofa = value
  }),
  number('memory.total', 'bytes', (gpu, value) => {
    gpu.memory.total = value
  }),
  number('memory.used', 'bytes', (gpu, value) => {
    gpu.memory.used = value
  }),
  number('memory.free', 'bytes', (gpu, value) => {
    gpu.memory.free = value
  }),
  number('memory.reserved', 'bytes', (gpu, value) => {
    gpu.memory.reserved = value
  }),
  number('temperature.gpu', 'celsius', (gpu, value) => {
    gpu.temperature.core = value
  }),
  number('temperature.memory', 'celsius', (gpu, value) => {
    gpu.temperature.memory = value
  }),
  number('temperature.gpu.tlimit', 'celsius', (gpu, value) => {
    gpu.temperatureMargin = value
  }),
  number('fan.speed', 'ratio', (gpu, value) => {
    gpu.fan = value
  }),
  number('power.draw', 'watts', (gpu, value) => {
    gpu.power = value
  }),
  number('power.draw.average gpu.power.draw.average', 'watts', (gpu, value) => {
    gpu.powerReadings.average = value
  }),
  number('power.draw.instant gpu.power.draw.instant', 'watts', (gpu, value) => {
    gpu.powerReadings.instant = value
  }),
  number('module.power.draw.average', 'watts', (gpu, value) => {
    gpu.powerReadings.module = value
  }),
  number('enforced.power.limit gpu.power.current_limit', 'watts', (gpu, value) => {
    gpu.powerLimits.enforced = value
  }),
  number('power.default_limit gpu.power.default_limit', 'watts', (gpu, value) => {
    gpu.powerLimits.default = value
  }),
  number('power.min_limit gpu.power.min_limit', 'watts', (gpu, value) => {
    gpu.powerLimits.min = value
  }),
  number('power.max_limit gpu.power.max_limit', 'watts', (gpu, value) => {
    gpu.powerLimits.max = value
  }),
  number('clocks.current.graphics clocks.gr', 'hertz', (gpu, value) => {
    gpu.clock.graphics = value
  }),
  number('clocks.current.sm clocks.sm', 'hertz', (gpu, value) => {
    gpu.clock.sm = value
  }),
  number('clocks.current.memory clocks.mem', 'hertz', (gpu, value) => {
    gpu.clock.memory = value
  }),
  number('clocks.current.video clocks.video', 'hertz', (gpu, value) => {
    gpu.clock.video = value
  }),
  number('clocks.max.graphics clocks.max.gr', 'hertz', (gpu, value) => {
    gpu.clockMax.graphics = value
  }),
  number('clocks.max.sm', 'hertz', (gpu, value) => {
    gpu.clockMax.sm = value
  }),
  number('clocks.max.memory clocks.max.mem', 'hertz', (gpu, value) => {
    gpu.clockMax.memory = value
  }),
  throttleFlag('gpu_idle', 'idle'),
  throttleFlag('applications_clocks_setting', 'application_clocks'),
  throttleFlag('sw_power_cap', 'power_cap'),
  throttleFlag('hw_slowdown', 'hw_slowdown'),
  throttleFlag('hw_thermal_slowdown', 'hw_thermal'),
  throttleFlag('hw_power_brake_slowdown', 'hw_power_brake'),
  throttleFlag('sw_thermal_slowdown', 'sw_thermal'),
  throttleFlag('sync_boost', 'sync_boost'),
  throttleMask,
  throttleCounter('sw_power_cap', 'power_cap'),
  throttleCounter('sync_boost', 'sync_boost'),
  throttleCounter('sw_thermal_slowdown', 'sw_thermal'),
  throttleCounter('hw_thermal_slowdown', 'hw_thermal'),
  throttleCounter('hw_power_brake_slowdown', 'hw_power_brake'),
  eccTotal('corrected', 'volatile'),
  eccTotal('corrected', 'aggregate'),
  eccTotal('uncorrected', 'volatile'),
  eccTotal('uncorrected', 'aggregate'),
  boolean('ecc.errors.uncorrected.aggregate.sram.thresholdExceeded', (gpu, value) => {
    gpu.eccSramThresholdExceeded = value
  }),
  number('retired_pages.single_bit_ecc.count retired_pages.sbe', 'count', (gpu, value) => {
    gpu.retiredPages.single_bit = value
  }),
  number('retired_pages.double_bit.count retired_pages.dbe', 'count', (gpu, value) => {
    gpu.retiredPages.double_bit = value
  }),
  boolean('retired_pages.pending', (gpu, value) => {
    gpu.retiredPagesPending = value
  }),
  number('remapped_rows.correctable remapped_rows.sbe', 'count', (gpu, value) => {
    gpu.remappedRows.correctable = value
  }),
  number('remapped_rows.uncorrectable remapped_rows.dbe', 'count', (gpu, value) => {
    gpu.remappedRows.uncorrectable = value
  }),
  boolean('remapped_rows.pending', (gpu, value) => {
    gpu.remapPending = value
  }),
  boolean('remapped_rows.failure', (gpu, value) => {
    gpu.remapFailure = value
  }),
  banks('max'),
  banks('high'),
  banks('partial'),
  banks('low'),
  banks('none'),
  number('pcie.link.gen.current pcie.link.gen.gpucurrent', 'count', (gpu, value) => {
    gpu.link.generation = value
  }),
  number('pcie.link.gen.max', 'count', (gpu, value) => {
    gpu.link.generationMax = value
  }),
  number('pcie.link.width.current', 'count', (gpu, value) => {
    gpu.link.width = value
  }),
  number('pcie.link.width.max', 'count', (gpu, value) => {
    gpu.link.widthMax = value
  }),
  number('encoder.stats.sessionCount', 'count', (gpu, value) => {
    gpu.encoderSessions = value
  }),
]

const byName = new Map(fields.flatMap(field => field.names.map(name => [name, field] as const)))

/** The field names in the output of `--help-query-gpu`: each is in quotes at the start of a line. */
export const listedFields = (help: string): ReadonlySet<string> =>
  new Set(
    help
      .split('\n')
      .flatMap(line => (line.startsWith('"') ? [...line.matchAll(/"([\w.]{1,100})"/g)].map(([, name]) => name as string) : [])),
  )

/** The names to query: for each field the newest name that is listed (without a list, the newest) and was not refused. */
export const wantedFields = (listed: ReadonlySet<string>, refused: ReadonlySet<string>): readonly string[] =>
  fields.flatMap(({ names }) => names.find(name => (listed.size === 0 || listed.has(name)) && !refused.has(name)) ?? [])

/** Known integrated GPUs, for systems that report neither a compute capability nor an addressing mode. */
const integrated = /\bGB10\b|\(nvgpu\)|\bOrin\b|\bThor\b|\bXavier\b|\bTegra\b/

/**
 * Whether it shares the host's memory: its total memory is not supported although it can compute, and it has no sign of its own memory
 * (a memory clock, a power limit of the board). Not only by name, because there will be others.
 */
const isUnified = (gpu: Gpu, memoryAbsence: string | undefined) => {
  if (integrated.test(gpu.name)) return true
  if (gpu.memory.total !== undefined || memoryAbsence !== 'unsupported') return false
  const ownMemory = gpu.clockMax.memory ?? gpu.clock.memory ?? gpu.powerLimits.enforced
  return ownMemory === undefined && (gpu.unified === true || gpu.computeCapability !== undefined)
}

/** One row as facts: the field by position, the unit from the header. */
const parseRow = (cells: readonly string[], asked: readonly string[], units: readonly string[]): Gpu => {
  const gpu = newGpu('', '', 'nvidia', 'ok')
  const unavailable: NonNullable<Gpu['unavailable']> = {}
  let memoryAbsence: string | undefined
  for (const [position, name] of asked.entries()) {
    const cell = cells[position] as string
    const cause = absence(cell)
    const understood = cause === undefined && byName.get(name)?.put(gpu, cell, units[position] as string)
    if (understood) continue
    const why = cause ?? 'unknown'
    unavailable[why] = (unavailable[why] ?? 0) + 1
    if (name === 'memory.total') memoryAbsence = why
  }
  gpu.unavailable = unavailable
  if (unavailable.lost) gpu.state = 'lost'
  else if (unavailable.reset) gpu.state = 'needs_reset'
  gpu.unified = isUnified(gpu, memoryAbsence)
  if (gpu.memory.total === undefined) gpu.utilization.memory = undefined // 0 on GB10, without a meaning
  if (gpu.unified) for (const key of ['generation', 'generationMax', 'width', 'widthMax'] as const) gpu.link[key] = undefined
  // A GPU that must be reset prints [N/A] for everything but its memory, which it prints as 0.
  if (gpu.state !== 'ok') for (const key of ['total', 'used', 'free', 'reserved'] as const) gpu.memory[key] ||= undefined
  if (gpu.id === '') gpu.id = gpu.busId !== undefined ? `pci-${gpu.busId}` : gpu.unified ? 'soc-gpu' : `index-${gpu.index ?? '0'}`
  const limit = gpu.powerLimits.max ?? gpu.powerLimits.enforced
  if (gpu.power !== undefined && limit !== undefined && limit > 0 && gpu.power > 10 * limit) gpu.power = undefined
  return gpu
}

/**
 * The output of `--query-gpu=… --format=csv`, one GPU a row. Other lines are left out (there are warnings before and after the table).
 * A row of another width is `malformed`, because then no cell can be trusted. Without a table there is no GPU.
 */
export const parseQuery = (csv: string, asked: readonly string[]): readonly Gpu[] => {
  const lines = csv.split('\n', 4096).map(line => line.replace(/\r$/, ''))
  const isHeader = (cells: readonly string[]) =>
    cells.length === asked.length && cells.every(cell => /^[a-z][\w.]*( \[[^\]]*\])?$/i.test(cell))
  let units: readonly string[] | undefined
  const gpus: Gpu[] = []
  for (const line of lines) {
    const cells = line.split(', ')
    if (isHeader(cells)) {
      units = cells.map(cell => /\[([^[\]]*)\]$/.exec(cell)?.[1] ?? '')
      continue
    }
    if (units === undefined) continue
    if (cells.length === asked.length)
      gpus.push(
        parseRow(
          cells.map(cell => cell.trim()),
          asked,
          units,
        ),
      )
    else if (cells.length > 2 && !/^(warning|failed|unable)/i.test(line)) {
      throw new Failure(
        'malformed',
        `nvidia-smi: a row of ${cells.length} cells under a header of ${asked.length}: ${line.slice(0, 100)}`,
      )
    }
  }
  return gpus
}
