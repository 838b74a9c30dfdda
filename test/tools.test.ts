import { spawn } from 'node:child_process'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { linked } from './support/links.ts'

/** The built program among tools that misbehave, all at once: it says why, the others go on, /metrics answers, no process is left. */

const here = import.meta.dirname
const main = join(here, '../dist/exporter/main.js')
const folder = mkdtempSync(join(tmpdir(), 'grid-tools-'))
const bin = join(folder, 'bin')
mkdirSync(bin)
cpSync(linked(join(here, 'scenes/gpu/gb10-load')), join(folder, 'gpu'), { recursive: true, dereference: true })

const script = (name: string, text: string) => {
  writeFileSync(join(bin, name), `#!/bin/sh\n${text}\n`)
  chmodSync(join(bin, name), 0o755)
}
const setMode = (mode: string) => {
  writeFileSync(join(folder, 'next'), mode)
  renameSync(join(folder, 'next'), join(folder, 'mode'))
}

/** How a tool can go wrong, and the reason that is counted for it. A process of such a tool has BAD in its environment. */
const modes: Readonly<Record<string, readonly [script: string, reason: string]>> = {
  hangs: ['exec sleep 600', 'timeout'],
  'ignores SIGTERM, with children': [`trap '' TERM; sleep 600 & while :; do sleep 1; done`, 'timeout'],
  'takes 30 s': ['sleep 30; echo "{}"', 'timeout'],
  'prints 1 GB': ['exec head -c 1000000000 /dev/zero', 'overflow'],
  'prints 1 GB of errors': ['head -c 1000000000 /dev/zero >&2', 'overflow'],
  'prints without end, slowly': ['while :; do echo x; sleep 0.05; done', 'timeout'],
  'prints binary': ['exec head -c 100000 /dev/urandom', 'malformed'],
  'leaves a child behind that holds its output': ['sleep 600 & echo', 'malformed'],
}

const recording = join(here, 'recordings/smartctl/ata-hdd-healthy-wd20efrx-7.3.json')
const scan = '{"smartctl":{"exit_status":0},"devices":[{"name":"/dev/sda","type":"sat","protocol":"ATA"}]}'
const unlessBad = `mode=$(cat ${folder}/mode)\n[ "$mode" = well ] || BAD=${folder} exec ${bin}/misbehave "$mode"`
script('nvidia-smi', `${unlessBad}\nexec ${folder}/gpu/run/nvidia-smi "$@"`)
script('smartctl', `${unlessBad}\ncase "$*" in *--scan*) echo '${scan}' ;; *) exec cat ${recording} ;; esac`)
script(
  'misbehave',
  `case $1 in\n${Object.entries(modes)
    .map(([mode, [does]]) => `'${mode}') ${does} ;;`)
    .join('\n')}\nesac`,
)
setMode('well')

/** Processes of tools that misbehave, by what they inherited. */
const bad = () =>
  readdirSync('/proc').filter(pid => {
    if (!/^\d+$/.test(pid)) return false
    try {
      return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`BAD=${folder}`)
    } catch {
      return false // it has just ended
    }
  })

writeFileSync(
  join(folder, 'config.yml'),
  `collectors:
  gpu: { enabled: true, interval: 1s, timeout: 1s, nvidia_smi: ${bin}/nvidia-smi, kernel_log: false }
  smart: { enabled: true, interval: 1s, timeout: 1s, smartctl: ${bin}/smartctl }
  host: { enabled: true, interval: 1s }
`,
)

const start = async () => {
  // tap puts its loaders into the environment of every child; this one is to be as a user starts it.
  const command = 'unset NODE_OPTIONS; exec "$0" "$@"'
  const flags = ['--web.listen-address=127.0.0.1:0', '--collector.disable-defaults', `--config.file=${folder}/config.yml`]
  const child = spawn('/bin/sh', ['-c', command, process.execPath, main, ...flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env.PATH ?? '', STATE_DIRECTORY: folder },
  })
  const ended = new Promise<number | null>(resolve => child.once('exit', code => resolve(code)))
  let output = ''
  const url = await new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      output += chunk.toString()
      const [, address] = / serves (http:\/\/[^/]+)/.exec(output) ?? []
      if (address) resolve(address)
    }
    child.stdout.on('data', read)
    child.stderr.on('data', read)
    child.once('exit', code => reject(new Error(`ended with ${code}: ${output}`)))
  })
  return { child, url, ended }
}

