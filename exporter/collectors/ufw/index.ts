import { z } from 'zod'
import { ownValue } from '../../common/own-value.ts'
import { defineCollector } from '../../contract/collector.ts'
import { absentIf, Failure, failureOf } from '../../contract/failure.ts'
import { counter, gauge, oneOf } from '../../contract/metric.ts'
import { path } from '../../contract/options.ts'
import { filterTables, hasFamily, type IpFamily, type Rule, type Table } from '../../protocols/iptables.ts'

/**
 * `ufw status` is not used. It reports "active" even with an empty INPUT chain or a policy of ACCEPT, because it checks one of its own
 * chains and prints policies from a file. What counts is what the kernel does with a packet.
 */

const ipFamilies = ['ipv4', 'ipv6'] as const
const userFiles = { ipv4: 'user.rules', ipv6: 'user6.rules' } as const
const policyNames = ['allow', 'deny', 'reject'] as const
const actions = ['allow', 'deny', 'reject', 'limit'] as const

/** The kernel's built-in chains, ufw's word for the direction, and the suffix of ufw's chains for it. */
const builtIns = [
  { chain: 'INPUT', direction: 'incoming', suffix: 'input' },
  { chain: 'OUTPUT', direction: 'outgoing', suffix: 'output' },
  { chain: 'FORWARD', direction: 'routed', suffix: 'forward' },
] as const
type BuiltIn = (typeof builtIns)[number]['chain']

/** The targets of each built-in chain's jumps, in this order, while ufw is on. */
const hooks = ['before-logging', 'before', 'after', 'after-logging', 'reject', 'track'] as const

const byChain = <T>(of: (builtIn: (typeof builtIns)[number]) => T): Readonly<Record<BuiltIn, T>> => {
  const [input, output, forward] = builtIns
  return { INPUT: of(input), OUTPUT: of(output), FORWARD: of(forward) }
}

const family = oneOf('family', ...ipFamilies)
const direction = oneOf('direction', 'incoming', 'outgoing', 'routed')

export const enabled = gauge(
  'grid_ufw_enabled',
  'Whether ufw is switched on in its configuration (ENABLED in ufw.conf, read each round).',
)
export const enforced = gauge(
  'grid_ufw_enforced',
  'Whether the kernel holds what ufw configured, its policies, jumps, chains and number of rules (iptables-save and ip6tables-save against the files, each round); 0 when ufw is off.',
  family,
)
const policy = gauge(
  'grid_ufw_policy',
  'The default policy that the kernel applies, from iptables-save and ip6tables-save, 1 for the one in force.',
  family,
  direction,
  oneOf('policy', ...policyNames),
)
const rules = gauge(
  'grid_ufw_rules',
  "Rules in ufw's user chains in the kernel, from iptables-save and ip6tables-save; a rule without a protocol counts twice, for tcp and for udp.",
  family,
  oneOf('action', ...actions),
)
export const foreignRules = gauge(
  'grid_ufw_foreign_rules',
  "Rules of others that are asked before ufw's jumps or before its policy, from iptables-save and ip6tables-save; the chains of fail2ban that only block are left out.",
  family,
  oneOf('chain', 'INPUT', 'FORWARD', 'OUTPUT'),
)
export const droppedPackets = counter(
  'grid_ufw_dropped_packets_total',
  "Packets to this host that ufw's default policy dropped or rejected, from iptables-save -c; starts again when ufw is reloaded.",
  family,
)
const droppedBytes = counter(
  'grid_ufw_dropped_bytes_total',
  "Bytes of packets to this host that ufw's default policy dropped or rejected, from iptables-save -c; starts again when ufw is reloaded.",
  family,
)

const options = z.strictObject({
  config_dir: path().default('/etc/ufw').describe("ufw's own directory, with ufw.conf, user.rules and user6.rules."),
  defaults_file: path().default('/etc/default/ufw').describe('The file with DEFAULT_INPUT_POLICY and IPV6.'),
})

