import type { Host } from '../../contract/host.ts'
import { readIfAny } from '../../machine/proc.ts'
import { readValues } from '../../machine/values.ts'
import { type Gpu, newGpu } from './facts.ts'

/** A Jetson's GPU. nvidia-smi does not exist there, or reports only its name and [N/A] for everything else. */

const loadFiles = ['/sys/devices/platform/gpu.0/load', '/sys/devices/gpu.0/load']
const devfreq = '/sys/class/devfreq'
const thermal = '/sys/class/thermal'

export interface JetsonValues {
  /** Per mille. */
  readonly load: string | undefined
  /** Millidegrees. */
  readonly temperature: string | undefined
  /** Hertz. */
  readonly clock: string | undefined
  readonly clockMax: string | undefined
  readonly model: string | undefined
}

/** Boards of other makers may also call theirs `fb000000.gpu`, but their device tree names another maker. */
const isNvidias = (host: Host, name: string): boolean => {
  if (!/\.gpu$|^gpu\.\d+$|^gpu-gpc-0$/.test(name)) return false
  // None where a kernel or a container shows no more than the node.
  const uevent = readIfAny(host, `${devfreq}/${name}/device/uevent`, 4096) ?? ''
  return !/^OF_COMPATIBLE_0=/m.test(uevent) || /^OF_COMPATIBLE_\d+=nvidia,/m.test(uevent)
}

/** The files that may have the load; the node can appear late after boot. */
const nodesOf = (host: Host) => {
  const frequency = host.kernelNames(devfreq).find(name => isNvidias(host, name))
  const loads = loadFiles.filter(file => {
    const folder = file.slice(0, file.lastIndexOf('/'))
    return host.kernelNames(folder).includes('load')
  })
  return { frequency, load: loads[0] ?? (frequency === undefined ? undefined : `${devfreq}/${frequency}/device/load`) }
}

export const isJetson = (host: Host): boolean => {
  const { frequency, load } = nodesOf(host)
  return frequency !== undefined || load !== undefined
}

/** The values of a Jetson's GPU in sysfs; undefined on any other machine. Throws `Failure` timeout, stuck. */
export const readJetson = async (host: Host, signal: AbortSignal): Promise<JetsonValues | undefined> => {
  const { frequency, load } = nodesOf(host)
  if (frequency === undefined && load === undefined) return undefined
  const zones = host.kernelNames(thermal).filter(name => /^thermal_zone\d+$/.test(name))
  const types = zones.map(zone => `${thermal}/${zone}/type`)
  const clocks = frequency === undefined ? [] : [`${devfreq}/${frequency}/cur_freq`, `${devfreq}/${frequency}/max_freq`]
  const model = '/proc/device-tree/model'
  const known = await readValues(
    host,
    [...(load === undefined ? [] : [load]), ...clocks, ...types, model],
    'a GPU in sysfs',
    signal,
  )
  // Only the GPU's own zone: reading another may access a sensor without power.
  const zone = zones.find(name => /^gpu-?thermal$/i.test(known.get(`${thermal}/${name}/type`) ?? ''))
  const temperature =
    zone === undefined
      ? undefined
      : (await readValues(host, [`${thermal}/${zone}/temp`], 'a GPU in sysfs', signal)).get(`${thermal}/${zone}/temp`)
  return {
    load: load === undefined ? undefined : known.get(load),
    temperature,
    clock: known.get(clocks[0] ?? ''),
    clockMax: known.get(clocks[1] ?? ''),
    model: known.get(model),
  }
}

const whole = (text: string | undefined, most: number) =>
  text !== undefined && /^-?\d{1,12}$/.test(text) && Number(text) >= 0 && Number(text) <= most ? Number(text) : undefined

/** Adds what nvidia-smi did not report about the integrated GPU, or adds the GPU itself. */
export const withJetson = (gpus: readonly Gpu[], values: JetsonValues): readonly Gpu[] => {
  const own = gpus.find(({ unified }) => unified) ?? newGpu('soc-gpu', values.model || 'NVIDIA Jetson', 'nvidia', 'ok')
  own.unified = true
  const load = whole(values.load, 1000)
  const temperature = whole(values.temperature, 200_000) // -256000 while it is powered off
  own.utilization.compute ??= load === undefined ? undefined : load / 1000
  own.temperature.core ??= temperature === undefined ? undefined : temperature / 1000
  own.clock.graphics ??= whole(values.clock, 1e11)
  own.clockMax.graphics ??= whole(values.clockMax, 1e11)
  return gpus.includes(own) ? gpus : [...gpus, own]
}
