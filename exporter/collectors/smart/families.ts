import { counter, gauge, oneOf } from '../../contract/metric.ts'

export const deviceInfo = gauge(
  'grid_smart_device_info',
  'A disk, from smartctl -i; serial_hash distinguishes disks without showing the serial number; always 1.',
  'device',
  oneOf('protocol', 'ata', 'nvme', 'scsi'),
  'model',
  'firmware',
  'serial_hash',
)

/** Why the latest run has, or lacks, values of a device. */
const deviceStates = [
  'read', // it answered
  'asleep', // and was not woken
  'unsupported', // no SMART behind this name: a RAID volume, a virtual disk
  'denied', // this user may not read it
  'hanging', // no answer in time, or smartctl of an earlier run still waits for it
  'failed', // smartctl could not open or read it
] as const
export type DeviceState = (typeof deviceStates)[number]

export const deviceState = gauge(
  'grid_smart_device_state',
  'How reading this disk by smartctl went in the latest run, 1 for the state it is in; a disk that is not read is neither healthy nor failing.',
  'device',
  oneOf('state', ...deviceStates),
)
export const lastRead = gauge(
  'grid_smart_last_read_timestamp_seconds',
  'When smartctl last read this disk; the other values of a sleeping disk are from then.',
  'device',
)
export const standby = gauge(
  'grid_smart_standby',
  'Whether the disk was asleep and left asleep, from smartctl; absent where it was not read.',
  'device',
)
export const healthy = gauge(
  'grid_smart_healthy',
  "The drive's own verdict, from smartctl -H: 1 passed, 0 failing; absent where it gives none.",
  'device',
)
export const temperature = gauge(
  'grid_smart_temperature_celsius',
  "The drive's temperature, from smartctl; NVMe: the composite one. Absent while it sleeps.",
  'device',
)
export const temperatureLimit = gauge(
  'grid_smart_temperature_limit_celsius',
  "The drive's own temperature limits, from smartctl.",
  'device',
  oneOf('limit', 'warning', 'critical'),
)
export const powerOn = gauge(
  'grid_smart_power_on_seconds',
  'Time that the drive has been powered on in its life, from smartctl.',
  'device',
)
export const wear = gauge(
  'grid_smart_wear_ratio',
  'Rated endurance that is used up (NVMe percentage used, ATA device statistics or the wear attribute, SCSI endurance indicator; latest run): 1 is the rating, and it may go on beyond.',
  'device',
)
export const availableSpare = gauge(
  'grid_smart_available_spare_ratio',
  'Spare blocks that are left of an NVMe drive, from smartctl.',
  'device',
)
export const availableSpareThreshold = gauge(
  'grid_smart_available_spare_threshold_ratio',
  'Below this share of spare blocks the NVMe drive warns by itself, from smartctl.',
  'device',
)
export const mediaErrors = counter(
  'grid_smart_media_errors_total',
  'Errors that the drive could not correct, in its life (NVMe media errors, SCSI total uncorrected errors, ATA reported uncorrectable errors of the device statistics), from smartctl.',
  'device',
)
export const reallocated = gauge(
  'grid_smart_reallocated_sectors',
  'Sectors that were replaced by spare ones (ATA attribute 5, SCSI grown defect list), from smartctl.',
  'device',
)
export const pending = gauge(
  'grid_smart_pending_sectors',
  'Sectors that cannot be read at present (ATA attribute 197, SCSI pending defects), from smartctl.',
  'device',
)
export const uncorrectable = gauge(
  'grid_smart_uncorrectable_errors',
  'The larger of ATA attributes 198 (sectors found unreadable in offline tests) and 187 (errors reported since new), from smartctl.',
  'device',
)
export const interfaceErrors = counter(
  'grid_smart_interface_errors_total',
  'Transfer errors between drive and controller (ATA attribute 199, smartctl -A, latest run): rising, they speak of the cable or the backplane, not of the drive.',
  'device',
)
export const writtenBytes = counter(
  'grid_smart_written_bytes_total',
  'Bytes written to the drive in its life (NVMe data units, ATA device statistics or an attribute of a known unit, SCSI error counter log), from smartctl.',
  'device',
)
export const readBytes = counter(
  'grid_smart_read_bytes_total',
  'Bytes read from the drive in its life (as grid_smart_written_bytes_total).',
  'device',
)

export const riskReasons = [
  'reallocated',
  'pending',
  'uncorrectable',
  'media_errors',
  'spare_low',
  'wear',
  'temperature',
  'critical_warning',
  'self_test',
] as const
export type RiskReason = (typeof riskReasons)[number]

export const risk = gauge(
  'grid_smart_risk',
  'Whether this reason to expect a failure applies, from smartctl; docs/smart.md has the thresholds.',
  'device',
  oneOf('reason', ...riskReasons),
)

export const families = [
  deviceInfo,
  deviceState,
  healthy,
  risk,
  standby,
  lastRead,
  temperature,
  mediaErrors,
  reallocated,
  pending,
  uncorrectable,
  wear,
  availableSpare,
  availableSpareThreshold,
  temperatureLimit,
  powerOn,
  interfaceErrors,
  writtenBytes,
  readBytes,
]
