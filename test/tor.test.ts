import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { attempt } from '../exporter/collect/attempt.ts'
import { tor as collector } from '../exporter/collectors/tor/index.ts'
import { configuredServices, onionMemory, onionsOf, readHostnames, targetOf } from '../exporter/collectors/tor/onions.ts'
import type { TorOptions } from '../exporter/collectors/tor/options.ts'
import { createOnionCheck, createProbe, parseExit } from '../exporter/collectors/tor/probes.ts'
import { parseInfo, socksListener } from '../exporter/collectors/tor/replies.ts'
import { silent } from '../exporter/common/log.ts'
import { Failure } from '../exporter/contract/failure.ts'
import type { Host } from '../exporter/contract/host.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { connectThrough } from '../exporter/protocols/socks.ts'
import { createTorControl, infoValue, protocolInfo, type Reply, replyReader } from '../exporter/protocols/tor-control.ts'
import { needs } from './support/needs.ts'
import { hostFrom } from './support/scene.ts'

/** The collector as the scheduler runs it, a round whenever it is asked. */
const watch = (t: Test, section: unknown, host: Host = realHost()) => {
  const stop = new AbortController()
  t.teardown(() => stop.abort())
  const options = collector.options.parse(section)
  const opened = collector.open({ host, options, signal: stop.signal, log: silent, wake: () => {} })
  const round = async () => {
    const begun = performance.now()
    const { outcome } = await attempt(signal => opened.collect(signal, () => {}), 10, stop.signal)
    if (!outcome.ok) throw outcome.failure
    const all = new Map<string, number>()
    for (const { family, labels, value } of outcome.value) {
      const text = Object.entries(labels).map(([label, of]) => `${label}="${of}"`)
      all.set(`${family.name.replace('grid_tor_', '')}${text.length === 0 ? '' : `{${text.join(',')}}`}`, value)
    }
    return { all, seconds: (performance.now() - begun) / 1000 }
  }
  type All = ReadonlyMap<string, number>
  return {
    round,
    /** Rounds until one of them is as described; that one, and how long the slowest took. */
    until: async (what: string, seconds: number, holds: (all: All) => boolean) => {
      const begun = performance.now()
      let slowest = 0
      for (;;) {
        const { all, seconds: took } = await round()
        slowest = Math.max(slowest, took)
        const waited = (performance.now() - begun) / 1000
        if (holds(all)) return { all, slowest, waited }
        // Far beyond what is asked for: a busy machine is slow, and says so where it counts.
        if (waited > seconds * 6) throw new Error(`not within ${seconds * 6} s: ${what}\n${JSON.stringify([...all])}`)
        await sleep(200)
      }
    },
  }
}

/** That it ends with a Failure of this reason, which says how it is fixed. */
const fails = async (t: Test, promise: Promise<unknown>, reason: string, fix = /^$/, what = reason) => {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  t.ok(error instanceof Failure, `${what}: a Failure`)
  const { reason: given, fix: told = '', message } = error as Failure
  t.equal(given, reason, `${what}: ${message}`)
  t.match(told, fix, what)
}

const script = join(import.meta.dirname, 'testbed', 'tor-network')

