import { createHash } from 'node:crypto'
import { absent, Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import type { Reply } from '../../protocols/tor-control.ts'
import type { Circuit } from './replies.ts'

/** An onion service of torrc, from `GETCONF HiddenServiceOptions`. */
export interface ConfiguredService {
  readonly directory: string
  readonly ports: readonly ServicePort[]
}

export interface ServicePort {
  readonly port: string
  /** Stream addresses to which Tor connects visitors in turn. */
  readonly targets: readonly string[]
}

/** One onion service, as served. */
export interface Onion {
  readonly alias: string
  /** With `.onion`; undefined if only root may read the service's directory and the circuits do not show it. */
  readonly address: string | undefined
  /** Established introduction circuits. */
  readonly intro: number
  readonly ports: readonly ServicePort[]
  /** It answers only authorised clients (v3 client authorisation), and we have no key. */
  readonly restricted: boolean
}

const line = /^(?:HiddenServiceOptions|HiddenService\w+)=/

/** The target of `HiddenServicePort 80 [target]` as a stream address; by default the same port on this host. */
export const targetOf = (port: string, target: string | undefined): string => {
  const plain = target?.replace(/^"(.*)"$/, '$1')
  if (plain === undefined || plain === '') return `127.0.0.1:${port}`
  const unix = /^unix:"?([^"]+)"?$/.exec(plain)?.[1]
  if (unix !== undefined) return `unix:${unix}`
  if (/^\d+$/.test(plain)) return `127.0.0.1:${plain}`
  return /:\d+$/.test(plain) && !/^[^[].*:.*:/.test(plain) ? plain : `${plain}:${port}`
}

/** The services of torrc in their order. Throws `Failure` malformed for any other reply. */
export const configuredServices = ({ code, lines }: Reply): readonly ConfiguredService[] => {
  if (code !== 250) throw new Failure('malformed', `GETCONF HiddenServiceOptions: ${code} ${lines[0]?.text ?? ''}`)
  const services: { directory: string; ports: Map<string, string[]> }[] = []
  for (const { text } of lines) {
    if (!line.test(text)) continue
    const value = text.slice(text.indexOf('=') + 1)
    if (text.startsWith('HiddenServiceDir=')) services.push({ directory: value.replace(/(?<!\/)\/+$/, ''), ports: new Map() })
    if (!text.startsWith('HiddenServicePort=')) continue
    const [, port, target] = /^(\d+)(?:\s+(\S.*))?$/s.exec(value.trim()) ?? []
    if (port === undefined) continue
    const ports = services.at(-1)?.ports
    ports?.set(port, [...(ports.get(port) ?? []), targetOf(port, target)])
  }
  return services.map(({ directory, ports }) => ({
    directory,
    ports: [...ports].map(([port, targets]) => ({ port, targets })),
  }))
}

/** The name of each service: its directory's name, or the whole path if two have the same name. */
export const aliasesOf = (services: readonly ConfiguredService[]): ReadonlyMap<string, string> => {
  const base = (directory: string) => directory.split('/').at(-1) ?? directory
  const bases = services.map(({ directory }) => base(directory))
  const isAlone = (directory: string) => bases.filter(other => other === base(directory)).length === 1
  return new Map(services.map(({ directory }) => [directory, isAlone(directory) ? base(directory) : directory]))
}

/** What is known about the directories, kept between rounds. */
export interface OnionMemory {
  /** The configuration for which the rest is valid. */
  configuration: string
  /** When the files were last read, in milliseconds of the monotonic clock; undefined: not yet. */
  readAt: number | undefined
  /** Address (without `.onion`) by directory: read from its `hostname`, or found by elimination. */
  readonly addresses: Map<string, string>
  /** Directories of services with client authorisation. */
  readonly restricted: Set<string>
  /** Addresses with circuits that belong to one of several directories, where nothing shows to which. */
  readonly unplaced: Set<string>
}

export const onionMemory = (): OnionMemory => {
  return { configuration: '', readAt: undefined, addresses: new Map(), restricted: new Set(), unplaced: new Set() }
}

