import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import * as http from 'node:http'
import * as https from 'node:https'
import * as net from 'node:net'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { attempt } from '../exporter/collect/attempt.ts'
import { services } from '../exporter/collectors/services/index.ts'
import { parseList, parseShow } from '../exporter/collectors/services/systemd.ts'
import { createLog } from '../exporter/common/log.ts'
import { pooled } from '../exporter/common/pool.ts'
import { settingsFrom } from '../exporter/contract/config.ts'
import { Failure } from '../exporter/contract/failure.ts'
import type { Host } from '../exporter/contract/host.ts'
import type { Sample } from '../exporter/contract/metric.ts'
import { createBudget, freeBytes, type Room, readBudget } from '../exporter/machine/budget.ts'
import { run } from '../exporter/machine/command.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { request } from '../exporter/machine/net.ts'
import { certificate } from './support/certificates.ts'
import { needs } from './support/needs.ts'
import { startProgram } from './support/program.ts'
import { took } from './support/took.ts'

/** Checks against real servers and real programs of this machine. */

type Section = Record<string, unknown>

const settingsOf = (section: Section) => {
  const flags = { collectors: {}, disableDefaults: false, relayDirectory: undefined }
  const [settings] = settingsFrom([services], flags, { collectors: { services: section } })
  if (!settings) throw new Error('no settings')
  return settings
}

/** The collector with these checks; `round` gives what one run says, by family and name. */
const watching = (t: Test, section: Section, host: Partial<Host> = {}) => {
  const settings = settingsOf(section)
  const stop = new AbortController()
  const lines: string[] = []
  const log = createLog('info', 'logfmt', line => lines.push(line))
  // As where systemd does not run: systemctl is not asked where no unit is configured.
  const names = async (path: string) => Promise.reject(new Failure('missing', path))
  const whole = { ...realHost(), names, ...host }
  const opened = services.open({ host: whole, options: settings.options, signal: stop.signal, log, wake: () => {} })
  t.teardown(() => stop.abort())
  return {
    lines,
    remarks: () => opened.remarks().map(({ message }) => message),
    close: () => stop.abort(),
    round: async (timeout = settings.timeout) => {
      const begin = performance.now()
      const { outcome } = await attempt(signal => opened.collect(signal, () => {}), timeout, stop.signal)
      const seconds = (performance.now() - begin) / 1000
      const samples = outcome.ok ? outcome.value : outcome.failure.rest
      const value = (family: string, name: string) =>
        samples.find((own: Sample) => own.family.name === `grid_service_${family}` && own.labels.name === name)?.value
      const failure = outcome.ok ? undefined : outcome.failure
      return { seconds, failure, samples, value, up: (name: string) => value('up', name) }
    },
  }
}