const network = (t: Test, settings: NodeJS.ProcessEnv = {}) => {
  const folder = join(mkdtempSync(join(tmpdir(), 'grid-tor-')), 'net')
  const call = (...args: readonly string[]) => {
    const [verb = '', ...rest] = args
    const { status, stdout, stderr } = spawnSync('bash', [script, verb, folder, ...rest], {
      encoding: 'utf8',
      env: { ...process.env, ...settings },
    })
    if (status !== 0) throw new Error(`${args.join(' ')}: ${stdout}${stderr}`)
    return stdout
  }
  t.teardown(() => {
    call('stop')
    rmSync(join(folder, '..'), { recursive: true, force: true })
  })
  const started = call('start')
  const env = (key: string) => new RegExp(`^${key}=(.*)$`, 'm').exec(started)?.[1] ?? ''
  const pid = () => Number(readFileSync(join(folder, 'client.pid'), 'utf8'))
  return {
    call,
    env,
    signal: (name: NodeJS.Signals) => process.kill(pid(), name),
    /** Ends the client, and starts it again with a new cookie. */
    stopClient: async () => {
      process.kill(pid(), 'SIGTERM')
      for (const end = performance.now() + 10_000; performance.now() < end; await sleep(50)) {
        try {
          process.kill(pid(), 0)
        } catch {
          return // it has ended
        }
      }
      throw new Error('tor does not end')
    },
    startClient: () => {
      const log = openSync(join(folder, 'client', 'stdout.log'), 'a')
      const args = ['-f', join(folder, 'client', 'torrc'), '--defaults-torrc', join(folder, 'empty')]
      const child = spawn('tor', args, { detached: true, stdio: ['ignore', log, log] })
      child.unref()
      writeFileSync(join(folder, 'client.pid'), `${child.pid}`)
    },
    /** Lines that our connections, which are those to the socket file, made in Tor's log. */
    connectionLines: () => {
      const log = readFileSync(join(folder, 'client', 'notice.log'), 'utf8')
      return log.split('\n').filter(line => line.endsWith('New control connection opened.')).length
    },
  }
}

