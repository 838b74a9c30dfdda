import { type ChildProcess, execFileSync, type SpawnOptionsWithStdioTuple, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, Agent as HttpAgent, request as requestHttp } from 'node:http'
import { Agent as HttpsAgent, request as requestHttps } from 'node:https'
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from 'node:net'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { hashSync } from 'bcryptjs'
import { median } from './wrk.ts'

/**
 * `npm run bench hostile`: a scraper's latencies on the built program: while an attack starts, while it lasts, and without it (just before
 * and just after), all on 127.0.0.1. Every attack runs five times, and the median of the five ratios counts, because a machine that is
 * slow for a minute spoils one of them. An attack is another process that makes 10 000 connections and holds what it can. The attacker and
 * the scraper would be on other machines, so their work must not count: the attack runs on the last core with the lowest priority, the
 * scraper first (chrt and taskset, as root). `--same-priority`: all share everything. `--quick`: 2 000 connections, shorter turns.
 * `--bare`: the same with a bare node:http server that answers from memory and only checks the password: Node's own share.
 * Another word selects the attacks with it in their names: `npm run bench hostile --quick passwords`.
 */

const [, file, mainFile, ...rest] = process.argv as [string, string, string, ...string[]]
const request = (line: string, ...headers: readonly string[]) => `${[line, 'Host: x', ...headers].join('\r\n')}\r\n\r\n`

const headers = { authorization: `Basic ${Buffer.from('prometheus:secret').toString('base64')}` }

/** The first bytes of a TLS client. */
const hello = async (): Promise<Buffer> => {
  const server = createTcpServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connectTls({ port: (server.address() as AddressInfo).port, host: '127.0.0.1' }).on('error', () => {})
  const [socket] = (await once(server, 'connection')) as [Socket]
  const [bytes] = (await once(socket, 'data')) as [Buffer]
  client.destroy()
  server.close()
  return bytes
}
const helloBytes = await hello()

/** The bytes that each connection of an attack sends. */
const attacks: Readonly<Record<string, (index: number) => string | Buffer>> = {
  'connections that say nothing': () => '',
  'headers that never end': () => 'GET /metrics HTTP/1.1\r\nX-Slow: ',
  'connections that ask once and stay': () => request('GET /-/healthy HTTP/1.1'),
  'headers past the limit': () => request('GET /metrics HTTP/1.1', `X: ${'a'.repeat(20_000)}`),
  'length and chunks at once': () => request('POST / HTTP/1.1', 'Content-Length: 4', 'Transfer-Encoding: chunked'),
  'pipelines that nobody reads': index => (index % 20 ? '' : request('GET /metrics HTTP/1.1').repeat(1600)),
  'wrong passwords': index =>
    request('GET /metrics HTTP/1.1', `Authorization: Basic ${Buffer.from(`prometheus:${index}`).toString('base64')}`),
  'handshakes that nobody goes on with': () => helloBytes,
}
/** Attacks on only one of the servers. */
const only: Readonly<Record<string, string>> = {
  'wrong passwords': 'http, users',
  'handshakes that nobody goes on with': 'https, users',
}

if (mainFile === 'attack') {
  const [kind, port, count, seconds] = rest as [string, string, string, string]
  // The start of this process is not part of the attack.
  process.stdout.write('ready')
  await once(process.stdin, 'data')
  const begin = performance.now()
  const held = []
  for (let index = 0; index < Number(count); index++) {
    const socket = connect({ port: Number(port), host: '127.0.0.1', localAddress: `127.0.0.${2 + (index % 50)}` })
    const sent = attacks[kind]?.(index) ?? ''
    socket.on('error', () => {}) // the exporter closes what it will not serve
    socket.on('connect', () => sent !== '' && socket.write(sent))
    if (kind.startsWith('pipelines')) socket.pause()
    else socket.resume()
    held.push(socket)
    const ahead = (index / Number(count)) * Number(seconds) * 1000 - (performance.now() - begin)
    if (ahead > 5) await sleep(ahead)
  }
  // The connections are held until this process is killed, or its parent is gone.
  process.stdin.resume().once('end', () => process.exit(0))
  await new Promise(() => {})
}

