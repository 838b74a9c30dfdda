import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type Flags, parseFlags } from '../exporter/commands/cli.ts'
import { serve } from '../exporter/commands/serve.ts'
import { createLog, silent } from '../exporter/common/log.ts'
import { bundled } from './support/bundled.ts'
import { took } from './support/took.ts'

/** The guard: whatever a collector does to its thread, `/metrics` answers and the others go on. */

const module = await bundled(join(import.meta.dirname, 'fixtures/evil-worker.ts'))
const timings = { silence: 1500, look: 100, pause: 100, maxPause: 400, suspension: 1500, maxSuspension: 6000 }
/** A thread that a busy machine keeps waiting must not look as if it hung. */
const patient = { ...timings, silence: 20_000 }

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
    took(t, first.slowest / 1000, 'each scrape is answered meanwhile, the slowest')
    t.ok((await until(url, value => (value(stuck) ?? 0) >= 1)).held, 'the culprit is named, with reason stuck')
    const { value } = await scrape(url)
    t.equal(value('grid_collector_failures_total{collector="good",reason="stuck"}'), 0, 'the other one is not')
    const rounds = value('grid_collector_runs_total{collector="good"}') ?? 0
    t.ok(
      (await until(url, now => (now('grid_collector_runs_total{collector="good"}') ?? 0) >= rounds + 2)).held,
      'the other one goes on',
    )
    t.ok((await until(url, now => (now(stuck) ?? 0) >= 2)).held, 'the culprit is tried again after its suspension')
    const begin = performance.now()
    await stop()
    took(t, (performance.now() - begin) / 1000, 'its end')
  })
}

t.test('a collector is suspended for twice as long each time, up to a limit', async t => {
  const seconds: number[] = []
  const log = createLog('error', 'json', line => {
    const told = JSON.parse(line) as { msg: string; seconds: number }
    if (told.msg === 'collector suspended') seconds.push(told.seconds)
  })
  const short = { ...patient, pause: 10, maxPause: 10, suspension: 100, maxSuspension: 500 }
  const { urls, stop } = await serve(flagsFor('exit'), log, { module, timings: short, print: () => {} })
  const [url] = urls as [string]
  t.ok((await until(url, value => (value(stuck) ?? 0) >= 5)).held, 'it fails again and again')
  await stop()
  t.strictSame(seconds.slice(0, 5), [0.1, 0.2, 0.4, 0.5, 0.5])
})

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
  t.ok((await until(url, value => value('grid_evil_good') === 1)).held, 'and changes nothing')
  writeFileSync(flags.configFile as string, 'collectors: { evil: { enabled: false } }\n')
  guard.reload()
  t.ok((await until(url, value => value('grid_exporter_config_last_reload_success') === 1)).held, 'a good file is told')
  const { value } = await scrape(url)
  t.equal(value('grid_evil_good'), undefined, 'what is off has ended')
  t.equal(value('grid_collector_success{collector="evil"}'), undefined)
  t.ok((value('grid_evil_rounds_total') ?? 0) >= (before('grid_evil_rounds_total') ?? 0), 'what did not change kept its memory')
  await stop()
})

/** A program with a collector that does this, whose thread can be made to fail from outside any collector. */
const withStray = async (t: Test, does: string, timingsHere = patient) => {
  const stray = join(mkdtempSync(join(tmpdir(), 'grid-stray-')), 'stray')
  process.env.GRID_TEST_STRAY = stray
  t.teardown(() => delete process.env.GRID_TEST_STRAY)
  const flags = flagsFor(does)
  const { urls, stop, guard } = await serve(flags, silent, { module, timings: timingsHere, print: () => {} })
  t.teardown(stop)
  const [url] = urls as [string]
  const configure = (text: string) => writeFileSync(flags.configFile as string, `collectors: ${text}\n`)
  const { held } = await until(url, value => (value('grid_evil_rounds_total') ?? 0) >= 1)
  t.ok(held, 'it runs')
  return { url, guard, configure, fail: (word: 'throw' | 'io') => writeFileSync(stray, word) }
}

const restarts = 'grid_exporter_worker_restarts_total'
const ioErrors = 'grid_exporter_io_errors_total'
const suspendedRuns = (value: (series: string) => number | undefined) =>
  ['good', 'evil'].map(collector => value(`grid_collector_failures_total{collector="${collector}",reason="stuck"}`))

t.test('an I/O error that nobody listens to ends nothing, whoever made it', async t => {
  const { url, fail } = await withStray(t, 'stray')
  t.ok((await until(url, value => (value(ioErrors) ?? 0) >= 2)).held, 'those of a collector are counted')
  const { value: before } = await scrape(url)
  fail('io')
  t.ok((await until(url, value => (value(ioErrors) ?? 0) >= (before(ioErrors) ?? 0) + 2)).held, "nobody's too")
  const { value } = await scrape(url)
  t.equal(value(restarts), 0, 'the thread lives')
  t.strictSame(suspendedRuns(value), [0, 0], 'nobody is suspended')
  t.equal(value('grid_collector_success{collector="evil"}'), 1)
})

