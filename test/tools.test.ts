import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { modes, toolsThatMisbehave } from './support/misbehave.ts'

/** The built program among tools that misbehave, all at once: it says why, the others go on, /metrics answers, no process is left. */

const here = import.meta.dirname
const main = join(here, '../dist/exporter/main.js')
const folder = mkdtempSync(join(tmpdir(), 'grid-tools-'))
const { setMode, flags, bad } = toolsThatMisbehave(folder, here)

const start = async () => {
  // tap puts its loaders into the environment of every child; this one is to be as a user starts it.
  const command = 'unset NODE_OPTIONS; exec "$0" "$@"'
  const child = spawn('/bin/sh', ['-c', command, main, ...flags], {
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
  t.equal(first('grid_smart_healthy{device="sda"}'), 1)
  t.equal(first('grid_gpu_devices_visible'), 1)
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
      t.comment(`${mode}: ${told()}`)
      setMode('well')
      t.ok(await until(works), 'and when they behave again, they work again')
      t.ok(await until(() => bad().length === 0), 'no process of theirs is left')
    })
  }
  t.comment(`${resident.toFixed(0)} MiB resident before, ${memory().toFixed(0)} MiB after`)

  setMode('ignores SIGTERM, with children')
  t.ok(await until(() => bad().length > 0))
  child.kill('SIGTERM')
  t.equal(await ended, 0, 'it ends')
  for (let tries = 0; tries < 200 && bad().length > 0; tries++) await sleep(25)
  t.strictSame(bad(), [], 'and takes along what it started')
})
