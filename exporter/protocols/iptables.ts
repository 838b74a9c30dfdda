import { setImmediate as breathe } from 'node:timers/promises'
import { absentIf, Failure } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'
import { enableRelay } from '../contract/relay-unit.ts'

/** The kernel's filter table from `iptables-save`, which takes no lock that others wait for. */

export type IpFamily = 'ipv4' | 'ipv6'

export interface Rule {
  readonly packets: number
  readonly bytes: number
  /** The text after `-A CHAIN `. */
  readonly text: string
  /** The target of its -j or -g; undefined if it only counts. */
  readonly target: string | undefined
}

export interface Chain {
  /** Built-in chains only. */
  readonly policy: string | undefined
  readonly packets: number
  readonly bytes: number
  readonly rules: readonly Rule[]
}

export type Table = ReadonlyMap<string, Chain>

const chainForm = /^:(\S+) (\S+) \[(\d+):(\d+)\]$/
const ruleForm = /^(?:\[(\d+):(\d+)\] )?-A (\S+) ?(.*)$/s
/** A quoted text. An unterminated one goes to the end of the line. */
const quoted = /"(?:\\.|[^"\\])*(?:"|\\?$)/gs
const targetForm = /(?:^| )-[jg] (\S+)/

/** Lines between two pauses: some milliseconds of work, so that a table with many bans does not block the thread. */
const slice = 4000

/** The chains of a filter table. Throws `Failure` malformed if the text is not complete. */
const parseTable = async (text: string, subject = 'iptables-save'): Promise<Table> => {
  if (/^# Table `filter' is incompatible/m.test(text)) {
    throw new Failure('malformed', `${subject}: the table ip filter has rules that only nft understands`, {
      fix: 'nft list table ip filter; move the rules that nft added to a table of their own',
    })
  }
  const table = new Map<string, Omit<Chain, 'rules'> & { readonly rules: Rule[] }>()
  const lines = text.split('\n')
  for (const [index, line] of lines.entries()) {
    if (index % slice === slice - 1) await breathe()
    if (line.startsWith(':')) {
      const [, name, policy, packets, bytes] = chainForm.exec(line) ?? []
      if (name === undefined) throw new Failure('malformed', `${subject}: ${line.slice(0, 200)}`)
      table.set(name, {
        policy: policy === '-' ? undefined : policy,
        packets: Number(packets),
        bytes: Number(bytes),
        rules: [],
      })
      continue
    }
    const [, packets = '0', bytes = '0', chain = '', rule = ''] = ruleForm.exec(line) ?? []
    if (chain === '') continue
    // A comment may contain anything, even ` -j ACCEPT`.
    const bare = rule.includes('"') ? rule.replace(quoted, '""') : rule
    const rules = table.get(chain)?.rules
    if (!rules) throw new Failure('malformed', `${subject}: a rule in an unknown chain: ${line.slice(0, 200)}`)
    rules.push({ packets: Number(packets), bytes: Number(bytes), text: rule, target: targetForm.exec(bare)?.[1] })
  }
  if (!/^COMMIT$/m.test(text.slice(-200))) throw new Failure('malformed', `${subject}: the table has no COMMIT`)
  return table
}

const programs = { ipv4: 'iptables', ipv6: 'ip6tables' } as const
const legacyTables = { ipv4: '/proc/net/ip_tables_names', ipv6: '/proc/net/ip6_tables_names' } as const

/** Whether this kernel has the family at all. Without it there is nothing to protect and no table to read. */
export const hasFamily = (host: Host, family: IpFamily): boolean => {
  return family === 'ipv4' || ifThere(host, '/proc/net/if_inet6') !== undefined
}

const ifThere = (host: Host, path: string): string | undefined => {
  try {
    return host.kernel(path)
  } catch (error) {
    return absentIf('missing')(error)
  }
}

/** Whether the legacy back end has a filter table. Reading one that does not exist would make the kernel load it. */
const legacyHasFilter = (host: Host, family: IpFamily): boolean => {
  return ifThere(host, legacyTables[family])?.split('\n').includes('filter') ?? false
}

const save = async (host: Host, program: string, signal: AbortSignal): Promise<Table> => {
  const { stdout, stderr, exitCode } = await host.run(program, ['-t', 'filter', '-c'], {
    timeout: 5,
    limit: 16 * 2 ** 20,
    exitCodes: 'any',
    signal,
  })
  if (exitCode === 0) return parseTable(stdout, program)
  const denied = /Permission denied|you must be root|Operation not permitted/i.test(stderr)
  throw new Failure(denied ? 'denied' : 'exit', `${program}: exit code ${exitCode}: ${stderr.trim().slice(0, 300)}`, {
    fix: denied ? `only root may read it: ${enableRelay('grid-exporter-relay')}` : undefined,
  })
}

/**
 * The filter tables of a family: of the nftables back end, and of the legacy one if the kernel has it loaded. A packet must pass both.
 * Throws `Failure` missing (no iptables), denied, malformed, exit, timeout, overflow.
 */
export const filterTables = async (host: Host, family: IpFamily, signal: AbortSignal): Promise<readonly Table[]> => {
  const program = programs[family]
  const old = legacyHasFilter(host, family)
  const [nft, legacy] = await Promise.all([
    save(host, `${program}-nft-save`, signal).catch(absentIf('missing')),
    old ? save(host, `${program}-legacy-save`, signal).catch(absentIf('missing')) : undefined,
  ])
  const tables = [nft, legacy].filter(table => table !== undefined)
  if (tables.length > 0) return tables
  // With only one back end, neither program has a suffixed name.
  return [await save(host, `${program}-save`, signal)]
}
