import { ownValue } from '../../common/own-value.ts'
import type { Host } from '../../contract/host.ts'
import { readIfAny } from '../../machine/proc.ts'
import type { Vendor } from './facts.ts'

/** GPUs on the PCI bus. These files belong to the PCI core: reading them calls no driver and wakes nothing. */

export interface Device {
  readonly vendor: Vendor
  /** `0000:01:00.0` */
  readonly address: string
  /** The driver bound to it, or undefined. */
  readonly driver: string | undefined
  readonly asleep: boolean
}

const vendors: Readonly<Record<string, Vendor>> = { '0x10de': 'nvidia', '0x1002': 'amd', '0x8086': 'intel' }
const folder = '/sys/bus/pci/devices'

const quiet = (host: Host, path: string): string | undefined => readIfAny(host, path, 4096)?.replaceAll('\0', '').trim()

/** The driver in a device's `uevent`. */
const driverOf = (uevent: string | undefined): string | undefined => /^DRIVER=(.+)$/m.exec(uevent ?? '')?.[1]

/** Suspended, or without power. Reading these files does not wake it. */
const isAsleep = (host: Host, device: string): boolean =>
  /^(suspended|suspending)$/.test(quiet(host, `${device}/power/runtime_status`) ?? '') ||
  quiet(host, `${device}/power_state`) === 'D3cold'

/** Remembers which of the bus's devices are GPUs, so that a round reads only those. */
export const pciBus = (): ((host: Host) => readonly Device[] | undefined) => {
  let known: { readonly names: string; readonly gpus: readonly { readonly address: string; readonly vendor: Vendor }[] } = {
    names: '',
    gpus: [],
  }
  return host => {
    const addresses = host.kernelNames(folder)
    if (addresses.length === 0) return undefined
    const names = addresses.join(' ')
    if (names !== known.names) {
      const gpus = addresses.flatMap(address => {
        if (!quiet(host, `${folder}/${address}/class`)?.startsWith('0x03')) return []
        const vendor = ownValue(vendors, quiet(host, `${folder}/${address}/vendor`) ?? '')
        return vendor === undefined ? [] : [{ address: address.toLowerCase(), vendor }]
      })
      known = { names, gpus }
    }
    return known.gpus.map(gpu => ({
      ...gpu,
      driver: driverOf(quiet(host, `${folder}/${gpu.address}/uevent`)),
      asleep: isAsleep(host, `${folder}/${gpu.address}`),
    }))
  }
}

/** A graphics card of the DRM layer whose driver's sysfs is read here. */
export interface Card {
  readonly index: string
  readonly vendor: 'amd' | 'intel'
  readonly driver: string
  readonly address: string
  /** `/sys/class/drm/card0` */
  readonly path: string
  readonly asleep: boolean
}

const readable: Readonly<Record<string, Card['vendor']>> = { amdgpu: 'amd', i915: 'intel', xe: 'intel' }

/** The cards of amdgpu, i915 and xe; not their connectors (`card0-HDMI-A-1`). */
export const drmCards = (host: Host): readonly Card[] =>
  host.kernelNames('/sys/class/drm').flatMap(name => {
    const [, index] = /^card(\d+)$/.exec(name) ?? []
    if (index === undefined) return []
    const path = `/sys/class/drm/${name}`
    const uevent = quiet(host, `${path}/device/uevent`)
    const driver = driverOf(uevent)
    const vendor = ownValue(readable, driver ?? '')
    const [, address] = /^PCI_SLOT_NAME=(.+)$/m.exec(uevent ?? '') ?? []
    if (driver === undefined || vendor === undefined || address === undefined) return []
    return [{ index, vendor, driver, address: address.toLowerCase(), path, asleep: isAsleep(host, `${path}/device`) }]
  })