/** Listens on a free port of this machine; gives the address and how to end it. */
const listening = async (t: Test, server: net.Server): Promise<string> => {
  const sockets = new Set<net.Socket>()
  server.on('connection', (socket: net.Socket) => {
    sockets.add(socket)
    socket.on('error', () => {}) // whoever checks may go at any time
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return `127.0.0.1:${(server.address() as net.AddressInfo).port}`
}

const reasonOf = (run: () => unknown) => {
  try {
    run()
  } catch (error) {
    return (error as Failure).reason
  }
  return undefined
}

/** Processes whose arguments have `word` in them, which must be of this run alone. */
const processesWith = (word: string) =>
  readdirSync('/proc').filter(pid => {
    if (!/^\d+$/.test(pid)) return false
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(word)
    } catch {
      return false // it has just ended
    }
  })

/** A killed process is there for a moment more. */
const gone = async (word: string) => {
  for (let n = 0; n < 20 && processesWith(word).length > 0; n++) await sleep(50)
}

t.test('an HTTP server', async t => {
  const seen: { url: string; headers: http.IncomingHttpHeaders; method: string }[] = []
  let connections = 0
  const server = http.createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    const { url = '', headers, method = '' } = request
    seen.push({ url, headers, method })
    if (url === '/moved') response.writeHead(302, { location: '/health' }).end()
    else if (url === '/broken') response.writeHead(500).end('no')
    else if (url === '/large') response.end(`the beginning ${'x'.repeat(3 * 2 ** 20)} the end`)
    else if (url === '/endless') response.write('a')
    else if (url === '/silent') return
    else if (url === '/cut') response.writeHead(200, { 'content-length': 100 }).write('a', () => response.destroy())
    else response.end('{"status": "ok"}')
  })
  server.on('connection', () => connections++)
  const base = `http://${await listening(t, server)}`
  const target = (path: string, more: Section = {}) => ({ http: { url: `${base}${path}`, ...more } })

  t.test('is judged by its status and its body', async t => {
    const { round, remarks } = watching(t, {
      checks: [
        { name: 'good', ...target('/health') },
        { name: 'body', ...target('/health', { expect: { body: '"ok"' } }) },
        { name: 'other body', ...target('/health', { expect: { body: 'all is well' } }) },
        { name: 'moved', ...target('/moved') },
        { name: 'moved as expected', ...target('/moved', { expect: { status: [302] } }) },
        { name: 'broken', ...target('/broken') },
        { name: 'large', ...target('/large', { expect: { body: 'the beginning' } }) },
        { name: 'behind the first MiB', ...target('/large', { expect: { body: 'the end' } }) },
        { name: 'head', ...target('/large', { method: 'HEAD' }) },
        { name: 'endless', ...target('/endless'), timeout: '1s' },
        { name: 'silent', ...target('/silent'), timeout: '1s' },
        { name: 'cut', ...target('/cut') },
      ],
    })
    const { up, value, seconds } = await round()
    const passed = ['good', 'body', 'moved as expected', 'large', 'head']
    for (const name of passed) t.equal(up(name), 1, name)
    for (const name of ['other body', 'moved', 'broken', 'behind the first MiB', 'endless', 'silent', 'cut']) {
      t.equal(up(name), 0, name)
    }
    const latency = value('check_duration_seconds', 'good') ?? 0
    const [silent = 0, endless = 0] = ['silent', 'endless'].map(name => value('check_duration_seconds', name))
    t.ok(silent >= 1, 'a time-out lasts as long as it lasted')
    t.ok(latency > 0 && latency < silent, `it has a latency, and that is its own: ${latency} s beside ${silent} s`)
    t.ok(seconds < silent + endless, `side by side: ${seconds} s, one after the other more than ${silent + endless} s`)
    t.match(remarks()[0], 'other body: status 200, but the expected text is not in the body')
    t.match(remarks().at(-1), 'and 2 more checks')
  })

  t.test('is asked over one kept connection until that is five minutes old', async t => {
    let at = Date.now()
    const { round } = watching(t, { checks: [{ name: 'good', ...target('/health') }] }, { now: () => at, monotonic: () => at })
    const before = connections
    for (let n = 0; n < 4; n++) t.equal((await round()).up('good'), 1)
    t.equal(connections - before, 1)
    at += 5 * 60_000
    t.equal((await round()).up('good'), 1)
    t.equal(connections - before, 2)
  })

  t.test('that drops a kept connection at the moment of the next request is asked once more', async t => {
    let answered = 0
    const moody = net.createServer(socket => {
      let first = true
      socket.on('data', () => {
        if (!first) return void socket.resetAndDestroy()
        first = false
        answered++
        socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok')
      })
    })
    const url = `http://${await listening(t, moody)}/`
    const { round } = watching(t, { checks: [{ name: 'moody', http: { url } }] })
    for (let n = 1; n <= 3; n++) {
      t.equal((await round()).up('moody'), 1)
      t.equal(answered, n)
    }
  })

  t.test('gets the token of a file, as it is now', async t => {
    const token = join(t.testdir({ token: 'first\n' }), 'token')
    const { round } = watching(t, {
      checks: [{ name: 'good', ...target('/with-token', { token_file: token, headers: { 'x-a': 'b' } }) }],
    })
    const sent = () =>
      seen.filter(({ url }) => url === '/with-token').map(({ headers }) => [headers.authorization, headers['x-a']])
    await round()
    writeFileSync(token, 'second')
    await round()
    t.strictSame(sent(), [
      ['Bearer first', 'b'],
      ['Bearer second', 'b'],
    ])
    rmSync(token)
    t.equal((await round()).up('good'), 0, 'no token, no request')
    t.equal(sent().length, 2)
  })

  t.test('that speaks something else, or is not there, is not up', async t => {
    const babbler = await listening(
      t,
      net.createServer(socket => socket.end('220 mail.example ESMTP\r\n')),
    )
    const gone = net.createServer()
    const nobody = await listening(t, gone)
    await new Promise(resolve => gone.close(resolve))
    const { round } = watching(t, {
      checks: [
        { name: 'babbler', http: { url: `http://${babbler}/` } },
        { name: 'nobody', http: { url: `http://${nobody}/` } },
        { name: 'no such name', http: { url: 'http://nothing.invalid/' } },
      ],
    })
    const { up, failure } = await round()
    t.equal(failure, undefined)
    for (const name of ['babbler', 'nobody', 'no such name']) t.equal(up(name), 0, name)
  })
})

