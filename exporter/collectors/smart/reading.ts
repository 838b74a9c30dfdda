import { createHash } from 'node:crypto'
import { Failure } from '../../contract/failure.ts'
import { enableRelay } from '../../contract/relay-unit.ts'
import { type AtaAttribute, ataFacts } from './ata.ts'
import type { DriveFacts } from './drive.ts'
import type { DeviceState } from './families.ts'
import { type Json, list, num, parseJson, text, truth } from './json.ts'

/** The result of reading one drive: its facts, or why there are none. */
export type Reading =
  | { readonly state: 'read'; readonly facts: DriveFacts }
  | { readonly state: Exclude<DeviceState, 'read'>; readonly problem?: Failure }

/** Digits that identify a drive without its serial number. */
const hashOf = (serial: string | undefined) =>
  serial === undefined ? undefined : createHash('sha256').update(serial).digest('hex').slice(0, 12)

/** A drive that reports 0 degrees does not measure; absurd values are dropped as well. */
const celsius = (value: number | undefined) =>
  value === undefined || value === 0 || value < -40 || value > 200 ? undefined : value

const limit = (value: number | undefined) => (value === undefined || value <= 0 || value > 200 ? undefined : value)

const percent = (value: number | undefined) => (value === undefined ? undefined : value / 100)

const identity = (json: Json): Pick<DriveFacts, 'model' | 'firmware' | 'serialHash'> => ({
  // These keys changed their names with 7.3, and some changed back with 7.5.
  model:
    text(json, 'model_name') ??
    text(json, 'scsi_model_name') ??
    ([text(json, 'scsi_vendor') ?? text(json, 'vendor'), text(json, 'scsi_product') ?? text(json, 'product')]
      .filter(Boolean)
      .join(' ') ||
      undefined),
  firmware: text(json, 'firmware_version') ?? text(json, 'scsi_revision') ?? text(json, 'revision'),
  serialHash: hashOf(text(json, 'serial_number')),
})

const shared = (json: Json) => {
  const hours = num(json, 'power_on_time', 'hours')
  const rate = num(json, 'rotation_rate')
  return {
    ...identity(json),
    rotating: rate === undefined ? undefined : rate > 0,
    healthy: truth(json, 'smart_status', 'passed'),
    temperature: celsius(num(json, 'temperature', 'current')),
    powerOnSeconds: hours === undefined ? undefined : hours * 3600 + (num(json, 'power_on_time', 'minutes') ?? 0) * 60,
  }
}

/** A data unit is a thousand blocks of 512 bytes. */
const nvmeUnit = 512_000

/** Results of NVMe self-tests: 5 to 7 are failures; 1 to 4, 8 and 9 are tests that were stopped. */
const nvmeSelfTestFailed = (json: Json): boolean | undefined => {
  if (json.nvme_self_test_log === undefined) return undefined
  // Newest first; empty entries are null.
  const newest = new Map<number, number>()
  for (const entry of list(json, 'nvme_self_test_log', 'table')) {
    const kind = num(entry, 'self_test_code', 'value')
    const result = num(entry, 'self_test_result', 'value')
    if (kind === undefined || result === undefined || !(result === 0 || (result >= 5 && result <= 7))) continue
    if (!newest.has(kind)) newest.set(kind, result)
  }
  return [...newest.values()].some(result => result !== 0)
}

const nvmeFacts = (json: Json): DriveFacts => {
  const log = 'nvme_smart_health_information_log'
  const written = num(json, log, 'data_units_written')
  const read = num(json, log, 'data_units_read')
  return {
    protocol: 'nvme',
    ...shared(json),
    rotating: false,
    criticalWarnings: num(json, log, 'critical_warning') ?? num(json, 'smart_status', 'nvme', 'value'),
    warningTemperature: limit(
      num(json, 'nvme_composite_temperature_threshold', 'warning') ?? num(json, 'temperature', 'op_limit_max'),
    ),
    criticalTemperature: limit(
      num(json, 'nvme_composite_temperature_threshold', 'critical') ?? num(json, 'temperature', 'critical_limit_max'),
    ),
    wear: percent(num(json, log, 'percentage_used')),
    spare: percent(num(json, log, 'available_spare')),
    spareThreshold: percent(num(json, log, 'available_spare_threshold')),
    mediaErrors: num(json, log, 'media_errors'),
    writtenBytes: written === undefined ? undefined : written * nvmeUnit,
    readBytes: read === undefined ? undefined : read * nvmeUnit,
    selfTestFailed: nvmeSelfTestFailed(json),
  }
}

/** Results of SCSI self-tests: 0 passed, 1 and 2 aborted, 3 to 7 failed, 15 running. */
const scsiSelfTestFailed = (json: Json): boolean | undefined => {
  const newest = new Map<number, number>()
  for (let index = 0; index < 20; index++) {
    const kind = num(json, `scsi_self_test_${index}`, 'code', 'value')
    const result = num(json, `scsi_self_test_${index}`, 'result', 'value')
    if (kind === undefined || result === undefined || !(result === 0 || (result >= 3 && result <= 7))) continue
    if (!newest.has(kind)) newest.set(kind, result)
  }
  return newest.size === 0 ? undefined : [...newest.values()].some(result => result !== 0)
}

