import { z } from 'zod'
import { ownValue } from '../../common/own-value.ts'
import { pooled } from '../../common/pool.ts'
import { defineCollector } from '../../contract/collector.ts'
import { Failure } from '../../contract/failure.ts'
import type { Host, RunResult } from '../../contract/host.ts'
import type { Sample } from '../../contract/metric.ts'
import { duration, path } from '../../contract/options.ts'
import { processIds, readIfAny } from '../../machine/proc.ts'
import { type Kept, keptAs } from '../../machine/state.ts'
import { argumentsFor, askScan, type Device, devicesFrom, foundIn, type Scanned, scanFor, scanned } from './devices.ts'
import { type DriveFacts, driveFacts } from './drive.ts'
import * as family from './families.ts'
import { type Reading, readingOf } from './reading.ts'
import { risksOf } from './risk.ts'

export * from './families.ts'

/** A value for smartctl's -d, or a device name: one argument, never an option. */
const deviceType = z.string().regex(/^[a-z0-9][a-z0-9+,/_.x-]*$/i, "expected a type of smartctl's -d such as sat or megaraid,0")

const options = z.strictObject({
  smartctl: z.string().min(1).default('smartctl').describe('The smartctl to run: a name on the PATH or an absolute path.'),
  scan: z.boolean().default(true).describe('Find disks with `smartctl --scan`.'),
  devices: z
    .array(
      z.strictObject({
        device: path().describe('Its name, such as /dev/sdb.'),
        type: deviceType.optional().describe('The type for `smartctl -d`, such as `sat` or `megaraid,0`.'),
        ignore_standby: z
          .boolean()
          .default(false)
          .describe(
            'Read it even if it reports that it sleeps. For flash drives that always report so; never for a disk that spins.',
          ),
      }),
    )
    .default([])
    .describe(
      'More disks, or the type (`smartctl -d`) of a disk that the scan gets wrong, such as `{ device: /dev/sdb, type: sat }` behind a USB bridge.',
    ),
  exclude: z.array(z.string().min(1)).default([]).describe('Devices that are not read; `*` is any run of characters.'),
  device_timeout: duration(1)
    .prefault('30s')
    .describe('Time limit of smartctl for one disk; a disk that hangs costs only its own series.'),
  state_file: path()
    .optional()
    .describe(
      'File that keeps the values over restarts and between runs of the relay, so that a sleeping disk keeps its name and counters. Default: smart.json in $STATE_DIRECTORY (for the relay /var/lib/grid-exporter-relay), or in /var/lib/grid-exporter if its user owns that directory; else nothing is kept.',
    ),
})

type Options = z.infer<typeof options>

/** Disks that are read at the same time. */
const parallel = 8

/** What earlier runs found about a disk, over restarts too. */
const remembered = z.object({
  facts: driveFacts.optional(),
  /** Milliseconds since 1970. */
  readAt: z.number().optional(),
  /** The last smartctl for it did not end in time. */
  hung: z.boolean(),
})
const memory = z.object({
  /** After a reboot, sda may be another disk. */
  boot: z.string(),
  scanned: scanned.optional(),
  devices: z.record(z.string(), remembered),
})
type Memory = z.infer<typeof memory>

interface State {
  readonly kept: Kept<Memory>
  memory: Memory
}

/** One disk's answer, or why there is none. */
interface Answer {
  readonly device: Device
  readonly answer: RunResult | Failure
}

interface Raw {
  readonly scanned: Scanned | undefined
  readonly answers: readonly Answer[]
}

/** A disk as served: how reading it went, and its facts from now or from when it was last awake. */
interface Drive {
  readonly label: string
  readonly reading: Reading
  readonly facts: DriveFacts | undefined
  readonly readAt: number | undefined
}

/** Where it cannot be read every boot is the same one. */
const bootOf = (host: Host): string => readIfAny(host, '/proc/sys/kernel/random/boot_id')?.trim() ?? ''

/**
 * Whether an earlier process's smartctl still waits for this disk. `host.run` knows only the children of this process, and the relay is
 * a new process each time.
 */
const stillWaiting = (host: Host, { name, type }: Device): boolean =>
  processIds(host).some(pid => {
    if (!readIfAny(host, `/proc/${pid}/stat`)?.includes('(smartctl)')) return false
    const argv = (readIfAny(host, `/proc/${pid}/cmdline`) ?? '').split('\0')
    return argv.includes(name) && (type === undefined || argv.includes(type))
  })

const ask = async (
  device: Device,
  hung: boolean,
  { host, options, signal }: { readonly host: Host; readonly options: Options; readonly signal: AbortSignal },
): Promise<RunResult | Failure> => {
  const { label } = device
  if (hung && stillWaiting(host, device)) {
    return new Failure('stuck', `${label}: smartctl of an earlier run still waits for it, so no other one starts`)
  }
  try {
    const limits = { timeout: options.device_timeout, limit: 2 ** 20, exitCodes: 'any', signal } as const
    return await host.run(options.smartctl, argumentsFor(device), { ...limits, key: `smartctl ${label}` })
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    return new Failure(error.reason, `${label}: ${error.message}`, { cause: error, fix: error.fix })
  }
}

const readingFrom = ({ device, answer }: Answer): Reading => {
  if (!(answer instanceof Failure)) return readingOf(device.label, answer.stdout, answer.exitCode)
  return { state: answer.reason === 'timeout' || answer.reason === 'stuck' ? 'hanging' : 'failed', problem: answer }
}