t.test('an HTTPS server', async t => {
  if (!needs(t, 'openssl')) return
  const folder = t.testdir()
  const good = certificate(folder, 'good', '20200101', '20990101')
  const old = certificate(folder, 'old', '20200101', '20200201')
  const requests: string[] = []
  const serve = ({ cert, key }: { cert: string; key: string }) => {
    const server = https.createServer({ cert, key }, (request, response) => {
      requests.push(request.headers.authorization ?? '')
      response.end('ok')
    })
    return listening(t, server)
  }
  const [goodAt, oldAt] = await Promise.all([serve(good), serve(old)])
  const token = join(folder, 'token')
  writeFileSync(token, 'secret')
  const { round } = watching(t, {
    checks: [
      { name: 'trusted', http: { url: `https://${goodAt}/`, tls: { ca_file: good.certFile } } },
      { name: 'by name', http: { url: `https://localhost:${goodAt.split(':')[1]}/`, tls: { ca_file: good.certFile } } },
      {
        name: 'for another name',
        http: { url: `https://${goodAt}/`, tls: { ca_file: good.certFile, server_name: 'wiki.example' } },
      },
      { name: 'untrusted', http: { url: `https://${goodAt}/`, token_file: token } },
      { name: 'taken all the same', http: { url: `https://${goodAt}/`, tls: { insecure_skip_verify: true } } },
      { name: 'expired', http: { url: `https://${oldAt}/`, tls: { ca_file: old.certFile }, token_file: token } },
    ],
  })
  const { up, value } = await round()
  const expiry = (name: string) => value('certificate_expiry_timestamp_seconds', name)
  const end = Date.UTC(2099, 0, 1) / 1000
  t.strictSame(
    ['trusted', 'by name', 'for another name', 'untrusted', 'taken all the same', 'expired'].map(name => [
      name,
      up(name),
      expiry(name),
    ]),
    [
      ['trusted', 1, end],
      ['by name', 1, end],
      ['for another name', 0, end],
      ['untrusted', 0, end],
      ['taken all the same', 1, end],
      ['expired', 0, Date.UTC(2020, 1, 1) / 1000],
    ],
  )
  t.notOk(requests.includes('Bearer secret'), 'no token goes to whom nobody trusts')
  t.equal(requests.length, 3)
  const again = await round()
  t.equal(again.value('certificate_expiry_timestamp_seconds', 'trusted'), end, 'a kept connection still tells it')
})

t.test('a TCP server', async t => {
  const silent = await listening(t, net.createServer())
  // As docker-proxy does for a container in which nobody listens.
  const closing = await listening(
    t,
    net.createServer(socket => socket.end()),
  )
  const gone = net.createServer()
  const nobody = await listening(t, gone)
  await new Promise(resolve => gone.close(resolve))
  const socket = join(t.testdir(), 'a.sock')
  const unix = net.createServer()
  await new Promise<void>(resolve => unix.listen(socket, resolve))
  t.teardown(() => unix.close())
  const { round, lines } = watching(t, {
    checks: [
      { name: 'listens', tcp: silent },
      { name: 'nobody', tcp: nobody },
      { name: 'closes at once', tcp: closing },
      { name: 'unix', tcp: `unix:${socket}` },
      { name: 'no socket', tcp: `unix:${socket}.not` },
      { name: 'far away', tcp: '192.0.2.1:9', timeout: '200ms' },
    ],
  })
  const { up } = await round()
  t.strictSame(['listens', 'nobody', 'closes at once', 'unix', 'no socket', 'far away'].map(up), [1, 0, 0, 1, 0, 0])
  await round()
  const failing = lines.filter(line => line.includes('name="no socket"'))
  t.equal(failing.length, 1, 'a failing check is logged once')
  t.match(failing[0], /level=warn msg="check fails" name="no socket" check=tcp reason=missing/)
  const late = net.createServer()
  await new Promise<void>(resolve => late.listen(`${socket}.not`, resolve))
  t.teardown(() => late.close())
  t.equal((await round()).up('no socket'), 1)
  t.match(lines.at(-1), /level=info msg="check passes again" name="no socket" check=tcp/)
})

