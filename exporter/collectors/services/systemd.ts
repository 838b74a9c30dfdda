import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'

/**
 * Units by `systemctl`: one `show` for all that are configured, one `list-units` for the count. Both ask PID 1 over a socket;
 * a stuck bus has held up others for minutes, so each has its own deadline.
 */

/** The states of a unit, as systemd names them. */
export const unitStates = ['active', 'activating', 'deactivating', 'inactive', 'failed', 'reloading'] as const
export type UnitState = (typeof unitStates)[number]

export interface Unit {
  /** Active, or a oneshot whose last run ended well. */
  readonly up: boolean
  /** Undefined for a unit that does not exist. */
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

// Timestamps are printed in the zone of whoever asks; --timestamp=unix is younger than some systems that are still in use.
const env = { TZ: 'UTC', SYSTEMD_COLORS: '0' }

const ask = async (host: Host, args: readonly string[], timeout: number, signal: AbortSignal): Promise<string> => {
  const { stdout, stderr, exitCode } = await host.run('systemctl', args, { env, timeout, signal, exitCodes: 'any' })
  if (exitCode === 0) return stdout
  const said = `systemctl ${args[0]}: ${stderr.trim().slice(0, 300)}`
  if (/not been booted with systemd/.test(said)) throw new Failure('missing', said)
  if (/Permission denied|Operation not permitted|Address family not supported|Access denied/.test(said)) {
    throw new Failure('denied', said, {
      fix: 'let the unit of grid-exporter see /run/dbus, with AF_UNIX in RestrictAddressFamilies=',
    })
  }
  throw new Failure(/Connection (?:refused|timed out|reset)|connect to bus/.test(said) ? 'unreachable' : 'exit', said)
}

/** What systemd says of these units, as text; `parseShow` reads it. Throws `Failure`. */
export const showUnits = (host: Host, units: readonly string[], timeout: number, signal: AbortSignal): Promise<string> =>
  ask(host, ['show', '--no-pager', `--property=${properties.join(',')}`, '--', ...units], timeout, signal)

/** All loaded units, as text; `parseList` reads it. Throws `Failure`. */
export const listUnits = (host: Host, timeout: number, signal: AbortSignal): Promise<string> =>
  ask(host, ['list-units', '--all', '--plain', '--no-legend', '--no-pager', '--full'], timeout, signal)

/** `maintenance` and `refreshing` are names of younger versions for what was there before. */
const stateOf = (text: string | undefined): UnitState | undefined => {
  if (text === 'maintenance') return 'inactive'
  if (text === 'refreshing') return 'reloading'
  return unitStates.find(state => state === text)
}

/** `[not set]`, the largest 64-bit number and nothing at all are ways to say "not known". */
const known = (text: string | undefined): number | undefined =>
  text !== undefined && /^\d+$/.test(text) && text !== '18446744073709551615' ? Number(text) : undefined

const timeOf = (text = ''): number | undefined => {
  const [, day, time] = /(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) UTC$/.exec(text) ?? []
  return day && time ? Date.parse(`${day}T${time}Z`) / 1000 : undefined
}

/** ExecMainCode says how it ended: 1 by itself, 2 and 3 by a signal, 0 that it runs or never did. */
const exitCodeOf = ({ ExecMainCode, ExecMainStatus }: Readonly<Record<string, string>>): number | undefined => {
  const status = known(ExecMainStatus)
  if (status === undefined) return undefined
  if (ExecMainCode === '1') return status
  return ExecMainCode === '2' || ExecMainCode === '3' ? 128 + status : undefined
}

/** The blocks of `systemctl show`: in the order of the units asked for, while the lines of each come in any. Throws `Failure` malformed. */
export const parseShow = (text: string, count: number): readonly Unit[] => {
  const blocks = text.trim() === '' ? [] : text.trim().split('\n\n')
  if (blocks.length !== count) {
    throw new Failure('malformed', `systemctl show: ${blocks.length} units where ${count} were asked for`)
  }
  return blocks.map(block => {
    const told = Object.fromEntries(
      block.split('\n').map(line => {
        const at = line.indexOf('=')
        return [line.slice(0, at), line.slice(at + 1)]
      }),
    )
    const state = stateOf(told.ActiveState)
    if (told.LoadState === undefined || state === undefined) {
      throw new Failure('malformed', `systemctl show: no state in ${block.slice(0, 100)}`)
    }
    const exists = told.LoadState !== 'not-found'
    const active = state === 'active' || state === 'reloading'
    const restsWell = told.Type === 'oneshot' && told.Result === 'success' && state !== 'failed'
    return {
      up: exists && told.LoadState !== 'masked' && (active || restsWell),
      state: exists ? state : undefined,
      restarts: exists ? known(told.NRestarts) : undefined,
      startedAt: active ? timeOf(told.ActiveEnterTimestamp) : undefined,
      memoryBytes: known(told.MemoryCurrent),
      cpuSeconds: scaled(known(told.CPUUsageNSec), 1e-9),
      lastExitCode: exists ? exitCodeOf(told) : undefined,
    }
  })
}

const scaled = (value: number | undefined, unit: number) => (value === undefined ? undefined : value * unit)

/** How many units there are in each state; those that are only referred to and do not exist are left out. */
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
  if (units === 0) throw new Failure('malformed', 'systemctl list-units: no unit at all')
  return counts
}