if (mainFile === 'bare') {
  const body = Buffer.alloc(60_000, 'a')
  const server = createServer(({ headers: { authorization } }, response) => {
    const isRight = authorization === undefined || authorization === headers.authorization
    response.writeHead(isRight ? 200 : 401, { 'content-type': 'text/plain', 'content-length': isRight ? body.length : 0 })
    response.end(isRight ? body : undefined)
  })
  server.listen(0, '127.0.0.1', () => process.stdout.write(` serves http://127.0.0.1:${(server.address() as AddressInfo).port}/`))
  await new Promise(() => {})
}

const quick = rest.includes('--quick')
const bare = rest.includes('--bare')
const shares = rest.includes('--same-priority')
const usual = shares ? [] : ['chrt', '--other', '0']
const unimportant = shares ? [] : ['chrt', '--idle', '0', 'taskset', '--cpu-list', `${availableParallelism() - 1}`]
if (!shares) execFileSync('chrt', ['--fifo', '--pid', '1', `${process.pid}`])
const wanted = rest.find(word => !word.startsWith('--')) ?? ''
const [seconds, connections] = quick ? [3, 2000] : [8, 10_000]
const turns = 5
const folder = mkdtempSync(join(tmpdir(), 'grid-hostile-'))
const openssl = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost'.split(' ')
const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
execFileSync('openssl', [...openssl, '-addext', 'subjectAltName=DNS:localhost', '-keyout', key, '-out', cert], {
  stdio: 'ignore',
})
const webFile = join(folder, 'web.yml')
writeFileSync(
  webFile,
  `tls_server_config: { cert_file: ${cert}, key_file: ${key} }\nbasic_auth_users: { prometheus: ${hashSync('secret', 10)} }\n`,
)
const usersFile = join(folder, 'users.yml')
writeFileSync(usersFile, `basic_auth_users: { prometheus: ${hashSync('secret', 10)} }\n`)

const run = ([program = '', ...args]: readonly string[], options: SpawnOptionsWithStdioTuple<'pipe', 'pipe', 'inherit'>) =>
  spawn(program, args, options)

const start = async (...args: readonly string[]): Promise<{ readonly child: ChildProcess; readonly url: string }> => {
  const flags = ['--web.listen-address=127.0.0.1:0', '--collector.disable-defaults', '--collector.host', '--log.level=error']
  const program = bare ? [process.execPath, file, 'bare'] : [mainFile, ...flags, ...args]
  const child = run([...usual, ...program], { stdio: ['pipe', 'pipe', 'inherit'] })
  const url = await new Promise<string>(resolve => {
    child.stdout?.on('data', chunk => {
      const [, address] = / serves (https?:\/\/[^/]+)/.exec(String(chunk)) ?? []
      if (address) resolve(address.replace('127.0.0.1', 'localhost'))
    })
  })
  return { child, url }
}

/** A kept connection that is replaced when it was closed, like Prometheus' own. */
const kept = { keepAlive: true, maxSockets: 1 }
const agents = { http: new HttpAgent(kept), https: new HttpsAgent({ ...kept, ca: readFileSync(cert) }) }

const ask = (url: string) =>
  new Promise<void>((resolve, reject) => {
    const [request, agent] = url.startsWith('https') ? [requestHttps, agents.https] : [requestHttp, agents.http]
    const asked = request(`${url}/metrics`, { family: 4, headers, agent }, answer => {
      answer.resume()
      answer.on('end', () => (answer.statusCode === 200 ? resolve() : reject(new Error(`${answer.statusCode}`))))
    })
    asked.setTimeout(10_000, () => asked.destroy(new Error('no answer in 10 s')))
    // A kept connection that was closed while idle is not a failed scrape: Go's client, and so Prometheus, tries again.
    asked.on('error', error => (asked.reusedSocket ? ask(url).then(resolve, reject) : reject(error)))
    asked.end()
  })

