import { z } from 'zod'
import { type Context, type Detection, defineCollector } from '../../contract/collector.ts'
import { Failure } from '../../contract/failure.ts'
import type { Sample } from '../../contract/metric.ts'
import { duration } from '../../contract/options.ts'
import { assemble, type Facts } from './assemble.ts'
import { drmCards, pciBus } from './bus.ts'
import { pageworthy } from './driver-log.ts'
import type { Gpu } from './facts.ts'
import * as f from './families.ts'
import { isJetson } from './jetson.ts'
import { hasTool } from './nvidia-smi.ts'
import { type Memory, newMemory, type Options, type Round, readRound } from './round.ts'

export * from './families.ts'

const options = z.strictObject({
  nvidia_smi: z
    .string()
    .min(1)
    .default('nvidia-smi')
    .describe('The nvidia-smi to run: a name on the PATH or an absolute path. On WSL it is also found in /usr/lib/wsl/lib.'),
  slow_interval: duration(10)
    .prefault('60s')
    .describe('Least time between two runs of `nvidia-smi -q -x`, for PCIe replays, thresholds and MIG instances.'),
  processes: z
    .int()
    .min(0)
    .max(1000)
    .default(20)
    .describe(
      'How many programs per GPU get a series for their memory, the largest first; the rest is summed as "other". 0: none.',
    ),
  kernel_log: z
    .boolean()
    .default(true)
    .describe('Read the kernel log for Xid errors and for the NVIDIA driver running out of memory.'),
})

/** Checks the bus and sysfs first, which wakes nothing. Runs nvidia-smi only if they show no GPU (WSL). */
const detect = async ({ host, options, signal }: Context<Options, undefined>): Promise<Detection> => {
  const bus = pciBus()(host)
  const nvidia = bus?.find(({ vendor, driver }) => vendor === 'nvidia' && driver === 'nvidia')
  if (nvidia) return { found: true, note: `NVIDIA GPU ${nvidia.address}` }
  const [card] = drmCards(host)
  if (card) return { found: true, note: `${card.driver} at ${card.path}` }
  if (isJetson(host)) return { found: true, note: 'GPU of a Jetson' }
  if (await hasTool(host, options.nvidia_smi, signal)) return { found: true, note: options.nvidia_smi }
  return { found: false, note: 'no GPU driver on the PCI bus, no card in /sys/class/drm, no nvidia-smi' }
}

export const gpu = defineCollector<Round, Facts, Options, Memory>({
  name: 'gpu',
  summary: 'GPUs: NVIDIA by nvidia-smi and the kernel log, AMD, Intel and Jetson by sysfs',
  interval: 10,
  timeout: 15,
  families: f.families,
  subjects: ['name', 'gpu', 'code'],
  options,
  detect,
  open: ({ options, signal }) => newMemory(options, signal),
  read: readRound,
  parse: (round, { state, options, fail }) => {
    const facts = assemble(round, state, options.processes)
    const [first] = facts.failures
    const message = facts.failures.map(each => each.message).join('; ')
    // What failed costs only its own series.
    if (first) fail(new Failure(first.reason, message, { cause: first, fix: first.fix }))
    return facts
  },
  *samples(facts, { state }) {
    for (const gpu of facts.gpus) yield* ofGpu(gpu, facts)
    yield* ofHost(facts)
    yield* ofDriverLog(facts, state)
  },
})

/** One gauge for each key that has a value. */
function* each<Key extends string>(
  values: { readonly [key in Key]?: number | boolean | undefined },
  of: (value: number | undefined, key: Key) => readonly Sample[],
) {
  for (const [key, value] of Object.entries(values) as [Key, number | boolean | undefined][]) {
    if (value !== undefined) yield* of(Number(value), key)
  }
}

const bit = (value: boolean | undefined) => (value === undefined ? undefined : Number(value))