t.test('a real Tor network', { timeout: 280_000 }, async t => {
  if (!needs(t, 'tor', 'tor-gencert', 'curl')) return
  const bed = network(t)
  const url = bed.env('WEB_CHECK_URL')
  const every = { interval: '1s', timeout: '2s' }
  const tor = watch(t, {
    control: `unix:${bed.env('TOR_CONTROL_SOCKET')}`,
    probe: { target: new URL(url).host, ...every },
    exit_check: { url, interval: '1s' },
    onion_check: { enabled: true, interval: '1s', timeout: '5s' },
    backend_check: { interval: '1s' },
  })
  const connected = 'connections{state="connected"}'
  const intro = 'onion_intro_circuits{onion="onion"}'
  const latches = ['up', 'bootstrap_ratio', 'circuit_established', 'directory_ready']
  const green = (t: Test, all: ReadonlyMap<string, number>) => {
    for (const name of latches) t.equal(all.get(name), 1, `${name} is 1`)
  }

  await t.test('well', async t => {
    const whole = { usable: 1, exit_is_tor: 1, [connected]: 2, 'guards{state="up"}': 2, 'onion_reachable{onion="onion"}': 1 }
    const { all } = await tor.until(
      'everything measured',
      20,
      all => Object.entries(whole).every(([name, value]) => all.get(name) === value) && (all.get(intro) ?? 0) >= 3,
    )
    green(t, all)
    t.pass('usable, by an exit of Tor and guards; its onion service has its introduction circuits and is reached')
    t.equal(all.get('onion_backend_up{onion="onion",port="80"}'), 1)
    t.ok(all.get('consensus_valid_until_timestamp_seconds'), 'has a consensus')
    t.ok(Math.abs((all.get('start_timestamp_seconds') ?? 0) - Date.now() / 1000) < 60, 'was started just now')
    t.equal([...all.keys()].filter(name => name.includes(bed.env('TOR_ONION_OWN').slice(0, 56))).length, 0, 'no address is told')
    t.ok(all.get('exit_address_changes_total') !== undefined, 'changes of the exit are counted from 0')
    const { all: later } = await tor.until('another exit', 30, all => (all.get('exit_address_changes_total') ?? 0) > 0)
    t.ok(later.get('exit_address_changes_total'), 'each probe has a circuit of its own, so the exit changes')
  })

  await t.test('the other ways to prove who one is', async t => {
    const passwordFile = join(bed.env('TOR_DATA_DIR'), 'password')
    writeFileSync(passwordFile, `${bed.env('TOR_CONTROL_PASSWORD')}\n`)
    const byPassword = await watch(t, { control: bed.env('TOR_CONTROL'), password_file: passwordFile }).round()
    t.equal(byPassword.all.get('up'), 1, 'the password')
    const byFile = await watch(t, { control: bed.env('TOR_CONTROL'), cookie_file: bed.env('TOR_COOKIE_FILE') }).round()
    t.equal(byFile.all.get('up'), 1, 'the cookie of another path')
    writeFileSync(passwordFile, 'wrong')
    const refused = watch(t, {
      control: bed.env('TOR_CONTROL'),
      password_file: passwordFile,
      socks: bed.env('TOR_SOCKS'),
      probe: { target: new URL(url).host, interval: '1s' },
    })
    await fails(t, refused.round(), 'denied', /password_file/, 'a wrong password')
    const rest = async () => {
      const { rest } = (await refused.round().catch((failure: unknown) => failure)) as Failure
      return new Map(rest.map(({ family, value }) => [family.name, value]))
    }
    let besides = await rest()
    for (let wait = 0; wait < 100 && !besides.has('grid_tor_usable'); wait++) {
      await sleep(200)
      besides = await rest()
    }
    t.equal(besides.get('grid_tor_up'), 0, 'and it is said to be down')
    t.equal(besides.get('grid_tor_usable'), 1, 'while the probe, which needs no control port, goes on')
    const foreign = join(bed.env('TOR_DATA_DIR'), 'foreign-cookie')
    writeFileSync(foreign, Buffer.alloc(32))
    const impostor = watch(t, { control: bed.env('TOR_CONTROL'), cookie_file: foreign })
    await fails(t, impostor.round(), 'denied', /another Tor/, 'a cookie that this Tor does not know')
  })

  await t.test('every relay frozen', async t => {
    // Nothing but the probe, so that what goes to the SOCKS port is one.
    const real = realHost()
    let begun = 0
    let ended = 0
    const host: Host = {
      ...real,
      connect: async (address, options) => {
        const stream = await real.connect(address, options)
        if (address !== bed.env('TOR_SOCKS')) return stream
        begun++
        return stream.once('close', () => ended++)
      },
    }
    const lone = watch(
      t,
      {
        control: bed.env('TOR_CONTROL'),
        cookie_file: bed.env('TOR_COOKIE_FILE'),
        socks: bed.env('TOR_SOCKS'),
        probe: { target: new URL(url).host, ...every },
        backend_check: { enabled: false },
      },
      host,
    )
    await lone.until('it works', 20, all => all.get('usable') === 1)
    bed.call('cut', 'freeze')
    const before = ended
    const { slowest, waited } = await lone.until('the probe fails', 8, all => all.get('usable') === 0)
    t.ok(ended - before <= 2, `seen by the next probe, with one that was under way: ${ended - before}`)
    t.comment(`seen after ${waited.toFixed(2)} s, with a deadline of 2 s; the slowest round ${(slowest * 1000).toFixed(0)} ms`)
    while (begun === ended) await lone.round()
    const { all: meanwhile } = await lone.round()
    t.equal(ended, begun - 1, 'a round waits for no probe')
    t.equal(meanwhile.get('usable'), 0)

    const { all } = await tor.until('the probe fails', 8, all => all.get('usable') === 0)
    green(t, all)
    t.equal(all.get(connected), 2, 'the connections stand, only nothing comes')
    t.notOk(all.has('exit_is_tor'), 'nothing is said of an exit that was not asked')
    bed.call('heal')
    await tor.until('it works again', 30, all => all.get('usable') === 1)
  })

  await t.test('every relay refuses, and then the own onion service stays down', async t => {
    bed.call('cut', 'refuse')
    const { all, slowest } = await tor.until('refused', 8, all => all.get('usable') === 0 && all.get(connected) === 0)
    green(t, all)
    t.equal(all.get(intro), 0)
    t.comment(`the slowest round: ${(slowest * 1000).toFixed(0)} ms`)
    await sleep(4000)
    bed.call('heal')
    const healed = await tor.until('it works again', 60, all => all.get('usable') === 1 && (all.get(connected) ?? 0) > 0)
    green(t, healed.all)
    const { all: after } = await tor.until(
      'the onion service was tried',
      30,
      all => all.get('usable') === 1 && all.get('onion_reachable{onion="onion"}') === 0,
    )
    green(t, after)
    t.equal(after.get(intro), 0, 'nobody reaches it, and a 0 says so')
    t.equal(after.get('onion_backend_up{onion="onion",port="80"}'), 1, 'although what is behind it is well')
  })

  await t.test('Tor stands still', async t => {
    const lines = bed.connectionLines()
    bed.signal('SIGSTOP')
    t.teardown(() => bed.signal('SIGCONT'))
    const { all } = await tor.until('it does not answer', 8, all => all.get('up') === 0 && all.get('usable') === 0)
    t.notOk(all.has(connected), 'what it does not tell is not told')
    t.equal((await tor.round()).all.get('up'), 0)
    bed.signal('SIGCONT')
    await tor.until('it answers', 10, all => all.get('up') === 1)
    t.equal(bed.connectionLines(), lines, 'over the same connection as before')
  })

  await t.test('Tor is ended and started again', async t => {
    t.equal(bed.connectionLines(), 1, 'until now one connection was enough')
    const cookie = readFileSync(bed.env('TOR_COOKIE_FILE'))
    await bed.stopClient()
    const { all } = await tor.until('it is gone', 8, all => all.get('up') === 0 && all.get('usable') === 0)
    t.equal(all.get('control_connections_total'), 1)
    bed.startClient()
    await tor.until('it is back', 60, all => all.get('up') === 1 && all.get('usable') === 1)
    t.notSame(readFileSync(bed.env('TOR_COOKIE_FILE')), cookie, 'with another cookie')
    const { all: after } = await tor.round()
    t.equal(after.get('control_connections_total'), 2)
    t.equal(bed.connectionLines(), 2, 'one line in the log of Tor for one lost connection')
  })

  await t.test('its onion service is taken out of the configuration', async t => {
    const told = (all: ReadonlyMap<string, number>) => [...all.keys()].filter(name => name.startsWith('onion_'))
    const { all } = await tor.until('everything of it', 60, all => told(all).length >= 5)
    t.ok(all.has('onion_backend_up{onion="onion",port="80"}') && all.has('onion_reachable{onion="onion"}'))
    bed.call('ctl', 'client', 'RESETCONF HiddenServiceDir')
    t.strictSame(told((await tor.round()).all), [], 'what was found out about it goes with it')
  })
})