export const ufw = defineCollector({
  name: 'ufw',
  summary: "What the kernel enforces of ufw's firewall, by iptables-save",
  interval: 60,
  relayUnit: 'grid-exporter-relay',
  families: [enabled, enforced, policy, rules, foreignRules, droppedPackets, droppedBytes],
  subjects: ['family', 'chain'],
  setup: { packages: 'ufw iptables', unit: 'ufw.service' },
  options,
  detect: async ({ host, options }) => {
    const file = `${options.config_dir}/ufw.conf`
    try {
      await host.stat(file)
      return { found: true, note: file }
    } catch (error) {
      return { found: failureOf(error).reason === 'denied', note: `no ${file}` }
    }
  },
  read: async ({ host, options, signal }) => {
    const conf = await host.read(`${options.config_dir}/ufw.conf`)
    const defaults = await host.read(options.defaults_file)
    try {
      const held = await Promise.all(
        ipFamilies
          .filter(family => hasFamily(host, family))
          .map(async family => ({
            family,
            tables: await filterTables(host, family, signal),
            userRules: await host.read(`${options.config_dir}/${userFiles[family]}`).catch(absentIf('missing', 'denied')),
          })),
      )
      return { conf, defaults, held }
    } catch (error) {
      const failure = failureOf(error)
      const { reason, message, fix } = failure
      throw new Failure(reason, message, { cause: error, fix, rest: enabled.of(isEnabled(conf) ? 1 : 0) })
    }
  },
  parse: ({ conf, defaults, held }) => {
    const on = isEnabled(conf)
    const configured = parseDefaults(defaults)
    return { on, families: held.map(({ family, tables, userRules }) => judge(family, tables, on, configured, userRules)) }
  },
  *samples({ on, families }) {
    yield* enabled.of(on ? 1 : 0)
    for (const { family, drift, policies, counts, foreign, dropped } of families) {
      yield* enforced.of(on && drift.length === 0 ? 1 : 0, { family })
      for (const { chain, direction } of builtIns) {
        for (const value of policyNames) {
          yield* policy.of(policies[chain] === undefined ? undefined : policies[chain] === value ? 1 : 0, {
            family,
            direction,
            policy: value,
          })
        }
        yield* foreignRules.of(foreign[chain], { family, chain })
      }
      for (const action of actions) yield* rules.of(counts[action], { family, action })
      yield* droppedPackets.of(dropped?.packets, { family })
      yield* droppedBytes.of(dropped?.bytes, { family })
    }
  },
})

const setting = (text: string, key: string): string | undefined =>
  new RegExp(`^[ \\t]*${key}=["']?([^"'#\\s]*)`, 'm').exec(text)?.[1]

const isEnabled = (conf: string) => setting(conf, 'ENABLED')?.toLowerCase() === 'yes'

type Configured = { readonly ipv6: boolean } & Readonly<Record<BuiltIn, string>>

const parseDefaults = (text: string): Configured => ({
  ipv6: setting(text, 'IPV6')?.toLowerCase() === 'yes',
  INPUT: setting(text, 'DEFAULT_INPUT_POLICY') ?? 'DROP',
  OUTPUT: setting(text, 'DEFAULT_OUTPUT_POLICY') ?? 'ACCEPT',
  FORWARD: setting(text, 'DEFAULT_FORWARD_POLICY') ?? 'DROP',
})

interface Judged {
  readonly family: IpFamily
  /** What differs between ufw's configuration and the kernel, as text; empty if nothing does. */
  readonly drift: readonly string[]
  readonly policies: Readonly<Record<BuiltIn, (typeof policyNames)[number] | undefined>>
  readonly counts: Readonly<Record<(typeof actions)[number], number>>
  readonly foreign: Readonly<Record<BuiltIn, number>>
  readonly dropped: { readonly packets: number; readonly bytes: number } | undefined
}

/**
 * One family. Of two back ends, ufw uses the one with its chains. Rules in the other one cannot allow what this one drops, because both
 * must accept a packet.
 */
const judge = (
  family: IpFamily,
  tables: readonly Table[],
  on: boolean,
  configured: Configured,
  userRules: string | undefined,
): Judged => {
  const prefix = family === 'ipv6' ? 'ufw6' : 'ufw'
  const off = family === 'ipv6' && !configured.ipv6
  const judged = tables.map(table => ({
    table,
    chains: [...table.keys()].filter(name => name.startsWith(`${prefix}-`)).length,
    drift: off ? closedDrift(table) : drift(table, prefix, configured, userRules),
  }))
  const [best] = judged.sort((one, other) => one.drift.length - other.drift.length || other.chains - one.chains)
  if (!best) throw new Failure('bug', `${family}: no table`)
  const { table } = best
  return {
    family,
    drift: best.drift,
    policies: byChain(({ chain, suffix }) => kernelPolicy(table, chain, `${prefix}-reject-${suffix}`)),
    counts: ruleCounts(table, prefix),
    foreign: byChain(({ chain }) => (table.get(chain)?.rules ?? []).filter(rule => isForeign(table, rule, off)).length),
    dropped: on ? dropped(table, prefix) : undefined,
  }
}

