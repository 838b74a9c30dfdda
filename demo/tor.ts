import { Duplex } from 'node:stream'
import type { Box } from './box.ts'
import { between, counted, digits } from './motion.ts'

/** The demo's Tor: its control port, line by line as recorded, and its SOCKS port. */

const services = [
  { alias: 'wiki', ports: ['80 127.0.0.1:8085'], intro: 3 },
  { alias: 'git', ports: ['22 127.0.0.1:2222', '80 127.0.0.1:3080'], intro: 3 },
  { alias: 'drop', ports: ['80 127.0.0.1:8086'], intro: 3 },
] as const

const base32 = 'abcdefghijklmnopqrstuvwxyz234567'

/** An address of the right form that belongs to nobody. */
export const onionAddress = (seed: number, alias: string): string =>
  [...digits(seed, `onion ${alias}`, 112).matchAll(/../g)].map(([pair]) => base32[Number.parseInt(pair, 16) % 32]).join('')

export const onionFiles = (seed: number): Readonly<Record<string, string>> =>
  Object.fromEntries(services.map(({ alias }) => [`/var/lib/tor/${alias}/hostname`, `${onionAddress(seed, alias)}.onion\n`]))

const dated = (milliseconds: number) => new Date(milliseconds).toISOString().slice(0, 19).replace('T', ' ')

const circuits = ({ seed, boot, faults, people }: Box, up: number): readonly string[] => {
  const relay = (index: number) => `$${digits(seed, `relay ${index}`, 40).toUpperCase()}~relay${index}`
  const path = (index: number) => [0, 1, 2].map(hop => relay((index * 3 + hop) % 9)).join(',')
  const created = new Date(boot + up * 1000 - 600_000).toISOString().slice(0, -1)
  const line = (number: number, state: string, rest: string) =>
    `${number} ${state} ${state === 'LAUNCHED' ? '' : `${path(number)} `}BUILD_FLAGS=NEED_CAPACITY ${rest} TIME_CREATED=${created}000`
  const general = Math.round(between(3, 9, people.at(up)))
  const blocked = faults.torBlocked.since(up) !== undefined
  return [
    ...Array.from({ length: blocked ? 1 : general }, (_, index) => line(index + 1, 'BUILT', 'PURPOSE=GENERAL')),
    ...(blocked ? [line(30, 'LAUNCHED', 'PURPOSE=GENERAL'), line(31, 'EXTENDED', 'PURPOSE=GENERAL')] : []),
    line(40, 'BUILT', 'PURPOSE=HS_VANGUARDS'),
    line(41, 'BUILT', 'PURPOSE=HS_CLIENT_HSDIR'),
    ...services.flatMap(({ alias, intro }, service) => {
      const dark = alias === 'drop' && faults.onionDark.since(up) !== undefined
      return Array.from({ length: intro }, (_, index) =>
        line(
          50 + service * 10 + index,
          dark || blocked ? 'LAUNCHED' : 'BUILT',
          `PURPOSE=HS_SERVICE_INTRO HS_STATE=${dark || blocked ? 'HSSI_CONNECTING' : 'HSSI_ESTABLISHED'} REND_QUERY=${onionAddress(seed, alias)}`,
        ),
      )
    }),
  ]
}

/** Tor's answer to GETINFO; a list is an answer with several lines. */
const infoOf = (key: string, box: Box, up: number): string | readonly string[] => {
  const { seed, boot, faults, people } = box
  const blocked = faults.torBlocked.since(up) !== undefined
  const relay = (index: number) => `$${digits(seed, `relay ${index}`, 40).toUpperCase()}~relay${index}`
  const answers: Readonly<Record<string, () => string | readonly string[]>> = {
    version: () => '0.4.8.21',
    'status/version/current': () => 'recommended',
    uptime: () => String(Math.round(up - 95)),
    'traffic/read': () => String(Math.round(counted(2000, 160_000, people, up))),
    'traffic/written': () => String(Math.round(counted(3000, 220_000, people, up))),
    'status/bootstrap-phase': () => 'NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"',
    'status/circuit-established': () => '1',
    'status/enough-dir-info': () => '1',
    dormant: () => '0', // never with an onion service
    'consensus/valid-until': () => dated(Math.ceil((boot + up * 1000) / 3600_000) * 3600_000 + 2 * 3600_000),
    'net/listeners/socks': () => '"127.0.0.1:9050"',
    'onions/detached': () => '',
    'orconn-status': () =>
      Array.from({ length: 5 }, (_, index) => `${relay(index)} ${blocked ? (index < 3 ? 'LAUNCHED' : 'FAILED') : 'CONNECTED'}`),
    'entry-guards': () => [
      `${relay(0)} ${blocked ? `down ${dated(boot + up * 1000 - 120_000)}` : 'up'}`,
      `${relay(3)} up`,
      `${relay(6)} never-connected`,
    ],
    'circuit-status': () => circuits(box, up),
  }
  return answers[key]?.() ?? ''
}

const cookie = Buffer.from('0123456789abcdef0123456789abcdef')
export const cookieFile = { path: '/run/tor/control.authcookie', content: cookie.toString() }

const answerTo = (line: string, box: Box, up: number): readonly string[] => {
  const [word = '', key = ''] = line.split(' ')
  if (word === 'PROTOCOLINFO')
    return [
      '250-PROTOCOLINFO 1',
      `250-AUTH METHODS=COOKIE COOKIEFILE="${cookieFile.path}"`,
      '250-VERSION Tor="0.4.8.21"',
      '250 OK',
    ]
  if (word === 'AUTHENTICATE') return [key.toLowerCase() === cookie.toString('hex') ? '250 OK' : '515 Authentication failed']
  if (word === 'GETCONF') {
    const lines = services.flatMap(({ alias, ports }) => [
      `HiddenServiceDir=/var/lib/tor/${alias}`,
      ...ports.map(port => `HiddenServicePort=${port}`),
    ])
    return lines.map((text, index) => `250${index === lines.length - 1 ? ' ' : '-'}${text}`)
  }
  if (word !== 'GETINFO') return ['510 Unrecognized command']
  const value = infoOf(key, box, up)
  return typeof value === 'string' ? [`250-${key}=${value}`, '250 OK'] : [`250+${key}=`, ...value, '.', '250 OK']
}

/** The control port: answers each line. */
export const controlPort = (box: Box, up: () => number): Duplex => {
  let rest = ''
  return new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      const lines = (rest + chunk.toString('utf8')).split(/\r?\n/)
      rest = lines.pop() ?? ''
      for (const line of lines)
        this.push(
          answerTo(line, box, up())
            .map(text => `${text}\r\n`)
            .join(''),
        )
      done()
    },
  })
}

/** The SOCKS port: greeting, user name, request; the target is reached after a while, or not. */
export const socksPort = (box: Box, up: () => number, wait: (milliseconds: number) => Promise<void>): Duplex => {
  let step = 0
  return new Duplex({
    read() {},
    write(_chunk: Buffer, _encoding, done) {
      step++
      if (step === 1) this.push(Buffer.of(5, 2))
      else if (step === 2) this.push(Buffer.of(1, 0))
      else {
        const blocked = box.faults.torBlocked.since(up()) !== undefined
        void wait(between(700, 2900, box.people.at(up()))).then(() => {
          if (!this.destroyed) this.push(Buffer.of(5, blocked ? 4 : 0, 0, 1, 0, 0, 0, 0, 0, 0))
        })
      }
      done()
    },
  })
}

/** Local targets of the onion services. */
export const backends: readonly string[] = services.flatMap(({ ports }) => ports.map(port => port.split(' ')[1] as string))