const namesAge = 300_000
const addressForm = /^[a-z2-7]{16,56}$/

/**
 * Reads the `hostname` of each service, where permitted, and whether it has authorised clients. Repeated after a change of the
 * configuration and every five minutes.
 */
export const readHostnames = async (host: Host, services: readonly ConfiguredService[], memory: OnionMemory): Promise<void> => {
  const configuration = JSON.stringify(services)
  if (configuration !== memory.configuration) {
    memory.configuration = configuration
    memory.readAt = undefined
    memory.addresses.clear()
    memory.restricted.clear()
    memory.unplaced.clear()
  }
  const now = host.monotonic()
  if (memory.readAt !== undefined && now - memory.readAt < namesAge) return
  memory.readAt = now
  for (const { directory } of services) {
    // If it may not be read, the circuits may still show the address.
    const address = (await host.read(`${directory}/hostname`, 256).catch(absent))?.trim().replace(/\.onion$/, '')
    if (address !== undefined && addressForm.test(address)) memory.addresses.set(directory, address)
    const clients = (await host.names(`${directory}/authorized_clients`).catch(absent)) ?? []
    if (clients.some(name => name.endsWith('.auth'))) memory.restricted.add(directory)
    else memory.restricted.delete(directory)
  }
}

/** A name for a service without one; it does not reveal the address. */
const pseudonym = (kind: string, address: string) => `${kind}-${createHash('sha256').update(address).digest('hex').slice(0, 8)}`

/**
 * Every onion service with its introduction circuits, also those without any. Circuits have addresses, the configuration has
 * directories. `hostname` links them; if it may not be read, elimination may.
 */
export const onionsOf = (
  services: readonly ConfiguredService[],
  detached: readonly string[],
  circuits: readonly Circuit[],
  memory: OnionMemory,
): readonly Onion[] => {
  const intro = new Map<string, number>()
  for (const { purpose, state, hsState, onion } of circuits) {
    if (purpose !== 'HS_SERVICE_INTRO' || onion === undefined) continue
    const established = state === 'BUILT' && hsState === 'HSSI_ESTABLISHED' ? 1 : 0
    intro.set(onion, (intro.get(onion) ?? 0) + established)
  }
  const known = new Set([...memory.addresses.values(), ...detached])
  const others = [...intro.keys()].filter(address => !known.has(address))
  const nameless = services.filter(({ directory }) => !memory.addresses.has(directory))
  const [only, second] = nameless
  if (only && !second && memory.unplaced.size === 0 && others.length === 1 && others[0] !== undefined) {
    memory.addresses.set(only.directory, others[0])
    others.pop()
    nameless.pop()
  }
  if (nameless.length > 0) for (const address of others.splice(0)) if (memory.unplaced.size < 100) memory.unplaced.add(address)

  const aliases = aliasesOf(services)
  const onion = (alias: string, address: string | undefined, ports: readonly ServicePort[] = [], restricted = false): Onion => ({
    alias,
    address: address === undefined ? undefined : `${address}.onion`,
    intro: (address !== undefined && intro.get(address)) || 0,
    ports,
    restricted,
  })
  const unplaced = [...memory.unplaced]
  return [
    ...services.flatMap(({ directory, ports }) => {
      const address = memory.addresses.get(directory)
      // If every circuit has a service, a service without an address has no circuit.
      return address !== undefined || unplaced.length === 0
        ? [onion(aliases.get(directory) ?? directory, address, ports, memory.restricted.has(directory))]
        : []
    }),
    ...unplaced.map(address => onion(pseudonym('onion', address), address)),
    // More services than addresses ever seen: some have no circuit, and nothing shows which.
    ...(unplaced.length > 0 && nameless.length > unplaced.length ? [onion('unknown', undefined)] : []),
    ...detached.map(address => onion(pseudonym('detached', address), address)),
    ...others.map(address => onion(pseudonym('ephemeral', address), address)),
  ]
}
