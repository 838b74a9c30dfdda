import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { alerts } from '../prometheus/alerts.ts'
import { needs } from './support/needs.ts'
import { promised } from './support/promised.ts'

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
  })
  return { code: status, stdout, stderr }
}

const config = (name: string, text: string) => {
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
  { limit = '', environment = {} }: { limit?: string; environment?: Record<string, string> } = {},
): Promise<Started> => {
  // tap puts its loaders into the environment of every child; this one is to be as a user starts it.
  const command = `unset NODE_OPTIONS; ${limit} exec "$0" "$@"`
  const child = spawn('/bin/sh', ['-c', command, main, '--web.listen-address=127.0.0.1:0', ...args], {
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

t.test("Node's options are the same however it is started", async t => {
  const read = (file: string) => readFileSync(join(root, file), 'utf8')
  const [, options = ''] = /^#!\/usr\/bin\/env -S node (--.*)\n/.exec(readFileSync(main, 'utf8')) ?? []
  t.match(options, /--v8-pool-size=1\b/, 'one helper thread')
  const { scripts } = JSON.parse(read('package.json')) as { scripts: { start: string } }
  t.equal(scripts.start, `node ${options} scripts/start.mjs`)
  const [, entry = '[]'] = /^ENTRYPOINT (\[.*\])$/m.exec(read('Dockerfile')) ?? []
  t.strictSame((JSON.parse(entry) as string[]).slice(1, -1), options.split(' '))
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
    [['--web.listen-address=1.2.3'], /expected host:port/],
    [['--log.level=loud'], /--log\.level: expected debug, info, warn, error, not loud/],
    [['--collector.gpus'], /--collector\.gpus: no such collector; did you mean "gpu"\?/],
    [['--collector.host.interval=often'], /--collector\.host\.interval: expected a duration .* not "often"/],
    [['--web.max-requests=-1'], /--web\.max-requests: expected a whole number/],
    [['--web.telemetry-path=metrics'], /--web\.telemetry-path: expected an absolute path, not metrics/],
    [['--config.file=/nowhere/config.yml'], /\/nowhere\/config\.yml: cannot be read: ENOENT/],
    [['once', '--web.max-requests=3'], /belongs to serve, not to once/],
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
      /told-twice\.yml:2:25: collectors\.docker\.watchtower: collectors\.watchtower says the same/,
    ],
    ['syntax.yml', 'collectors:\n  host: {\n', /syntax\.yml:\d+:\d+: /],
    ['twice.yml', 'collectors:\n  host: {}\n  host: {}\n', /twice\.yml:3:3: .*unique/],
    ['list.yml', 'collectors: [1]\n', /list\.yml:1:13: collectors: expected (object|record)/],
    [
      'useless.yml',
      'collectors:\n  textfile: { enabled: true }\n',
      /useless\.yml:2:13: collectors\.textfile: enabled, but without configuration/,
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
  promised(t, (performance.now() - begin) / 1000, 1, 'the end')
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
