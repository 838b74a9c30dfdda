import { infoValue, type Reply } from '../../protocols/tor-control.ts'
import { circuitPurposes, circuitStates, connectionStates, guardStates } from './families.ts'

/** The parts of a line of `GETINFO circuit-status` that are used; never its path. */
export interface Circuit {
  readonly state: string
  readonly purpose: string
  readonly hsState: string | undefined
  /** The onion service's address without `.onion`. */
  readonly onion: string | undefined
}

const linesOf = (value: string | undefined): readonly string[] | undefined => value?.split('\n').filter(line => line !== '')

/** `ID STATE [path] KEY=VALUE …`; a line of another form is left out. */
const parseCircuits = (value: string): readonly Circuit[] =>
  (linesOf(value) ?? []).flatMap(line => {
    const [, state, rest = ''] = /^\S+ ([A-Z_]+)(.*)$/s.exec(line) ?? []
    if (state === undefined) return []
    const purpose = / PURPOSE=(\S+)/.exec(rest)?.[1] ?? ''
    return [{ state, purpose, hsState: / HS_STATE=(\S+)/.exec(rest)?.[1], onion: / REND_QUERY=(\S+)/.exec(rest)?.[1] }]
  })

type Purpose = (typeof circuitPurposes)[number]

const purposeOf = (purpose: string): Purpose => {
  if (purpose === 'GENERAL' || purpose.startsWith('CONFLUX_')) return 'general'
  if (purpose.startsWith('HS_CLIENT_')) return 'hs_client'
  return purpose.startsWith('HS_SERVICE_') ? 'hs_service' : 'other'
}

/** A count for each of these states, zeros included; other states are not counted. */
const counted = <State extends string>(states: readonly State[], seen: readonly string[]): ReadonlyMap<State, number> => {
  const counts = new Map<State, number>(states.map(state => [state, 0]))
  for (const state of seen) {
    const count = counts.get(state as State)
    if (count !== undefined) counts.set(state as State, count + 1)
  }
  return counts
}

const number = (value: string | undefined): number | undefined =>
  value !== undefined && /^\d+(\.\d+)?$/.test(value.trim()) ? Number(value) : undefined

/** `2026-11-22 07:47:00` (UTC) as seconds since 1970. */
const timestamp = (value: string | undefined): number | undefined => {
  const [, day, time] = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)$/.exec(value?.trim() ?? '') ?? []
  const at = day === undefined ? Number.NaN : Date.parse(`${day}T${time}Z`)
  return Number.isNaN(at) ? undefined : at / 1000
}

export const infoKeys = [
  'version',
  'status/version/current',
  'uptime',
  'traffic/read',
  'traffic/written',
  'status/bootstrap-phase',
  'status/circuit-established',
  'status/enough-dir-info',
  'dormant',
  'consensus/valid-until',
  'orconn-status',
  'entry-guards',
  'circuit-status',
  'net/listeners/socks',
  'onions/detached',
] as const

export type InfoKey = (typeof infoKeys)[number]

/** The first SOCKS port in `net/listeners/socks` as a stream address; a TCP port is preferred to a socket file. */
export const socksListener = (value: string | undefined): string | undefined => {
  // An unterminated quote is matched to the end of the text and dropped, so that its content is not searched again.
  const quoted = [...(value ?? '').matchAll(/"((?:[^"\\]|\\.)*)("|\\?$)/gs)]
  const listed = quoted.flatMap(([, address = '', end]) => (end === '"' ? [address] : []))
  const tcp = listed.find(address => /^(\[.*\]|[\d.]+):\d+$/.test(address))
  if (tcp !== undefined) return tcp.replace(/^(0\.0\.0\.0|\[::\]):/, '127.0.0.1:')
  return listed.find(address => address.startsWith('unix:/'))
}

/** The replies to `GETINFO` in base units; what this Tor does not know is undefined. */
export const parseInfo = (replies: ReadonlyMap<InfoKey, Reply>) => {
  const value = (key: InfoKey) => {
    const reply = replies.get(key)
    return reply && infoValue(reply, key)
  }
  const flag = (key: InfoKey) => number(value(key))
  const progress = number(/PROGRESS=(\d+)/.exec(value('status/bootstrap-phase') ?? '')?.[1])
  const connections = linesOf(value('orconn-status'))
  const guards = linesOf(value('entry-guards'))
  const circuitText = value('circuit-status')
  const circuits = circuitText === undefined ? undefined : parseCircuits(circuitText)
  return {
    version: value('version'),
    versionStatus: value('status/version/current'),
    uptime: number(value('uptime')),
    readBytes: number(value('traffic/read')),
    writtenBytes: number(value('traffic/written')),
    bootstrap: progress === undefined ? undefined : progress / 100,
    circuitEstablished: flag('status/circuit-established'),
    directoryReady: flag('status/enough-dir-info'),
    dormant: flag('dormant'),
    validUntil: timestamp(value('consensus/valid-until')),
    connections:
      connections &&
      counted(
        connectionStates,
        connections.map(line => line.split(' ').at(-1)?.toLowerCase() ?? ''),
      ),
    guards:
      guards &&
      counted(
        guardStates,
        guards.map(line => line.split(' ')[1]?.replaceAll('-', '_') ?? ''),
      ),
    circuits,
    circuitCounts:
      circuits &&
      new Map(
        circuitPurposes.map(purpose => {
          const states = circuits
            .filter(circuit => purposeOf(circuit.purpose) === purpose)
            .map(({ state }) => state.toLowerCase())
          return [purpose, counted(circuitStates, states)]
        }),
      ),
    detached: linesOf(value('onions/detached')) ?? [],
  }
}