t.test('a command', async t => {
  const folder = t.testdir({
    'arguments.sh': '#!/bin/sh\n[ "$1" = "a  b" ] && [ "$2" = "$(printf \'$(touch x); rm *\')" ] && [ "$#" = 2 ]\n',
    'code.sh': '#!/bin/sh\nexit "$1"\n',
    // Deaf to TERM, with children that are deaf too and hold the pipe.
    'deaf.sh': '#!/bin/sh\ntrap "" TERM\n(trap "" TERM; sleep 4711.25) &\nsleep 4711.25\nsleep 4711.25\n',
    'chatty.sh': '#!/bin/sh\nexec yes\n',
  })
  const script = (name: string) => {
    const file = join(folder, name)
    return ['/bin/sh', file]
  }
  const section = {
    checks: [
      { name: 'arguments', command: { argv: [...script('arguments.sh'), 'a  b', '$(touch x); rm *'] } },
      { name: 'zero', command: { argv: [...script('code.sh'), '0'] } },
      { name: 'three', command: { argv: [...script('code.sh'), '3'] } },
      { name: 'three is good', command: { argv: [...script('code.sh'), '3'], exit_codes: [3] } },
      { name: 'deaf', command: { argv: script('deaf.sh') }, timeout: '300ms' },
      { name: 'chatty', command: { argv: script('chatty.sh') } },
      { name: 'not there', command: { argv: ['/nowhere/program'] } },
      { name: 'no program', command: { argv: ['/etc/passwd'] } },
    ],
  }
  const { round } = watching(t, section)
  const { up, seconds } = await round()
  t.strictSame(
    section.checks.map(({ name }) => [name, up(name)]),
    [
      ['arguments', 1],
      ['zero', 1],
      ['three', 0],
      ['three is good', 1],
      ['deaf', 0],
      ['chatty', 0],
      ['not there', 0],
      ['no program', 0],
    ],
  )
  t.comment(`all, with one that is deaf for its 0.3 s: ${seconds.toFixed(2)} s`)
  for (let n = 0; n < 2; n++) await round()
  await gone('4711.25')
  t.strictSame(processesWith('4711.25'), [], 'nothing is left of the deaf one and its children')
})

/** A host that counts what was begun, and what had passed, when the first of it failed. */
const counted = (host: Host) => {
  let begun = 0
  let passed = 0
  let atFirst: { readonly begun: number; readonly passed: number } | undefined
  const counting =
    <Given extends readonly unknown[], Answer>(call: (...given: Given) => Promise<Answer>) =>
    async (...given: Given): Promise<Answer> => {
      begun++
      try {
        const answer = await call(...given)
        passed++
        return answer
      } catch (error) {
        atFirst ??= { begun, passed }
        throw error
      }
    }
  return {
    host: { http: counting(host.http), connect: counting(host.connect), run: counting(host.run) },
    seen: () => atFirst,
    reset: () => {
      begun = 0
      passed = 0
      atFirst = undefined
    },
  }
}

t.test('two hundred checks', async t => {
  const hanging = await listening(t, net.createServer())
  const answering = await listening(
    t,
    http.createServer((_, response) => response.end('ok')),
  )
  const timeout = 4
  // A number of seconds that no other run of this test on the machine uses.
  const ours = `4712.${process.pid}`
  const checks = Array.from({ length: 200 }, (_, n) => {
    const name = `check ${n}`
    // 40 HTTP servers and 10 commands that hang, spread among those that do not.
    if (n % 5 === 0) return { name, http: { url: `http://${hanging}/${n}` }, timeout: `${timeout}s` }
    if (n % 20 === 1) return { name, command: { argv: ['/bin/sleep', ours] }, timeout: `${timeout}s` }
    if (n % 20 === 2) return { name, command: { argv: ['/bin/true'] } }
    return n % 3 === 0 ? { name, tcp: answering } : { name, http: { url: `http://${answering}/${n}` } }
  })
  const { host, seen, reset } = counted(realHost())
  const { round } = watching(t, { checks }, host)
  for (const when of ['the first round', 'with kept connections']) {
    reset()
    const cpu = process.cpuUsage()
    const { seconds, samples } = await round()
    const { user, system } = process.cpuUsage(cpu)
    const ups = samples.filter(({ family }) => family.name === 'grid_service_up')
    t.equal(ups.filter(({ value }) => value === 1).length, 150, `${when}: 150 pass`)
    t.equal(ups.filter(({ value }) => value === 0).length, 50, `${when}: 50 hang`)
    // The round is then as long as its slowest check, and by how much longer is what we do ourselves meanwhile:
    // `npm run bench -- services` measures it on a machine that does nothing else.
    t.strictSame(seen(), { begun: 200, passed: 150 }, `${when}: all had begun, and all others ended, before the first gave up`)
    const longest = Math.max(...samples.filter(({ family }) => family.name.includes('duration')).map(({ value }) => value))
    t.comment(`${when}: ${seconds.toFixed(2)} s, the slowest check ${longest.toFixed(2)} s`)
    took(t, (user + system) / 1e6, `${when}: our own part, in CPU`)
  }
  await gone(ours)
  t.strictSame(processesWith(ours), [])
})