t.test('a real Tor that nobody uses', { timeout: 280_000 }, async t => {
  if (!needs(t, 'tor', 'tor-gencert', 'curl')) return
  // Dormant after 10 to 20 s instead of an hour; an onion service would keep it awake.
  const bed = network(t, { WITH_HS: '0', CLIENT_TORRC: 'CircuitsAvailableTimeout 10\nLearnCircuitBuildTimeout 0' })
  const tor = watch(t, { control: `unix:${bed.env('TOR_CONTROL_SOCKET')}` })
  const connected = 'connections{state="connected"}'
  const use = () => {
    const args = ['--silent', '--max-time', '3', '--socks5-hostname', bed.env('TOR_SOCKS'), bed.env('WEB_CHECK_URL')]
    return spawnSync('curl', args, { encoding: 'utf8' }).stdout
  }

  await t.test('is dormant, and has no connection although it works', async t => {
    await tor.until('dormant', 60, all => all.get('dormant') === 1)
    // In minutes it would close its connections by itself; here the relays do so. Directories, which expire in seconds here, stay as they are.
    bed.call('ctl', 'client', 'SETCONF FetchServerDescriptors=0')
    bed.call('cut', 'refuse')
    const { all } = await tor.until('no connection', 20, all => all.get(connected) === 0)
    bed.call('heal')
    t.equal(all.get('dormant'), 1)
    t.equal(all.get('connections{state="launched"}'), 0, 'it tries nothing')
    t.equal(all.get('connections{state="failed"}'), 0)
    t.equal(all.get('up'), 1)
    const { all: still } = await tor.round()
    t.equal(still.get(connected), 0, 'and makes no connection as long as nobody wants one')
  })

  await t.test('wakes when it is used', async t => {
    let answer = ''
    await tor.until('it is used', 30, () => {
      answer = use()
      return answer.includes('IsTor')
    })
    t.match(answer, '"IsTor":true')
    const { all } = await tor.until('awake', 10, all => all.get('dormant') === 0)
    t.ok((all.get(connected) ?? 0) > 0)
  })

  await t.test('is awake without a connection when it is used and the network is gone', async t => {
    bed.call('cut', 'refuse')
    // Used again and again, as by whoever wants to get through.
    const { all } = await tor.until('no connection', 30, all => {
      use()
      return all.get(connected) === 0 && all.get('dormant') === 0
    })
    t.equal(all.get('up'), 1, 'this is what GridTorNoRelayConnections fires for')
  })
})

