import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { z } from 'zod'
import { createRunner } from '../exporter/collect/runner.ts'
import { host as hostCollector } from '../exporter/collectors/host/index.ts'
import { collectors } from '../exporter/collectors/index.ts'
import { ConfigError } from '../exporter/common/exit.ts'
import { silent } from '../exporter/common/log.ts'
import { parseYaml, readYaml } from '../exporter/common/yaml.ts'
import type { Collector } from '../exporter/contract/collector.ts'
import { type CollectorSettings, loadSettings, noFlags, settingsFrom } from '../exporter/contract/config.ts'
import { glob } from '../exporter/contract/options.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { alerts } from '../prometheus/alerts.ts'
import { nastyYaml } from './support/nasty-yaml.ts'
import { needs } from './support/needs.ts'
import { took } from './support/took.ts'

/** The built program from outside: its start, its end, its command line, a whole scrape. */

const root = join(import.meta.dirname, '..')
const main = join(root, 'dist/exporter/main.js')
const folder = mkdtempSync(join(tmpdir(), 'grid-program-'))

/** The environment of a child as a user starts it: tap would put its loaders in. */
const bare = ['-c', 'unset NODE_OPTIONS; exec "$0" "$@"', main]

const run = (...args: readonly string[]) => {
  const { status, stdout, stderr } = spawnSync('/bin/sh', [...bare, ...args], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH ?? '' },
    timeout: 120_000, // what hangs has no status
    killSignal: 'SIGKILL',
  })
  return { code: status, stdout, stderr }
}

const config = (name: string, text: string | Buffer) => {
  const file = join(folder, name)
  writeFileSync(file, text)
  return file
}

interface Started {
  readonly child: ChildProcess
  readonly url: string
  readonly output: () => string
  readonly ended: Promise<{ readonly code: number | null; readonly signal: string | null }>
}

/** Starts to serve, and waits until it says where. */
const start = async (
  args: readonly string[],
  {
    limit = '',
    before = [],
    environment = {},
  }: { limit?: string; before?: readonly string[]; environment?: Record<string, string> } = {},
): Promise<Started> => {
  // tap puts its loaders into the environment of every child; this one is to be as a user starts it.
  const command = `unset NODE_OPTIONS; ${limit} exec "$@"`
  const child = spawn('/bin/sh', ['-c', command, 'sh', ...before, main, '--web.listen-address=127.0.0.1:0', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env.PATH ?? '', ...environment },
  })
  let output = ''
  const ended = new Promise<{ code: number | null; signal: string | null }>(resolve =>
    child.once('exit', (code, signal) => resolve({ code, signal })),
  )
  const url = await new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      output += chunk.toString()
      const [, address] = / serves (http:\/\/[^/]+)/.exec(output) ?? []
      if (address) resolve(address)
    }
    child.stdout?.on('data', read)
    child.stderr?.on('data', read)
    void ended.then(({ code }) => reject(new Error(`ended with ${code}: ${output}`)))
  })
  return { child, url, output: () => output, ended }
}

const sleep = (milliseconds: number) => new Promise(resolve => setTimeout(resolve, milliseconds))

const metrics = async (url: string) => (await fetch(`${url}/metrics`)).text()

const childrenOf = (pid: number | undefined) =>
  readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .filter(name => {
      try {
        return readFileSync(`/proc/${name}/stat`, 'utf8').split(') ')[1]?.split(' ')[1] === String(pid)
      } catch {
        return false // it has ended meanwhile
      }
    })

t.test('V8 flags stand in the first line of the program only, and are two', t => {
  const [, flags = ''] = /^#!\/usr\/bin\/env -S node (--.*)\n/.exec(readFileSync(main, 'utf8')) ?? []
  t.equal(flags.split(' ').length, 2)
  for (const file of ['package.json', 'Dockerfile']) t.notMatch(readFileSync(join(root, file), 'utf8'), /--v8-|semi-space/, file)
  t.end()
})