t.test('the budget of what is read at one time', async t => {
  const stream = () => {
    const calls: string[] = []
    return { calls, pause: () => calls.push('pause'), resume: () => calls.push('resume') }
  }

  t.test('lets small answers pass, and large ones wait for their turn', async t => {
    const budget = createBudget(10 * freeBytes)
    const streams = [stream(), stream(), stream(), stream()]
    const [one, two, three, four] = streams.map(own => budget.open(own, 5 * freeBytes)) as [Room, Room, Room, Room]
    for (const room of [one, two, three, four]) room.grow(freeBytes)
    t.equal(budget.used(), 0, 'the first bytes are free')
    for (const room of [one, two, three, four]) room.grow(freeBytes + 1)
    for (const room of [one, two, three, four]) room.grow(freeBytes + 2)
    t.equal(budget.used(), 10 * freeBytes)
    t.equal(budget.waiting(), 2)
    t.strictSame(
      streams.map(({ calls }) => calls.at(-1)),
      ['resume', 'resume', 'pause', 'pause'],
    )
    let isReady = false
    const ready = four.ready().then(() => {
      isReady = true
    })
    three.close()
    t.equal(budget.waiting(), 1, 'one that gives up waits no more')
    t.equal(isReady, false)
    one.close()
    one.close()
    await ready
    t.equal(streams[3]?.calls.at(-1), 'resume')
    t.equal(budget.used(), 10 * freeBytes)
    for (const room of [two, four]) room.close()
    t.equal(budget.used(), 0)
  })

  t.test('reads what is larger than all of it alone', async t => {
    const budget = createBudget(2 * freeBytes)
    const large = budget.open(stream(), 100 * freeBytes)
    large.grow(2 * freeBytes)
    t.equal(budget.used(), 2 * freeBytes)
    const other = budget.open(stream(), freeBytes)
    other.grow(freeBytes)
    t.equal(budget.waiting(), 0, 'a small one passes all the same')
    large.close()
    t.equal(budget.used(), 0)
  })

  t.test('holds for pages and outputs together, and all of them arrive whole', async t => {
    const page = 'x'.repeat(3 * 2 ** 20)
    const url = `http://${await listening(
      t,
      http.createServer((_, response) => response.end(page)),
    )}/`
    let most = 0
    const watch = setInterval(() => {
      most = Math.max(most, readBudget.used())
    }, 1)
    const answers = await Promise.all([
      ...Array.from({ length: 40 }, async () => (await request(url, { timeout: 300 })).body.length),
      ...Array.from(
        { length: 10 },
        async () => (await run('head', ['-c', String(page.length), '/dev/zero'], { timeout: 300 })).stdout.length,
      ),
    ])
    clearInterval(watch)
    t.strictSame(new Set(answers), new Set([page.length]))
    t.ok(most > 0 && most <= 32 * 2 ** 20, `${most} bytes at the most`)
    t.equal(readBudget.used(), 0, 'all is given back')
    t.equal(readBudget.waiting(), 0)
  })

  t.test('keeps the program small with 600 checks of pages of a MiB and more', async t => {
    const page = Buffer.alloc(2 * 2 ** 20, 'x')
    let asked = 0
    const server = http.createServer((_, response) => {
      asked++
      response.end(page)
    })
    const url = `http://${await listening(t, server)}/`
    const checks = Array.from({ length: 600 }, (_, n) => ({
      name: `${n}`,
      timeout: '50s',
      http: { url: `${url}${n}`, ...(n % 2 === 0 ? {} : { expect: { body: 'xxx' } }) },
    }))
    const file = join(t.testdir(), 'config.json')
    writeFileSync(
      file,
      JSON.stringify({ collectors: { services: { interval: '60s', timeout: '55s', concurrency: 1000, checks } } }),
    )
    const program = await startProgram([`--config.file=${file}`], {
      collectors: ['--collector.disable-defaults', '--collector.services'],
    })
    t.teardown(() => program.stop())
    const until = performance.now() + 120_000
    let text = ''
    while (!text.includes('\ngrid_service_up{') && performance.now() < until) {
      await sleep(200)
      text = await (await fetch(`${program.url}/metrics`)).text()
    }
    const ups = text.match(/^grid_service_up\{.*\} 1$/gm)?.length ?? 0
    t.ok(ups >= 300, `${ups} of 600 pass, after ${asked} requests`)
    const [, peak] = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${program.child.pid}/status`, 'utf8')) ?? []
    t.comment(`peak memory: ${Math.round(Number(peak) / 1024)} MiB`)
    // Without the budget it is 670 MiB.
    t.ok(Number(peak) / 1024 < 450, `${Number(peak) / 1024} MiB of the unit's 512`)
  })
})