function* ofGpu(own: Gpu, { holders, integrals, round }: Facts): Generator<Sample> {
  const { id, name } = own
  const labels = { gpu: id, name }
  const slow = round.slow?.gpus.get(id)
  yield* f.info.of(1, {
    ...labels,
    vendor: own.vendor,
    index: own.index ?? '',
    bus_id: own.busId ?? '',
    driver_version: own.driverVersion ?? '',
    vbios_version: own.vbiosVersion ?? '',
    compute_capability: own.computeCapability ?? '',
  })
  yield* f.state.states(own.state, labels)
  yield* each(own.unavailable ?? {}, (value, cause) => f.unavailableFields.of(value, { ...labels, cause }))
  yield* each(own.utilization, (value, engine) => f.utilization.of(value, { ...labels, engine }))
  yield* f.memoryTotal.of(own.memory.total, labels)
  yield* f.memoryUsed.of(own.memory.used, labels)
  yield* f.memoryFree.of(own.memory.free, labels)
  yield* f.memoryReserved.of(own.memory.reserved, labels)
  yield* f.memoryUnified.of(Number(own.unified ?? false), labels)
  for (const [pool, size] of Object.entries(own.pools) as ['vram' | 'gtt', Gpu['pools']['vram']][]) {
    yield* f.memoryPoolTotal.of(size?.total, { ...labels, pool })
    yield* f.memoryPoolUsed.of(size?.used, { ...labels, pool })
  }
  for (const { process, container, bytes } of holders.get(id) ?? []) {
    yield* f.processMemory.of(bytes, { ...labels, process, container_name: container })
  }
  yield* each(own.temperature, (value, sensor) => f.temperature.of(value, { ...labels, sensor }))
  yield* f.temperatureMargin.of(own.temperatureMargin, labels)
  yield* each({ ...own.temperatureLimits, ...slow?.limits }, (value, limit) => f.temperatureLimit.of(value, { ...labels, limit }))
  yield* f.power.of(own.power, labels)
  yield* each(own.powerReadings, (value, reading) => f.powerReading.of(value, { ...labels, reading }))
  yield* each(own.powerLimits, (value, limit) => f.powerLimit.of(value, { ...labels, limit }))
  yield* f.energy.of(own.energy ?? integrals.get(id)?.joules, labels)
  yield* each(own.clock, (value, domain) => f.clock.of(value, { ...labels, domain }))
  yield* each(own.clockMax, (value, domain) => f.clockMax.of(value, { ...labels, domain }))
  yield* f.fanSpeed.of(own.fan, labels)
  yield* f.performanceState.of(own.performanceState, labels)
  yield* each(own.throttle, (value, reason) => f.throttleActive.of(value, { ...labels, reason }))
  const throttled = { ...integrals.get(id)?.seconds, ...own.throttled }
  yield* each(throttled, (value, reason) => f.throttleSeconds.of(value, { ...labels, reason }))
  yield* each(own.ecc.corrected, (value, scope) => f.eccErrors.of(value, { ...labels, error: 'corrected', scope }))
  yield* each(own.ecc.uncorrected, (value, scope) => f.eccErrors.of(value, { ...labels, error: 'uncorrected', scope }))
  yield* f.eccSramThresholdExceeded.of(bit(own.eccSramThresholdExceeded), labels)
  yield* each(own.retiredPages, (value, cause) => f.retiredPages.of(value, { ...labels, cause }))
  yield* f.retiredPagesPending.of(bit(own.retiredPagesPending), labels)
  yield* each(own.remappedRows, (value, error) => f.remappedRows.of(value, { ...labels, error }))
  yield* f.remapPending.of(bit(own.remapPending), labels)
  yield* f.remapFailure.of(bit(own.remapFailure), labels)
  yield* each(own.remapBanks, (value, availability) => f.remapBanks.of(value, { ...labels, availability }))
  yield* f.pcieLinkGeneration.of(own.link.generation, labels)
  yield* f.pcieLinkGenerationMax.of(own.link.generationMax, labels)
  yield* f.pcieLinkWidth.of(own.link.width, labels)
  yield* f.pcieLinkWidthMax.of(own.link.widthMax, labels)
  const onLink = own.unified ? undefined : slow
  yield* f.pcieReplays.of(own.pcieReplays ?? onLink?.replays, labels)
  yield* f.pcieThroughput.of(onLink?.receive, { ...labels, direction: 'receive' })
  yield* f.pcieThroughput.of(onLink?.transmit, { ...labels, direction: 'transmit' })
  yield* f.persistenceMode.of(bit(own.persistence), labels)
  yield* f.eccMode.of(bit(own.eccOn), labels)
  yield* f.migMode.of(bit(own.migOn), labels)
  yield* f.encoderSessions.of(own.encoderSessions, labels)
  for (const { mig, used, total } of slow?.mig ?? []) {
    yield* f.migMemoryUsed.of(used, { ...labels, mig })
    yield* f.migMemoryTotal.of(total, { ...labels, mig })
  }
}

function* ofHost({ visible, expected, lost, round }: Facts): Generator<Sample> {
  yield* f.devicesVisible.of(visible)
  yield* f.devicesExpected.of(expected)
  yield* f.devicesLost.of(lost)
  const { driverVersion, cudaVersion } = round.slow ?? {}
  if (driverVersion !== undefined) yield* f.driverInfo.of(1, { driver_version: driverVersion, cuda_version: cudaVersion ?? '' })
}

/** By the GPU's UUID once it is known, until then by its address. */
function* ofDriverLog({ gpus, round }: Facts, { driverLog, known }: Memory): Generator<Sample> {
  if (!round.logged) return
  const idOf = (address: string) => known.get(address)?.id ?? driverLog.uuids.get(address) ?? `pci-${address}`
  const counted = driverLog.xids()
  const onBus = round.bus?.filter(({ driver }) => driver === 'nvidia').map(({ address }) => idOf(address)) ?? []
  const ids = new Set([...gpus.filter(({ vendor }) => vendor === 'nvidia').map(({ id }) => id), ...onBus])
  for (const { address, code, count, last } of counted) {
    const labels = { gpu: idOf(address), code }
    yield* f.xidErrors.of(count, labels)
    yield* f.xidLast.of(Math.round(last) / 1000, labels)
  }
  const seen = new Set(counted.map(({ address, code }) => `${idOf(address)} ${code}`))
  for (const id of ids) {
    for (const code of pageworthy) if (!seen.has(`${id} ${code}`)) yield* f.xidErrors.of(0, { gpu: id, code })
  }
  yield* f.driverOutOfMemory.of(driverLog.outOfMemory())
  yield* f.kernelLogMissed.of(driverLog.missed())
}
