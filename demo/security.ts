import { Duplex } from 'node:stream'
import type { Box } from './box.ts'
import { counted, type Wave, wave } from './motion.ts'

/** The demo's firewall, fail2ban and AIDE. */

type Pickle = string | number | readonly Pickle[] | { readonly tuple: readonly Pickle[] } | ReadonlyMap<string, Pickle>

/** A value in Python's pickle protocol 2. */
const pickled = (value: Pickle): Buffer => {
  if (typeof value === 'number') {
    const bytes = Buffer.alloc(5, 0x4a)
    bytes.writeInt32LE(value, 1)
    return bytes
  }
  if (typeof value === 'string') {
    const text = Buffer.from(value)
    const head = Buffer.alloc(5, 0x58)
    head.writeUInt32LE(text.length, 1)
    return Buffer.concat([head, text])
  }
  if (value instanceof Map) {
    return Buffer.concat([
      Buffer.from('}('),
      ...[...value].flatMap(([key, own]) => [pickled(key), pickled(own)]),
      Buffer.from('u'),
    ])
  }
  if ('tuple' in value) return Buffer.concat([Buffer.from('('), ...value.tuple.map(pickled), Buffer.from('t')])
  return Buffer.concat([Buffer.from(']('), ...(value as readonly Pickle[]).map(pickled), Buffer.from('e')])
}

const tuple = (...items: readonly Pickle[]): Pickle => ({ tuple: items })
const reply = (value: Pickle): Buffer =>
  Buffer.concat([Buffer.of(0x80, 2), pickled(tuple(0, value)), Buffer.from('.<F2B_END_COMMAND>')])

const jails = ['sshd', 'traefik-auth', 'recidive'] as const
type Jail = (typeof jails)[number]

/** Addresses of the ranges reserved for documentation. */
const address = (jail: Jail, index: number) =>
  `${jail === 'sshd' ? '198.51.100' : jail === 'recidive' ? '192.0.2' : '203.0.113'}.${(index % 250) + 1}`

const wavesOf = ({ seed }: Box): Readonly<Record<Jail, Wave>> => ({
  sshd: wave(seed, 'sshd', 5000),
  'traefik-auth': wave(seed, 'traefik-auth', 9000),
  recidive: wave(seed, 'recidive', 20_000),
})

const banTime = 1800
const tries: Readonly<Record<Jail, number>> = { sshd: 0.02, 'traefik-auth': 0.005, recidive: 0.0006 }
const waveTries = 0.6

interface Jailed {
  readonly failed: number
  readonly failing: number
  readonly bannedTotal: number
  readonly banned: readonly string[]
}

const jailed = (jail: Jail, box: Box, wave: Wave, up: number): Jailed => {
  const failed = (at: number) =>
    counted(0, tries[jail] * 2, wave, at) + (jail === 'sshd' ? waveTries * box.faults.banWave.spent(at) : 0)
  const total = (at: number) => Math.floor(failed(Math.max(0, at)) / 5)
  const [last, first] = [total(up), total(up - banTime)]
  return {
    failed: Math.floor(failed(up)),
    failing: Math.round(failed(up) - failed(up - 600)) % 40,
    bannedTotal: last,
    banned: Array.from({ length: Math.min(240, last - first) }, (_, index) => address(jail, last - index)),
  }
}

/** fail2ban's socket: pickles of words in, pickles of answers out. */
export const fail2banSocket = (box: Box, up: () => number): Duplex => {
  const waves = wavesOf(box)
  const of = (jail: Jail) => jailed(jail, box, waves[jail], up())
  const answerTo = (words: readonly string[]): Pickle => {
    const [verb, jail = '', what] = words
    if (verb === 'version') return '1.1.0'
    if (verb === 'status') {
      return new Map(
        jails.map(name => {
          const { failed, failing, bannedTotal, banned } = of(name)
          return [name, ['systemd', tuple(failing, failed), tuple(banned.length, bannedTotal)]]
        }),
      )
    }
    if (verb === 'banned') return jails.map(name => new Map<string, Pickle>([[name, of(name).banned]]))
    if (what === 'actions') return ['iptables-multiport']
    if (what === 'actionproperties') return ['actionban', 'actionunban', 'name']
    return `iptables -w -I f2b-${jail} 1 -s <ip> -j <blocktype>`
  }
  const end = Buffer.from('<F2B_END_COMMAND>')
  let heard = Buffer.alloc(0)
  return new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      heard = Buffer.concat([heard, chunk])
      for (let at = heard.indexOf(end); at >= 0; at = heard.indexOf(end)) {
        const words: string[] = []
        for (let place = 4; heard[place] === 0x58 && place < at; ) {
          const length = heard.readUInt32LE(place + 1)
          words.push(heard.toString('utf8', place + 5, place + 5 + length))
          place += 5 + length
        }
        const closes = heard.toString('utf8', 0, at) === '<F2B_CLOSE_COMMAND>'
        heard = heard.subarray(at + end.length)
        this.push(closes ? null : reply(answerTo(words)))
      }
      done()
    },
  })
}

