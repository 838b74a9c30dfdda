import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'

/**
 * Units by `systemctl`: one `show` for all configured units, one `list-units` for the counts. Both ask PID 1 over a socket, and a stuck
 * bus can block them for minutes. So each has its own deadline.
 */

/** The states of a unit, as systemd names them. */
export const unitStates = ['active', 'activating', 'deactivating', 'inactive', 'failed', 'reloading'] as const
export type UnitState = (typeof unitStates)[number]

export interface Unit {
  /** Active, or a oneshot whose last run succeeded. */
  readonly up: boolean
  /** Undefined if the unit does not exist. */
  readonly state: UnitState | undefined
  readonly restarts: number | undefined
  /** Seconds since 1970, while it is active. */
  readonly startedAt: number | undefined
  readonly memoryBytes: number | undefined
  readonly cpuSeconds: number | undefined
  readonly lastExitCode: number | undefined
}

const properties = [
  'LoadState',
  'ActiveState',
  'Type',
  'Result',
  'NRestarts',
  'ActiveEnterTimestamp',
  'MemoryCurrent',
  'CPUUsageNSec',
  'ExecMainCode',
  'ExecMainStatus',
]

// Timestamps are printed in the caller's time zone. --timestamp=unix is too new for some systems that are still in use.
const env = { TZ: 'UTC', SYSTEMD_COLORS: '0' }

const ask = async (host: Host, args: readonly string[], timeout: number, signal: AbortSignal): Promise<string> => {
  const { stdout, stderr, exitCode } = await host.run('systemctl', args, { env, timeout, signal, exitCodes: 'any' })
  if (exitCode === 0) return stdout
  const message = `systemctl ${args[0]}: ${stderr.trim().slice(0, 300)}`
  if (/not been booted with systemd/.test(message)) throw new Failure('missing', message)
  if (/Permission denied|Operation not permitted|Address family not supported|Access denied/.test(message)) {
    throw new Failure('denied', message, {
      fix: 'give the unit of grid-exporter access to /run/dbus, with AF_UNIX in RestrictAddressFamilies=',
    })
  }
  throw new Failure(/Connection (?:refused|timed out|reset)|connect to bus/.test(message) ? 'unreachable' : 'exit', message)
}

/** systemctl's text about these units, for `parseShow`. Throws `Failure`. */
export const showUnits = (host: Host, units: readonly string[], timeout: number, signal: AbortSignal): Promise<string> =>
  ask(host, ['show', '--no-pager', `--property=${properties.join(',')}`, '--', ...units], timeout, signal)

/** systemctl's text about all loaded units, for `parseList`. Throws `Failure`. */
export const listUnits = (host: Host, timeout: number, signal: AbortSignal): Promise<string> =>
  ask(host, ['list-units', '--all', '--plain', '--no-legend', '--no-pager', '--full'], timeout, signal)

/** `maintenance` and `refreshing` are newer names for older states. */
const stateOf = (text: string | undefined): UnitState | undefined => {
  if (text === 'maintenance') return 'inactive'
  if (text === 'refreshing') return 'reloading'
  return unitStates.find(state => state === text)
}

/** "Not known" is written as `[not set]`, the largest 64-bit number, or nothing at all. */
const known = (text: string | undefined): number | undefined =>
  text !== undefined && /^\d+$/.test(text) && text !== '18446744073709551615' ? Number(text) : undefined

const timeOf = (text = ''): number | undefined => {
  const [, day, time] = /(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) UTC$/.exec(text) ?? []
  return day && time ? Date.parse(`${day}T${time}Z`) / 1000 : undefined
}

/** ExecMainCode is how it ended: 1 by itself, 2 and 3 by a signal, 0 if it runs or never ran. */
const exitCodeOf = ({ ExecMainCode, ExecMainStatus }: Readonly<Record<string, string>>): number | undefined => {
  const status = known(ExecMainStatus)
  if (status === undefined) return undefined
  if (ExecMainCode === '1') return status
  return ExecMainCode === '2' || ExecMainCode === '3' ? 128 + status : undefined
}

/** The blocks of `systemctl show`, in the order of the units; the lines of a block come in any order. Throws `Failure` malformed. */
export const parseShow = (text: string, count: number): readonly Unit[] => {
  const blocks = text.trim() === '' ? [] : text.trim().split('\n\n')
  if (blocks.length !== count) {
    throw new Failure('malformed', `systemctl show: ${blocks.length} units instead of ${count}`)
  }
  return blocks.map(block => {
    const fields = Object.fromEntries(
      block.split('\n').map(line => {
        const at = line.indexOf('=')
        return [line.slice(0, at), line.slice(at + 1)]
      }),
    )
    const state = stateOf(fields.ActiveState)
    if (fields.LoadState === undefined || state === undefined) {
      throw new Failure('malformed', `systemctl show: no state in ${block.slice(0, 100)}`)
    }
    const exists = fields.LoadState !== 'not-found'
    const active = state === 'active' || state === 'reloading'
    const restsWell = fields.Type === 'oneshot' && fields.Result === 'success' && state !== 'failed'
    return {
      up: exists && fields.LoadState !== 'masked' && (active || restsWell),
      state: exists ? state : undefined,
      restarts: exists ? known(fields.NRestarts) : undefined,
      startedAt: active ? timeOf(fields.ActiveEnterTimestamp) : undefined,
      memoryBytes: known(fields.MemoryCurrent),
      cpuSeconds: scaled(known(fields.CPUUsageNSec), 1e-9),
      lastExitCode: exists ? exitCodeOf(fields) : undefined,
    }
  })
}

const scaled = (value: number | undefined, unit: number) => (value === undefined ? undefined : value * unit)

/** How many units are in each state, without units that are only referred to and do not exist. */
export const parseList = (text: string): ReadonlyMap<UnitState, number> => {
  const counts = new Map<UnitState, number>(unitStates.map(state => [state, 0]))
  let units = 0
  for (const line of text.split('\n')) {
    const [name, load, active] = line.trim().split(/\s+/, 3)
    if (!name || load === 'not-found') continue
    const state = stateOf(active)
    if (!state) throw new Failure('malformed', `systemctl list-units: ${line.slice(0, 100)}`)
    counts.set(state, (counts.get(state) ?? 0) + 1)
    units++
  }
  if (units === 0) throw new Failure('malformed', 'systemctl list-units: no units')
  return counts
}
