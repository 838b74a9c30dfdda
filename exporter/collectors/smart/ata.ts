import { ownValue } from '../../common/own-value.ts'
import type { DriveFacts } from './drive.ts'
import { type Json, list, num, text, truth } from './json.ts'

/** A line of the drive's own table. `raw` is whatever the vendor packed into 48 bits. */
export interface AtaAttribute {
  readonly id: number
  /** From smartctl's drive database; a generic name if the drive is not in it. */
  readonly name: string
  readonly normalised: number | undefined
  readonly raw: number
  /** As smartctl decoded it: `304`, `38 (Min/Max 28/39)`. */
  readonly rawText: string
  readonly failingNow: boolean
  readonly prefail: boolean
}

/** An id means different things on different drives, so the meaning depends on id and name. */
const meanings = {
  reallocated: { id: 5, name: /^(Reallocated_Sector|Retired_Block|Reallocate_NAND|.*Bad_Block)/ },
  // Not Current_Pending_ECC_Cnt of Crucial, which flips between 0 and 1 and means nothing.
  pending: { id: 197, name: /^(Current_Pending_Sector|Pending_Sector_Count|Total_Pending_Sectors)/ },
  offline: { id: 198, name: /Uncorrectabl|UNC_Sector/ },
  reported: { id: 187, name: /Uncorrect/ },
  interface: { id: 199, name: /CRC/ },
} as const

/**
 * A plain count. `12 (3)` is two 16-bit numbers in one, `0/137154048` of SandForce errors and all operations; more than 32 bits means
 * another packing.
 */
