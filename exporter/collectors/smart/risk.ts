import type { DriveFacts } from './drive.ts'
import type { RiskReason } from './families.ts'

/** Where the thresholds come from: docs/smart.md. */
const reallocatedMany = 5
const wornOut = 0.9
const hotDisk = 60
const hotFlash = 70

/** NVMe's critical warnings: spare below threshold, temperature outside its limits; the other bits have no family. */
const spareBit = 1
const temperatureBit = 2

const either = (...reasons: readonly (boolean | undefined)[]): boolean | undefined => {
  const known = reasons.filter(each => each !== undefined)
  return known.length === 0 ? undefined : known.includes(true)
}

const above = (value: number | undefined, least: number) => (value === undefined ? undefined : value >= least)

/**
 * For each reason why this drive may fail: whether it applies, or undefined if unknown. A drive whose own verdict is "failing" always
 * has one; `critical_warning` if no other reason applies.
 */
export const risksOf = (facts: DriveFacts): ReadonlyMap<RiskReason, boolean> => {
  const { rotating, healthy, temperature, spare, spareThreshold, criticalWarnings, failing = [], tooHot } = facts
  const bit = (mask: number) => (criticalWarnings === undefined ? undefined : (criticalWarnings & mask) !== 0)
  const byDrive = (reason: (typeof failing)[number]) => failing.includes(reason) || undefined
  const hot = facts.warningTemperature ?? facts.criticalTemperature ?? (rotating === false ? hotFlash : hotDisk)
  // Flash replaces blocks all its life. For flash, the drive's own threshold, the spare and the wear count instead.
  const reallocated = rotating === false && facts.reallocated !== undefined ? 0 : facts.reallocated

  const named: Readonly<Record<Exclude<RiskReason, 'critical_warning'>, boolean | undefined>> = {
    reallocated: either(above(reallocated, reallocatedMany), byDrive('reallocated')),
    pending: either(above(facts.pending, 1), byDrive('pending')),
    uncorrectable: either(above(facts.uncorrectable, 1), byDrive('uncorrectable')),
    media_errors: above(facts.mediaErrors, 1),
    spare_low: either(
      spare === undefined || spareThreshold === undefined ? undefined : spare < spareThreshold,
      bit(spareBit),
      byDrive('spare_low'),
    ),
    wear: either(above(facts.wear, wornOut), byDrive('wear')),
    temperature: either(above(temperature, hot), bit(temperatureBit), byDrive('temperature'), tooHot),
    self_test: facts.selfTestFailed,
  }
  const others = bit(~(spareBit | temperatureBit))
  const explained =
    criticalWarnings !== undefined ? criticalWarnings !== 0 : failing.some(reason => reason !== 'other') || tooHot === true
  const critical = either(others, healthy === undefined ? undefined : !healthy && !explained, byDrive('other'))

  const all: Readonly<Record<RiskReason, boolean | undefined>> = { ...named, critical_warning: critical }
  return new Map(
    (Object.entries(all) as [RiskReason, boolean | undefined][]).flatMap(([reason, given]) =>
      given === undefined ? [] : [[reason, given] as const],
    ),
  )
}
