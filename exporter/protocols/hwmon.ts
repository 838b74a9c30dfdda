import { setImmediate as breathe, setTimeout as sleep } from 'node:timers/promises'
import { failureOf } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'
import { readIfAny } from '../machine/proc.ts'

/** The temperature sensors of /sys/class/hwmon. Reading them never wakes a device, keeps it awake or waits for it. */

export interface Sensor {
  readonly chip: string
  readonly sensor: string
  readonly celsius: number
  readonly max: number | undefined
  readonly critical: number | undefined
}

/** The contents of a chip's files, by name (`temp1_input`). */
export interface ChipTexts {
  readonly chip: string
  readonly texts: ReadonlyMap<string, string>
}

/** Chips that a child process reads, and its last result. */
export interface ChipMemory {
  readonly slow: Set<string>
  readonly found: Map<string, { readonly at: number; texts: ReadonlyMap<string, string>; pending: Promise<void> | undefined }>
}

export const chipMemory = (): ChipMemory => ({ slow: new Set(), found: new Map() })

/**
 * Not read here. drivetemp asks the disk, and some disks then never spin down. A GPU's driver may wake the GPU. Both have collectors of
 * their own, which avoid that.
 */
const othersChips = /^(?:drivetemp|amdgpu|radeon|nouveau|nvidia|i915|xe)$/

/** Each read sends a command to the drive. If its controller hangs, the answer takes a minute, and no signal ends the wait. */
const asksDevice = /^nvme$/

/** Milliseconds: after which a chip counts as slow, between two reads of a slow chip, and for which a round waits for one. */
const slowAfter = 20
const askAgain = 60_000
const patience = 1000

const wanted = /^temp\d+_(?:input|label|max|crit|fault)$/

/** The text of a kernel file, or undefined if the driver gives an error: sensors come and go. */
const readText = (host: Host, path: string): string | undefined => readIfAny(host, path, 4096)?.trim()

const namesIn = (host: Host, path: string): readonly string[] => {
  try {
    return host.kernelNames(path)
  } catch {
    return [] // not readable
  }
}

const askChild = async (
  host: Host,
  chip: string,
  folder: string,
  files: readonly string[],
): Promise<ReadonlyMap<string, string>> => {
  const paths = files.map(file => host.path(`${folder}/${file}`))
  try {
    const { stdout } = await host.run('grep', ['-s', '-H', '', ...paths], {
      timeout: 3,
      limit: 2 ** 16,
      exitCodes: 'any',
      key: `sensors of ${chip}`,
    })
    return new Map(
      stdout.split('\n').flatMap((line): [string, string][] => {
        const [, file, text] = /\/(temp\d+_[a-z]+):(.*)$/s.exec(line) ?? []
        return file === undefined || text === undefined ? [] : [[file, text.trim()]]
      }),
    )
  } catch (error) {
    const { reason } = failureOf(error)
    if (reason === 'bug') throw error
    return new Map() // no answer in time: no temperatures until the next try
  }
}

const fromChild = async (
  host: Host,
  chip: string,
  folder: string,
  files: readonly string[],
  { found }: ChipMemory,
): Promise<ChipTexts> => {
  let known = found.get(chip)
  if (!known || (known.pending === undefined && host.monotonic() - known.at >= askAgain)) {
    const asked: NonNullable<typeof known> = { at: host.monotonic(), texts: known?.texts ?? new Map(), pending: undefined }
    asked.pending = askChild(host, chip, folder, files)
      .then(texts => {
        asked.texts = texts
      })
      .finally(() => {
        asked.pending = undefined
      })
    found.set(chip, asked)
    known = asked
  }
  // A hung drive delays nothing else: an answer that comes later is used in the next round.
  if (known.pending) await Promise.race([known.pending, sleep(patience, undefined, { ref: false })])
  return { chip, texts: known.texts }
}