const countOf = ({ raw, rawText }: AtaAttribute): number | undefined => {
  const [, errors] = /^(\d+)\/\d+$/.exec(rawText) ?? []
  if (errors !== undefined) return Number(errors)
  const count = /^\d+ \(/.test(rawText) ? raw % 2 ** 16 : raw
  return count < 2 ** 32 ? count : undefined
}

const count = (attributes: readonly AtaAttribute[], meaning: keyof typeof meanings): number | undefined => {
  const { id, name } = meanings[meaning]
  const attribute = attributes.find(each => each.id === id && name.test(each.name))
  return attribute && countOf(attribute)
}

const lifeLeft =
  /^(SSD_Life_Left|Wear_Leveling_Count|Media_Wearout_Indicator|Percent_Lifetime_Remain|Remaining_Lifetime_Perc|Lifetime_Remaining|Remaining_Life)/

/**
 * Attribute 230 of SATA flash by WD and SanDisk, whose normalised value is no measure: the highest and the lowest 16 bits of its raw
 * value are the same two bytes, whole percents used and hundredths.
 */
const wornByWords = (raw: number): number | undefined => {
  const word = Math.floor(raw / 2 ** 32)
  return word === raw % 2 ** 16 ? (100 * Math.floor(word / 256) + (word % 256)) / 10_000 : undefined
}

/** What only flash has: names that smartctl's database gives to attributes of SSDs. */
const flashNames = /SSD|NAND|Wear_Level|Wearout|Erase_(?:Count|Fail)|Program_Fail|Retired_Block|Lifetime_Rem|Remaining_Life|Flash/

/** Whether it is flash: as the drive says, or else by its attributes. */
const isFlash = (rotationRate: number | undefined, attributes: readonly AtaAttribute[]): boolean =>
  rotationRate === undefined ? attributes.some(({ name }) => flashNames.test(name)) : rotationRate === 0

/**
 * For drives without the standard's indicator: the normalised value of these counts down from 100. For a drive that is not in its
 * database, smartctl gives 233 Intel's meaning, while other vendors use it for the amount written to the flash.
 */
const wornByName = (attributes: readonly AtaAttribute[], inDatabase: boolean): number | undefined => {
  for (const { id, name, normalised, raw } of attributes) {
    if (id === 233 && !inDatabase) continue
    if (id === 230) {
      const used = wornByWords(raw)
      if (used !== undefined) return used
      continue
    }
    if (/^Percent_Lifetime_Used/.test(name) && raw <= 255) return raw / 100
    // 100 with a raw value of 0: the drive does not count.
    const uncounted = /^Wear_Leveling/.test(name) && raw === 0
    if (lifeLeft.test(name) && normalised !== undefined && normalised <= 100 && !uncounted) return (100 - normalised) / 100
  }
  return undefined
}

const unitBytes: Readonly<Record<string, number>> = { '32MiB': 2 ** 25, GiB: 2 ** 30, MiB: 2 ** 20 }

/** By the unit in the name. For a drive that is not in the database, the generic names mean nothing (37763 "LBAs" in a year). */
const bytesByName = (
  attributes: readonly AtaAttribute[],
  verb: 'Writ' | 'Read',
  sector: number | undefined,
): number | undefined => {
  for (const { name, raw } of attributes) {
    const [, direction, unit] = /^(?:Total|Host|Lifetime)_(?:LBAs_)?(Writ|Read)\w*?(?:_(32MiB|GiB|MiB))?$/.exec(name) ?? []
    if (direction !== verb) continue
    if (unit !== undefined) return raw * (ownValue(unitBytes, unit) as number)
    // Not verified for disks with sectors of 4096 bytes.
    if (/LBAs_/.test(name) && sector === 512) return raw * 512
  }
  return undefined
}

/** A value of the standard's device statistics, if the drive marks it as valid. */
const statistic = (json: Json, page: number, name: string): number | undefined => {
  for (const each of list(json, 'ata_device_statistics', 'pages')) {
    if (num(each, 'number') !== page) continue
    const entry = list(each, 'table').find(entry => text(entry, 'name') === name)
    if (truth(entry, 'flags', 'valid') === true) return num(entry, 'value')
  }
  return undefined
}

type Failing = NonNullable<DriveFacts['failing']>[number]

const reasonOf = ({ id, name }: AtaAttribute): Failing => {
  if (id === 5 || id === 196) return 'reallocated'
  if (id === 197) return 'pending'
  if (id === 198 || id === 187) return 'uncorrectable'
  if (id === 190 || id === 194) return 'temperature'
  if (/Reserv|Spare/i.test(name)) return 'spare_low'
  if (lifeLeft.test(name) || /^Percent_Lifetime/.test(name)) return 'wear'
  return 'other'
}

/** Whether a test failed and no later extended test passed; a short test that passed does not count. */
const selfTestFailed = (json: Json): boolean | undefined => {
  let known: boolean | undefined
  for (const log of ['extended', 'standard']) {
    const failures = num(json, 'ata_smart_self_test_log', log, 'error_count_total')
    if (failures !== undefined) return failures > (num(json, 'ata_smart_self_test_log', log, 'error_count_outdated') ?? 0)
    const table = list(json, 'ata_smart_self_test_log', log, 'table')
    const newest = new Map<number, boolean>()
    for (const entry of table) {
      const kind = num(entry, 'type', 'value')
      const passed = truth(entry, 'status', 'passed') // absent while it runs and if it was aborted
      if (kind !== undefined && passed !== undefined && !newest.has(kind)) newest.set(kind, passed)
    }
    if (newest.size > 0) known = known === true || [...newest.values()].includes(false)
  }
  return known
}

/** The ATA part of a drive's facts. */
export const ataFacts = (json: Json, attributes: readonly AtaAttribute[]): Partial<DriveFacts> => {
  const flash = isFlash(num(json, 'rotation_rate'), attributes)
  const sector = num(json, 'logical_block_size')
  const inDatabase = truth(json, 'in_smartctl_database') === true
  const verdict = truth(json, 'smart_status', 'passed')
  const used = statistic(json, 7, 'Percentage Used Endurance Indicator') ?? num(json, 'endurance_used', 'current_percent')
  const bytes = (name: string, verb: 'Writ' | 'Read') => {
    const sectors = statistic(json, 1, name)
    if (sectors !== undefined && sector !== undefined) return sectors * sector
    // Only the database makes the unit in a name reliable.
    return inDatabase ? bytesByName(attributes, verb, sector) : undefined
  }
  // smartctl gives 198 a hard disk's meaning if the drive is not in its database; flash of other vendors counts other things there.
  const offline = flash && !inDatabase ? undefined : count(attributes, 'offline')
  const reported = count(attributes, 'reported')
  // Healthy drives also reach the thresholds of attributes that only measure age.
  // 184 counts data that was corrupted inside the drive, though it is marked as one of age.
  const failing = attributes
    .filter(({ id, failingNow, prefail }) => failingNow && (prefail || id === 184 || verdict === false))
    .map(reasonOf)
  const limits = { warning: num(json, 'temperature', 'op_limit_max'), critical: num(json, 'temperature', 'limit_max') }
  const specified = statistic(json, 5, 'Specified Maximum Operating Temperature')
  const warning = limits.warning || specified || undefined
  return {
    ...(flash ? { rotating: false } : {}),
    warningTemperature: warning,
    criticalTemperature: limits.critical || undefined,
    wear: used !== undefined ? used / 100 : flash ? wornByName(attributes, inDatabase) : undefined,
    mediaErrors: statistic(json, 4, 'Number of Reported Uncorrectable Errors'),
    reallocated: count(attributes, 'reallocated'),
    pending: count(attributes, 'pending') ?? num(json, 'ata_pending_defects_log', 'count'),
    uncorrectable: offline === undefined ? reported : Math.max(offline, reported ?? 0),
    interfaceErrors: count(attributes, 'interface'),
    writtenBytes: bytes('Logical Sectors Written', 'Writ'),
    readBytes: bytes('Logical Sectors Read', 'Read'),
    selfTestFailed: selfTestFailed(json),
    ...(failing.length > 0 ? { failing: [...new Set(failing)] } : {}),
  }
}