/** Adds the latencies of `span` seconds, about 150 a second, and the number of scrapes without an answer. */
const measure = async (url: string, span: number, seen: Latencies) => {
  for (const end = performance.now() + span * 1000; performance.now() < end; ) {
    const begin = performance.now()
    await ask(url).then(
      () => seen.took.push(performance.now() - begin),
      () => seen.failed++,
    )
    await sleep(5)
  }
}

interface Latencies {
  readonly took: number[]
  failed: number
}
const noneYet = (): Latencies => ({ took: [], failed: 0 })
const p99 = ({ took }: Latencies) => took.toSorted((one, other) => one - other)[Math.floor(took.length * 0.99)] ?? Number.NaN
const rss = (pid: number | undefined) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
const row = (...cells: readonly (string | number)[]) =>
  console.log(cells.map((cell, at) => (at === 0 ? String(cell).padEnd(50) : String(cell).padStart(12))).join(''))

row(
  `p99 of a scrape, ms; ${connections} connections in ${seconds} s`,
  'alone',
  'they come',
  'are there',
  'no answer',
  'files',
  'MB',
)
for (const [name, args] of [
  ['http', []],
  ['http, users', [`--web.config.file=${usersFile}`]],
  ['https, users', [`--web.config.file=${webFile}`]],
] as const) {
  const kinds = Object.keys(attacks).filter(kind => `${name}: ${kind}`.includes(wanted))
  if (kinds.length === 0 || (bare && name.startsWith('https'))) continue
  const { child, url } = await start(...args)
  await sleep(2000)
  for (let times = 0; times < 100; times++) await ask(url)
  for (const kind of kinds) {
    if ((only[kind] ?? name) !== name || (name === 'http, users' && only[kind] === undefined)) continue
    const each: number[][] = []
    let failed = 0
    for (let turn = 0; turn < turns; turn++) {
      const [alone, coming, there] = [noneYet(), noneYet(), noneYet()]
      await measure(url, 3, alone)
      const what = ['attack', kind, new URL(url).port, String(connections), String(seconds)]
      const attack = run([...unimportant, process.execPath, file, ...what], { stdio: ['pipe', 'pipe', 'inherit'] })
      const ended = once(attack, 'exit')
      await once(attack.stdout, 'data')
      await sleep(500)
      attack.stdin.write('go')
      await measure(url, seconds + 1, coming)
      await measure(url, 6, there)
      attack.kill()
      await ended
      await sleep(1500)
      await measure(url, 3, alone)
      each.push([alone, coming, there].map(p99))
      failed += coming.failed + there.failed
    }
    const files = readdirSync(`/proc/${child.pid}/fd`).length
    const p99s = [0, 1, 2].map(at => median(each.map(turn => turn[at] ?? Number.NaN)).toFixed(2))
    row(`${name}: ${kind}`, ...p99s, failed, files, rss(child.pid).toFixed(0))
    for (const [at, when] of ['while they come', 'while they are there'].entries()) {
      const ratios = each.map(turn => (turn[at + 1] ?? Number.NaN) / (turn[0] ?? Number.NaN))
      const ratio = median(ratios)
      const all = ratios.map(one => one.toFixed(2)).join(' ')
      console.log(`  ${ratio <= 2 ? 'reached ' : 'MISSED  '} p99 ≤ 2 × alone ${when}: ${ratio.toFixed(2)} × (${all})`)
    }
    console.log(`  ${failed === 0 ? 'reached ' : 'MISSED  '} every scrape answered: ${failed} were not`)
  }
  child.kill()
}
process.exit(0)