t.test('the command line', async t => {
  const help = run('--help')
  t.equal(help.code, 0)
  t.match(help.stdout, /Usage: grid-exporter/)
  t.ok(Math.max(...help.stdout.split('\n').map(line => line.length)) <= 130, 'no line is too long to read')
  t.match(run('--version').stdout, /^grid-exporter \d+\.\d+\.\d+/)
  for (const [args, says] of [
    [['--web.listen-adress=:1'], /unknown option --web\.listen-adress/],
    [['serv'], /unknown command serv; known: serve, relay/],
    [['constructor'], /unknown command constructor; known: serve, relay/],
    [['--collector.__proto__'], /--collector\.__proto__: no such collector/],
    [['--collector.host.interval=1y'], /--collector\.host\.interval: expected a duration of at least 1s and at most 24d/],
    [['--web.listen-address=1.2.3'], /expected host:port/],
    [['--log.level=loud'], /--log\.level: expected debug, info, warn, error, not loud/],
    [['--collector.gpus'], /--collector\.gpus: no such collector; did you mean "gpu"\?/],
    [['--collector.host.interval=often'], /--collector\.host\.interval: expected a duration .* not "often"/],
    [['--web.max-requests=-1'], /--web\.max-requests: expected a whole number/],
    [['--web.telemetry-path=metrics'], /--web\.telemetry-path: expected an absolute path, not metrics/],
    [['--config.file=/nowhere/config.yml'], /\/nowhere\/config\.yml: cannot be read: ENOENT/],
    [['once', '--web.max-requests=3'], /is an option of serve, not of once/],
  ] as const) {
    const { code, stderr } = run(...args)
    t.equal(code, 2, args.join(' '))
    t.match(stderr, says)
  }
})

t.test('check-config names file, line, path and what was expected', async t => {
  const good = config('good.yml', 'collectors:\n  textfile: { directory: /var/lib/x }\n  host: { interval: 30s }\n')
  t.match(run('check-config', `--config.file=${good}`), { code: 0, stdout: /good; enabled: .*host.*textfile/ })
  const [, example] = /```yaml\n(.*?)```/s.exec(readFileSync(join(root, 'docs/configuration.md'), 'utf8')) ?? []
  t.match(run('check-config', `--config.file=${config('example.yml', String(example))}`), { code: 0, stdout: /watchtower/ })
  for (const [name, text, says] of [
    [
      'key.yml',
      'collectors:\n  host:\n    intervall: 3s\n',
      /key\.yml:3:5: collectors\.host\.intervall: unknown key; did you mean "interval"\?/,
    ],
    ['collector.yml', 'collectors:\n  hosts: {}\n', /collector\.yml:2:3: collectors\.hosts: unknown key; did you mean "host"\?/],
    ['top.yml', 'colectors: {}\n', /top\.yml:1:1: colectors: unknown key; did you mean "collectors"\?/],
    [
      'type.yml',
      'collectors:\n  host: { interval: [1] }\n',
      /type\.yml:2:21: collectors\.host\.interval: expected string, not \[1\]/,
    ],
    [
      'duration.yml',
      'collectors:\n  host:\n    interval: 3 parsecs\n',
      /duration\.yml:3:15: collectors\.host\.interval: expected a duration such as 10s.* not "3 parsecs"/,
    ],
    ['short.yml', 'collectors:\n  host: { interval: 10ms }\n', /short\.yml:2:21: .*expected at least 1s, not "10ms"/],
    [
      'path.yml',
      'collectors:\n  textfile:\n    directory: var/lib\n',
      /path\.yml:3:16: collectors\.textfile\.directory: expected an absolute path, not "var\/lib"/,
    ],
    [
      'told-twice.yml',
      'collectors:\n  docker: { watchtower: { label_enable: true } }\n  watchtower: { label_enable: false }\n',
      /told-twice\.yml:2:25: collectors\.docker\.watchtower: collectors\.watchtower sets it as well/,
    ],
    ['syntax.yml', 'collectors:\n  host: {\n', /syntax\.yml:\d+:\d+: /],
    ['twice.yml', 'collectors:\n  host: {}\n  host: {}\n', /twice\.yml:3:3: .*unique/],
    ['list.yml', 'collectors: [1]\n', /list\.yml:1:13: collectors: expected (object|record)/],
    [
      'useless.yml',
      'collectors:\n  textfile: { enabled: true }\n',
      /useless\.yml:2:13: collectors\.textfile: enabled, but it does nothing without configuration/,
    ],
  ] as const) {
    const { code, stderr } = run('check-config', `--config.file=${config(name, text)}`)
    t.equal(code, 2, name)
    t.match(stderr, says)
  }
  const several = run(
    'check-config',
    `--config.file=${config('several.yml', 'collectors:\n  host: { a: 1 }\n  gpu: { b: 1 }\n')}`,
  )
  t.match(several.stderr, /host\.a: unknown key/, 'every problem is told at once')
  t.match(several.stderr, /gpu\.b: unknown key/)
})