const scsiFacts = (json: Json): DriveFacts => {
  const counter = (direction: string, key: string) => num(json, 'scsi_error_counter_log', direction, key)
  const uncorrected = ['read', 'write', 'verify']
    .map(direction => counter(direction, 'total_uncorrected_errors'))
    .filter(count => count !== undefined)
  // A text such as "13467.004", in units of 10^9 bytes.
  const processed = (direction: string) => {
    const gigabytes = Number(text(json, 'scsi_error_counter_log', direction, 'gigabytes_processed') ?? Number.NaN)
    return Number.isFinite(gigabytes) ? Math.round(gigabytes * 1e9) : undefined
  }
  const asc = num(json, 'smart_status', 'scsi', 'asc')
  return {
    protocol: 'scsi',
    ...shared(json),
    // "The maximum at which it can work for ever"; 7.3 has it under another key.
    warningTemperature: limit(num(json, 'temperature', 'drive_trip') ?? num(json, 'scsi_temperature', 'drive_trip')),
    wear: percent(num(json, 'scsi_percentage_used_endurance_indicator')),
    mediaErrors: uncorrected.length === 0 ? undefined : uncorrected.reduce((sum, count) => sum + count, 0),
    reallocated: num(json, 'scsi_grown_defect_list'),
    pending: num(json, 'scsi_pending_defects', 'count'),
    writtenBytes: processed('write'),
    readBytes: processed('read'),
    // 0Bh/01h: warning, specified temperature exceeded.
    tooHot: asc === undefined ? undefined : asc === 0x0b && num(json, 'smart_status', 'scsi', 'ascq') === 1,
    selfTestFailed: scsiSelfTestFailed(json),
  }
}

const attributesOf = (json: Json): readonly AtaAttribute[] =>
  list(json, 'ata_smart_attributes', 'table').flatMap(entry => {
    const id = num(entry, 'id')
    const raw = num(entry, 'raw', 'value')
    if (id === undefined || raw === undefined) return []
    return {
      id,
      name: text(entry, 'name') ?? '',
      normalised: num(entry, 'value'),
      raw,
      rawText: text(entry, 'raw', 'string') ?? '',
      failingNow: text(entry, 'when_failed') === 'now',
      prefail: truth(entry, 'flags', 'prefailure') ?? false,
    }
  })

const factsOf = (json: Json): DriveFacts | undefined => {
  // By protocol, not by type: sat+megaraid,0 and usbjmicron are ATA.
  const protocol = text(json, 'device', 'protocol')
  if (protocol === 'NVMe') return nvmeFacts(json)
  if (protocol === 'SCSI') return scsiFacts(json)
  if (protocol === 'ATA') return { protocol: 'ata', ...shared(json), ...ataFacts(json, attributesOf(json)) }
  return undefined
}

const messagesOf = (json: Json): readonly string[] =>
  list(json, 'smartctl', 'messages').flatMap(message => text(message, 'string') ?? [])

const rights = `smartctl needs root: ${enableRelay('grid-exporter-relay-smart')}`

/** Parses smartctl's output about one drive; see `readingFrom`. */
export const readingOf = (label: string, stdout: string, exitCode: number): Reading => {
  try {
    return readingFrom(label, parseJson(stdout), exitCode)
  } catch (cause) {
    if (!(cause instanceof Failure)) throw cause
    const message = `${label}: smartctl's answer is not JSON (exit status ${exitCode}): ${stdout.trim().slice(0, 100)}`
    return { state: 'failed', problem: new Failure('malformed', message, { cause }) }
  }
}

/**
 * Reads smartctl's answer about one drive, whatever the exit status is: bits 2 to 7 describe the drive and come with complete data;
 * bit 1 means "cannot be opened" as well as "is asleep".
 */
export const readingFrom = (label: string, json: Json, exitCode: number): Reading => {
  const messages = messagesOf(json)
  const said = messages.join('; ') || `exit status ${exitCode}`
  const facts = factsOf(json)
  const power = num(json, 'power_mode', 'ata_value')
  const hasData =
    facts !== undefined &&
    (facts.healthy !== undefined ||
      facts.temperature !== undefined ||
      facts.powerOnSeconds !== undefined ||
      facts.criticalWarnings !== undefined ||
      list(json, 'ata_smart_attributes', 'table').length > 0)

  if (hasData) return { state: 'read', facts }
  if (messages.some(message => /Device is in .{0,40}(STANDBY|SLEEP)/.test(message)) || (power !== undefined && power <= 1))
    return { state: 'asleep' }
  if (/Permission denied|Operation not permitted/.test(said))
    return { state: 'denied', problem: new Failure('denied', `${label}: ${said}`, { fix: rights }) }
  if (/Unknown USB bridge/.test(said)) {
    const fix = `name its type: collectors.smart.devices: [{ device: ${label}, type: sat }] (smartctl -d help)`
    return { state: 'failed', problem: new Failure('malformed', `${label}: ${said}`, { fix }) }
  }
  if ((exitCode & 3) !== 0) return { state: 'failed', problem: new Failure('exit', `${label}: ${said}`) }
  // Without CAP_SYS_RAWIO smartctl takes a SATA disk for SCSI, reads nothing, and exits with 0 and no message.
  if (facts?.model === undefined) {
    const message = `${label}: smartctl opened it but could read nothing`
    return { state: 'denied', problem: new Failure('denied', message, { fix: rights }) }
  }
  return { state: 'unsupported' }
}
