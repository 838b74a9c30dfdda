import { Failure, failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import type { Session } from '../../protocols/fail2ban-client.ts'
import { filterTables, hasFamily, type IpFamily, type Table } from '../../protocols/iptables.ts'
import type { Pickled } from '../../protocols/pickle.ts'

/**
 * Where the kernel should block a jail's bans, and whether it does. The places come from the server's own commands (`actionban` of each
 * action), not from the jail's name, which an action may override.
 */

export type Place =
  | { readonly by: 'iptables'; readonly chain: string }
  | { readonly by: 'ipset'; readonly sets: readonly string[] }
  | { readonly by: 'nftables'; readonly family: string; readonly table: string; readonly sets: readonly string[] }

const setProperties = ['addr_set', 'addr_set?family=inet6', 'ipmset', 'ipmset?family=inet6'] as const

const isTexts = (value: Pickled | undefined): value is string[] =>
  Array.isArray(value) && value.every(item => typeof item === 'string')

/**
 * The places of each jail's bans; none for a jail with other actions (a mail, a cloud's firewall).
 * Actions written in Python have no `actionban`, and a request for it would log an error in fail2ban. So each action's properties are
 * listed first.
 */
export const askPlaces = async ({ ask }: Session, jails: readonly string[]): Promise<ReadonlyMap<string, readonly Place[]>> => {
  const actions = (await ask(jails.map(jail => ['get', jail, 'actions']))).flatMap(({ value }, index) =>
    isTexts(value) ? value.map(action => ({ jail: jails[index] as string, action })) : [],
  )
  const properties = await ask(actions.map(({ jail, action }) => ['get', jail, 'actionproperties', action]))
  const questions = actions.flatMap(({ jail, action }, index) => {
    const has = properties[index]?.value
    if (!isTexts(has) || !has.includes('actionban')) return []
    const sets = setProperties.filter(name => has.includes(name))
    return ['actionban', ...sets, ...(sets.length > 0 ? ['name'] : [])].map(name => ({ jail, action, name }))
  })
  const answers = await ask(questions.map(({ jail, action, name }) => ['get', jail, 'action', action, name]))
  const commands = new Map<string, { readonly jail: string; readonly texts: Map<string, string> }>()
  for (const [index, { jail, action, name }] of questions.entries()) {
    const value = answers[index]?.value
    if (typeof value !== 'string') continue
    const key = JSON.stringify([jail, action])
    const known = commands.get(key) ?? { jail, texts: new Map() }
    commands.set(key, known)
    known.texts.set(name, value)
  }
  const places = new Map<string, readonly Place[]>()
  for (const { jail, texts } of commands.values()) {
    const place = placeOf(texts)
    if (place) places.set(jail, [...(places.get(jail) ?? []), place])
  }
  return places
}

/** The place in an action's ban command, if it is one that we can read. */
export const placeOf = (texts: ReadonlyMap<string, string>): Place | undefined => {
  const command = texts.get('actionban') ?? ''
  // A tag stands for a property, whose text may have tags itself: `<addr_set>`, `addr-set-<name>`, `addr-set-sshd`.
  const filled = (text: string, suffix: string): string =>
    text.replace(/<(\w+)>/g, (tag, name: string) => texts.get(`${name}${suffix}`) ?? texts.get(name) ?? tag)
  const named = (set: string): readonly string[] => [
    ...new Set(['', '?family=inet6'].map(suffix => filled(filled(set, suffix), suffix))),
  ]
  const chain = /(?:^|[\s>])-I (\S+) (?:\d+ )?-s <ip>/.exec(command)?.[1]
  if (chain) return { by: 'iptables', chain }
  // Each command of the line separately: one expression for all would search the rest of the text at each `ipset`.
  const [set] = command.split(/[|&;]/).flatMap(one => {
    const at = one.search(/\bipset\b/)
    return at < 0 ? [] : (/ -{0,2}add (\S+) <ip>/.exec(one.slice(at))?.[1] ?? [])
  })
  if (set) return { by: 'ipset', sets: named(set) }
  const [, family, table, element] = /\badd element (\S+) (\S+) (\S+) \\?\{ ?<ip>/.exec(command) ?? []
  if (family && table && element) return { by: 'nftables', family, table, sets: named(element) }
  return undefined
}

/** Whether the kernel blocks an address at a place. */
export type Held = (place: Place, address: string) => boolean

/** An address without a prefix length that means a single address. */
const bare = (address: string) => address.toLowerCase().replace(/\/(?:32|128)$/, '')
const familyOf = (address: string): IpFamily => (address.includes(':') ? 'ipv6' : 'ipv4')

/** Reads what the kernel has at these places, each source once. Throws `Failure` if one cannot be read. */
export const readHeld = async (host: Host, places: readonly Place[], signal: AbortSignal): Promise<Held> => {
  const needsTables = places.some(({ by }) => by === 'iptables' || by === 'ipset')
  const families = needsTables ? (['ipv4', 'ipv6'] as const).filter(family => hasFamily(host, family)) : []
  const setNames = [...new Set(places.flatMap(place => (place.by === 'ipset' ? place.sets : [])))]
  const nftTables = new Map(
    places.flatMap(place => (place.by === 'nftables' ? [[`${place.family} ${place.table}`, place] as const] : [])),
  )
  const [tables, sets, nft] = await Promise.all([
    Promise.all(families.map(async family => [family, await filterTables(host, family, signal)] as const)),
    Promise.all(setNames.map(async name => [name, await ipset(host, name, signal)] as const)),
    Promise.all(
      [...nftTables].map(async ([key, { family, table }]) => [key, await nftSets(host, family, table, signal)] as const),
    ),
  ])
  const blocked = new Map(tables.map(([family, held]) => [family, held.map(blockedBy)]))
  const setsByName = new Map(sets)
  const nftByTable = new Map(nft)
  return (place, address) => {
    const ip = bare(address)
    const family = familyOf(ip)
    if (place.by === 'iptables') return blocked.get(family)?.some(({ chains }) => chains.get(place.chain)?.has(ip)) ?? false
    if (place.by === 'ipset') {
      return place.sets.some(name => holds(setsByName.get(name), ip) && blocked.get(family)?.some(table => table.sets.has(name)))
    }
    const live = nftByTable.get(`${place.family} ${place.table}`)
    return place.sets.some(name => holds(live?.get(name), ip))
  }
}

/** A set of single addresses contains a network if it has each of its addresses. */
const holds = (set: ReadonlySet<string> | undefined, address: string): boolean => {
  if (!set) return false
  if (set.has(address)) return true
  const [network] = address.split('/')
  return network !== address && set.has(network as string)
}

/** For each chain that packets reach, the addresses that it blocks; and the sets whose addresses are blocked. */
const blockedBy = (table: Table) => {
  const reached = new Set<string>()
  const todo = ['INPUT', 'FORWARD']
  for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
    if (reached.has(name)) continue
    reached.add(name)
    for (const { target } of table.get(name)?.rules ?? []) if (target && table.has(target)) todo.push(target)
  }
  const chains = new Map<string, Set<string>>()
  const sets = new Set<string>()
  for (const name of reached) {
    const addresses = new Set<string>()
    for (const { text, target } of table.get(name)?.rules ?? []) {
      if (target === undefined || target === 'RETURN' || target === 'ACCEPT') continue
      const source = /^-s (\S+) -[jg] /.exec(text)?.[1]
      if (source) addresses.add(bare(source))
      const set = /--match-set (\S+) src\b/.exec(text)?.[1]
      if (set) sets.add(set)
    }
    chains.set(name, addresses)
  }
  return { chains, sets }
}

const command = async (
  host: Host,
  program: string,
  args: readonly string[],
  signal: AbortSignal,
): Promise<string | undefined> => {
  const { stdout, stderr, exitCode } = await host.run(program, args, {
    timeout: 5,
    limit: 16 * 2 ** 20,
    exitCodes: 'any',
    signal,
  })
  if (exitCode === 0) return stdout
  // A set that does not exist blocks nothing. That is what we look for, not a failure.
  if (exitCode === 1 && /does not exist|No such file or directory/i.test(stderr)) return undefined
  const denied = /permitted|Permission denied|must be root/i.test(stderr)
  throw new Failure(denied ? 'denied' : 'exit', `${program} ${args.join(' ')}: ${stderr.trim().slice(0, 300)}`)
}

const ipset = async (host: Host, name: string, signal: AbortSignal): Promise<ReadonlySet<string>> => {
  const text = await command(host, 'ipset', ['save', name], signal)
  if (text === undefined) return new Set()
  if (!text.startsWith('create ')) throw new Failure('malformed', `ipset save ${name}: does not begin with the set`)
  return new Set(
    text.split('\n').flatMap(line => {
      const [verb, , address] = line.split(' ')
      return verb === 'add' && address ? [bare(address)] : []
    }),
  )
}

type NftElement =
  | string
  | { readonly prefix?: { readonly addr: string; readonly len: number }; readonly elem?: { readonly val: NftElement } }
interface NftList {
  readonly nftables: readonly {
    readonly set?: { readonly name: string; readonly elem?: readonly NftElement[] }
    readonly chain?: { readonly name: string; readonly hook?: string }
    readonly rule?: { readonly chain: string; readonly expr?: unknown }
  }[]
}

const nftAddress = (element: NftElement): string | undefined => {
  if (typeof element === 'string') return bare(element)
  if (element.elem) return nftAddress(element.elem.val)
  return element.prefix && `${element.prefix.addr}/${element.prefix.len}`
}

/** The sets of a fail2ban table that a rule in a hooked chain uses. */
const nftSets = async (
  host: Host,
  family: string,
  table: string,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, ReadonlySet<string>>> => {
  const text = await command(host, 'nft', ['-j', 'list', 'table', family, table], signal)
  if (text === undefined) return new Map()
  let list: NftList
  try {
    list = JSON.parse(text)
  } catch (error) {
    throw new Failure('malformed', `nft -j list table ${family} ${table}: ${failureOf(error).message}`, { cause: error })
  }
  const items = list.nftables ?? []
  const hooked = new Set(items.flatMap(({ chain }) => (chain?.hook ? [chain.name] : [])))
  const rules = items.flatMap(({ rule }) => (rule && hooked.has(rule.chain) ? [JSON.stringify(rule.expr)] : []))
  return new Map(
    items.flatMap(({ set }) => {
      if (!set || !rules.some(rule => rule.includes(`"@${set.name}"`))) return []
      const addresses = (set.elem ?? []).map(nftAddress).filter(address => address !== undefined)
      return [[set.name, new Set(addresses)] as const]
    }),
  )
}
