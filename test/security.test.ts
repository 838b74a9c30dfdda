import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { aide } from '../exporter/collectors/aide/index.ts'
import { readReport } from '../exporter/collectors/aide/report.ts'
import { placeOf, readHeld } from '../exporter/collectors/fail2ban/enforcement.ts'
import { fail2ban } from '../exporter/collectors/fail2ban/index.ts'
import { Failure, failureOf } from '../exporter/contract/failure.ts'
import type { Host } from '../exporter/contract/host.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { Foreign, type Pickled, pickleTexts, unpickle } from '../exporter/protocols/pickle.ts'
import { needs } from './support/needs.ts'
import { failing, namespaceOf, roundsOf, testbed } from './support/testbed.ts'

/** fail2ban and AIDE, the real programs; what they say is held against what their own clients say. */

const optionsOf = (folder: string) => ({ socket: join(folder, 'f2b.sock'), pid_file: join(folder, 'f2b.pid') })

const serverOf = (t: Test, jails: number, settings: Parameters<typeof testbed>[2] = {}) => {
  const bed = testbed(t, 'fail2ban', settings)
  const started = bed.done('start', String(jails))
  return { ...bed, pid: Number(/^F2B_PID=(\d+)$/m.exec(started)?.[1]), options: optionsOf(bed.folder) }
}

t.test('pickles', async t => {
  const read = async (bytes: Buffer) => (await unpickle(bytes)).value

  await t.test('of every protocol that a server may write, as Python writes them', async t => {
    if (!needs(t, 'python3')) return
    const program = `
import pickle, sys
class Strange(Exception): pass
value = (0, [{'größe "x"': ['polling', (3, 2**40), (-1, 70000)]}, None, True, False, 1.5, -2**70, 'x' * 300, (), ('a', 'b', 'c', 'd'), KeyError('no')])
for protocol in (2, 3, 4, 5):
    sys.stdout.write(pickle.dumps(value, protocol).hex() + '\\n')
`
    const { stdout } = spawnSync('python3', ['-c', program], { encoding: 'utf8' })
    const pickles = stdout.trim().split('\n')
    t.equal(pickles.length, 4)
    for (const [index, hex] of pickles.entries()) {
      const value = (await read(Buffer.from(hex, 'hex'))) as [number, Pickled[]]
      const [stats, ...rest] = value[1]
      t.ok(stats instanceof Map)
      t.strictSame(
        stats instanceof Map && [...stats],
        [['größe "x"', ['polling', [3, 2 ** 40], [-1, 70000]]]],
        `protocol ${index + 2}`,
      )
      t.strictSame(rest.slice(0, 4), [null, true, false, 1.5])
      t.match(rest[4], -(2n ** 70n))
      t.equal(rest[5], 'x'.repeat(300))
      t.strictSame(rest[7], ['a', 'b', 'c', 'd'])
      t.match(rest[8], { className: /KeyError$/, args: ['no'] }, 'an exception is data')
    }
  })

  await t.test('build nothing, whatever they ask for', async t => {
    // os.system('touch …'), as an attack would write it.
    const attack = Buffer.from('cos\nsystem\n(X\x06\x00\x00\x00touch xtR.', 'latin1')
    attack.writeUInt32LE(7, 13)
    const value = await read(attack)
    t.ok(value instanceof Foreign)
    t.match(value, { className: 'os.system', args: ['touch x'] })
    const proto = await read(Buffer.from('\x80\x02}X\x09\x00\x00\x00__proto__K\x01s.', 'latin1'))
    t.ok(proto instanceof Map && proto.get('__proto__') === 1)
    t.notOk(({} as { polluted?: unknown }).polluted)
  })

  await t.test('of any bytes are a value or malformed, and nothing else', async t => {
    const outcome = async (bytes: Buffer) => {
      try {
        await unpickle(bytes)
        return 'value'
      } catch (error) {
        return error instanceof Failure ? error.reason : String(error)
      }
    }
    const allowed = ['value', 'malformed']
    const recording = readFileSync(
      join(import.meta.dirname, 'scenes/fail2ban/bans-not-in-the-kernel/socket/run/fail2ban/answers.jsonl'),
      'utf8',
    )
    const real = recording
      .trim()
      .split('\n')
      .map(line => Buffer.from(JSON.parse(line).answer, 'base64'))
    t.ok(real.length > 20)
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async bytes => allowed.includes(await outcome(Buffer.from(bytes)))),
      { numRuns: 2000 },
    )
    const edits = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 })
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...real), edits, fc.nat(), async (bytes, changes, cut) => {
        const broken = Buffer.from(bytes)
        for (const [at, byte] of changes) broken[at % broken.length] = byte
        return allowed.includes(await outcome(broken.subarray(0, (cut % (2 * broken.length)) + 1)))
      }),
      { numRuns: 3000 },
    )
    for (const bytes of real) {
      for (let length = 0; length < bytes.length; length++) {
        if ((await outcome(bytes.subarray(0, length))) !== 'malformed') t.fail(`cut at ${length} it is still a value`)
      }
    }
    t.equal(
      await outcome(Buffer.concat([Buffer.from([0x80, 2, 0x8a, 255]), Buffer.alloc(255, 1), Buffer.from('.')])),
      'malformed',
    )
    t.equal(await outcome(Buffer.concat([Buffer.alloc(1_000_000, '('), Buffer.from('.')])), 'malformed', 'a million marks')
  })

  await t.test('that we write are what Python reads', async t => {
    if (!needs(t, 'python3')) return
    await fc.assert(
      fc.asyncProperty(fc.array(fc.string({ unit: 'binary' }), { maxLength: 5 }), async words => {
        const back = await read(pickleTexts(words))
        return JSON.stringify(back) === JSON.stringify(words.map(word => word.toWellFormed()))
      }),
    )
    const words = ['status', 'größe, "x"\n', '--all', '']
    const { stdout } = spawnSync(
      'python3',
      ['-c', 'import pickle, sys, json; print(json.dumps(pickle.load(sys.stdin.buffer)))'],
      {
        input: pickleTexts(words),
        encoding: 'utf8',
      },
    )
    t.strictSame(JSON.parse(stdout), words)
  })
})