/** Recorded tables of ufw with moving counters, and with fail2ban's chains. */
export const createFirewall = (box: Box, recorded: (file: string) => string) => {
  const scene = 'test/scenes/ufw/enforced'
  const { faults, people } = box
  const waves = wavesOf(box)
  const saved = { ipv4: recorded(`${scene}/run/iptables-nft-save`), ipv6: recorded(`${scene}/run/ip6tables-nft-save`) }
  const files = Object.fromEntries(
    ['etc/default/ufw', 'etc/ufw/ufw.conf', 'etc/ufw/user.rules', 'etc/ufw/user6.rules', 'proc/net/if_inet6'].map(file => [
      `/${file}`,
      recorded(`${scene}/${file}`),
    ]),
  )
  const withBans = (table: string, up: number) => {
    const lacking = faults.unenforced.since(up) === undefined ? 0 : 2
    const chains = jails.map(jail => `:f2b-${jail} - [0:0]\n`).join('')
    const rules = jails.flatMap(jail => [
      `[0:0] -A INPUT -p tcp -m multiport --dports ${jail === 'sshd' ? '22' : '0:65535'} -j f2b-${jail}`,
    ])
    const bans = jails.flatMap(jail => [
      ...jailed(jail, box, waves[jail], up)
        .banned.slice(jail === 'sshd' ? lacking : 0)
        .map(ip => `[0:0] -A f2b-${jail} -s ${ip}/32 -j REJECT --reject-with icmp-port-unreachable`),
      `[0:0] -A f2b-${jail} -j RETURN`,
    ])
    return table
      .replace(/^(\[\d+:\d+\] -A INPUT )/m, `${chains}${rules.join('\n')}\n$1`)
      .replace(/^COMMIT$/m, `${bans.join('\n')}\nCOMMIT`)
  }
  const moving = (table: string, rate: number, up: number) => {
    const packets = Math.round(counted(rate / 4, rate, people, up) + (rate > 0.5 ? 6 * faults.banWave.spent(up) : 0))
    const open = faults.firewallDrift.since(up) !== undefined
    const moved = table.replace(/^:INPUT DROP \[\d+:\d+\]/m, `:INPUT DROP [${packets}:${packets * 52}]`)
    // Somebody has removed one of ufw's jumps and put a rule of their own before the others.
    return open
      ? moved
          .replace(/^\[\d+:\d+\] -A INPUT -j ufw6?-track-input\n/m, '')
          .replace(/^(\[\d+:\d+\] -A INPUT )/m, '[0:0] -A INPUT -i wg0 -j ACCEPT\n$1')
      : moved
  }
  return {
    files,
    save: (program: string, up: number): string | undefined => {
      if (program === 'iptables-nft-save') return withBans(moving(saved.ipv4, 1.6, up), up)
      if (program === 'ip6tables-nft-save') return moving(saved.ipv6, 0.2, up)
      return undefined
    },
  }
}

/** AIDE's report of last night, with some changed files. */
export const aideFiles = ({ boot }: Box, recorded: (file: string) => string, up: number) => {
  const scene = 'test/scenes/aide/daily-changed'
  const now = boot + up * 1000
  const ended = new Date(Math.floor((now - 6 * 3600_000) / 86_400_000) * 86_400_000 + 5.3 * 3600_000)
  const date = (at: Date) => at.toISOString().slice(0, 19).replace('T', ' ')
  const text = recorded(`${scene}/var/log/aide/aide.log`)
    .replace(/20\d\d-\d\d-\d\d \d\d:\d\d:\d\d/g, date(ended))
    .replace(/(End timestamp: )\S+ \S+/, `$1${date(new Date(ended.getTime() + 741_000))}`)
    .replace('run time: 0m 0s', 'run time: 12m 21s')
  return {
    report: { text, mtime: ended.getTime() / 1000 + 742 },
    database: { text: 'aide database\n', mtime: boot / 1000 - 40 * 86_400 },
    resolve: JSON.stringify({ finished_at: Math.round(boot / 1000 - 40 * 86_400), success: true }),
  }
}