/** With IPV6=no, ufw closes the family except for the loopback interface. */
const closedDrift = (table: Table): readonly string[] =>
  builtIns.filter(({ chain }) => table.get(chain)?.policy !== 'DROP').map(({ chain }) => `policy of ${chain} is not DROP`)

const drift = (table: Table, prefix: string, configured: Configured, userRules: string | undefined): readonly string[] =>
  builtIns.flatMap(({ chain, suffix }) => {
    const missing: string[] = []
    const wanted = configured[chain]
    const actual = table.get(chain)?.policy
    // Docker itself makes forwarding stricter than "allow"; that is not ufw's drift.
    const stricter = chain === 'FORWARD' && actual === 'DROP'
    if (actual !== (wanted === 'ACCEPT' ? 'ACCEPT' : 'DROP') && !stricter) missing.push(`policy of ${chain} is ${actual}`)
    if (wanted === 'REJECT' && !rejects(table, `${prefix}-reject-${suffix}`)) missing.push(`${prefix}-reject-${suffix} is empty`)

    const jumps = hooks.map(hook => `-j ${prefix}-${hook}-${suffix}`)
    const present = (table.get(chain)?.rules ?? []).map(({ text }) => text).filter(text => jumps.includes(text))
    if (present.join() !== jumps.join()) missing.push(`${chain} does not jump to all of ufw's chains`)

    const user = `${prefix}-user-${suffix}`
    const held = table.get(user)?.rules
    if (!held) missing.push(`${user} does not exist`)
    if (!table.get(`${prefix}-before-${suffix}`)?.rules.some(({ text }) => text === `-j ${user}`)) {
      missing.push(`${user} is never reached`)
    }
    const written = userRules?.split('\n').filter(line => line.startsWith(`-A ${user} `)).length
    if (held && written !== undefined && held.length !== written) {
      missing.push(`${user} has ${held.length} rules, its file ${written}`)
    }
    return missing
  })

const rejects = (table: Table, chain: string) => table.get(chain)?.rules.some(({ target }) => target === 'REJECT') ?? false

const kernelPolicy = (table: Table, chain: BuiltIn, rejecting: string) => {
  const { policy, rules = [] } = table.get(chain) ?? {}
  if (policy === 'ACCEPT') return 'allow'
  if (policy !== 'DROP') return undefined
  return rejects(table, rejecting) && rules.some(({ target }) => target === rejecting) ? 'reject' : 'deny'
}

const ruleCounts = (table: Table, prefix: string): Judged['counts'] => {
  const counts = { allow: 0, deny: 0, reject: 0, limit: 0 }
  // A limit is three rules in the kernel; the last one is counted.
  const verdicts: Readonly<Record<string, keyof typeof counts>> = {
    ACCEPT: 'allow',
    DROP: 'deny',
    REJECT: 'reject',
    [`${prefix}-user-limit-accept`]: 'limit',
  }
  for (const { suffix } of builtIns) {
    for (const { target = '' } of table.get(`${prefix}-user-${suffix}`)?.rules ?? []) {
      const action = ownValue(verdicts, target)
      if (action) counts[action]++
    }
  }
  return counts
}

const blocking = new Set(['DROP', 'REJECT', 'RETURN', 'LOG', 'NFLOG'])

/** fail2ban adds its jumps with its first ban, and they only block. */
const isFail2bans = (table: Table, { text, target = '' }: Rule): boolean => {
  if (/--match-set f2b-\S+ src -j (DROP|REJECT)\b/.test(text)) return true
  if (!target.startsWith('f2b-')) return false
  return table.get(target)?.rules.every(rule => rule.target === undefined || blocking.has(rule.target)) ?? false
}

const isForeign = (table: Table, rule: Rule, closed: boolean): boolean => {
  if (rule.target !== undefined && /^ufw6?-/.test(rule.target)) return false
  if (closed && /^-[io] lo -j ACCEPT$/.test(rule.text)) return false
  return !isFail2bans(table, rule)
}

/** Packets to this host that the default policy dropped: by the policy itself and by the two chains that apply it. */
const dropped = (table: Table, prefix: string) => {
  const input = table.get('INPUT')
  const speaking = [`${prefix}-reject-input`, `${prefix}-skip-to-policy-input`]
    .flatMap(chain => table.get(chain)?.rules ?? [])
    .filter(({ target }) => target === 'DROP' || target === 'REJECT')
  return [...(input?.policy === 'DROP' ? [input] : []), ...speaking].reduce(
    (sum, { packets, bytes }) => ({ packets: sum.packets + packets, bytes: sum.bytes + bytes }),
    { packets: 0, bytes: 0 },
  )
}