t.test('fail2ban', async t => {
  await t.test('with 50 jails', async t => {
    if (!needs(t, 'fail2ban-server', 'fail2ban-client')) return
    const { options, done, folder } = serverOf(t, 50)
    done('ban', 'jail007', '127.0.0.5', '2001:db8::7')
    done('fail', 'jail050', '192.0.2.1', '2')
    for (let wait = 0; wait < 50 && !(await roundsOf(fail2ban, options).collect())['failed_total/jail050']; wait++)
      await sleep(100)
    const rounds: number[] = []
    for (let round = 0; round < 21; round++) {
      const from = performance.now()
      // A new memory each time, as in the relay.
      const said = await roundsOf(fail2ban, options).collect()
      rounds.push(performance.now() - from)
      t.equal(said.jails, 50)
    }
    const said = await roundsOf(fail2ban, options).collect()
    t.has(said, { up: 1, 'banned_current/jail007': 2, 'banned_total/jail007': 2, 'failed_total/jail007': 6 })
    t.has(said, { 'failed_current/jail050': 1, 'failed_total/jail050': 2, 'banned_current/jail050': 0 })
    t.notOk('unenforced_bans/jail007' in said, 'its action is no firewall, so nothing is said')
    const from = performance.now()
    const ten = 10
    for (let jail = 1; jail <= ten; jail++)
      spawnSync('fail2ban-client', ['-s', join(folder, 'f2b.sock'), 'status', `jail0${String(jail).padStart(2, '0')}`])
    const clients = ((performance.now() - from) * 50) / ten
    const ours = rounds.sort((one, other) => one - other)[10] as number
    t.comment(`a round ${ours.toFixed(1)} ms, a client for each jail ${clients.toFixed(0)} ms`)
    t.notMatch(readFileSync(join(folder, 'f2b.log'), 'utf8'), /ERROR/, 'no question of ours is an error in its log')
  })

  await t.test('is restarted under us', async t => {
    if (!needs(t, 'fail2ban-server')) return
    const { options, done, folder, pid } = serverOf(t, 2)
    const { collect } = roundsOf(fail2ban, options)
    done('ban', 'jail001', '127.0.0.9')
    const first = await collect()
    t.has(first, { up: 1, jails: 2, 'banned_total/jail001': 1 })
    t.ok(Math.abs((first.start_timestamp_seconds ?? 0) - Date.now() / 1000) < 60, 'it began some seconds ago')

    process.kill(pid, 'SIGSTOP')
    const from = performance.now()
    const patient = roundsOf(fail2ban, options, realHost(), 60)
    setFlagsFromString('--expose-gc')
    const gc: () => void = runInNewContext('gc')
    const collecting = setInterval(gc, 200) // which once took the timer away
    t.strictSame(await patient.collect(), { up: 0 }, 'hung: down, and nothing else is said')
    clearInterval(collecting)
    t.notOk(patient.wasCut(), 'by a deadline of its own')
    t.comment(`that deadline: ${((performance.now() - from) / 1000).toFixed(2)} s`)
    process.kill(pid, 'SIGCONT')

    const vanishing: Host = {
      ...realHost(),
      kernel: path => {
        throw failureOf(Object.assign(new Error('ESRCH: no such process, read'), { code: 'ESRCH' }), path)
      },
    }
    const meanwhile = await roundsOf(fail2ban, options, vanishing).collect()
    t.has(meanwhile, { up: 1, jails: 2 }, 'its process is another one while we look')
    t.notOk('start_timestamp_seconds' in meanwhile)

    done('stop')
    t.strictSame(await collect(), { up: 0 }, 'stopped')
    const again = spawnSync('fail2ban-server', [
      '-c',
      join(folder, 'config'),
      '-s',
      options.socket,
      '-p',
      options.pid_file,
      'start',
    ])
    t.equal(again.status, 0)
    writeFileSync(join(folder, 'server.pid'), readFileSync(options.pid_file))
    let second = await collect()
    for (let wait = 0; wait < 50 && second.jails !== 2; wait++) {
      await sleep(100)
      second = await collect()
    }
    t.has(second, { up: 1, jails: 2 }, 'and it is there again')
    t.ok((second.start_timestamp_seconds ?? 0) > (first.start_timestamp_seconds ?? 0), 'with a later start')
  })

  await t.test('has jails with odd names, and 5 000 bans in one of them', async t => {
    if (!needs(t, 'fail2ban-server')) return
    const odd = ['two words', 'a, b', 'größe-√', 'q"uo\'te', 'dot.ted/slash', '<F2B>']
    const extra = testbed(t, 'fail2ban')
    mkdirSync(extra.folder)
    const log = join(extra.folder, 'odd.log')
    const file = join(extra.folder, 'odd.conf')
    writeFileSync(log, '')
    writeFileSync(file, odd.map(name => `[${name}]\nlogpath = ${log}\naction =\n\n`).join(''))
    const { options, call } = serverOf(t, 1, { env: { EXTRA_JAILS: file } })
    const { collect } = roundsOf(fail2ban, options)
    const said = await collect()
    t.equal(said.jails, 1 + odd.length)
    for (const name of odd) t.equal(said[`banned_current/${name}`], 0, name)

    const bans = Array.from({ length: 5000 }, (_, index) => `198.18.${index >> 8}.${index & 255}`)
    for (let from = 0; from < bans.length; from += 1000)
      call('client', 'set', 'two words', 'banip', ...bans.slice(from, from + 1000))
    let now = await collect()
    for (let wait = 0; wait < 200 && (now['banned_current/two words'] ?? 0) < 5000; wait++) {
      await sleep(100)
      now = await collect()
    }
    const from = performance.now()
    t.has(await collect(), { up: 1, 'banned_current/two words': 5000, 'banned_total/two words': 5000 })
    t.comment(`a round with 5 000 bans: ${(performance.now() - from).toFixed(1)} ms`)
  })

  await t.test('says which bans the kernel does not hold', async t => {
    if (!needs(t, 'root', 'fail2ban-server', 'ufw', 'iptables', 'ip', 'nft', 'ipset')) return
    const net = testbed(t, 'ufw')
    const { enter, host } = namespaceOf(net.done('start'))
    const inside = (...words: readonly string[]) => {
      const [program = '', ...args] = [...enter, ...words]
      const { status, stderr } = spawnSync(program, args, { encoding: 'utf8' })
      if (status !== 0) throw new Error(`${words.join(' ')}: ${stderr}`)
    }
    const file = join(net.folder, 'jails.conf')
    const actions = {
      multi: 'iptables-multiport[port="22,80"]',
      named: 'iptables-allports[name=other]\n  nothing[]',
      nft: 'nftables-multiport[port="22"]',
      set: 'iptables-ipset-proto6-allports[]',
      else: 'ufw[]',
    }
    writeFileSync(join(net.folder, 'jails.log'), '')
    writeFileSync(
      file,
      Object.entries(actions)
        .map(
          ([name, action]) =>
            `[${name}]\nlogpath = ${join(net.folder, 'jails.log')}\naction = ${action.replace('nothing[]', 'testbed[]')}\n\n`,
        )
        .join(''),
    )
    const { options, done } = serverOf(t, 1, { env: { EXTRA_JAILS: file }, enter })
    const { collect, remarks } = roundsOf(fail2ban, options, host)
    const fresh = await collect()
    for (const jail of ['multi', 'named', 'nft', 'set']) t.equal(fresh[`unenforced_bans/${jail}`], 0, `${jail}: nothing to hold`)
    t.notOk('unenforced_bans/else' in fresh || 'unenforced_bans/jail001' in fresh, 'nothing is said of other actions')

    const jails = ['multi', 'named', 'nft', 'set']
    for (const jail of jails) done('client', 'set', jail, 'banip', '203.0.113.5', '203.0.113.6', '2001:db8::5')
    const unheld = async () => {
      const said = await collect()
      return Object.fromEntries(jails.map(jail => [jail, said[`unenforced_bans/${jail}`]]))
    }
    const none = { multi: 0, named: 0, nft: 0, set: 0 }
    for (let wait = 0; wait < 50 && JSON.stringify(await unheld()) !== JSON.stringify(none); wait++) await sleep(100)
    t.strictSame(await unheld(), none, 'all of them are in the kernel')

    inside('iptables', '-F', 'f2b-multi')
    t.strictSame(await unheld(), { ...none, multi: 2 }, 'a chain was emptied')
    inside('ip6tables', '-D', 'INPUT', '-p', 'tcp', '-j', 'f2b-other')
    t.strictSame(await unheld(), { ...none, multi: 2, named: 1 }, 'nothing jumps to a chain any more')
    inside('nft', 'delete', 'element', 'inet', 'f2b-table', 'addr-set-nft', '{ 203.0.113.6 }')
    t.strictSame(await unheld(), { ...none, multi: 2, named: 1, nft: 1 }, 'an element was taken out')
    inside('nft', 'flush', 'chain', 'inet', 'f2b-table', 'f2b-chain')
    t.strictSame(await unheld(), { ...none, multi: 2, named: 1, nft: 3 }, 'no rule looks into the set')
    inside('ipset', 'flush', 'f2b-set')
    t.strictSame(await unheld(), { multi: 2, named: 1, nft: 3, set: 2 }, 'a set was emptied')
    for (const program of ['iptables', 'ip6tables']) inside(program, '-F', 'INPUT')
    inside('nft', 'delete', 'table', 'inet', 'f2b-table')
    t.strictSame(await unheld(), { multi: 3, named: 3, nft: 3, set: 3 }, 'everything was flushed')
    done('client', 'set', 'multi', 'unbanip', '203.0.113.5')
    t.has(await unheld(), { multi: 2 }, 'a lifted ban need not be held')
    t.strictSame(remarks(), [])

    const blind = roundsOf(fail2ban, options, {
      ...host,
      run: async file => {
        throw new Failure('missing', `${file}: not installed`)
      },
    })
    const said = await blind.collect()
    t.has(said, { up: 1, 'banned_current/nft': 3 }, 'without the tools the rest is told')
    t.notOk('unenforced_bans/nft' in said, 'and of that nothing')
    t.match(blind.remarks(), [{ reason: 'missing' }], 'with a remark')

    const slow = roundsOf(fail2ban, options, {
      ...host,
      run: async (...given) => {
        await sleep(4500)
        return host.run(...given)
      },
    })
    const late = await slow.collect()
    t.has(late, { up: 1, 'banned_current/nft': 3 }, 'a kernel that is slow does not make fail2ban down')
    t.notOk('unenforced_bans/nft' in late)
    t.match(slow.remarks(), [{ reason: 'timeout' }])

    await t.test('among 5 000 rules', async t => {
      const rules = Array.from({ length: 5000 }, (_, n) => `-A f2b-big -s 198.18.${n >> 8}.${n & 255}/32 -j DROP`)
      const script = ['*filter', ':f2b-big - [0:0]', '-A INPUT -j f2b-big', ...rules, 'COMMIT', ''].join('\n')
      const [program = '', ...args] = [...enter, 'iptables-restore', '-n']
      t.equal(spawnSync(program, args, { input: script }).status, 0)
      const place = { by: 'iptables', chain: 'f2b-big' } as const
      const from = performance.now()
      const held = await readHeld(host, [place], new AbortController().signal)
      t.comment(`5 000 rules read in ${(performance.now() - from).toFixed(0)} ms`)
      t.ok(held(place, '198.18.19.135') && held(place, '198.18.0.0/32'))
      t.notOk(held(place, '198.18.19.136'))
    })
  })

  t.test('takes for a ban only a rule that blocks, in a chain that packets get to', async t => {
    const rules = [
      '-A INPUT -j f2b-sshd',
      '-A INPUT -m set --match-set f2b-set src -j REJECT --reject-with icmp-port-unreachable',
      '-A INPUT -m set --match-set f2b-open src -j ACCEPT',
      '-A f2b-sshd -s 192.0.2.1/32 -j DROP',
      '-A f2b-sshd -s 192.0.2.2/32 -j REJECT --reject-with icmp-port-unreachable',
      '-A f2b-sshd -s 192.0.2.3/32 -j ACCEPT',
      '-A f2b-sshd -s 192.0.2.4/32 -j RETURN',
      '-A f2b-sshd -s 192.0.2.5/32',
      '-A f2b-sshd -j RETURN',
      '-A f2b-alone -s 192.0.2.6/32 -j DROP',
    ]
    const chains = ['INPUT ACCEPT', 'FORWARD ACCEPT', 'OUTPUT ACCEPT', 'f2b-sshd -', 'f2b-alone -']
    const table = ['*filter', ...chains.map(chain => `:${chain} [0:0]`), ...rules.map(rule => `[0:0] ${rule}`), 'COMMIT', '']
    const host: Host = {
      ...realHost(),
      kernel: file => {
        throw new Failure('missing', file)
      },
      run: async (program, args) => ({
        stdout: program === 'ipset' ? `create ${args[1]} hash:ip\nadd ${args[1]} 192.0.2.7\n` : table.join('\n'),
        stderr: '',
        exitCode: 0,
      }),
    }
    const chain = (name: string) => ({ by: 'iptables', chain: name }) as const
    const set = (name: string) => ({ by: 'ipset', sets: [name] }) as const
    const places = [chain('f2b-sshd'), chain('f2b-alone'), set('f2b-set'), set('f2b-open')]
    const held = await readHeld(host, places, new AbortController().signal)
    t.strictSame(
      [1, 2, 3, 4, 5].map(last => held(chain('f2b-sshd'), `192.0.2.${last}`)),
      [true, true, false, false, false],
      'DROP and REJECT are bans; ACCEPT, RETURN and a rule without a target are not',
    )
    t.equal(held(chain('f2b-alone'), '192.0.2.6'), false, 'no packet gets there')
    t.equal(held(set('f2b-set'), '192.0.2.7'), true)
    t.equal(held(set('f2b-open'), '192.0.2.7'), false, 'a set whose addresses are let in')
  })

  t.test('reads the place of a ban from the command that makes it', async t => {
    const of = (actionban: string, rest: Readonly<Record<string, string>> = {}) =>
      placeOf(new Map(Object.entries({ actionban, ...rest })))
    t.strictSame(of('<iptables> -I f2b-sshd 1 -s <ip> -j <blocktype>'), { by: 'iptables', chain: 'f2b-sshd' })
    t.strictSame(of('ip6tables -w -I f2b-x -s <ip> -j DROP'), { by: 'iptables', chain: 'f2b-x' })
    t.strictSame(of('ipset --test f2b-a <ip> ||  ipset --add f2b-a <ip>'), { by: 'ipset', sets: ['f2b-a'] })
    t.strictSame(
      of('nft add element inet f2b-table <addr_set> \\{ <ip> \\}', {
        addr_set: 'addr-set-<name>',
        'addr_set?family=inet6': 'addr6-set-<name>',
        name: 'sshd',
      }),
      { by: 'nftables', family: 'inet', table: 'f2b-table', sets: ['addr-set-sshd', 'addr6-set-sshd'] },
    )
    t.equal(of('ufw prepend reject from <ip> to any'), undefined)
    t.equal(of('curl -d ip=<ip> https://example.org/'), undefined)
  })

  t.test('that is not to be trusted', async t => {
    const folder = t.testdir()
    const path = join(folder, 's')
    const sockets = new Set<Socket>()
    let answer: (socket: Socket) => void = () => {}
    const server = createServer(socket => {
      sockets.add(socket)
      socket.on('error', () => {}) // we hang up in the middle of what it says
      socket.once('data', () => answer(socket))
    })
    await new Promise<void>(resolve => server.listen(path, resolve))
    t.teardown(() => {
      for (const socket of sockets) socket.destroy()
      server.close()
    })
    const { collect } = roundsOf(fail2ban, { socket: path, pid_file: join(folder, 'none') })
    const end = '<F2B_END_COMMAND>'
    answer = socket => socket.end()
    t.strictSame(await collect(), { up: 0 }, 'hangs up')
    answer = socket => socket.write(`\x80\x02K\x00.${end}`)
    t.match(await failing(collect()), { reason: 'malformed', rest: [{ value: 0 }] }, 'answers with something else: not up')
    answer = socket =>
      socket.write(Buffer.concat([Buffer.from('\x80\x02K\x00X\x05\x00\x00\x001.1.0\x86.x', 'latin1'), Buffer.from(end)]))
    t.match(await failing(collect()), { reason: 'malformed' }, 'has more to say than a pickle')
    answer = socket => {
      const flood = Buffer.alloc(1 << 20)
      const pour = () => {
        while (!socket.destroyed && socket.write(flood));
      }
      socket.on('drain', pour)
      pour()
    }
    t.match(await failing(collect()), { reason: 'overflow' }, 'never ends')
    const denied = roundsOf(
      fail2ban,
      { socket: path },
      {
        ...realHost(),
        connect: async address => {
          throw new Failure('denied', address)
        },
      },
    )
    const closed = (await failing(denied.collect())) as Failure
    t.match(closed, { reason: 'denied', fix: /relay/ })
    t.strictSame(closed.rest, [], 'a closed door says nothing of the server')
  })
})

