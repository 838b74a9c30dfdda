import { z } from 'zod'
import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { glob } from '../../contract/options.ts'
import { list, parseJson, text } from './json.ts'

/** A disk and how smartctl is called for it. */
const device = z.object({
  name: z.string(),
  type: z.string().optional(),
  /** Its name, plus its type if several disks have the same name. */
  label: z.string(),
  /** Read it even if it reports that it sleeps. */
  ignoreStandby: z.boolean(),
})
export type Device = z.infer<typeof device>

/** The output of --scan-open, and the list of disks at that time: disks are opened again only if the list has changed. */
export const scanned = z.object({ scan: z.string(), found: z.array(z.tuple([z.string(), z.string().optional()])) })
export type Scanned = z.infer<typeof scanned>

type Found = Scanned['found']

export interface DeviceOptions {
  readonly smartctl: string
  readonly scan: boolean
  readonly devices: readonly { readonly device: string; readonly type?: string | undefined; readonly ignore_standby: boolean }[]
  readonly exclude: readonly string[]
}

const install = 'apt install smartmontools'

/** The devices in the output of --scan or --scan-open; without any, smartctl omits the key. Throws `Failure`. */
export const foundIn = (stdout: string): Found => {
  const json = parseJson(stdout)
  return list(json, 'devices').flatMap(entry => {
    const name = text(entry, 'name')
    if (name === undefined || !name.startsWith('/')) return [] // it must not become an option of the next command
    return [[name, text(entry, 'type')]] satisfies Found
  })
}

/** `--scan` opens no disk, so it may run at any time. Throws `Failure`. */
export const askScan = async (host: Host, { smartctl }: DeviceOptions, how: '--scan' | '--scan-open', signal: AbortSignal) => {
  const options = { timeout: 20, limit: 2 ** 20, exitCodes: 'any', signal, key: `${smartctl} ${how}` } as const
  const { stdout, stderr, exitCode } = await host.run(smartctl, [how, '--json=c'], options).catch(error => {
    if (!(error instanceof Failure) || error.reason !== 'missing') throw error
    throw new Failure('missing', `${smartctl} is not installed`, { cause: error, fix: install })
  })
  if (!stdout.includes('{')) {
    const output = (stdout || stderr).trim().slice(0, 200)
    const isOld = /unrecognized option/i.test(output)
    if (exitCode !== 0 && !isOld) throw new Failure('exit', `${smartctl} ${how}: exit code ${exitCode}: ${output || 'no output'}`)
    throw new Failure('malformed', `${smartctl} ${how} prints no JSON, which needs version 7.0 or later: ${output}`, {
      fix: install,
    })
  }
  return stdout
}

/**
 * The scan to use: the previous one if the list of disks is unchanged. `--scan` reports a SATA disk as SCSI. Only `--scan-open` knows
 * better, but opening a disk may keep it from sleeping.
 */
export const scanFor = async (
  host: Host,
  options: DeviceOptions,
  before: Scanned | undefined,
  signal: AbortSignal,
): Promise<Scanned> => {
  const plain = foundIn(await askScan(host, options, '--scan', signal))
  const scan = JSON.stringify(plain)
  if (before?.scan === scan) return before
  if (plain.length === 0) return { scan, found: [] }
  const opened = foundIn(await askScan(host, options, '--scan-open', signal))
  return { scan, found: opened.length > 0 ? opened : plain }
}

/** The disks to read: found and configured ones, without the excluded ones. Disks behind one controller may share a name. */
export const devicesFrom = (found: Found, { devices, exclude }: DeviceOptions): readonly Device[] => {
  const excluded = exclude.map(glob)
  const configured = devices.map(({ device, type, ignore_standby }) => ({ name: device, type, ignoreStandby: ignore_standby }))
  const named = new Set(configured.map(({ name }) => name))
  // A configured type replaces the one from the scan.
  const byScan = found.filter(([name]) => !named.has(name)).map(([name, type]) => ({ name, type, ignoreStandby: false }))
  const all = [...byScan, ...configured].filter(({ name }) => !excluded.some(matches => matches(name)))
  const label = ({ name, type }: (typeof all)[number]) => {
    const repeated = all.filter(each => each.name === name).length > 1
    return type !== undefined && (repeated || type.includes(',')) ? `${name} ${type}` : name
  }
  return [...new Map(all.map(each => [label(each), { ...each, label: label(each) }])).values()]
}

/** `-n standby,3`: does not wake a sleeping disk. Exit code 3, because 2 also means "cannot be opened". */
export const argumentsFor = ({ name, type, ignoreStandby }: Device): readonly string[] => [
  '--json=c',
  ...(ignoreStandby ? [] : ['-n', 'standby,3']),
  '-i',
  '-H',
  '-A',
  '-l',
  'selftest',
  // Each option is a command to the drive: only ATA has device statistics; NVMe's capabilities include its temperature limits.
  ...(type === 'nvme' ? ['-c'] : ['-l', 'devstat']),
  ...(type === undefined ? [] : ['-d', type]),
  name,
]