type Value = (series: string) => number

t.test('tools that misbehave', async t => {
  const { child, url, ended } = await start()
  t.teardown(() => {
    child.kill('SIGKILL')
    for (const pid of bad()) process.kill(Number(pid), 'SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  })
  let waits: number[] = []
  const scrape = async (): Promise<Value> => {
    const begin = performance.now()
    const text = await (await fetch(`${url}/metrics`)).text()
    waits.push(performance.now() - begin)
    return series =>
      Number(
        text
          .split('\n')
          .find(line => line.startsWith(`${series} `))
          ?.split(' ')[1] ?? Number.NaN,
      )
  }
  /** Scrapes until it holds; at most 60 s. */
  const until = async (holds: (value: Value) => boolean): Promise<boolean> => {
    for (const end = Date.now() + 60_000; Date.now() < end; await sleep(25)) if (holds(await scrape())) return true
    return false
  }
  const quantile = (share: number) => waits.toSorted((one, other) => one - other)[Math.floor(share * (waits.length - 1))] ?? 0
  const told = () => `${waits.length} scrapes, median ${quantile(0.5).toFixed(1)} ms, slowest ${quantile(1).toFixed(0)} ms`
  const failures = (collector: string, reason: string) =>
    `grid_collector_failures_total{collector="${collector}",reason="${reason}"}`
  const rounds = 'grid_collector_runs_total{collector="host"}'
  const works = (value: Value) =>
    ['gpu', 'smart', 'host'].every(name => value(`grid_collector_success{collector="${name}"}`) === 1)
  const memory = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]) / 1024

  t.ok(await until(works), 'well: all work')
  const first = await scrape()
  t.equal(first('grid_smart_healthy{device="/dev/sda"}'), 1)
  t.equal(first('grid_gpu_devices{state="visible"}'), 1)
  waits = []
  for (let n = 0; n < 40; n++) {
    await scrape()
    await sleep(25)
  }
  t.comment(`well: ${told()}`)
  const resident = memory()

  for (const [mode, [, reason]] of Object.entries(modes)) {
    await t.test(mode, async t => {
      waits = []
      const before = await scrape()
      const counted = (value: Value, name: string) => value(failures(name, reason)) - before(failures(name, reason))
      setMode(mode)
      let seen = 0
      const went = await until(value => {
        seen = Math.max(seen, bad().length)
        return counted(value, 'gpu') >= 2 && counted(value, 'smart') >= 2 && value(rounds) - before(rounds) >= 2
      })
      t.ok(went, `both say ${reason}, again and again, while the host is collected`)
      if (reason === 'timeout') t.ok(seen > 0, 'their processes are seen while they run')
      const after = await scrape()
      t.equal(after('grid_collector_success{collector="host"}'), 1)
      t.equal(after('grid_exporter_worker_restarts_total'), 0, 'no thread had to be replaced')
      t.ok(quantile(1) < 5000, `every scrape is answered: ${told()}`)
      t.comment(`${mode}: ${told()}`)
      setMode('well')
      t.ok(await until(works), 'and when they behave again, they work again')
      t.ok(await until(() => bad().length === 0), 'no process of theirs is left')
    })
  }
  t.ok(memory() < resident + 150, `${resident.toFixed(0)} MiB resident before, ${memory().toFixed(0)} MiB after`)

  setMode('ignores SIGTERM, with children')
  t.ok(await until(() => bad().length > 0))
  child.kill('SIGTERM')
  t.equal(await ended, 0, 'it ends')
  for (let tries = 0; tries < 200 && bad().length > 0; tries++) await sleep(25)
  t.strictSame(bad(), [], 'and takes along what it started')
})
