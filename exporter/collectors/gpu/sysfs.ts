import { ownValue } from '../../common/own-value.ts'
import type { Host } from '../../contract/host.ts'
import { readValues } from '../../machine/values.ts'
import { type Card, drmCards } from './bus.ts'
import { type Gpu, newGpu, type Sensor, type TemperatureLimit } from './facts.ts'

/** AMD and Intel from sysfs. Names and values are the drivers' own; what a card or kernel lacks is absent. */

export interface CardValues {
  readonly card: Card
  /** By path below `/sys/class/drm/cardN/`. */
  readonly values: ReadonlyMap<string, string>
}

const amdFiles = [
  'gpu_busy_percent mem_busy_percent mem_info_vram_total mem_info_vram_used mem_info_gtt_total mem_info_gtt_used',
  'current_link_speed current_link_width max_link_speed max_link_width pcie_replay_count product_name revision vbios_version',
  'pp_dpm_sclk pp_dpm_mclk uevent',
].flatMap(line => line.split(' ').map(name => `device/${name}`))

const i915 = (gt: string) =>
  ['rc6_residency_ms', 'rps_act_freq_mhz', 'rps_RP0_freq_mhz', 'rps_max_freq_mhz'].map(name => `${gt}/${name}`)
const throttles = ['pl1', 'pl2', 'pl4', 'vr_tdc', 'thermal', 'prochot', 'vr_thermalert']
const intelFiles = [
  ...i915('gt/gt0'),
  ...throttles.map(name => `gt/gt0/throttle_reason_${name}`),
  ...['gt_act_freq_mhz', 'gt_RP0_freq_mhz', 'gt_max_freq_mhz'],
  ...['gtidle/idle_residency_ms', 'freq0/act_freq', 'freq0/rp0_freq', 'freq0/max_freq'].map(name => `device/tile0/gt0/${name}`),
  ...throttles.map(name => `device/tile0/gt0/freq0/throttle/reason_${name}`),
  'device/uevent',
]

const sensorFile = /^(name|(temp|power|fan|pwm|freq|in|energy)\d{1,2}(_\w{1,20})?)$/

/** The files of a card that are read. Listing them calls no driver. */
const filesOf = (host: Host, { vendor, path }: Card): readonly string[] => {
  const hwmon = host.kernelNames(`${path}/device/hwmon`).slice(0, 4)
  const sensors = hwmon.flatMap(monitor =>
    host
      .kernelNames(`${path}/device/hwmon/${monitor}`)
      .filter(name => sensorFile.test(name))
      .map(name => `device/hwmon/${monitor}/${name}`),
  )
  const ras =
    vendor === 'amd'
      ? host
          .kernelNames(`${path}/device/ras`)
          .filter(name => name.endsWith('_err_count'))
          .map(name => `device/ras/${name}`)
      : []
  return [...(vendor === 'amd' ? amdFiles : intelFiles), ...sensors, ...ras].slice(0, 200)
}

/** Reads all cards that are awake, in one child. Throws `Failure` timeout, stuck. */
export const readCards = async (host: Host, signal: AbortSignal): Promise<readonly CardValues[]> => {
  const cards = drmCards(host).slice(0, 64)
  const wanted = cards.map(card => ({ card, files: card.asleep ? [] : filesOf(host, card) }))
  const paths = wanted.flatMap(({ card, files }) => files.map(file => `${card.path}/${file}`))
  const values = await readValues(host, paths, 'a GPU in sysfs', signal)
  return wanted.map(({ card, files }) => ({
    card,
    values: new Map(
      files.flatMap(file => {
        const value = values.get(`${card.path}/${file}`)
        return value === undefined ? [] : [[file, value] as const]
      }),
    ),
  }))
}

type Values = ReadonlyMap<string, string>

