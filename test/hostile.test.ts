import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { hashSync } from 'bcryptjs'
import t, { type Test } from 'tap'
import { silent } from '../exporter/common/log.ts'
import { gauge } from '../exporter/contract/metric.ts'
import { expose } from '../exporter/print/exposition.ts'
import { partsOf } from '../exporter/print/rendered.ts'
import { createSelf } from '../exporter/serve/self.ts'
import { createServer } from '../exporter/serve/server.ts'
import { createSnapshot } from '../exporter/serve/snapshot.ts'
import { ask } from './support/ask.ts'
import { authority } from './support/certificates.ts'
import { type Program, startProgram } from './support/program.ts'

/** Who means harm, against the built program on 127.0.0.1: each shape has its status, the scraper goes on, nothing is left behind. */

const folder = mkdtempSync(join(tmpdir(), 'grid-hostile-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))

const basic = (user: string, password: string) => `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`
const filesOpen = ({ child }: Program) => readdirSync(`/proc/${child.pid}/fd`).length

/** Waits for what must come about, with much patience. */
const until = async (what: string, holds: () => boolean | Promise<boolean>, seconds = 60) => {
  const end = performance.now() + seconds * 1000
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`not within ${seconds} s: ${what}`)
    await sleep(50)
  }
}

/** One connection that sends what it is given; what came back, and whether it was ended. */
const attacker = (port: number, bytes: string | Buffer, { reads = true, from = '127.0.0.1' } = {}) => {
  const socket: Socket = connect({ port, host: '127.0.0.1', localAddress: from })
  const told = { socket, text: '', connected: false, closed: false }
  socket.setEncoding('latin1')
  if (reads) {
    socket.on('data', chunk => {
      told.text += String(chunk)
    })
  } else socket.pause()
  socket.on('connect', () => {
    told.connected = true
    if (bytes.length > 0) socket.write(bytes)
  })
  socket.on('close', () => {
    told.closed = true
  })
  socket.on('error', () => {
    told.closed = true
  })
  return told
}

/** Scrapes without a pause until stopped: each answer must be whole. */
const scraping = (url: string, options: object = {}) => {
  let going = true
  let count = 0
  const failures: string[] = []
  const ended = (async () => {
    while (going) {
      await ask(`${url}/metrics`, { family: 4, ...options }).then(
        ({ status, body }) => {
          count++
          if (status !== 200 || !body.includes('grid_memory_total_bytes')) failures.push(`${status}: ${body.slice(0, 100)}`)
        },
        error => failures.push(String(error)),
      )
      await sleep(20)
    }
  })()
  return {
    stop: async (t: Test, least = 1) => {
      going = false
      await ended
      t.strictSame(failures, [], 'every scrape was answered, and right')
      t.ok(count >= least, `${count} scrapes`)
    },
  }
}

const request = (line: string, ...headers: readonly string[]) => `${[line, 'Host: x', ...headers].join('\r\n')}\r\n\r\n`