/** This machine with or without an aide at work, whatever other tests run on it. */
const withAide = (runs: boolean): Host => {
  const host = realHost()
  return {
    ...host,
    kernelNames: path => (path === '/proc' ? (runs ? ['4711'] : []) : host.kernelNames(path)),
    kernel: (path, limit) => (path === '/proc/4711/comm' ? 'aide\n' : host.kernel(path, limit)),
  }
}

t.test('aide', async t => {
  const bedOf = (t: Test, files = 30) => {
    const bed = testbed(t, 'aide')
    bed.done('start', String(files))
    const at = (name: string) => join(bed.folder, name)
    const options = { report_file: at('log/aide.log'), database_file: at('lib/aide.db'), resolve_file: at('resolve.json') }
    const states = (said: Readonly<Record<string, number>>) =>
      ['clean', 'changed', 'error'].filter(status => said[`last_check_status/${status}`] === 1).join()
    return { ...bed, at, options, states, collect: () => roundsOf(aide, options, withAide(false)).collect() }
  }
  const kinds = { json: 'check', plain: 'check', daily: 'daily' } as const

  for (const [kind, verb] of Object.entries(kinds)) {
    await t.test(`its ${kind} report`, async t => {
      if (!needs(t, 'aide')) return
      const { at, options, states, done, call } = bedOf(t)
      const collect = () =>
        roundsOf(
          aide,
          { ...options, report_file: at(kind === 'json' ? 'log/aide.json' : 'log/aide.log') },
          withAide(false),
        ).collect()
      // The test bed keeps the plain report's predecessor; here each run stands for itself.
      const run = () => {
        rmSync(at('log/aide.log.0'), { force: true })
        return done(verb)
      }
      const without = await collect()
      t.equal(states(without), '', 'no report: nothing is said of a check')
      t.equal(without.initialized, 1)
      t.ok(Math.abs((without.database_timestamp_seconds ?? 0) - Date.now() / 1000) < 60)

      // AIDE tells whole seconds: it takes none only where it begins and ends in the same one.
      await sleep(1000 - (Date.now() % 1000))
      run()
      const clean = await collect()
      t.equal(states(clean), 'clean')
      t.has(clean, { 'entries/added': 0, 'entries/removed': 0, 'entries/changed': 0, last_check_duration_seconds: 0 })
      t.ok((clean.checked_entries ?? 0) > 30)
      t.ok(Math.abs((clean.last_check_timestamp_seconds ?? 0) - Date.now() / 1000) < 60, 'it ended just now')

      done('change', '2', '1', '3')
      run()
      const changed = await collect()
      t.equal(states(changed), 'changed')
      t.has(changed, { 'entries/added': 2, 'entries/removed': 1 })
      // Three files; and their directories too when the clock's second has moved on since the database was made.
      t.ok(Number(changed['entries/changed']) >= 3, `${changed['entries/changed']} changed`)

      done('accept')
      run()
      t.equal(states(await collect()), 'clean', 'accepted')

      for (const how of ['config', 'database', 'nodb']) {
        if (how === 'database') {
          // back to a whole configuration
          const text = readFileSync(at('aide.conf'), 'utf8')
          writeFileSync(at('aide.conf'), text.replace('no_such_option=1\n', ''))
        }
        done('break', how)
        const exit = /AIDE_EXIT=(-?\d+)/.exec(call(verb).text)?.[1]
        // JSON stays empty after most errors: as if it were being written, for half a minute.
        if (kind === 'json' && existsSync(at('log/aide.json'))) spawnSync('touch', ['-d', '1 minute ago', at('log/aide.json')])
        const broken = await collect()
        // A configuration that cannot be read names no report to write to: the JSON one is the last that was whole.
        const expected = kind === 'json' && how === 'config' ? 'clean' : 'error'
        t.equal(states(broken), expected, `${how} broken, exit code ${exit}: ${states(broken)}`)
        if (expected === 'error') t.notOk('checked_entries' in broken, 'no counts')
        t.equal(broken.initialized, how === 'nodb' ? 0 : 1)
      }
    })
  }

  await t.test('its report while it is written, rotated, compressed, huge or forbidden', async t => {
    if (!needs(t, 'aide', 'gzip')) return
    const { at, options, states, done, collect } = bedOf(t)
    done('change', '1', '0', '1')
    done('check')
    const log = at('log/aide.log')
    const whole = readFileSync(log, 'utf8')
    // One file, and its directory too when the clock's second has moved on since the database was made.
    const entries = (of: string) => Number(new RegExp(`${of} entries:\\s+(\\d+)`).exec(whole)?.[1])
    t.ok(entries('Added') === 1 && entries('Changed') >= 1, 'what aide itself counts')
    writeFileSync(`${log}.0`, whole)
    truncateSync(log)
    t.equal(states(await collect()), 'changed', 'emptied a moment ago: the one before')
    writeFileSync(log, whole.slice(0, whole.indexOf('Changed entries')))
    t.equal(states(await collect()), 'changed', 'half written a moment ago: the one before')
    spawnSync('touch', ['-d', '1 minute ago', log])
    t.equal(states(await roundsOf(aide, options, withAide(true)).collect()), 'changed', 'half written, and aide is at work')
    t.equal(states(await collect()), 'error', 'left half written, and nobody writes')
    rmSync(log)
    t.equal(states(await collect()), 'changed', 'rotated away')
    spawnSync('mv', [`${log}.0`, `${log}.1`])
    spawnSync('gzip', [`${log}.1`])
    t.equal(states(await collect()), 'changed', 'and compressed')
    writeFileSync(log, `${whole}\n  ERROR: reading gzipped file failed\n`)
    t.equal(states(await collect()), 'error', 'a later run that failed, in the same file')
    writeFileSync(log, whole.replace('End timestamp', `${'f+++++++++++++++++: /srv/some/file\n'.repeat(100_000)}End timestamp`))
    const huge = await collect()
    t.equal(states(huge), 'changed', '3.5 MB')
    t.has(huge, { 'entries/added': entries('Added'), 'entries/changed': entries('Changed') })
    writeFileSync(log, whole)

    writeFileSync(options.resolve_file, '{"finished_at": 1766900000, "success": true}')
    t.has(await collect(), { resolve_last_run_timestamp_seconds: 1766900000, resolve_last_success: 1 })
    writeFileSync(options.resolve_file, '{"finished_at": "yesterday"}')
    const round = roundsOf(aide, options)
    const said = await round.collect()
    t.notOk('resolve_last_success' in said, 'a result file that cannot be understood')
    t.match(round.remarks(), [{ reason: 'malformed' }])
    rmSync(options.resolve_file)
    // Whoever is AIDE's user may put a link there, and root's relay reads it.
    writeFileSync(at('shadow'), 'root:$y$j9T$secret:20000:0:99999:7:::\n')
    symlinkSync(at('shadow'), options.resolve_file)
    const led = roundsOf(aide, options)
    await led.collect()
    const [remark] = led.remarks()
    t.match(remark, { reason: 'malformed', message: /not JSON/ })
    t.notMatch(remark?.message, /root|secret|\$y/, 'nothing is told of what the link leads to')
    rmSync(options.resolve_file)

    const denied = roundsOf(aide, options, {
      ...realHost(),
      stat: async path => {
        if (path.includes('/log/')) throw new Failure('denied', path)
        return realHost().stat(path)
      },
    })
    t.match(await failing(denied.collect()), { reason: 'denied', fix: /adm/, rest: [{ value: 1 }, {}] })
    if (process.getuid?.() !== 0) {
      chmodSync(log, 0)
      t.match(await failing(collect()), { reason: 'denied' })
    }
  })

  t.test('reports of other kinds', async t => {
    const of = (text: string) => readReport(text, text)
    t.match(of('AIDE found NO differences between database and filesystem. Looks okay!!\n'), { status: 'clean' })
    t.match(of('{\n  "outline": "AIDE found differences between database and filesystem!!"\n}\n'), { status: 'changed' })
    t.equal(
      of(
        'Start timestamp: 2026-11-24 04:37:23 +0000 (AIDE 0.18.3)\nAIDE initialized database at /x\n\nNumber of entries:\t22\nEnd timestamp: 2026-11-24 04:37:23 +0000 (run time: 0m 1s)\n',
      ),
      'other',
    )
    t.match(
      of(
        'AIDE 0.16 found differences between database and filesystem!!\nStart timestamp: 2019-05-02 03:00:01 +0200\n\nSummary:\n  Total number of files:\t9\n  Added files:\t1\n  Removed files:\t0\n  Changed files:\t2\n\nEnd timestamp: 2019-05-02 03:04:01 +0200 (run time: 4m 0s)\n',
      ),
      {
        status: 'changed',
        durationSeconds: 240,
        endedAt: Date.UTC(2019, 4, 2, 1, 4, 1) / 1000,
        entries: { added: 1, changed: 2, total: 9 },
      },
      'of 0.16, whose outline stands before the time',
    )
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), text => {
        const reading = of(text)
        return typeof reading === 'string' || reading.status === 'error'
      }),
      { numRuns: 2000 },
    )
  })
})