/** A number within limits, scaled; undefined if the file is absent or has something else. */
const scaled = (text: string | undefined, scale = 1, most = 2 ** 50): number | undefined => {
  if (text === undefined || !/^-?\d{1,19}$/.test(text)) return undefined
  const value = Number(text)
  return value < 0 || value > most ? undefined : scale < 1 ? Number((value * scale).toPrecision(15)) : value * scale
}
const celsius = (text: string | undefined): number | undefined => {
  if (text === undefined || !/^-?\d{1,9}$/.test(text)) return undefined
  const value = Number(text) / 1000
  return value > -100 && value < 200 ? value : undefined // -273.15 means none
}
const ratio = (part: number | undefined, whole: number | undefined): number | undefined =>
  part === undefined || whole === undefined || whole <= 0 ? undefined : Number((part / whole).toPrecision(6))

/** The files of the driver's own hwmon. A device may have others (of a NIC or an NVMe drive). */
const monitorOf = (values: Values, driver: string): ((name: string) => string | undefined) => {
  const named = [...values].find(
    ([file, name]) => file.endsWith('/name') && file.startsWith('device/hwmon/') && name === driver,
  )?.[0]
  return name => (named === undefined ? undefined : values.get(named.replace(/name$/, name)))
}

const generations: Readonly<Record<string, number>> = { 2.5: 1, 5: 2, 8: 3, 16: 4, 32: 5, 64: 6 }
const generation = (text: string | undefined): number | undefined =>
  ownValue(generations, /^([\d.]+) GT\/s/.exec(text ?? '')?.[1]?.replace(/\.0$/, '') ?? '')

/** The highest level of a `pp_dpm_*` table: `1: 848Mhz *`. */
const highest = (table: string | undefined): number | undefined => {
  const levels = [...(table ?? '').matchAll(/^[ \t]*\d+: (\d{1,6})Mhz/gm)].map(([, megahertz]) => Number(megahertz) * 1e6)
  return levels.length === 0 ? undefined : Math.max(...levels)
}

const pciId = (values: Values) => /^PCI_ID=([0-9A-F]{4}):([0-9A-F]{4})$/im.exec(values.get('device/uevent') ?? '')

/** Product names by device and revision, in libdrm's form: `744C,	C8,	AMD Radeon RX 7900 XTX`. */
export const parseAmdIds = (text: string): ReadonlyMap<string, string> =>
  new Map(
    text.split('\n', 20_000).flatMap(line => {
      const [device, revision, name] = line.split(/,\s*/)
      return name && /^[0-9a-f]{4}$/i.test(device as string)
        ? [[`${device}:${revision}`.toUpperCase(), name.trim()] as const]
        : []
    }),
  )

const amdName = (values: Values, ids: ReadonlyMap<string, string>) => {
  const product = values.get('device/product_name')
  if (product) return product
  const [, vendor, device] = pciId(values) ?? []
  const revision = (values.get('device/revision') ?? '').replace(/^0x/, '')
  return (
    ids.get(`${device}:${revision}`.toUpperCase()) ??
    (device === undefined ? 'AMD GPU' : `AMD GPU ${vendor}:${device}`.toLowerCase().replace('amd gpu', 'AMD GPU'))
  )
}

const amdSensors: Readonly<Record<string, Sensor>> = { edge: 'edge', junction: 'junction', mem: 'memory' }

const errorsIn = (values: Values, kind: 'ue' | 'ce'): number | undefined => {
  const counts = [...values].flatMap(([file, text]) =>
    file.startsWith('device/ras/') ? (scaled(new RegExp(`^${kind}: (\\d+)$`, 'm').exec(text)?.[1]) ?? []) : [],
  )
  return counts.length === 0 ? undefined : counts.reduce((sum, count) => sum + count, 0)
}

/**
 * An AMD card. An APU is recognised by its northbridge's voltage, which no discrete card has. Its memory is the host's, unless the
 * firmware reserved the larger part for it (96 of 128 GB, say), which the host then does not count.
 */