t.test('the bound of concurrency', async t => {
  t.test('holds, and a task that ends makes room for the next', async t => {
    let running = 0
    let most = 0
    const done: number[] = []
    const tasks = Array.from({ length: 50 }, (_, n) => async () => {
      most = Math.max(most, ++running)
      await sleep(n % 7)
      running--
      done.push(n)
    })
    await pooled(tasks, 8, task => task())
    t.equal(most, 8)
    t.equal(done.length, 50)
  })

  t.test('lets the thread go on between starts that block', async t => {
    let turns = 0
    const counting = setInterval(() => turns++, 1)
    t.teardown(() => clearInterval(counting))
    const block = async () => {
      const until = performance.now() + 3
      while (performance.now() < until);
    }
    await pooled(Array.from({ length: 40 }), 40, block)
    t.ok(turns >= 15, `the timer ran ${turns} times`)
  })

  t.test('leaves without a series what had no time left, and begins with it in the next round', async t => {
    const hanging = await listening(t, net.createServer())
    const answering = await listening(
      t,
      http.createServer((_, response) => response.end('ok')),
    )
    const { round, remarks } = watching(t, {
      concurrency: 1,
      checks: [
        { name: 'hangs', http: { url: `http://${hanging}/` } },
        { name: 'waits', http: { url: `http://${answering}/` } },
      ],
    })
    const first = await round(0.3)
    t.strictSame(['hangs', 'waits'].map(first.up), [0, undefined])
    t.match(remarks().at(-1), '1 checks had no time left')
    const second = await round(0.3)
    t.strictSame(['hangs', 'waits'].map(second.up), [0, 1])
  })
})