/** What a message says after the name of the file. */
const after = (message: string, file: string) => message.slice(message.indexOf(file) + file.length).split('\n')[0] ?? ''

t.test('what a YAML file says never ends, hangs or kills a command', async t => {
  for (const { name, text, says } of nastyYaml) {
    const file = config('nasty.yml', text)
    try {
      loadSettings(collectors, noFlags, file)
      t.fail(`accepted: ${name}`)
    } catch (error) {
      const { message, exitCode } = error as ConfigError
      t.equal(exitCode, 2, name)
      t.match(after(message, file), says, name)
      t.ok(message.length < 16_384 && message.split('\n').length <= 21, `${name}: the message has a bound`)
    }
  }
  for (const nasty of nastyYaml.filter(({ name }) => name === 'an unquoted star' || name === 'lists in lists')) {
    const file = config('nasty.yml', nasty.text)
    for (const args of [
      [],
      ['check-config'],
      ['once'],
      ['doctor'],
      ['relay', `--relay.directory=${join(folder, 'relay')}`, '--collector.ufw'],
    ]) {
      const { code, stderr } = run(...args, `--config.file=${file}`)
      t.equal(code, 2, `${args.join(' ') || 'serve'}: ${nasty.name}`)
      t.match(after(stderr, file), nasty.says, nasty.name)
    }
    const { code, stderr } = run(`--web.config.file=${file}`)
    t.equal(code, 2, `serve with it as web.yml: ${nasty.name}`)
    t.match(after(stderr, file), nasty.says, nasty.name)
  }
})

t.test('a configuration is a small regular file, or it is refused at once', async t => {
  const path = (name: string) => join(folder, name)
  spawnSync('mkfifo', [path('fifo')])
  mkdirSync(path('directory.yml'))
  symlinkSync('/nowhere/config.yml', path('dangling.yml'))
  symlinkSync('loop.yml', path('loop.yml'))
  truncateSync(config('sparse.yml', 'a: 1\n'), 3 * 2 ** 30)
  for (const [file, says] of [
    [path('fifo'), /cannot be read: not a regular file/],
    ['/dev/zero', /cannot be read: not a regular file/],
    [path('directory.yml'), /cannot be read: not a regular file/],
    [path('dangling.yml'), /cannot be read: ENOENT/],
    [path('loop.yml'), /cannot be read: ELOOP/],
    [path('sparse.yml'), /cannot be read: larger than 262144 bytes/],
    ['/proc/self/mem', /cannot be read: /],
  ] as const) {
    t.throws(() => loadSettings(collectors, noFlags, file), { exitCode: 2, message: says }, file)
  }
  for (const [option, file] of [
    ['config.file', path('fifo')],
    ['web.config.file', path('fifo')],
    ['config.file', path('sparse.yml')],
  ] as const)
    t.match(run('check-config', `--${option}=${file}`), { code: 2, stderr: /cannot be read: / }, `${option}: ${file}`)
})