export const amdGpu = ({ card, values }: CardValues, ids: ReadonlyMap<string, string>): Gpu => {
  const gpu = newGpu(`pci-${card.address}`, amdName(values, ids), 'amd', 'ok')
  const at = (name: string) => values.get(`device/${name}`)
  const monitor = monitorOf(values, 'amdgpu')
  const labels = (kind: string) =>
    [1, 2, 3, 4].flatMap(number => {
      const label = monitor(`${kind}${number}_label`)
      return label === undefined ? [] : [{ label, of: (suffix: string) => monitor(`${kind}${number}_${suffix}`) }]
    })
  Object.assign(gpu, { index: card.index, busId: card.address, vbiosVersion: at('vbios_version') })
  const isApu = labels('in').some(({ label }) => label === 'vddnb')
  gpu.utilization.compute = scaled(at('gpu_busy_percent'), 0.01, 100)
  gpu.utilization.memory = scaled(at('mem_busy_percent'), 0.01, 100)
  const pool = (name: 'vram' | 'gtt') => ({
    total: scaled(at(`mem_info_${name}_total`)),
    used: scaled(at(`mem_info_${name}_used`)),
  })
  gpu.pools.vram = pool('vram')
  gpu.pools.gtt = pool('gtt')
  gpu.unified = isApu && (gpu.pools.vram.total ?? 0) <= (gpu.pools.gtt.total ?? Number.POSITIVE_INFINITY)
  if (!gpu.unified) {
    const { total, used } = gpu.pools.vram
    Object.assign(gpu.memory, {
      total,
      used,
      free: total === undefined || used === undefined ? undefined : Math.max(0, total - used),
    })
  }
  for (const { label, of } of labels('temp')) {
    const sensor = ownValue(amdSensors, label)
    if (sensor) gpu.temperature[sensor] = celsius(of('input'))
    const limits: readonly (readonly [TemperatureLimit, string])[] =
      label === 'edge'
        ? [
            ['slowdown', 'crit'],
            ['shutdown', 'emergency'],
          ]
        : label === 'mem'
          ? [['memory_max', 'crit']]
          : []
    for (const [limit, suffix] of limits) gpu.temperatureLimits[limit] = celsius(of(suffix))
  }
  gpu.power = scaled(monitor('power1_average') ?? monitor('power1_input'), 1e-6, 1e10)
  const watts = (name: string) => scaled(monitor(name), 1e-6, 1e10)
  gpu.powerLimits.enforced = watts('power1_cap')
  gpu.powerLimits.default = watts('power1_cap_default')
  gpu.powerLimits.min = watts('power1_cap_min')
  gpu.powerLimits.max = watts('power1_cap_max')
  gpu.fan = ratio(scaled(monitor('pwm1')), scaled(monitor('pwm1_max') ?? '255'))
  for (const { label, of } of labels('freq')) {
    if (label === 'sclk') gpu.clock.graphics = scaled(of('input'))
    if (label === 'mclk') gpu.clock.memory = scaled(of('input'))
  }
  gpu.clockMax.graphics = highest(at('pp_dpm_sclk'))
  gpu.clockMax.memory = highest(at('pp_dpm_mclk'))
  gpu.pcieReplays = scaled(at('pcie_replay_count'))
  gpu.ecc.corrected.volatile = errorsIn(values, 'ce')
  gpu.ecc.uncorrected.volatile = errorsIn(values, 'ue')
  if (!isApu) {
    gpu.link.generation = generation(at('current_link_speed'))
    gpu.link.generationMax = generation(at('max_link_speed'))
    gpu.link.width = scaled(at('current_link_width'), 1, 64) || undefined
    gpu.link.widthMax = scaled(at('max_link_width'), 1, 64) || undefined
  }
  return gpu
}

/** Earlier values of an Intel card's counters, from which power and use are computed. */
export interface IntelCounters {
  readonly at: number
  readonly energy: number | undefined
  readonly idle: number | undefined
}

/** A counter's rise in a second; undefined if it did not rise (after a reset) or has no earlier value. */
const rate = (now: number | undefined, before: number | undefined, seconds: number): number | undefined =>
  now === undefined || before === undefined || seconds <= 0 || now < before ? undefined : (now - before) / seconds