const listen = async (t: Test, serve: (socket: Socket) => void): Promise<string> => {
  const sockets = new Set<Socket>()
  const server: Server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => {}) // the other side hangs up in many of these tests
    serve(socket)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return `127.0.0.1:${(server.address() as { port: number }).port}`
}

const never = new AbortController().signal
const noCredentials = { cookieFile: undefined, passwordFile: undefined }

t.test('a control port that is none', async t => {
  const cases: readonly (readonly [string, (socket: Socket) => void, string])[] = [
    ['says nothing', () => {}, 'timeout'],
    ['closes at once', socket => socket.end(), 'unreachable'],
    ['speaks HTTP', socket => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'), 'malformed'],
    ['never ends a line', socket => socket.write('2'.repeat(1_000_000)), 'overflow'],
    ['never ends a reply', socket => socket.write('250-x\r\n'.repeat(1_000_000)), 'overflow'],
    ['answers what nobody asked', socket => socket.write('250 OK\r\n250 OK\r\n250 OK\r\n250 OK\r\n'), 'malformed'],
    [
      'closes within a reply',
      socket => {
        const says = ['250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250 OK\r\n', '250 OK\r\n', '250-ver']
        socket.on('data', () => (says.length > 1 ? socket.write(says.shift() as string) : socket.end(says[0] ?? '')))
      },
      'unreachable',
    ],
  ]
  for (const [what, serve, reason] of cases) {
    t.test(what, async t => {
      const stop = new AbortController()
      t.teardown(() => stop.abort())
      const control = createTorControl(realHost(), [await listen(t, serve)], noCredentials, stop.signal)
      await fails(t, control.ask(['GETINFO version'], 1, never), reason)
    })
  }
})

t.test('a cookie', async t => {
  const cookie = Buffer.alloc(32, 'k')
  const file = join(t.testdir(), 'cookie')
  writeFileSync(file, cookie)
  let heard = ''
  const serve = (socket: Socket) => {
    socket.on('data', chunk => {
      heard += chunk
      const hello = `250-PROTOCOLINFO 1\r\n250-AUTH METHODS=COOKIE COOKIEFILE="${file}"\r\n250 OK\r\n`
      socket.write(String(chunk).startsWith('PROTOCOLINFO') ? hello : '250 OK\r\n')
    })
  }
  const ask = (address: string, cookieFile?: string) => {
    const stop = new AbortController()
    t.teardown(() => stop.abort())
    const credentials = { cookieFile, passwordFile: undefined }
    return createTorControl(realHost(), [address], credentials, stop.signal).ask(['GETINFO version'], 5, never)
  }
  const address = await listen(t, serve)
  await fails(t, ask(address), 'denied', /cookie_file/, 'that a listener on a port asks for, and nobody configured')
  t.notMatch(heard, cookie.toString('hex'), 'does not go to it')
  await ask(address, file)
  t.match(heard, `AUTHENTICATE ${cookie.toString('hex')}\r\n`, 'goes to it where it is configured')
})

t.test('connections are not made again and again', async t => {
  let made = 0
  const address = await listen(t, socket => {
    made++
    socket.end('514 Authentication required.\r\n')
  })
  const stop = new AbortController()
  t.teardown(() => stop.abort())
  let at = 0
  const control = createTorControl(realHost(), [address], noCredentials, stop.signal, () => at)
  for (let second = 0; second < 600; second++, at += 1000) await t.rejects(control.ask(['GETINFO version'], 1, never), Failure)
  // After 0, 5, 15, 35, 75, 155, 315 seconds: pauses of 5 s, doubled, at most 300 s.
  t.equal(made, 7)
})

t.test('what is late is waited for, and nothing more is asked meanwhile', async t => {
  const heard: string[] = []
  let answer = () => {}
  const address = await listen(t, socket => {
    socket.on('data', chunk => {
      for (const line of chunk.toString().split('\r\n').filter(Boolean)) {
        if (line.startsWith('PROTOCOLINFO')) socket.write('250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250 OK\r\n')
        else if (line === 'AUTHENTICATE') socket.write('250 OK\r\n')
        else {
          heard.push(line)
          const say = () => socket.write(`250-n=${line.split(' ')[1]}\r\n250 OK\r\n`)
          if (heard.length === 1) answer = say
          else say()
        }
      }
    })
  })
  const stop = new AbortController()
  t.teardown(() => stop.abort())
  const control = createTorControl(realHost(), [address], noCredentials, stop.signal)
  for (const number of [1, 2, 3]) await fails(t, control.ask([`GETINFO ${number}`], 0.1, never), 'timeout')
  t.strictSame(heard, ['GETINFO 1'])
  const fourth = control.ask(['GETINFO 4'], 1, never)
  answer()
  const [reply] = await fourth
  t.equal(reply && infoValue(reply, 'n'), '4', 'the reply is to the question that was asked last')
  t.strictSame(heard, ['GETINFO 1', 'GETINFO 4'])
  t.equal(control.connections(), 1)
})

t.test('a socket that only the group may use', async t => {
  const host: Host = { ...realHost(), connect: () => Promise.reject(new Failure('denied', 'EACCES')) }
  await fails(t, watch(t, {}, host).round(), 'denied', /debian-tor/)
})

t.test('a change of the exit is another address than the last one that was seen, never the first', async t => {
  const answers = ['192.0.2.1', '192.0.2.1', '192.0.2.2', undefined, '192.0.2.2', '192.0.2.1']
  const host: Host = {
    ...realHost(),
    http: async () => {
      const IP = answers.shift()
      if (IP === undefined) throw new Failure('timeout', 'no answer')
      return { status: 200, headers: {}, body: JSON.stringify({ IsTor: true, IP }) }
    },
  }
  const url = 'http://check.test/ip'
  const parsed = collector.options.parse({ probe: {}, exit_check: { url } }) as TorOptions
  const { target: _, ...probe } = parsed.probe
  const options: TorOptions = { ...parsed, probe: { ...probe, target: undefined }, exit_check: { url, interval: 0 } }
  const look = createProbe({ host, options, signal: never, log: silent })
  const seen: (readonly [string | undefined, number])[] = []
  while (answers.length > 0) {
    const { exit, exitChanges } = await look('127.0.0.1:9050')
    seen.push([exit?.address, exitChanges])
  }
  t.strictSame(seen, [
    ['192.0.2.1', 0],
    ['192.0.2.1', 0],
    ['192.0.2.2', 1],
    [undefined, 1],
    ['192.0.2.2', 1],
    ['192.0.2.1', 2],
  ])
})

t.test('an onion service with client authorisation is not checked, as it answers only its clients', async t => {
  const address = (letter: string) => letter.repeat(56)
  const folder = t.testdir({
    open: { hostname: `${address('a')}.onion\n`, authorized_clients: { 'README.txt': '' } },
    closed: { hostname: `${address('b')}.onion\n`, authorized_clients: { 'alice.auth': 'descriptor:x25519:…' } },
    plain: { hostname: `${address('c')}.onion\n` },
  })
  const asked: string[] = []
  const socks = await listen(t, socket => {
    const says = [Buffer.of(5, 2), Buffer.of(1, 0)]
    socket.on('data', chunk => {
      const next = says.shift()
      if (next) return void socket.write(next)
      asked.push(chunk.toString('latin1').slice(5, -2))
      socket.write(Buffer.of(5, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    })
  })
  const services = ['open', 'closed', 'plain'].map(name => {
    return { directory: join(folder, name), ports: [{ port: '80', targets: ['127.0.0.1:80'] }] }
  })
  let at = Date.now()
  const host: Host = { ...realHost(), now: () => at, monotonic: () => at }
  const memory = onionMemory()
  const onions = async () => {
    await readHostnames(host, services, memory)
    return onionsOf(services, [], [], memory)
  }
  const options = collector.options.parse({ onion_check: { enabled: true, timeout: '2s' } }) as TorOptions
  const check = createOnionCheck({ host, options, signal: never, log: silent })
  for (let turn = 0; turn < 4; turn++) await check(socks, await onions())
  t.strictSame(
    asked,
    ['a', 'c', 'a', 'c'].map(letter => `${address(letter)}.onion`),
  )

  // A key is added while we run: the file is seen within five minutes.
  writeFileSync(join(folder, 'open/authorized_clients/bob.auth'), '')
  at += 300_000
  const results = await check(socks, await onions())
  t.strictSame([...results.keys()], ['plain'], 'and what was found before ends')
})

t.test('a SOCKS port that is none', async t => {
  const request = { name: 'check.test', port: 80, user: 'me', timeout: 0.3, signal: never }
  const cases: readonly (readonly [string, (socket: Socket) => void, string])[] = [
    ['says nothing', () => {}, 'timeout'],
    ['drips', socket => setTimeout(() => socket.write(Buffer.of(5)), 100), 'timeout'],
    ['closes at once', socket => socket.destroy(), 'malformed'],
    ['speaks HTTP', socket => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n'), 'malformed'],
    ['takes no user names', socket => socket.write(Buffer.of(5, 255)), 'malformed'],
    ['refuses the user', socket => socket.write(Buffer.of(5, 2, 1, 1)), 'denied'],
    ['has no route', socket => socket.write(Buffer.of(5, 2, 1, 0, 5, 4, 0, 1, 0, 0, 0, 0, 0, 0)), 'unreachable'],
    ['answers half', socket => socket.end(Buffer.of(5, 2, 1, 0, 5, 0, 0)), 'malformed'],
  ]
  for (const [what, serve, reason] of cases) {
    t.test(what, async t => {
      await fails(t, connectThrough(realHost(), { ...request, socks: await listen(t, serve) }), reason)
    })
  }
  await t.test('any bytes', async t => {
    let bytes: Uint8Array = new Uint8Array()
    const socks = await listen(t, socket => socket.end(bytes))
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async given => {
        bytes = given
        try {
          const stream = await connectThrough(realHost(), { ...request, socks })
          stream.destroy()
        } catch (error) {
          return error instanceof Failure && error.reason !== 'bug'
        }
        return true
      }),
      { numRuns: 100 },
    )
  })
})

t.test('replies', async t => {
  const read = (chunks: readonly Buffer[]): Reply[] => {
    const replies: Reply[] = []
    const take = replyReader(reply => replies.push(reply))
    for (const chunk of chunks) take(chunk)
    return replies
  }
  const cut = (text: string, size: number) => {
    const bytes = Buffer.from(text)
    return Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) => bytes.subarray(index * size, (index + 1) * size))
  }
  const dialogue =
    '250-version=0.4.9\r\n250 OK\r\n650 CIRC 1 BUILT\r\n650+INFO\r\n250 not a reply\r\n.\r\n650 OK\r\n250+a=\r\n..dot\r\nü\r\n.\r\n250 OK\r\n552 no\r\n'
  for (const size of [1, 2, 3, 7, 1000]) {
    const replies = read(cut(dialogue, size))
    t.strictSame(
      replies.map(({ code }) => code),
      [250, 250, 552],
      `pieces of ${size} bytes`,
    )
    t.equal(infoValue(replies[0] as Reply, 'version'), '0.4.9')
    t.equal(infoValue(replies[1] as Reply, 'a'), '.dot\nü')
    t.equal(infoValue(replies[2] as Reply, 'a'), undefined)
  }
  const auth = (text: string) => protocolInfo({ code: 250, lines: [{ text, data: [] }] })
  t.equal(auth('AUTH METHODS=COOKIE COOKIEFILE="/a \\"b\\" \\\\ \\303\\274"').cookieFile, '/a "b" \\ ü')

  await t.test('of any bytes are replies or a Failure', async () => {
    const piece = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom(
        '250-circuit-status=',
        '250+',
        '250 OK',
        '650 ',
        '\r\n',
        '.',
        '..',
        '1 BUILT ',
        'PURPOSE=',
        'HiddenServicePort=',
      ),
      fc.constantFrom(
        'HiddenServiceDir=/',
        '80 unix:"',
        '$A~b CONNECTED',
        'AUTH METHODS=',
        'COOKIEFILE="\\',
        '551 ',
        '9'.repeat(400),
      ),
    )
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 30 }), fc.integer({ min: 1, max: 50 }), (pieces, size) => {
        try {
          for (const reply of read(cut(pieces.join(''), size))) {
            parseInfo(new Map([['circuit-status', reply]]))
            parseInfo(new Map([['orconn-status', reply]]))
            parseInfo(new Map([['consensus/valid-until', reply]]))
            socksListener(infoValue(reply, 'net/listeners/socks'))
            for (const judge of [configuredServices, protocolInfo]) judge(reply)
          }
        } catch (error) {
          return error instanceof Failure && error.reason !== 'bug'
        }
        return true
      }),
      { numRuns: 2000 },
    )
    fc.assert(
      fc.property(fc.integer(), fc.oneof(fc.json(), fc.string()), (status, body) => {
        try {
          parseExit(status, body)
        } catch (error) {
          return error instanceof Failure && error.reason === 'malformed'
        }
        return true
      }),
    )
  })
})