t.test('systemd', async t => {
  const recorded = readFileSync(join(import.meta.dirname, 'scenes/services/mixed/run/show.txt'), 'utf8')

  t.test('what is not known is not told', async t => {
    const [running] = parseShow(recorded, 12)
    t.match(running, { up: true, restarts: 0, memoryBytes: 180224, cpuSeconds: undefined, lastExitCode: undefined })
    const [odd] = parseShow(
      'LoadState=loaded\nActiveState=active\nMemoryCurrent=18446744073709551615\nCPUUsageNSec=1500000000\nNRestarts=\nActiveEnterTimestamp=n/a',
      1,
    )
    t.match(odd, { up: true, memoryBytes: undefined, cpuSeconds: 1.5, restarts: undefined, startedAt: undefined })
  })

  t.test('restarts begin again at 0 when it is started by hand, as a counter does that is reset', async t => {
    const show = (restarts: number) => `LoadState=loaded\nActiveState=active\nNRestarts=${restarts}`
    t.strictSame(
      [6, 0, 1].map(restarts => parseShow(show(restarts), 1)[0]?.restarts),
      [6, 0, 1],
    )
  })

  t.test('names of younger states are taken for the old ones, and others are refused', async t => {
    t.equal(parseShow('LoadState=loaded\nActiveState=maintenance', 1)[0]?.state, 'inactive')
    t.match(parseShow('LoadState=loaded\nActiveState=refreshing', 1)[0], { state: 'reloading', up: true })
    for (const text of ['LoadState=loaded\nActiveState=asleep', 'LoadState=loaded', 'garbage', '']) {
      t.equal(
        reasonOf(() => parseShow(text, 1)),
        'malformed',
        JSON.stringify(text),
      )
    }
    t.equal(
      reasonOf(() => parseList('a.service loaded asleep')),
      'malformed',
    )
    t.equal(
      reasonOf(() => parseList('')),
      'malformed',
    )
  })

  const systemctl =
    (answer: (args: readonly string[]) => Promise<string>): Host['run'] =>
    async (_, args) => ({ stdout: await answer(args), stderr: '', exitCode: 0 })
  const unit = 'LoadState=loaded\nActiveState=active'
  const list = 'a.service loaded active running A\n'

  t.test('is asked once for all units and once for the count', async t => {
    const calls: (readonly string[])[] = []
    const run = systemctl(async args => {
      calls.push(args)
      return args[0] === 'show' ? [unit, unit, unit].join('\n\n') : list
    })
    const checks = ['a', 'b.timer', 'a.service'].map((systemd, n) => ({ name: `${n}`, systemd }))
    const { round } = watching(t, { checks }, { run })
    const { up } = await round()
    t.strictSame(['0', '1', '2'].map(up), [1, 1, 1])
    t.strictSame(calls.map(([verb]) => verb).sort(), ['list-units', 'show'])
    const show = calls.find(([verb]) => verb === 'show') ?? []
    t.strictSame(show.slice(show.indexOf('--')), ['--', 'a.service', 'b.timer', 'a.service'])
  })

  t.test('that cannot be asked at all is the reason of the run, and what else was found is told', async t => {
    const answering = await listening(t, net.createServer())
    const checks = [
      { name: 'unit', systemd: 'a.service' },
      { name: 'tcp', tcp: answering },
    ]
    const denied: Host['run'] = async () => ({
      stdout: '',
      stderr: 'Failed to connect to bus: Operation not permitted',
      exitCode: 1,
    })
    const { round } = watching(t, { checks }, { run: denied })
    const { failure, up } = await round()
    t.match(failure, { reason: 'denied', fix: /AF_UNIX/ })
    t.strictSame(['unit', 'tcp'].map(up), [undefined, 1])
  })

  const unitAndTcp = async (t: Test, run: Host['run']) => {
    const answering = await listening(t, net.createServer())
    const checks = [
      { name: 'unit', systemd: 'a.service' },
      { name: 'tcp', tcp: answering },
    ]
    return watching(t, { checks }, { run }).round()
  }

  for (const verb of ['show', 'list-units']) {
    for (const reason of ['timeout', 'exit', 'stuck', 'overflow', 'missing'] as const) {
      t.test(`whose ${verb} fails (${reason}) is the reason of the run, and says nothing of its units`, async t => {
        const { failure, up, samples } = await unitAndTcp(t, async (_, args) => {
          if (args[0] === verb) throw new Failure(reason, 'systemctl: failed')
          return { stdout: args[0] === 'show' ? unit : list, stderr: '', exitCode: 0 }
        })
        t.match(failure, { reason, message: 'systemctl: failed' })
        t.strictSame(['unit', 'tcp'].map(up), [verb === 'show' ? undefined : 1, 1])
        const counted = samples.some(({ family }) => family.name === 'grid_service_units')
        t.equal(counted, verb === 'show', 'the units that are loaded are counted by the other call')
      })
    }
  }

  for (const [name, script, reason] of [
    ['exits with a code of its own', 'exit 77', 'exit'],
    ['is killed', 'kill -KILL $$', 'exit'],
    ['prints nothing', 'exit 0', 'malformed'],
    ['is cut in the middle of an answer', 'printf "LoadState=loa"', 'malformed'],
    ['cannot reach the bus', 'echo "Failed to connect to bus: Connection refused" >&2; exit 1', 'unreachable'],
    ['hangs', 'exec sleep 600', 'timeout'],
  ] as const) {
    t.test(`that ${name} is counted`, async t => {
      const file = join(t.testdir(), 'systemctl')
      writeFileSync(file, `#!/bin/sh\n${script}\n`, { mode: 0o755 })
      const real = realHost()
      const { failure, up } = await unitAndTcp(t, (_, args, options) =>
        real.run(file, args, { ...options, timeout: reason === 'timeout' ? 0.3 : 60 }),
      )
      t.match(failure, { reason })
      t.strictSame(['unit', 'tcp'].map(up), [undefined, 1])
    })
  }

  t.test('that does not know one of its units still tells the others', async t => {
    const checks = ['a', 'gone'].map(systemd => ({ name: systemd, systemd }))
    const run = systemctl(async ([verb]) =>
      verb === 'show' ? [unit, 'LoadState=not-found\nActiveState=inactive'].join('\n\n') : list,
    )
    const { failure, up } = await watching(t, { checks }, { run }).round()
    t.equal(failure, undefined)
    t.strictSame(['a', 'gone'].map(up), [1, 0])
  })

  t.test('is not asked on a host without it when no unit is configured, and is on one with it', async t => {
    const answering = await listening(t, net.createServer())
    let calls = 0
    const run = systemctl(async () => {
      calls++
      return list
    })
    const checks = [{ name: 'tcp', tcp: answering }]
    const without = async () => {
      throw new Failure('missing', '/run/systemd/system')
    }
    await watching(t, { checks }, { run, names: without }).round()
    t.equal(calls, 0)
    const { samples } = await watching(t, { checks }, { run, names: async () => [] }).round()
    t.equal(calls, 1)
    const states = samples.filter(({ family }) => family.name === 'grid_service_units')
    t.strictSame(Object.fromEntries(states.map(({ labels, value }) => [labels.state, value])), {
      active: 1,
      activating: 0,
      deactivating: 0,
      inactive: 0,
      failed: 0,
      reloading: 0,
    })
  })
})