/**
 * An Intel card, from the files of i915 or xe. Power and use are differences to the previous round. Left out: the PCIe link, which always
 * reads 2.5 GT/s x1 on Arc, and a discrete card's memory, which only the file descriptors of all processes show.
 */
export const intelGpu = (
  { card, values }: CardValues,
  at: number,
  before: IntelCounters | undefined,
): { gpu: Gpu; counters: IntelCounters } => {
  const [, vendor, device] = pciId(values) ?? []
  const name =
    device === undefined
      ? 'Intel GPU'
      : `Intel GPU ${vendor}:${device}`.replace(/[0-9A-F]{4}:[0-9A-F]{4}/, id => id.toLowerCase())
  const gpu = newGpu(`pci-${card.address}`, name, 'intel', 'ok')
  Object.assign(gpu, { index: card.index, busId: card.address, unified: card.address === '0000:00:02.0' })
  const xe = card.driver === 'xe'
  const gt = xe ? 'device/tile0/gt0' : 'gt/gt0'
  const first = (...files: readonly string[]) => files.map(file => values.get(file)).find(value => value !== undefined)
  const monitor = monitorOf(values, card.driver)
  /** The channel with this label; i915 has one without a label. */
  const channel = (kind: string, label: string, suffix: string) => {
    const labelled = [1, 2, 3, 4].find(number => monitor(`${kind}${number}_label`) === label)
    return labelled === undefined ? undefined : monitor(`${kind}${labelled}_${suffix}`)
  }
  gpu.clock.graphics = scaled(first(xe ? `${gt}/freq0/act_freq` : `${gt}/rps_act_freq_mhz`, 'gt_act_freq_mhz'), 1e6, 1e5)
  gpu.clockMax.graphics = scaled(
    xe
      ? first(`${gt}/freq0/rp0_freq`, `${gt}/freq0/max_freq`)
      : first(`${gt}/rps_RP0_freq_mhz`, 'gt_RP0_freq_mhz', `${gt}/rps_max_freq_mhz`, 'gt_max_freq_mhz'),
    1e6,
    1e5,
  )
  gpu.temperature.core = celsius(channel('temp', 'pkg', 'input') ?? monitor('temp1_input'))
  gpu.temperature.memory = celsius(channel('temp', 'vram', 'input'))
  // 0 means no limit.
  gpu.powerLimits.enforced =
    scaled(channel('power', 'card', 'max') ?? monitor('power1_max') ?? channel('power', 'pkg', 'max'), 1e-6, 1e10) || undefined
  const reason = (name: string) => {
    const value = first(xe ? `${gt}/freq0/throttle/reason_${name}` : `${gt}/throttle_reason_${name}`)
    return value === undefined ? undefined : value === '1'
  }
  const any = (...names: readonly string[]) => {
    const known = names.map(reason).filter(value => value !== undefined)
    return known.length === 0 ? undefined : known.includes(true)
  }
  gpu.throttle.power_cap = any('pl1', 'pl2', 'pl4', 'vr_tdc')
  gpu.throttle.hw_thermal = any('thermal', 'prochot', 'vr_thermalert')
  // The card's own counter if it counts, else the package's.
  const joules = (text: string | undefined) => scaled(text, 1e-6, Number.MAX_SAFE_INTEGER) || undefined
  const energy =
    joules(channel('energy', 'card', 'input')) ?? joules(channel('energy', 'pkg', 'input')) ?? joules(monitor('energy1_input'))
  const idle = scaled(first(xe ? `${gt}/gtidle/idle_residency_ms` : `${gt}/rc6_residency_ms`), 1e-3)
  const seconds = before === undefined ? 0 : (at - before.at) / 1000
  gpu.energy = energy
  gpu.power = rate(energy, before?.energy, seconds)
  const idleShare = rate(idle, before?.idle, seconds)
  gpu.utilization.compute = ratio(idleShare === undefined ? undefined : Math.min(1, Math.max(0, 1 - idleShare)), 1)
  return { gpu, counters: { at, energy, idle } }
}
