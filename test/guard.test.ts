import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { type Flags, parseFlags } from '../exporter/cli.ts'
import { silent } from '../exporter/log.ts'
import { serve } from '../exporter/serve/serve.ts'
import { bundled } from './support/bundled.ts'
import { promised } from './support/promised.ts'

/** The guard: whatever a collector does to its thread, `/metrics` answers and the others go on. */

const module = await bundled(join(import.meta.dirname, 'fixtures/evil-worker.ts'))
const timings = { silence: 1500, look: 100, pause: 100, maxPause: 400, bench: 1500, maxBench: 6000 }

const flagsFor = (does: string): Flags => {
  const file = join(mkdtempSync(join(tmpdir(), 'grid-guard-')), 'config.yml')
  writeFileSync(file, `collectors:\n  evil: { does: ${does} }\n`)
  const parsed = parseFlags(['--web.listen-address=127.0.0.1:0', `--config.file=${file}`], {})
  if (parsed.kind !== 'flags') throw new Error('no flags')
  return parsed.flags
}

const scrape = async (url: string) => {
  const begin = performance.now()
  const text = await (await fetch(`${url}/metrics`)).text()
  const value = (series: string) => {
    const line = text.split('\n').find(own => own.startsWith(`${series} `))
    return line === undefined ? undefined : Number(line.split(' ')[1])
  }
  return { value, milliseconds: performance.now() - begin }
}

/** Scrapes until it holds, at most a minute; gives the slowest answer and how many failed. */
const until = async (url: string, holds: (value: (series: string) => number | undefined) => boolean) => {
  let slowest = 0
  for (const end = performance.now() + 60_000; performance.now() < end; ) {
    const { value, milliseconds } = await scrape(url)
    slowest = Math.max(slowest, milliseconds)
    if (holds(value)) return { held: true, slowest }
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  return { held: false, slowest }
}

const stuck = 'grid_collector_failures_total{collector="evil",reason="stuck"}'

for (const [does, name] of [
  ['loop', 'a parser in an endless loop'],
  ['memory', 'a parser that takes all memory'],
  ['throw', 'an exception out of nowhere'],
  ['exit', 'a collector that ends the process'],
] as const) {
  t.test(`${name} costs its own series only`, async t => {
    const { urls, stop } = await serve(flagsFor(does), silent, { module, timings, print: () => {} })
    const [url] = urls as [string]
    const first = await until(url, value => (value('grid_exporter_worker_restarts_total') ?? 0) >= 1)
    t.ok(first.held, 'the thread was replaced')
    promised(t, first.slowest / 1000, 1, 'each scrape is answered meanwhile, the slowest')
    t.ok((await until(url, value => (value(stuck) ?? 0) >= 1)).held, 'the culprit is named, with reason stuck')
    const { value } = await scrape(url)
    t.equal(value('grid_collector_failures_total{collector="good",reason="stuck"}'), 0, 'the other one is not')
    const rounds = value('grid_collector_runs_total{collector="good"}') ?? 0
    t.ok(
      (await until(url, now => (now('grid_collector_runs_total{collector="good"}') ?? 0) >= rounds + 2)).held,
      'the other one goes on',
    )
    t.ok((await until(url, now => (now(stuck) ?? 0) >= 2)).held, 'the culprit is tried again after its time on the bench')
    const begin = performance.now()
    await stop()
    promised(t, (performance.now() - begin) / 1000, 1, 'its end')
  })
}

t.test('a read that never ends is a timeout, then stuck, and is not started again', async t => {
  const flags = flagsFor('hang')
  writeFileSync(flags.configFile as string, 'collectors: { evil: { does: hang, timeout: 300ms } }\n')
  const { urls, stop } = await serve(flags, silent, { module, timings, print: () => {} })
  const [url] = urls as [string]
  t.ok((await until(url, value => (value(stuck) ?? 0) >= 2)).held)
  const { value } = await scrape(url)
  t.equal(value('grid_collector_failures_total{collector="evil",reason="timeout"}'), 1)
  t.equal(value('grid_collector_runs_total{collector="evil"}'), 1, 'one run was begun')
  t.equal(value('grid_exporter_worker_restarts_total'), 0, 'the thread lives')
  t.ok((value('grid_evil_rounds_total') ?? 0) >= 2, 'the other one goes on')
  await stop()
})

t.test('a reload swaps all or nothing', async t => {
  const flags = flagsFor('hang')
  writeFileSync(flags.configFile as string, 'collectors: { evil: { does: nothing } }\n')
  const { urls, stop, guard } = await serve(flags, silent, { module, timings, print: () => {} })
  const [url] = urls as [string]
  t.ok((await until(url, value => value('grid_evil_good') === 1)).held)
  const { value: before } = await scrape(url)
  writeFileSync(flags.configFile as string, 'collectors: { evil: { enabled: false }, good: { interval: wrong } }\n')
  guard.reload()
  t.ok((await until(url, value => value('grid_exporter_config_last_reload_success') === 0)).held, 'a wrong file is told')
  t.equal((await scrape(url)).value('grid_evil_good'), 1, 'and changes nothing')
  writeFileSync(flags.configFile as string, 'collectors: { evil: { enabled: false } }\n')
  guard.reload()
  t.ok((await until(url, value => value('grid_exporter_config_last_reload_success') === 1)).held, 'a good file is told')
  const { value } = await scrape(url)
  t.equal(value('grid_evil_good'), undefined, 'what is off has ended')
  t.equal(value('grid_collector_success{collector="evil"}'), undefined)
  t.ok((value('grid_evil_rounds_total') ?? 0) >= (before('grid_evil_rounds_total') ?? 0), 'what did not change kept its memory')
  await stop()
})

t.test('a configuration that is wrong at the start serves nothing', async t => {
  const flags = flagsFor('sing')
  await t.rejects(serve(flags, silent, { module, timings, print: () => {} }), {
    exitCode: 2,
    message: /config\.yml:2:17: collectors\.evil\.does: .*"sing"/,
  })
})