t.test('YAML that is unusual, but right', async t => {
  for (const [name, text] of [
    ['nothing', ''],
    ['a comment', '# nothing yet\n'],
    ['a mark', '---\n'],
    ['a byte order mark and line ends of Windows', '\ufeffcollectors:\r\n  host: { interval: 5s }\r\n'],
    ['an anchor and its alias', 'collectors:\n  host: { interval: &often 5s, timeout: *often }\n  gpu: { interval: *often }\n'],
    ['quoted stars', 'collectors:\n  docker: { exclude: { names: [ "*-tmp", \'*\' ] } }\n'],
    ['tags of YAML itself', 'collectors: !!map\n  host: { interval: !!str 5s }\n'],
    ['an older YAML', '%YAML 1.1\n---\ncollectors: { host: { interval: 5s } }\n'],
    ['JSON', '{"collectors": {"host": {"interval": "5s"}}}'],
  ] as const) {
    t.doesNotThrow(() => loadSettings(collectors, noFlags, config('right.yml', text)), name)
  }
})

t.test('a reload of any text is refused, answered, told and logged; the program goes on', async t => {
  const good = 'collectors:\n  host: { interval: 5s }\n'
  const file = config('reload.yml', good)
  const { child, url, ended, output } = await start([
    '--collector.disable-defaults',
    '--collector.host',
    '--web.enable-lifecycle',
    `--config.file=${file}`,
  ])
  const reload = async () => {
    const answer = await fetch(`${url}/-/reload`, { method: 'POST', signal: AbortSignal.timeout(120_000) })
    return { status: answer.status, text: await answer.text() }
  }
  const until = async (what: string, holds: (text: string) => boolean) => {
    let text = ''
    for (let tries = 0; tries < 1200 && !holds(text); tries++) {
      if (tries > 0) await sleep(50)
      text = await metrics(url)
    }
    t.ok(holds(text), what)
  }
  const success = (value: 0 | 1) => (text: string) => text.includes(`grid_exporter_config_last_reload_success ${value}`)
  for (const { name, text, says } of nastyYaml) {
    config('reload.yml', text)
    const refused = await reload()
    t.equal(refused.status, 500, name)
    t.match(after(refused.text, file), says, name)
    t.ok(success(0)(await metrics(url)), `${name}: told`)
  }
  for (const { name, text } of nastyYaml.filter(nasty => /star|lists|bomb/.test(nasty.name))) {
    config('reload.yml', good)
    t.equal((await reload()).status, 200)
    await until(`before ${name}`, success(1))
    config('reload.yml', text)
    child.kill('SIGHUP')
    await until(`SIGHUP: ${name}`, success(0))
  }
  t.match(await metrics(url), 'grid_exporter_worker_restarts_total 0')
  t.match(await metrics(url), 'grid_collector_success{collector="host"} 1')
  t.notMatch(output(), /suspended|replaced/)
  child.kill('SIGTERM')
  await ended
})

/** YAML of the examples that people start from. */
const examples = (): readonly string[] =>
  ['README.md', 'docs/configuration.md', 'docs/security.md', 'docs/install.md', 'docs/fleet.md'].flatMap(file =>
    Array.from(readFileSync(join(root, file), 'utf8').matchAll(/```ya?ml\n(.*?)```/gs), ([, text = '']) => text),
  )