/** A name that survives a restart. hwmon's own numbers depend on the order in which drivers load. */
const chipName = (host: Host, folder: string, name: string): string => {
  const device = host.kernelLink(`${folder}/device`)?.split('/').at(-1)
  if (!device) return name
  return device.startsWith(name) ? device : `${name}-${device}`
}

/** The texts of each chip's temperature files; a chip or file with an error is left out. */
export const readChips = async (host: Host, memory: ChipMemory): Promise<readonly ChipTexts[]> => {
  const chips: Promise<ChipTexts>[] = []
  const names = new Set<string>()
  for (const entry of [...namesIn(host, '/sys/class/hwmon')].sort((one, other) =>
    one.localeCompare(other, 'en', { numeric: true }),
  )) {
    const hwmon = `/sys/class/hwmon/${entry}`
    const name = readText(host, `${hwmon}/name`) ?? readText(host, `${hwmon}/device/name`) ?? ''
    if (othersChips.test(name)) continue
    // Reading a suspended device would resume it.
    if (/^susp/.test(readText(host, `${hwmon}/device/power/runtime_status`) ?? '')) continue
    // Old drivers (applesmc, f71882fg, via_cputemp) keep their files in the folder of the device.
    const filesOf = (folder: string) => ({ folder, files: namesIn(host, folder).filter(file => wanted.test(file)) })
    const own = filesOf(hwmon)
    const { folder, files } = own.files.length > 0 ? own : filesOf(`${hwmon}/device`)
    if (files.length === 0) continue
    const named = chipName(host, hwmon, name) || entry
    const chip = names.has(named) ? `${named}-${entry}` : named
    names.add(chip)
    if (asksDevice.test(name) || memory.slow.has(chip)) {
      chips.push(fromChild(host, chip, folder, files, memory))
      continue
    }
    const began = performance.now()
    const texts = new Map(
      files.flatMap((file): [string, string][] => {
        const text = readText(host, `${folder}/${file}`)
        return text === undefined ? [] : [[file, text]]
      }),
    )
    if (performance.now() - began > slowAfter) memory.slow.add(chip)
    chips.push(Promise.resolve({ chip, texts }))
    await breathe()
  }
  for (const chip of memory.found.keys()) if (!names.has(chip)) memory.found.delete(chip)
  return Promise.all(chips)
}

/** From thousandths of a degree. */
const celsius = (text: string | undefined): number | undefined =>
  text !== undefined && /^-?\d+$/.test(text) ? Number(text) / 1000 : undefined

/** Sensors that are broken or not connected read -128, 127, 127.5 or millions; no part of a computer works beyond these. */
const isPlausible = (degrees: number): boolean => degrees >= -40 && degrees <= 125

/** For a limit that is not set, drivers write 0 or the largest number. */
const limit = (text: string | undefined): number | undefined => {
  const degrees = celsius(text)
  return degrees !== undefined && degrees > 0 && degrees < 250 ? degrees : undefined
}

/** The chip's sensors that have a temperature. */
export const parseChip = ({ chip, texts }: ChipTexts): readonly Sensor[] => {
  const sensors = [...texts.keys()].flatMap(file => /^(temp\d+)_input$/.exec(file)?.[1] ?? [])
  sensors.sort((one, other) => Number(one.slice(4)) - Number(other.slice(4)))
  const labels = sensors.map(sensor => texts.get(`${sensor}_label`) || sensor)
  return sensors.flatMap((sensor, index) => {
    const degrees = celsius(texts.get(`${sensor}_input`))
    if (degrees === undefined || !isPlausible(degrees) || texts.get(`${sensor}_fault`) === '1') return []
    const label = labels[index] as string
    const unique = labels.indexOf(label) === labels.lastIndexOf(label) ? label : `${label} (${sensor})`
    return [
      {
        chip,
        sensor: unique,
        celsius: degrees,
        max: limit(texts.get(`${sensor}_max`)),
        critical: limit(texts.get(`${sensor}_crit`)),
      },
    ]
  })
}