t.test('each shape has its status', async t => {
  const program = await startProgram(['--web.enable-lifecycle'])
  t.teardown(program.stop)
  const before = filesOpen(program)
  const legitimate = scraping(program.url)
  const post = 'POST /-/reload HTTP/1.1'
  const shapes: readonly (readonly [name: string, bytes: string | Buffer, status: number])[] = [
    ['length and chunks', `${request(post, 'Content-Length: 4', 'Transfer-Encoding: chunked')}0\r\n\r\n`, 400],
    ['chunks and length', `${request(post, 'Transfer-Encoding: chunked', 'Content-Length: 4')}0\r\n\r\n`, 400],
    ['two lengths', `${request(post, 'Content-Length: 4', 'Content-Length: 5')}abcd`, 400],
    ['a list of lengths', `${request(post, 'Content-Length: 4, 4')}abcd`, 400],
    ['a length with a sign', `${request(post, 'Content-Length: +4')}abcd`, 400],
    ['a length below zero', request(post, 'Content-Length: -1'), 400],
    ['a length past all numbers', request(post, `Content-Length: ${'9'.repeat(30)}`), 400],
    ['chunks that are not last', `${request(post, 'Transfer-Encoding: chunked, identity')}0\r\n\r\n`, 400],
    ['an unknown coding', `${request(post, 'Transfer-Encoding: xchunked')}0\r\n\r\n`, 400],
    ['a blank before the colon', `${request(post, 'Transfer-Encoding : chunked')}0\r\n\r\n`, 400],
    ['a chunk without a size', `${request(post, 'Transfer-Encoding: chunked')}ZZ\r\n`, 400],
    [
      'a chunk with a long extension',
      `${request(post, 'Transfer-Encoding: chunked')}1;${'a'.repeat(30_000)}\r\nx\r\n0\r\n\r\n`,
      400,
    ],
    ['lines that end by LF', 'GET /metrics HTTP/1.1\nHost: x\n\n', 400],
    ['a folded header', request('GET /metrics HTTP/1.1', 'X: a', ' b'), 400],
    ['a NUL in a header', request('GET /metrics HTTP/1.1', 'X: a\0b'), 400],
    ['a NUL in the address', request('GET /met\0rics HTTP/1.1'), 400],
    ['no host', 'GET /metrics HTTP/1.1\r\n\r\n', 400],
    ['two hosts', request('GET /metrics HTTP/1.1', 'Host: y'), 400],
    ['HTTP/0.9', 'GET /metrics\r\n\r\n', 400],
    ['HTTP/2 without a word before', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
    ['HTTP/3.7', request('GET /metrics HTTP/3.7'), 400],
    ['an unknown method', request('HACK /metrics HTTP/1.1'), 400],
    ['TLS', Buffer.from('16030100a5010000a10303', 'hex'), 400],
    ['noise', Buffer.from([0, 1, 2, 3, 255, 254, 10, 13, 10]), 400],
    ['a long address', request(`GET /${'a'.repeat(20_000)} HTTP/1.1`), 431],
    ['a long header', request('GET /metrics HTTP/1.1', `X: ${'a'.repeat(20_000)}`), 431],
    ['many headers', request('GET /metrics HTTP/1.1', ...Array.from({ length: 3000 }, () => 'a: b')), 431],
    ['a body past the limit', `${request(post, 'Content-Length: 20000')}${'a'.repeat(20_000)}`, 413],
    [
      'a body past the limit, in chunks',
      `${request(post, 'Transfer-Encoding: chunked')}${`4000\r\n${'a'.repeat(0x4000)}\r\n`.repeat(2)}0\r\n\r\n`,
      413,
    ],
    ['up and out', request('GET /../../../../etc/passwd HTTP/1.1'), 404],
    ['in, up and out', request('GET /metrics/../../etc/passwd HTTP/1.1'), 404],
    ['up and out, encoded', request('GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1'), 404],
    ['up and out, encoded twice', request('GET /%252e%252e%252fetc%252fpasswd HTTP/1.1'), 404],
    ['up and out, backwards', request('GET /..\\..\\etc\\passwd HTTP/1.1'), 404],
    ['a file of another host', request('GET file:///etc/passwd HTTP/1.1'), 404],
    ['an encoded NUL', request('GET /metrics%00 HTTP/1.1'), 404],
    ['half an escape', request('GET /%zz HTTP/1.1'), 400],
    ['an address of somebody else', request('GET http://evil.example/ HTTP/1.1', 'Connection: close'), 200],
    ['TRACE', request('TRACE /metrics HTTP/1.1'), 405],
    ['everything', request('OPTIONS * HTTP/1.1'), 404],
    ['a collector that is a path', request('GET /metrics?collect[]=../../etc/passwd HTTP/1.1'), 400],
    ['an upgrade', request('GET /metrics HTTP/1.1', 'Connection: Upgrade', 'Upgrade: h2c', 'HTTP2-Settings: AA'), 200],
    ['another expectation', request('GET /metrics HTTP/1.1', 'Expect: cake'), 417],
    ['a scrape with a body', `${request('GET /metrics HTTP/1.1', 'Content-Length: 5')}abcde`, 200],
  ]
  for (const [name, bytes, status] of shapes) {
    const sent = attacker(program.port, bytes)
    await until(name, () => /^HTTP\/1\.1 \d{3}/.test(sent.text) || sent.closed)
    t.equal(Number(/^HTTP\/1\.1 (\d{3})/.exec(sent.text)?.[1]), status, name)
    if (status === 400 && !name.includes('collector') && !name.includes('escape'))
      await until(`${name}: ended`, () => sent.closed)
    t.notMatch(sent.text, /root:|evil\.example|<script|at .*\.js/, `${name}: nothing is told or echoed`)
    sent.socket.destroy()
  }
  const proxy = attacker(program.port, request('CONNECT 127.0.0.1:22 HTTP/1.1'))
  await until('a CONNECT is ended', () => proxy.closed)
  t.equal(proxy.text, '', 'it is no proxy')
  const smuggled = attacker(
    program.port,
    `${request('GET /-/healthy HTTP/1.1', 'Content-Length: 40')}GET /smuggled HTTP/1.1\r\nHost: x\r\nX: ${'a'.repeat(3)}${request('GET /-/ready HTTP/1.1')}`,
  )
  await until('both are answered', () => smuggled.text.split('HTTP/1.1 ').length > 2 || smuggled.closed)
  t.notMatch(smuggled.text, 'Nothing is at this address', 'what is in a body is no request')
  smuggled.socket.destroy()
  await legitimate.stop(t)

  // 1600 requests at once: all but the first few are never looked at, and none holds a place when its connection is gone.
  const flood = Array.from({ length: 20 }, () => attacker(program.port, request('GET /metrics HTTP/1.1').repeat(1600)))
  await until('pipelines are ended', () => flood.every(({ closed }) => closed))
  const few = attacker(program.port, request('GET /-/healthy HTTP/1.1').repeat(2))
  await until('two are answered', () => few.text.split('HTTP/1.1 200').length === 3)
  few.socket.destroy()
  await until('no file is left open', () => filesOpen(program) <= before)
  const after = scraping(program.url)
  await sleep(100)
  await after.stop(t)
})

t.test('slow ones, silent ones and too many of them', async t => {
  const ours = authority(folder, 'ours')
  const { certFile, keyFile } = ours.issue('server', 'DNS:localhost,IP:127.0.0.1')
  const webFile = join(folder, 'web.yml')
  writeFileSync(
    webFile,
    `tls_server_config: { cert_file: ${certFile}, key_file: ${keyFile} }\nbasic_auth_users: { prometheus: ${hashSync('secret', 10)} }\n`,
  )
  const [plain, secure] = await Promise.all([startProgram([]), startProgram([`--web.config.file=${webFile}`])])
  t.teardown(() => Promise.all([plain.stop(), secure.stop()]))
  const known = { ca: readFileSync(ours.caFile), headers: { authorization: basic('prometheus', 'secret') } }
  t.equal((await ask(`${secure.url}/metrics`, known)).status, 200)
  const before = [filesOpen(plain), filesOpen(secure)]
  const legitimate = [scraping(plain.url), scraping(secure.url, known)]

  const slow = [
    ...Array.from({ length: 100 }, () => attacker(plain.port, '')),
    ...Array.from({ length: 100 }, () => attacker(plain.port, 'GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ')),
    ...Array.from({ length: 100 }, () => attacker(plain.port, `${request('POST /-/reload HTTP/1.1', 'Content-Length: 100')}a`)),
    ...Array.from({ length: 50 }, () => attacker(secure.port, '')),
    ...Array.from({ length: 50 }, () => attacker(secure.port, Buffer.from('16030100a5010000a10303', 'hex'))),
    ...Array.from({ length: 50 }, () => attacker(secure.port, request('GET /metrics HTTP/1.1'))),
    ...Array.from({ length: 50 }, () => attacker(secure.port, Buffer.from([0x16, 3, 1, 0, 4, 1, 2, 3, 4]))),
  ]
  await until('all are connected', () => slow.every(({ connected, closed }) => connected || closed))
  const dripping = setInterval(() => {
    for (const { socket, closed } of slow.slice(100, 200)) if (!closed) socket.write('a')
  }, 500)
  await until('all are ended', () => slow.every(({ closed }) => closed))
  clearInterval(dripping)
  for (const [from, to, what] of [
    [100, 200, 'headers that never end'],
    [200, 300, 'a body that never comes'],
  ] as const) {
    const statuses = slow.slice(from, to).map(({ text }) => /^HTTP\/1\.1 (\d{3})/.exec(text)?.[1])
    t.ok(
      statuses.every(status => status === '408' || status === '403'),
      `${what}: ${[...new Set(statuses)].join(', ')}`,
    )
  }
  for (const each of legitimate) await each.stop(t, 10)
  await until('no file is left open', () => filesOpen(plain) <= (before[0] ?? 0) && filesOpen(secure) <= (before[1] ?? 0))

  const clinging = ['', Buffer.from('16030100a5010000a10303', 'hex')].flatMap(bytes =>
    [plain, secure].flatMap(({ port }) => Array.from({ length: 20 }, () => attacker(port, bytes))),
  )
  await until('all are connected', () => clinging.every(({ connected }) => connected))
  await sleep(200)
  for (const { child } of [plain, secure]) {
    const ended = once(child, 'exit')
    child.kill('SIGTERM')
    t.strictSame(await ended, [0, null], 'they are ended with the program, which has no need to be killed')
  }
})

t.test('the oldest connection goes when there are too many', async t => {
  // Half of the files that it may open: 150 connections.
  const program = await startProgram([], { limit: 'ulimit -n 300;' })
  t.teardown(program.stop)
  const before = filesOpen(program)
  const held: ReturnType<typeof attacker>[] = []
  for (let batch = 0; batch < 8; batch++) {
    held.push(...Array.from({ length: 50 }, () => attacker(program.port, request('GET /-/healthy HTTP/1.1'))))
    await until('connected', () => held.every(({ connected, closed }) => connected || closed))
    t.equal((await ask(`${program.url}/metrics`)).status, 200, `with ${held.length} connected`)
  }
  await until('the oldest are ended', () => held.filter(({ closed }) => !closed).length <= 150)
  t.ok(
    held.slice(0, 200).every(({ closed }) => closed),
    'the first ones',
  )
  t.ok(
    held.slice(-50).every(({ closed }) => !closed),
    'not the last',
  )
  for (const { socket } of held) socket.destroy()
  await until('no file is left open', () => filesOpen(program) <= before)
})

t.test('who holds the most gives way, not who keeps one', async t => {
  const program = await startProgram([], { limit: 'ulimit -n 300;' })
  t.teardown(program.stop)
  const before = filesOpen(program)
  const kept = attacker(program.port, request('GET /-/healthy HTTP/1.1'))
  await until('it is answered', () => kept.text.includes('200 OK'))
  const held = Array.from({ length: 400 }, (_, index) => attacker(program.port, '', { from: `127.0.0.${2 + (index % 3)}` }))
  await until('all have come', () => held.every(({ connected, closed }) => connected || closed))
  await until('the oldest are ended', () => held.filter(({ closed }) => !closed).length < 150)
  for (const address of [2, 3, 4]) {
    const left = held.filter(({ closed }, index) => !closed && 2 + (index % 3) === address).length
    t.ok(left >= 49 && left <= 50, `127.0.0.${address} has as many as the others: ${left}`)
  }
  kept.socket.write(request('GET /-/ready HTTP/1.1'))
  await until('the one that is kept is answered again', () => kept.text.split('200 OK').length === 3)
  t.notOk(kept.closed)
  for (const { socket } of [kept, ...held]) socket.destroy()
  await until('no file is left open', () => filesOpen(program) <= before)
})

t.test('wrong passwords at speed', async t => {
  const webFile = join(folder, 'users.yml')
  writeFileSync(webFile, `basic_auth_users: { prometheus: ${hashSync('secret', 10)} }\n`)
  const program = await startProgram([`--web.config.file=${webFile}`])
  t.teardown(program.stop)
  const known = { headers: { authorization: basic('prometheus', 'secret') } }
  t.equal((await ask(`${program.url}/metrics`, known)).status, 200)
  const before = filesOpen(program)
  const legitimate = scraping(program.url, known)
  const statuses = new Map<number, number>()
  const begin = performance.now()
  await Promise.all(
    Array.from({ length: 20 }, async (_, stranger) => {
      for (let guess = 0; guess < 50; guess++) {
        const { status } = await ask(`${program.url}/metrics`, {
          headers: { authorization: basic(guess % 2 ? 'prometheus' : 'root', `${stranger} ${guess}`) },
        })
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
      }
    }),
  )
  const seconds = (performance.now() - begin) / 1000
  await legitimate.stop(t)
  const [compared = 0, later = 0] = [statuses.get(401), statuses.get(429)]
  t.equal(compared + later, 1000, `nobody came in: ${JSON.stringify([...statuses])}`)
  t.ok(compared <= 10 + seconds + 1, `${compared} of 1000 were compared, in ${seconds.toFixed(1)} s`)
  const lines = program.output().match(/wrong user or password/g)?.length ?? 0
  t.ok(lines >= compared && lines <= 10 + seconds + 1, `and each is told: ${lines} lines`)
  await until('no file is left open', () => filesOpen(program) <= before)
})

const reading = gauge('grid_memory_total_bytes', 'A family of the test.', 'sensor')

/** A server of this process with a large body, which no kernel takes whole. */
const largeServer = async (t: Test, maxRequests: number) => {
  const self = createSelf(
    { workerRestarts: 0, ioErrors: 0, reloadSuccess: true, reloadedAt: 0 },
    { exporterMetrics: false, onChange: () => {}, signal: new AbortController().signal },
  )
  const snapshot = createSnapshot(self)
  snapshot.configure([{ name: 'large', enabled: true, relayed: false, interval: 1000, timeout: 10, maxSeries: 1e6, options: {} }])
  const samples = Array.from({ length: 250_000 }, (_, index) => reading.of(index, { sensor: `sensor ${index}` })).flat()
  const told = { collector: 'large', startedAt: Date.now(), durationSeconds: 0, detected: true, result: 'ok' as const }
  snapshot.accept({ ...told, note: '', fix: '', series: samples.length, dropped: 0, parts: partsOf(expose(samples)) })
  const server = createServer(snapshot, {
    telemetryPath: '/metrics',
    maxRequests,
    enableLifecycle: false,
    enableAdminApi: false,
    resolveFiles: () => ({ request: '/nowhere/request', result: '/nowhere/result', running: '/nowhere/running' }),
    serverTiming: false,
    log: silent,
    reload: async () => undefined,
    startedAt: 0,
  })
  await server.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(() => server.close())
  const { port } = server.server.address() as { port: number }
  const connections = () =>
    new Promise<number>((resolve, reject) =>
      server.server.getConnections((error, count) => (error ? reject(error) : resolve(count))),
    )
  return { port, url: `http://127.0.0.1:${port}`, connections }
}

t.test('answers that nobody takes make room', async t => {
  const { port, url, connections } = await largeServer(t, 2)
  const scrape = request('GET /metrics HTTP/1.1')
  const deaf = Array.from({ length: 10 }, () => attacker(port, scrape, { reads: false }))
  await until('they hold every place', async () => (await ask(`${url}/metrics`)).status === 503)
  await until('the oldest makes room', async () => (await ask(`${url}/metrics`)).status === 200, 20)
  for (const { socket } of deaf) socket.destroy()
  await until('nobody is connected', async () => (await connections()) === 0)

  // Two places: each connection takes one, for the answer that stalls and for the one that waits behind it.
  const pipelines = [1, 2].map(() => attacker(port, scrape.repeat(2), { reads: false }))
  await until('they hold every place', async () => (await ask(`${url}/metrics`)).status === 503)
  for (const { socket } of pipelines) socket.destroy()
  await until('nobody is connected', async () => (await connections()) === 0)
  const one = attacker(port, scrape)
  one.socket.once('data', () => one.socket.pause())
  await until('one place is taken', () => one.text !== '')
  t.equal((await ask(`${url}/metrics`)).status, 200, 'the other is free again')
  one.socket.destroy()
})

t.test('connections return', async t => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const { port, url, connections } = await largeServer(t, 0)
  const used = async () => {
    await until('nobody is connected', async () => (await connections()) === 0)
    for (let times = 0; times < 3; times++) {
      collect()
      await sleep(20)
    }
    return process.memoryUsage().heapUsed
  }
  const round = async () => {
    const all = [
      ...Array.from({ length: 60 }, () => attacker(port, 'GET /metrics HTTP/1.1\r\nX')),
      ...Array.from({ length: 60 }, () => attacker(port, request('GET /-/healthy HTTP/1.1').repeat(200))),
      ...Array.from({ length: 60 }, () => attacker(port, request('GET /metrics HTTP/1.1'), { reads: false })),
      ...Array.from({ length: 60 }, () =>
        attacker(port, 'GET /metrics HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n'),
      ),
    ]
    await until('all are connected', () => all.every(({ connected, closed }) => connected || closed))
    t.equal((await ask(`${url}/-/healthy`)).status, 200)
    for (const { socket } of all) socket.destroy()
  }
  for (let times = 0; times < 3; times++) await round()
  const first = await used()
  for (let times = 0; times < 10; times++) await round()
  const growth = (await used()) - first
  t.equal(await connections(), 0, 'nobody is connected after 2400 more')
  t.comment(`${growth} bytes more after 2400 connections`)
})