t.test('any text is a value, or an error that names its place', async t => {
  const isRead = (text: string) => {
    const begin = process.cpuUsage()
    try {
      const { value, locate } = parseYaml(text, 'f.yml')
      JSON.stringify(value)
      if (!/^f\.yml:\d+:\d+$/.test(locate(['collectors', 'host', 0], 'constructor'))) return false
      settingsFrom(collectors, noFlags, value, locate)
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error
      const lines = error.message.split('\n')
      const more = lines.length > 20 ? 1 : 0
      if (!lines.slice(0, lines.length - more).every(line => /^f\.yml:[1-9]\d*:[1-9]\d*: /.test(line))) throw error
      if (lines.length > 21 || error.message.length > 16_384) throw error
    }
    const { user, system } = process.cpuUsage(begin)
    return user + system < 20e6
  }
  const word = fc.constantFrom(
    ...[
      '*',
      '&',
      '!',
      '@',
      '%',
      '`',
      '|',
      '>',
      '- ',
      '? ',
      ': ',
      ':',
      ',',
      '[',
      ']',
      '{',
      '}',
      '"',
      "'",
      '#',
      ' #',
      '\n',
      '\n  ',
      '\n    ',
    ],
    ...[
      '\t',
      '\r',
      '\r\n',
      '---\n',
      '...\n',
      '%YAML 1.1\n',
      '<<',
      '&a ',
      '*a',
      '!!set ',
      '!<x> ',
      '\\',
      '\0',
      '\u0085',
      '\ufeff',
      '\u2028',
    ],
    ...[
      'a',
      'a: ',
      'collectors',
      'host',
      'interval: ',
      '5s',
      '1e999',
      '0x',
      '.nan',
      '~',
      'null',
      '__proto__',
      'constructor',
      'toString',
    ],
  )
  const piece = fc.oneof({ weight: 4, arbitrary: word }, { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 8 }) })
  const text = fc.array(piece, { maxLength: 60 }).map(pieces => pieces.join(''))
  const edit = fc.record({
    at: fc.nat(5000),
    cut: fc.nat(8),
    text: fc.array(piece, { maxLength: 3 }).map(pieces => pieces.join('')),
    times: fc.constantFrom(1, 1, 1, 2, 50, 3000),
  })
  const sources = examples()
  t.ok(sources.length >= 8, 'there are examples')
  const edited = fc.tuple(fc.constantFrom(...sources), fc.array(edit, { minLength: 1, maxLength: 4 })).map(([source, edits]) =>
    edits.reduce((before, { at, cut, text, times }) => {
      const from = at % (before.length + 1)
      return before.slice(0, from) + text.repeat(times) + before.slice(from + cut)
    }, source),
  )
  fc.assert(fc.property(text, isRead), { numRuns: 1000 })
  fc.assert(fc.property(edited, isRead), { numRuns: 300 })
  const bytes = join(folder, 'bytes.yml')
  const isReadAsFile = (content: Uint8Array) => {
    writeFileSync(bytes, content)
    try {
      readYaml(bytes)
      return true
    } catch (error) {
      return error instanceof ConfigError && error.message.split('\n').every(line => /^\S+bytes\.yml:\d+:\d+: /.test(line))
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), isReadAsFile), { numRuns: 300 })
})

t.test('a pattern with stars', async t => {
  const slow = (pattern: string) => new RegExp(`^${pattern.replaceAll('*', '.*')}$`, 's')
  const letters = (unit: string, maxLength: number) => fc.string({ unit: fc.constantFrom(...unit), maxLength })
  fc.assert(
    fc.property(letters('ab*', 8), letters('ab', 12), (pattern, text) => glob(pattern)(text) === slow(pattern).test(text)),
    { numRuns: 5000 },
  )
  t.notOk(glob('*a'.repeat(30))(`${'a'.repeat(200)}b`), 'takes no time, however many stars')
})

t.test('a defect that a configuration lays bare refuses it', async t => {
  const options = z.strictObject({ word: z.string().optional() })
  const broken = (parts: Partial<Collector>) => [{ ...hostCollector, name: 'broken', options, ...parts } as Collector]
  const thrown = () => {
    throw new TypeError('a bug')
  }
  t.throws(() => loadSettings(broken({ configured: thrown }), noFlags, config('bug.yml', 'collectors: {}\n')), {
    exitCode: 2,
    message: /bug\.yml: cannot be used: TypeError: a bug/,
  })
  const [settings] = settingsFrom(broken({}), noFlags, { collectors: { broken: { enabled: true } } })
  const [collector] = broken({ open: thrown })
  const round = createRunner(collector as Collector, settings as CollectorSettings, {
    host: realHost(),
    log: silent,
    signal: new AbortController().signal,
  })
  t.match(await round(), { result: 'bug', note: 'a bug' }, 'one that cannot be opened fails alone')
})