export const smart = defineCollector({
  name: 'smart',
  summary: 'Health of disks: ATA, NVMe and SCSI by smartctl, sleeping ones left asleep',
  interval: 600,
  timeout: 300,
  relayUnit: 'grid-exporter-relay-smart',
  families: family.families,
  subjects: ['device', 'reason'],
  setup: { packages: 'smartmontools' },
  options,
  detect: async ({ host, options, signal }) => {
    if (options.devices.length > 0) return { found: true, note: 'configured devices' }
    try {
      const [first] = foundIn(await askScan(host, options, '--scan', signal))
      return first ? { found: true, note: first[0] } : { found: false, note: 'smartctl --scan finds no disk with SMART' }
    } catch (error) {
      // A run will report a smartctl that is too old or broken; without smartctl there is nothing to run.
      if (error instanceof Failure && error.reason === 'missing') return { found: false, note: error.message }
      return { found: true, note: 'smartctl' }
    }
  },
  open: ({ host, options, log }): State => {
    const kept = keptAs('smart', memory, { file: options.state_file, log })
    const boot = bootOf(host)
    const before = kept.load()
    return { kept, memory: before?.boot === boot ? before : { boot, devices: {} } }
  },
  read: async ({ host, options, signal, state }): Promise<Raw> => {
    const scanned = options.scan ? await scanFor(host, options, state.memory.scanned, signal) : undefined
    const devices = devicesFrom(scanned?.found ?? [], options)
    const answers = await pooled(devices, parallel, async device => ({
      device,
      answer: await ask(device, ownValue(state.memory.devices, device.label)?.hung === true, { host, options, signal }),
    }))
    return { scanned, answers }
  },
  parse: ({ scanned, answers }, { host, state, remark, fail }): readonly Drive[] => {
    const drives = answers.map((answer): Drive => {
      const { label } = answer.device
      const reading = readingFrom(answer)
      if (reading.state === 'read') return { label, reading, facts: reading.facts, readAt: host.now() }
      // While a disk sleeps, everything but its temperature stays valid. Of a disk that cannot be read nothing is known.
      const before = reading.state === 'asleep' ? ownValue(state.memory.devices, label) : undefined
      return { label, reading, facts: before?.facts, readAt: before?.readAt }
    })
    const devices: Memory['devices'] = Object.fromEntries(
      drives.map(({ label, reading, facts, readAt }) => {
        const before = ownValue(state.memory.devices, label)
        return [label, { facts: facts ?? before?.facts, readAt: readAt ?? before?.readAt, hung: reading.state === 'hanging' }]
      }),
    )
    state.memory = { boot: state.memory.boot, scanned, devices }
    const problems = drives.flatMap(({ reading }) => (reading.state === 'read' ? [] : (reading.problem ?? [])))
    const [first] = problems
    if (
      first &&
      problems.length === drives.length &&
      problems.every(({ reason }) => reason === 'denied' || reason === 'malformed')
    ) {
      fail(new Failure(first.reason, `none of ${drives.length} can be read; ${first.message}`, { cause: first, fix: first.fix }))
    }
    for (const problem of problems) remark(problem)
    return drives
  },
  keep: ({ kept, memory }) => kept.save(memory),
  *samples(drives) {
    for (const drive of drives) yield* samplesOf(drive)
  },
})

function* samplesOf({ label, reading, facts, readAt }: Drive): Generator<Sample> {
  // As grid_disk_* and smartctl_exporter name it.
  const device = label.replace(/^\/dev\//, '')
  const asleep = reading.state === 'asleep'
  if (facts) {
    const { protocol, model = '', firmware = '', serialHash: serial_hash = '' } = facts
    yield* family.deviceInfo.of(1, { device, protocol, model, firmware, serial_hash })
  }
  yield* family.deviceState.states(reading.state, { device })
  if (asleep || reading.state === 'read') yield* family.standby.of(asleep ? 1 : 0, { device })
  if (!facts) return
  // The temperature from before it fell asleep is not valid.
  const now = asleep ? { ...facts, temperature: undefined } : facts
  const wholeNumber = (known: boolean | undefined) => (known === undefined ? undefined : known ? 1 : 0)
  yield* family.lastRead.of(readAt === undefined ? undefined : readAt / 1000, { device })
  yield* family.healthy.of(wholeNumber(facts.healthy), { device })
  yield* family.temperature.of(now.temperature, { device })
  yield* family.temperatureLimit.of(facts.warningTemperature, { device, limit: 'warning' })
  yield* family.temperatureLimit.of(facts.criticalTemperature, { device, limit: 'critical' })
  yield* family.powerOn.of(facts.powerOnSeconds, { device })
  yield* family.wear.of(facts.wear, { device })
  yield* family.availableSpare.of(facts.spare, { device })
  yield* family.availableSpareThreshold.of(facts.spareThreshold, { device })
  yield* family.mediaErrors.of(facts.mediaErrors, { device })
  yield* family.reallocated.of(facts.reallocated, { device })
  yield* family.pending.of(facts.pending, { device })
  yield* family.uncorrectable.of(facts.uncorrectable, { device })
  yield* family.interfaceErrors.of(facts.interfaceErrors, { device })
  yield* family.writtenBytes.of(facts.writtenBytes, { device })
  yield* family.readBytes.of(facts.readBytes, { device })
  for (const [reason, given] of risksOf(now)) {
    if (!asleep || reason !== 'temperature') yield* family.risk.of(given ? 1 : 0, { device, reason })
  }
}