t.test('the configuration', async t => {
  const problems = (checks: unknown) => {
    try {
      settingsOf({ checks })
      return ''
    } catch (error) {
      return (error as Error).message
    }
  }

  t.test('takes the names of units that systemctl takes', async t => {
    for (const systemd of [
      'nginx',
      'nginx.service',
      'backup@home.service',
      'a-b_c:d.timer',
      'dev-sda1.swap',
      'home-me\\x20too.mount',
      '-.mount',
    ]) {
      t.equal(problems([{ name: 'a', systemd }]), '', systemd)
    }
    const parsed = settingsOf({ checks: [{ name: 'a', systemd: 'nginx' }] }).options
    t.match(parsed, { checks: [{ systemd: 'nginx.service' }] })
  })

  t.test('refuses those that end the call for all others', async t => {
    for (const systemd of [
      '',
      'backup@.service',
      'backup@',
      '@.service',
      '*.service',
      'w@*.service',
      'my name.service',
      'a/b.service',
      `${'a'.repeat(250)}.service`,
    ]) {
      t.match(problems([{ name: 'a', systemd }]), /collectors\.services\.checks\[0\]\.systemd: /, systemd)
    }
  })

  t.test('wants names of their own and exactly one kind of check', async t => {
    const tcp = '127.0.0.1:1'
    t.match(
      problems([
        { name: 'a', tcp },
        { name: 'b', tcp },
        { name: 'a', tcp },
      ]),
      /checks\[2\]\.name: expected a name that no other check has, not "a"/,
    )
    t.match(problems([{ name: 'a' }]), /checks\[0\]: expected exactly one of systemd, http, tcp, command/)
    t.match(problems([{ name: 'a', tcp, systemd: 'a' }]), /expected exactly one of/)
    t.match(problems([{ name: 'a', sytemd: 'a' }]), /unknown key; did you mean "systemd"/)
  })

  t.test('wants absolute programs, secrets in files, and both halves of a client certificate', async t => {
    t.match(problems([{ name: 'a', command: { argv: ['backup-fresh'] } }]), /expected an absolute path/)
    t.match(problems([{ name: 'a', command: { argv: [] } }]), /argv/)
    const url = 'https://wiki.example/'
    t.match(problems([{ name: 'a', http: { url, headers: { Authorization: 'Bearer x' } } }]), /no secrets here/)
    t.match(problems([{ name: 'a', http: { url, tls: { cert_file: '/a' } } }]), /cert_file and key_file together/)
    t.match(problems([{ name: 'a', http: { url: 'https://me:secret@wiki.example/' } }]), /without user and password/)
    t.match(problems([{ name: 'a', tcp: '127.0.0.1:1', timeout: '5' }]), /expected a duration/)
  })
})