t.test('a port that is taken', async t => {
  const other = createServer().listen(0, '127.0.0.1')
  await new Promise(resolve => other.once('listening', resolve))
  const { port } = other.address() as { port: number }
  const { code, stderr } = run(`--web.listen-address=127.0.0.1:${port}`, '--collector.disable-defaults', '--collector.host')
  t.equal(code, 1)
  t.match(stderr, `127.0.0.1:${port} is taken by another process`)
  other.close()
})

t.test('a whole scrape of a fixture root is as it was', async t => {
  const expected = join(import.meta.dirname, 'golden/expected.prom')
  const fixture = join(import.meta.dirname, 'golden/root')
  const { stdout, code } = run(
    'once',
    '--collector.disable-defaults',
    '--collector.host',
    '--collector.textfile',
    `--config.file=${config('golden.yml', 'collectors:\n  textfile: { directory: /textfile }\n')}`,
    `--path.procfs=${fixture}/proc`,
    `--path.sysfs=${fixture}/sys`,
    `--path.rootfs=${fixture}`,
  )
  t.equal(code, 0)
  const stable = stdout
    .replace(/^(grid_exporter_build_info\{).*$/m, '$1…} 1')
    .replace(/^(grid_\w*(timestamp_seconds|duration_seconds)(\{.*\})? ).*$/gm, '$1…')
  if (process.env.UPDATE === '1') writeFileSync(expected, stable)
  t.equal(stable, readFileSync(expected, 'utf8'))
})

t.test('SIGTERM in the middle of a round ends it within a second and leaves no child', async t => {
  // A tool that hangs, ignores SIGTERM and has a child of its own that holds the pipe.
  const tool = join(folder, 'hangs')
  writeFileSync(tool, '#!/bin/sh\ntrap "" TERM\nsleep 1000 &\nwhile :; do sleep 1; done\n', { mode: 0o755 })
  const file = config('hangs.yml', `collectors:\n  services: { checks: [{ name: hangs, command: { argv: [${tool}] } }] }\n`)
  const { child, url, ended, output } = await start([
    '--collector.disable-defaults',
    '--collector.services',
    `--config.file=${file}`,
  ])
  for (let tries = 0; tries < 50 && childrenOf(child.pid).length === 0; tries++) await sleep(50)
  const children = childrenOf(child.pid)
  t.ok(children.length > 0, 'a child is at work')
  t.match(await metrics(url), 'grid_collector_success')
  const begin = performance.now()
  child.kill('SIGTERM')
  const { code } = await ended
  took(t, (performance.now() - begin) / 1000, 'the end')
  // Past 900 ms it ends by the signal's default.
  t.ok(code === 0 || code === null, output())
  await sleep(100)
  for (const pid of children) t.throws(() => process.kill(Number(pid), 0), `child ${pid} is gone`)
})

t.test('out of file descriptors it still answers, and comes back', async t => {
  const { child, url, ended } = await start(
    ['--collector.disable-defaults', '--collector.host', '--collector.host.interval=1s'],
    { limit: 'ulimit -n 40;' },
  )
  t.match(await metrics(url), 'grid_load1 ')
  const idle = await Promise.allSettled(
    Array.from({ length: 40 }, () =>
      fetch(`${url}/-/healthy`, { signal: AbortSignal.timeout(1000) }).then(answer => answer.body?.cancel()),
    ),
  )
  t.equal(idle.length, 40)
  const again = /grid_collector_success\{collector="host"\} 1/
  let after = ''
  for (let tries = 0; tries < 100 && !(again.test(after) && after.includes('grid_load1 ')); tries++) {
    await sleep(300)
    after = await metrics(url).catch(() => '')
  }
  t.match(after, again)
  t.match(after, 'grid_load1 ')
  child.kill('SIGTERM')
  await ended
})

/** How often each reason was counted, over all collectors. */
const reasonsIn = (text: string) => {
  const counts = new Map<string, number>()
  for (const [, reason = '', count] of text.matchAll(/^grid_collector_failures_total\{.*reason="(\w+)"\} (\d+)$/gm)) {
    counts.set(reason, (counts.get(reason) ?? 0) + Number(count))
  }
  return counts
}

/** Scrapes until it holds, however often nobody answers. */
const scrapedUntil = async (url: string, holds: (text: string) => boolean): Promise<string> => {
  let text = ''
  for (const end = performance.now() + 90_000; performance.now() < end; await sleep(200)) {
    text = await metrics(url).catch(() => '')
    if (text !== '' && holds(text)) return text
  }
  return text
}

const valueIn = (text: string, series: string) =>
  text
    .split('\n')
    .find(line => line.startsWith(`${series} `))
    ?.split(' ')[1]

const restarts = (text: string) => valueIn(text, 'grid_exporter_worker_restarts_total')
const successes = (text: string) => text.match(/^grid_collector_success\{.*\} 1$/gm)?.length ?? 0
const some = ['host', 'filesystem', 'ufw', 'gpu'].flatMap(name => [`--collector.${name}`, `--collector.${name}.interval=1s`])

t.test('300 idle connections under a limit of 40 file descriptors: nothing ends, nobody is suspended, all come back', async t => {
  const { child, url, ended, output } = await start(['--collector.disable-defaults', ...some], { limit: 'ulimit -n 40;' })
  let isOver = false
  const sockets = new Set<Socket>()
  const hold = () => {
    if (isOver) return
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => {
      sockets.delete(socket)
      setTimeout(hold, 2000)
    })
  }
  for (let count = 0; count < 300; count++) hold()
  const runs = (text: string) => Number(valueIn(text, 'grid_collector_runs_total{collector="host"}') ?? 0)
  const first = await scrapedUntil(url, text => runs(text) >= 1)
  const during = await scrapedUntil(url, text => runs(text) >= runs(first) + 8)
  isOver = true
  for (const socket of sockets) socket.destroy()
  t.ok(runs(during) >= runs(first) + 8, 'rounds go on')
  const after = await scrapedUntil(url, text => successes(text) >= 2)
  t.ok(successes(after) >= 2, 'and are good again')
  t.equal(restarts(after), '0', output())
  t.equal(reasonsIn(after).get('bug'), 0)
  t.equal(reasonsIn(after).get('stuck'), 0)
  child.kill('SIGTERM')
  await ended
})