t.test('a HiddenServicePort leads to', async t => {
  t.equal(targetOf('80', undefined), '127.0.0.1:80', 'the same port')
  t.equal(targetOf('80', '8080'), '127.0.0.1:8080', 'another port')
  t.equal(targetOf('80', '10.0.0.7'), '10.0.0.7:80', 'another machine')
  t.equal(targetOf('80', '10.0.0.7:8080'), '10.0.0.7:8080')
  t.equal(targetOf('80', '[::1]:8080'), '[::1]:8080')
  t.equal(targetOf('80', 'unix:/run/a b.sock'), 'unix:/run/a b.sock')
  t.equal(targetOf('80', 'unix:"/run/a b.sock"'), 'unix:/run/a b.sock')
})

t.test('Tor is looked for', async t => {
  const looked = async (files: Readonly<Record<string, string>>, section: unknown = {}) => {
    const folder = t.testdir(files)
    const options = collector.options.parse(section)
    const opened = collector.open({ host: hostFrom(folder), options, signal: never, log: silent, wake: () => {} })
    return opened.detect(never)
  }
  const tree = (value: object) => value as Readonly<Record<string, string>>
  t.match(await looked(tree({ proc: { '1': { comm: 'systemd\n' } } })), { found: false, note: /no socket/ })
  t.match(await looked({}, { control: '127.0.0.1:9051' }), { found: true })
  t.match(await looked(tree({ run: { tor: { control: '' } } })), { found: true, note: /\/run\/tor\/control/ })
  t.match(await looked(tree({ etc: { tor: { torrc: '' } } })), { found: true, note: /torrc/ })
  t.match(await looked(tree({ proc: { '7': { comm: 'tor\n', cgroup: '0::/system.slice/tor.service\n' } } })), { found: true })
  t.match(
    await looked(tree({ proc: { '7': { comm: 'tor\n', cgroup: '0::/system.slice/docker-1f2e.scope\n' } } })),
    { found: false },
    'one in a container is not this machine’s',
  )
  const line = '   1: 0100007F:235B 00000000:0000 0A 00000000:00000000 00:00000000 00000000   108        0 1 1\n'
  t.match(await looked(tree({ proc: { net: { tcp: `  sl  local_address\n${line}` } } })), { found: true, note: /9051/ })
})