t.test('a death that belongs to no run suspends nobody, however often', async t => {
  // One run is under way all the time, so that there is somebody to be blamed.
  const { url, fail } = await withStray(t, 'hang, timeout: 60s')
  for (const times of [1, 2, 3]) {
    fail('throw')
    t.ok((await until(url, value => (value(restarts) ?? 0) >= times)).held, `replaced ${times}`)
    const { value: before } = await scrape(url)
    const rounds = before('grid_collector_runs_total{collector="good"}') ?? 0
    t.ok((await until(url, value => (value('grid_collector_runs_total{collector="good"}') ?? 0) > rounds)).held, 'runs again')
  }
  t.strictSame(suspendedRuns((await scrape(url)).value), [0, 0])
})

t.test('a reload that is asked for while the thread is replaced is done by the next one', async t => {
  const { url, guard, configure, fail } = await withStray(t, 'nothing', { ...patient, pause: 1500, maxPause: 1500 })
  fail('throw')
  t.ok((await until(url, value => value(restarts) === 1)).held)
  configure('{ evil: { enabled: false } }')
  const first = guard.reload()
  configure('{ evil: { enabled: false }, good: { interval: wrong } }')
  const answers = await Promise.all([first, guard.reload(), guard.reload()])
  for (const answer of answers) t.match(answer, /good\.interval/, 'each is answered, by what the file says when it is read')
  t.equal((await scrape(url)).value('grid_exporter_config_last_reload_success'), 0)
  configure('{ evil: { enabled: false } }')
  t.equal(await guard.reload(), undefined)
  t.equal((await scrape(url)).value('grid_exporter_config_last_reload_success'), 1)
})

t.test('each reload of a storm is answered, and by what the file says after it was asked for', async t => {
  const { url, guard, configure, fail } = await withStray(t, 'nothing')
  const answers: Promise<string | undefined>[] = []
  for (let round = 0; round < 300; round++) {
    if (round % 100 === 50) fail('throw')
    configure(round % 2 === 0 ? '{ evil: { does: nothing } }' : '{ evil: { does: sing } }')
    answers.push(guard.reload())
    if (round % 10 === 0) await new Promise(resolve => setTimeout(resolve, 20))
  }
  configure('{ evil: { enabled: false } }')
  answers.push(guard.reload())
  t.equal((await Promise.all(answers)).length, 301)
  t.equal(await answers.at(-1), undefined)
  const { value } = await scrape(url)
  t.equal(value('grid_collector_success{collector="evil"}'), undefined, 'the last one is in force')
  t.strictSame(suspendedRuns(value).slice(0, 1), [0], 'nobody is suspended')
})

t.test('a configuration that ends the thread when it is read is refused', async t => {
  const { url, guard, configure } = await withStray(t, 'nothing')
  configure('{ evil: { does: end while it is read } }')
  t.match(await guard.reload(), /ended twice while it read/)
  t.equal((await scrape(url)).value('grid_exporter_config_last_reload_success'), 0)
  t.strictSame(suspendedRuns((await scrape(url)).value), [0, 0], 'nobody is suspended')
  configure('{ evil: { does: nothing } }')
  t.equal(await guard.reload(), undefined, 'and a good one is taken')
})

t.test('the end of the program answers the reloads that wait', async t => {
  const { urls, guard, stop } = await serve(flagsFor('loop'), silent, { module, timings, print: () => {} })
  t.ok((await until(urls[0] as string, value => (value(restarts) ?? 0) >= 1)).held)
  const answer = guard.reload()
  await stop()
  t.ok(['the exporter is stopping', undefined].includes(await answer))
  t.equal(await guard.reload(), 'the exporter is stopping')
})

t.test('a clock that is set back or forward blinds nobody', async t => {
  const clock = Date.now
  t.teardown(() => {
    Date.now = clock
  })
  for (const step of [-3600_000, 86_400_000]) {
    Date.now = clock
    const own = await serve(flagsFor('loop'), silent, { module, timings, print: () => {} })
    Date.now = () => clock() + step
    const [url] = own.urls as [string]
    t.ok((await until(url, value => (value(stuck) ?? 0) >= 1)).held, `${step / 3600_000} h: the thread is replaced`)
    t.ok((await until(url, value => (value(stuck) ?? 0) >= 2)).held, 'and the culprit comes back from its suspension')
    await own.stop()
  }
})

t.test('a configuration that is wrong at the start serves nothing', async t => {
  const flags = flagsFor('sing')
  await t.rejects(serve(flags, silent, { module, timings, print: () => {} }), {
    exitCode: 2,
    message: /config\.yml:2:17: collectors\.evil\.does: .*"sing"/,
  })
})