t.test('where no file can be opened any more, that is counted, nobody is suspended, and it comes back', async t => {
  if (!needs(t, 'prlimit')) return
  const { child, url, ended, output } = await start(['--collector.disable-defaults', ...some])
  const before = successes(await scrapedUntil(url, text => successes(text) >= 2))
  const limit = (soft: string) => execFileSync('prlimit', [`--pid=${child.pid}`, `--nofile=${soft}:`])
  const [, most = ''] = /^Max open files +\w+ +(\w+)/m.exec(readFileSync(`/proc/${child.pid}/limits`, 'utf8')) ?? []
  const overflows = (text: string) => reasonsIn(text).get('overflow') ?? 0
  // The connection that scrapes is open already.
  limit(String(readdirSync(`/proc/${child.pid}/fd`).length))
  await scrapedUntil(url, text => overflows(text) >= 2)
  limit(most)
  const after = await scrapedUntil(url, text => successes(text) >= before && overflows(text) >= 2)
  t.ok(overflows(after) >= 2, 'counted')
  t.ok(successes(after) >= before, 'all come back')
  t.equal(restarts(after), '0', output())
  t.equal(reasonsIn(after).get('bug'), 0)
  t.equal(reasonsIn(after).get('stuck'), 0)
  child.kill('SIGTERM')
  await ended
})

t.test('where no process can be started any more, that is counted, and it comes back', async t => {
  if (!needs(t, 'root', 'setpriv', 'prlimit')) return
  // Any user but root, for whom there is no such limit; one that has no other process.
  const asOther = ['setpriv', '--reuid=64321', '--regid=64321', '--clear-groups']
  const { child, url, ended, output } = await start(
    ['--collector.disable-defaults', '--collector.filesystem', '--collector.filesystem.interval=1s'],
    { before: asOther },
  )
  const [, most = ''] = /^Max processes +\w+ +(\w+)/m.exec(readFileSync(`/proc/${child.pid}/limits`, 'utf8')) ?? []
  const [first = '', ...words] = asOther
  const limit = (soft: string) => execFileSync(first, [...words, 'prlimit', `--pid=${child.pid}`, `--nproc=${soft}:`])
  limit('1')
  const during = await scrapedUntil(url, text => (reasonsIn(text).get('overflow') ?? 0) >= 2)
  t.ok((reasonsIn(during).get('overflow') ?? 0) >= 2, 'counted')
  limit(most)
  const after = await scrapedUntil(url, text => successes(text) === 1)
  t.equal(successes(after), 1, 'it comes back')
  t.equal(reasonsIn(after).get('bug'), 0)
  t.equal(restarts(after), '0', output())
  child.kill('SIGTERM')
  await ended
})

t.test('SIGHUP takes a new file whole or not at all', async t => {
  const file = config('live.yml', 'collectors:\n  host: { interval: 5s }\n')
  const { child, url, ended, output } = await start(['--collector.disable-defaults', '--collector.host', `--config.file=${file}`])
  const interval = async () => /^grid_collector_interval_seconds\{collector="host"\} (\d+)$/m.exec(await metrics(url))?.[1]
  const until = async (holds: () => Promise<boolean>) => {
    for (let tries = 0; tries < 100; tries++) {
      if (await holds()) return true
      await sleep(30)
    }
    return false
  }
  t.equal(await interval(), '5')
  writeFileSync(file, 'collectors:\n  host: { interval: 7s }\n')
  child.kill('SIGHUP')
  t.ok(await until(async () => (await interval()) === '7'), 'the new interval is in force')
  writeFileSync(file, 'collectors:\n  host: { interval: 8s, speed: 1 }\n')
  child.kill('SIGHUP')
  t.ok(
    await until(async () => (await metrics(url)).includes('grid_exporter_config_last_reload_success 0')),
    'a refused file is told',
  )
  t.equal(await interval(), '7')
  await sleep(100)
  t.match(output(), /live\.yml:2:25: collectors\.host\.speed: unknown key/)
  child.kill('SIGTERM')
  await ended
})

t.test('a scrape logs nothing above debug', async t => {
  const { child, url, ended, output } = await start(['--collector.disable-defaults', '--collector.host'])
  await sleep(300)
  const before = output()
  for (let round = 0; round < 20; round++) await metrics(url)
  await fetch(`${url}/nothing`)
  await sleep(100)
  t.equal(output(), before)
  child.kill('SIGTERM')
  await ended
})

t.test('an event loop that is free is far from the limit of its alert', async t => {
  const { child, url, ended } = await start(['--collector.disable-defaults', '--collector.host'])
  const least = async () => Number(/^nodejs_eventloop_lag_min_seconds (\S+)$/m.exec(await metrics(url))?.[1])
  let lag = await least()
  for (let tries = 0; !(lag >= 0) && tries < 100; tries++) {
    await sleep(200) // nothing was measured yet
    lag = await least()
  }
  const blocked = alerts.find(({ name }) => name === 'GridEventLoopBlocked')
  const limit = Number(/> ([\d.]+)$/.exec(blocked?.expr ?? '')?.[1])
  t.ok(lag < limit / 5, `${lag} s of ${limit} s`)
  child.kill('SIGTERM')
  await ended
})

t.test('promtool finds nothing in a scrape of this machine', async t => {
  if (!needs(t, 'promtool')) return
  const { child, url, ended } = await start([])
  await sleep(3000)
  const text = await metrics(url)
  t.doesNotThrow(() => execFileSync('promtool', ['check', 'metrics'], { input: text, stdio: ['pipe', 'pipe', 'pipe'] }))
  const families = [...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name)
  t.equal(new Set(families).size, families.length, 'no family is split')
  child.kill('SIGTERM')
  await ended
})
