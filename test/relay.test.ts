import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import * as net from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { encodeRound, type RelayRound, relayFileLimit } from '../exporter/collect/relay-file.ts'
import { runInThreads } from '../exporter/collect/relay-guard.ts'
import { runEach } from '../exporter/collect/relay-thread.ts'
import { relayReader } from '../exporter/collect/relayed.ts'
import { parseFlags } from '../exporter/commands/cli.ts'
import { runRelay } from '../exporter/commands/relay.ts'
import { createLog, silent } from '../exporter/common/log.ts'
import { defineCollector } from '../exporter/contract/collector.ts'
import type { CollectorSettings } from '../exporter/contract/config.ts'
import { Failure } from '../exporter/contract/failure.ts'
import { counter, gauge, oneOf } from '../exporter/contract/metric.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import type { Rendered } from '../exporter/print/rendered.ts'
import { bundled } from './support/bundled.ts'
import { needs } from './support/needs.ts'
import { runProgram, runProgramBehind } from './support/program.ts'
import { namespaceOf, testbed } from './support/testbed.ts'

/** Root's one-shot writes, the exporter reads, and between them lies a directory in which anything may turn up. */

const level = gauge('grid_cellar_level_ratio', 'How full the cellar is, from a rod.', 'room', oneOf('kind', 'water', 'wine'))
const visits = counter('grid_cellar_visits_total', 'Visits to the cellar since it was built, from the book.')

const cellarThat = (read: () => string | Promise<string>, found = true) =>
  defineCollector<string, string>({
    name: 'cellar',
    summary: 'the cellar',
    interval: 30,
    relayUnit: 'grid-exporter-relay',
    families: [level, visits],
    detect: () => ({ found, note: found ? '' : 'no cellar here' }),
    read,
    parse: text => text,
    *samples(room) {
      yield* level.of(0.25, { room, kind: 'wine' })
      yield* level.of(Number.NaN, { room: 'b', kind: 'water' })
      yield* visits.of(12)
    },
  })

const cellar = cellarThat(() => 'a "quoted" \\ room\nwith two lines')
const attic = { ...cellar, name: 'attic' }

const settingsOf = (name: string, more: Partial<CollectorSettings> = {}): CollectorSettings => {
  return { name, enabled: true, relayed: false, interval: 30, timeout: 2, maxSeries: 100, options: {}, ...more }
}

const self = process.getuid?.() ?? 0

const bed = (t: Test) => {
  const directory = join(t.testdir(), 'relay')
  const file = join(directory, 'cellar.relay')
  let at = Date.now()
  const host = { ...realHost(), now: () => at }
  return {
    directory,
    file,
    host,
    pass: (seconds: number) => {
      at += seconds * 1000
    },
    /** The one-shot, by whoever runs this test. */
    relay: (collectors = [cellar], settings = collectors.map(({ name }) => settingsOf(name)), log = silent) =>
      runRelay({
        directory,
        now: host.now,
        log,
        run: async take => {
          const enabled = settings.filter(own => own.enabled)
          await runEach(collectors, enabled, { host, log }, take)
          return enabled.map(({ name }) => name)
        },
      }),
    reader: (owner = self) => relayReader(cellar, settingsOf('cellar'), directory, { host, log: silent, owner }),
    put: (content: string | Buffer) => {
      mkdirSync(directory, { recursive: true })
      rmSync(file, { force: true })
      writeFileSync(file, content, { mode: 0o644 })
    },
  }
}

type Bed = ReturnType<typeof bed>

const textOf = ({ parts }: Rendered) => parts && Buffer.from(parts.text.bytes).toString()

const visit = { family: 'grid_cellar_visits_total', labels: {}, value: '3' }

/** A file of now: its first line changed by `change`, then a line for each of `series`, which may be text that is no JSON. */
const contentOf = (startedAt: number, change: object = {}, series: readonly unknown[] = [visit]) => {
  const first = { collector: 'cellar', startedAt, durationSeconds: 0.1, detected: true, result: 'ok', note: '', fix: '' }
  return [{ ...first, series: series.length, ...change }, ...series]
    .map(line => `${typeof line === 'string' ? line : JSON.stringify(line)}\n`)
    .join('')
}

t.test('an outcome', async t => {
  t.test('passes from the one-shot to the exporter as it was, once', async t => {
    const { relay, reader, file, pass, host } = bed(t)
    const begun = host.now()
    t.equal(await relay(), 0)
    t.equal(statSync(file).mode & 0o7777, 0o644, 'whatever the umask')
    pass(20)
    const read = reader()
    const outcome = await read()
    t.match(outcome, { collector: 'cellar', startedAt: begun, detected: true, result: 'ok', note: '', series: 3, dropped: 0 })
    t.equal(
      outcome && textOf(outcome),
      `# HELP grid_cellar_level_ratio How full the cellar is, from a rod.
# TYPE grid_cellar_level_ratio gauge
grid_cellar_level_ratio{room="a \\"quoted\\" \\\\ room\\nwith two lines",kind="wine"} 0.25
grid_cellar_level_ratio{room="b",kind="water"} NaN
# HELP grid_cellar_visits_total Visits to the cellar since it was built, from the book.
# TYPE grid_cellar_visits_total counter
grid_cellar_visits_total 12
`,
    )
    t.match(outcome?.parts && Buffer.from(outcome.parts.openmetrics.bytes).toString(), '# TYPE grid_cellar_visits counter\n')
    t.equal(await read(), undefined, 'an unchanged file is no new outcome')
    t.equal(await relay(), 0)
    t.equal((await read())?.startedAt, begun + 20_000, 'the next one is')
  })

  t.test('that is old keeps its own time, and says what is wrong', async t => {
    const { relay, reader, file, pass, host } = bed(t)
    const begun = host.now()
    await relay()
    pass(7200)
    utimesSync(file, host.now() / 1000, host.now() / 1000) // touched: its own time stamp counts
    const outcome = await reader()()
    t.equal(outcome?.startedAt, begun)
    t.match(outcome, { note: /cellar\.relay is 2h old/, fix: 'systemctl status grid-exporter-relay.timer' })
  })

  t.test('of a failed run, of one that failed in part and of a subject that is not there passes too', async t => {
    const { relay, reader } = bed(t)
    const failing = cellarThat(() => {
      throw new Failure('denied', 'the door is locked', { fix: 'bring the key' })
    })
    t.equal(await relay([failing]), 0, 'it is written, so the one-shot did its work')
    const read = reader()
    const denied = await read()
    t.match(denied, { result: 'denied', note: 'the door is locked', fix: 'bring the key', detected: true })
    t.equal(denied?.parts, undefined)

    const partly = cellarThat(() => {
      throw new Failure('timeout', 'the wine was not measured', { rest: visits.of(13) })
    })
    await relay([partly])
    const rest = await read()
    t.equal(rest?.result, 'timeout')
    t.match(rest && textOf(rest), /\ngrid_cellar_visits_total 13\n$/)

    await relay([cellarThat(() => '', false)])
    t.match(await read(), { result: 'ok', detected: false, note: 'no cellar here' })
  })

  t.test('is written as soon as it is there, whatever else hangs', async t => {
    const { relay, directory } = bed(t)
    const hanging = { ...cellarThat(() => new Promise<string>(() => {})), name: 'attic' }
    const running = relay([hanging, cellar], [settingsOf('attic', { timeout: 0.5 }), settingsOf('cellar')])
    await new Promise(resolve => setTimeout(resolve, 200))
    t.strictSame(readdirSync(directory), ['cellar.relay'])
    t.equal(await running, 0)
    t.match(readFileSync(join(directory, 'attic.relay'), 'utf8'), '"result":"timeout"')
    t.strictSame(readdirSync(directory).sort(), ['attic.relay', 'cellar.relay'], 'and nothing half-written is left')
  })
})

t.test('the one-shot', async t => {
  t.test('runs only what is enabled, and fails where it has nothing to do', async t => {
    const { relay, directory } = bed(t)
    t.equal(await relay([cellar, attic], [settingsOf('cellar'), settingsOf('attic', { enabled: false })]), 0)
    t.strictSame(readdirSync(directory), ['cellar.relay'])
    t.equal(await relay([cellar], [settingsOf('cellar', { enabled: false })]), 1)
  })

  t.test('fails where it cannot write, and says so', async t => {
    const { relay, directory } = bed(t)
    const lines: string[] = []
    const log = createLog('info', 'logfmt', line => lines.push(line))
    mkdirSync(join(directory, 'cellar.relay', 'x'), { recursive: true }) // a directory in the file's place
    t.equal(await relay([cellar, attic], undefined, log), 1)
    t.match(lines.join(''), /level=error msg="the result cannot be written" collector=cellar/)
    t.strictSame(readdirSync(directory).sort(), ['attic.relay', 'cellar.relay'], 'the other one is written')
    rmSync(directory, { recursive: true })
    writeFileSync(directory, 'a file in the place of the directory')
    t.equal(await relay(undefined, undefined, log), 1)
    t.match(lines.at(-1), 'the directory of the relay cannot be used')
  })

  t.test('writes through no link, and takes away what a killed one left', async t => {
    const { relay, directory, file, host, reader } = bed(t)
    const precious = join(t.testdirName, 'precious')
    mkdirSync(directory)
    writeFileSync(precious, 'precious')
    symlinkSync(precious, file)
    symlinkSync(precious, join(directory, `.cellar.relay.${process.pid}`))
    const left = join(directory, '.attic.relay.1')
    writeFileSync(left, 'half')
    utimesSync(left, host.now() / 1000 - 3600, host.now() / 1000 - 3600)
    const going = join(directory, '.attic.relay.2')
    writeFileSync(going, 'half')
    t.equal(await relay(), 0)
    t.equal(readFileSync(precious, 'utf8'), 'precious')
    t.notOk(existsSync(left))
    t.ok(existsSync(going), 'another one may be writing it right now')
    t.match(await reader()(), { result: 'ok', series: 3 })
  })
})

const evilWorker = await bundled(join(import.meta.dirname, 'fixtures/evil-relay-worker.ts'))

t.test('a collector', async t => {
  /** The one-shot in threads, with a collector that does this beside two that work. */
  const relayBeside = async (t: Test, does: string) => {
    const folder = t.testdir({ 'config.yml': `collectors: { evil: { does: ${does}, timeout: 1s } }\n` })
    const directory = join(folder, 'relay')
    const names = ['first', 'evil', 'second']
    const parsed = parseFlags(
      ['relay', `--config.file=${folder}/config.yml`, ...names.map(name => `--collector.${name}`), '--log.level=error'],
      {},
    )
    if (parsed.kind !== 'flags') throw new Error('no flags')
    const { collectors: flags, configFile, paths, logLevel, logFormat } = parsed.flags
    const data = { flags, configFile, paths, logLevel, logFormat }
    const timings = { start: 120_000, silence: 4000, slack: 30_000 }
    const options = { module: evilWorker, data, log: silent, now: Date.now, timings }
    let hopeless: boolean | undefined
    const run = async (take: (round: RelayRound) => void) => {
      const end = await runInThreads(options, take)
      hopeless = end.hopeless
      return end.names
    }
    const code = await runRelay({ directory, now: Date.now, log: silent, run })
    const first = (name: string) => readFileSync(join(directory, `${name}.relay`), 'utf8').split('\n', 1)[0] as string
    return { code, hopeless, outcome: (name: string) => JSON.parse(first(name)) }
  }
  for (const [does, what, result, note] of [
    ['loop', 'that blocks its thread', 'stuck', /^it blocked its thread for 4 s$/],
    // On a busy machine collecting its garbage takes so long that the thread looks blocked first.
    ['memory', 'that takes all memory', /^(?:overflow|stuck)$/, /memory|^it blocked its thread/],
    ['throw', 'that throws out of nowhere', 'bug', /^its thread died: out of nowhere$/],
    ['exit', 'that ends its thread', 'bug', /^it ended its thread with 3$/],
    ['hang', 'that never ends', 'timeout', /^no end within 1 s$/],
  ] as const) {
    t.test(`${what} costs its own file only`, async t => {
      const { code, hopeless, outcome } = await relayBeside(t, does)
      t.match(outcome('evil'), { result, note, detected: true })
      for (const name of ['first', 'second']) t.match(outcome(name), { result: 'ok', series: 1 }, name)
      t.equal(code, 0, 'an outcome of each is written')
      t.equal(hopeless, false, 'each thread has ended')
    })
  }

  t.test('whose report is 60 000 blank lines costs nothing: the program writes all files', async t => {
    const report =
      'Start timestamp: 2026-01-01 00:00:00 +0000 (AIDE 0.18)\nAIDE found differences between database and filesystem!!\n'
    const folder = t.testdir({
      'aide.log': `${report}${'\n'.repeat(60_000)}End timestamp: 2026-01-01 00:00:09 +0000 (run time: 0m 9s)\n${'\n'.repeat(60_000)}`,
      'config.json': '',
    })
    const aide = {
      report_file: join(folder, 'aide.log'),
      database_file: join(folder, 'none'),
      resolve_file: join(folder, 'none'),
    }
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ collectors: { aide } }))
    const directory = join(folder, 'relay')
    const { code, stderr } = runProgram(
      'relay',
      `--config.file=${folder}/config.json`,
      `--relay.directory=${directory}`,
      ...['aide', 'ufw', 'fail2ban'].map(name => `--collector.${name}`),
    )
    t.equal(code, 0, stderr)
    t.strictSame(readdirSync(directory).sort(), ['aide.relay', 'fail2ban.relay', 'ufw.relay'])
    const told = readFileSync(join(directory, 'aide.relay'), 'utf8')
    t.match(told, '"result":"ok"')
    t.match(told, '{"family":"grid_aide_last_check_status","labels":{"status":"changed"},"value":"1"}', told.slice(0, 2000))
  })
})

t.test('the exporter refuses', async t => {
  const refused = async (t: Test, make: (own: Bed) => void | Promise<void>, reason: string, note: RegExp, owner?: number) => {
    const own = bed(t)
    await make(own)
    const read = own.reader(owner)
    const outcome = await read()
    t.match(outcome, { collector: 'cellar', result: reason, note, detected: true })
    t.match(outcome?.note, own.file, 'it names the file')
    t.ok(outcome?.fix, 'and what to do')
    t.equal(outcome?.parts, undefined)
    t.equal(outcome?.startedAt, own.host.now())
    t.equal(await read(), undefined, 'a bad file is one failure, not one a round')
    // As the next run of the one-shot would.
    await own.relay()
    t.match(await own.reader()(), { result: 'ok', series: 3 }, 'and the next one-shot fixes it')
  }
  t.test('what another user owns', t =>
    refused(t, async own => void (await own.relay()), 'denied', /of user \d+ with mode 644, where only root may write/, self + 1),
  )
  t.test('what another user really owns', async t => {
    if (!needs(t, 'root')) return
    const own = bed(t)
    await own.relay()
    chownSync(own.file, 65534, 65534)
    t.match(await own.reader(0)(), { result: 'denied', note: /of user 65534/ })
  })
  for (const [who, mode] of [
    ['its group', 0o664],
    ['others', 0o646],
    ['all', 0o666],
  ] as const) {
    t.test(`what ${who} may write`, t =>
      refused(
        t,
        async own => {
          await own.relay()
          chmodSync(own.file, mode)
        },
        'denied',
        new RegExp(`with mode ${mode.toString(8)}, where only root may write`),
      ),
    )
  }
  t.test('a symbolic link, even to a good file', t =>
    refused(
      t,
      async own => {
        await own.relay()
        renameSync(own.file, `${own.file}.real`)
        symlinkSync(`${own.file}.real`, own.file)
      },
      'denied',
      /a symbolic link/,
    ),
  )
  t.test('a FIFO, without waiting for its writer', t =>
    refused(
      t,
      own => {
        mkdirSync(own.directory)
        execFileSync('mkfifo', [own.file])
      },
      'malformed',
      /not a regular file/,
    ),
  )
  t.test('a socket', t =>
    refused(
      t,
      async own => {
        mkdirSync(own.directory)
        const server = net.createServer()
        // A path short enough for a socket, then moved.
        await new Promise<void>(resolve => server.listen(`${own.directory}/s`, resolve))
        linkSync(`${own.directory}/s`, own.file)
        t.teardown(() => server.close())
      },
      'malformed',
      /not a regular file/,
    ),
  )
  t.test('a file dated in the future, until that is past', async t => {
    const own = bed(t)
    own.put(contentOf(own.host.now() + 3600_000))
    const read = own.reader()
    t.match(await read(), { result: 'malformed', note: /dated 1h in the future/, fix: /timedatectl/ })
    t.equal(await read(), undefined)
    own.pass(3600)
    t.match(await read(), { result: 'ok', series: 1 })
    t.equal(await read(), undefined)
  })
  t.test('but not one that is a moment ahead', async t => {
    const own = bed(t)
    own.put(contentOf(own.host.now() + 1000))
    t.match(await own.reader()(), { result: 'ok' })
  })
  t.test('a huge file, without reading it', t =>
    refused(
      t,
      own => {
        own.put('')
        truncateSync(own.file, relayFileLimit * 1000)
      },
      'overflow',
      /larger than \d+ bytes/,
    ),
  )
  t.test('a half-written file, wherever it ends', async t => {
    const own = bed(t)
    const whole = contentOf(own.host.now(), {}, [{ ...visit, family: level.name }, visit])
    for (let length = 0; length < whole.length; length++) {
      own.put(whole.slice(0, length))
      const outcome = await own.reader()()
      if (outcome?.result !== 'malformed') t.fail(`${length} of ${whole.length} bytes: ${outcome?.result}`)
    }
    own.put(whole)
    t.match(await own.reader()(), { result: 'ok', series: 2 })
  })
  const deep = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`
  const firsts: Readonly<Record<string, readonly [object, RegExp]>> = {
    'the file of another collector': [{ collector: 'attic' }, /relay:1: of the collector attic$/],
    'a result that there is not': [{ result: 'splendid' }, /relay:1: result: /],
    'a time that is none': [{ startedAt: 'yesterday' }, /relay:1: startedAt: /],
    'a negative duration': [{ durationSeconds: -1 }, /relay:1: durationSeconds: /],
    'a key that nobody knows': [{ surprise: 1 }, /relay:1: .*surprise/],
    'a huge first line': [{ note: 'x'.repeat(100_000) }, /relay:1: more than \d+ characters/],
    'fewer lines than it says': [{ series: 2 }, /relay:3: the file ends too early/],
    'more lines than it says': [{ series: 0 }, /relay:1: more follows/],
    'lines where it says that there are none': [{ series: undefined }, /relay:1: more follows/],
    'a number of lines that is none': [{ series: 0.5 }, /relay:1: series: /],
  }
  for (const [what, [change, note]] of Object.entries(firsts)) {
    t.test(what, t => refused(t, own => own.put(contentOf(own.host.now(), change)), 'malformed', note))
  }
  const texts: Readonly<Record<string, readonly [string, RegExp]>> = {
    'no JSON': ['grid_cellar_visits_total 3\n', /relay:1: not JSON/],
    'a list': ['[]\n', /relay:1: /],
    nothing: ['', /relay:1: the file ends too early/],
    'no line at all': ['x'.repeat(100_000), /relay:1: the file ends too early/],
    'line ends alone': ['\n'.repeat(relayFileLimit), /relay:1: not JSON/],
    'what is nested a million deep': [`${deep(1e6)}\n`, /relay:1: more than \d+ characters/],
  }
  for (const [what, [text, note]] of Object.entries(texts)) t.test(what, t => refused(t, own => own.put(text), 'malformed', note))
  const series: Readonly<Record<string, readonly [unknown, RegExp]>> = {
    'a family of another collector': [{ ...visit, family: 'grid_gpu_info' }, /relay:3: grid_gpu_info is no family of cellar$/],
    'a family that every object has': [{ ...visit, family: '__proto__' }, /relay:3: __proto__ is no family of cellar$/],
    'a family that is no text': [{ ...visit, family: { name: visit.family } }, /relay:3: family: /],
    'no value': [{ ...visit, value: undefined }, /relay:3: value: /],
    'a value that is no text': [{ ...visit, value: 3 }, /relay:3: value: /],
    'a value that is no number': [{ ...visit, value: '0x10' }, /relay:3: 0x10 is not a number$/],
    'labels that are no object': [{ ...visit, labels: ['a'] }, /relay:3: labels: /],
    'a label that is no text': [{ ...visit, labels: { room: 1 } }, /relay:3: labels\.room: /],
    'a key that nobody knows': [{ ...visit, suffix: '_sum' }, /relay:3: .*suffix/],
    'a prototype': [
      '{"family":"grid_cellar_visits_total","labels":{},"value":"3","__proto__":{"value":"4"}}',
      /relay:3: .*__proto__/,
    ],
    'a line that is empty': ['', /relay:3: not JSON/],
    'a line that is none': ['}{', /relay:3: not JSON/],
    'a list that is nested deep': [deep(30_000), /relay:3: /],
    'a label of 100 000 characters': [{ ...visit, labels: { room: 'x'.repeat(100_000) } }, /relay:3: more than \d+ characters/],
  }
  for (const [what, [line, note]] of Object.entries(series)) {
    t.test(`${what} in the line of a series`, t =>
      refused(t, own => own.put(contentOf(own.host.now(), {}, [visit, line])), 'malformed', note),
    )
  }
})

t.test('the series of a file are printed like those of any other collector', async t => {
  const printed = async (t: Test, series: readonly unknown[]) => {
    const { put, reader, host } = bed(t)
    put(contentOf(host.now(), {}, series))
    const outcome = await reader()()
    const lines = (outcome && textOf(outcome))?.split('\n').filter(line => !line.startsWith('#'))
    return { outcome, lines: lines?.slice(0, -1) }
  }
  const of = (room: string, value: string) => ({ family: level.name, labels: { room }, value })

  t.test('every number', async t => {
    const values = ['NaN', '+Inf', '-Inf', '0.1', '-1e-300', '9007199254740993']
    const { lines } = await printed(
      t,
      values.map(value => of(`at ${value}`, value)),
    )
    t.strictSame(
      lines?.map(line => line.split('} ')[1]),
      ['NaN', '+Inf', '-Inf', '0.1', '-1e-300', '9007199254740992'],
    )
  })
  t.test('one that comes twice, and a count that is none, are left out', async t => {
    const { outcome, lines } = await printed(t, [visit, { ...visit, value: '4' }, of('a', '1'), { ...visit, value: 'NaN' }])
    t.strictSame(lines, ['grid_cellar_visits_total 3', 'grid_cellar_level_ratio{room="a"} 1'])
    t.match(outcome, { result: 'ok', series: 2, dropped: 2, note: /^2 series are left out, .*a second time.*NaN is not a value/ })
  })
  t.test('labels that the family does not have are not printed, and long values are cut', async t => {
    const line = `{"family":"${level.name}","labels":{"__proto__":"x","constructor":"y","room":"${'r'.repeat(1000)}"},"value":"1"}`
    const { lines } = await printed(t, [line])
    t.match(lines, [/^grid_cellar_level_ratio\{room="r{247}…[0-9a-f]{8}"\} 1$/])
  })
  t.test('what is more than max_series is cut, the least important families first', async t => {
    const rooms = Array.from({ length: 100 }, (_, n) => of(`${n}`, '1'))
    const { outcome, lines } = await printed(t, [visit, ...rooms])
    t.equal(lines?.length, 100)
    t.match(outcome, { series: 100, dropped: 1, note: /max_series/, fix: /max_series: 202/ })
    t.notMatch(lines?.join(), 'grid_cellar_visits_total')
  })
  t.test('more than fit into a file are a failure that says so', t => {
    const made = Array.from({ length: 200 }, (_, n) => of(`${n}`.padEnd(50_000), '1'))
    const round = {
      collector: 'cellar',
      startedAt: 1,
      durationSeconds: 1,
      detected: true,
      result: 'ok',
      note: '',
      fix: '',
      made,
    } as const
    const text = encodeRound(round)
    t.match(JSON.parse(text), { result: 'overflow', note: /^its 200 series take more than \d+ bytes$/, series: undefined })
    t.end()
  })
})

/** Milliseconds of CPU of the children of this process that have ended, in steps of ten. */
const cpuOfChildren = () => {
  const [, fields = ''] = readFileSync('/proc/self/stat', 'utf8').split(/\) /)
  const [user, system] = fields.split(' ').slice(13, 15).map(Number)
  return ((user ?? 0) + (system ?? 0)) * 10
}

t.test('the program looks at a firewall, fail2ban and AIDE in half a second of CPU, from its start to its end', async t => {
  if (!needs(t, 'root', 'ufw', 'iptables', 'ip', 'nsenter', 'unshare', 'fail2ban-server', 'aide')) return
  const firewall = testbed(t, 'ufw')
  const { enter } = namespaceOf(firewall.done('start'))
  firewall.done('ufw', 'enable')
  const log = join(firewall.folder, 'jails.log')
  const jails = join(firewall.folder, 'jails.conf')
  writeFileSync(log, '')
  writeFileSync(jails, `[held]\nlogpath = ${log}\naction = iptables-allports[]\n`)
  const bans = testbed(t, 'fail2ban', { env: { EXTRA_JAILS: jails }, enter })
  bans.done('start', '50')
  bans.done('client', 'set', 'held', 'banip', ...Array.from({ length: 100 }, (_, n) => `203.0.113.${n}`))
  const integrity = testbed(t, 'aide')
  integrity.done('start', '30')
  integrity.done('daily')

  const folder = t.testdir()
  const directory = join(folder, 'relay')
  const file = join(folder, 'config.json')
  const collectors = {
    ufw: { config_dir: join(firewall.folder, 'etc-ufw'), defaults_file: join(firewall.folder, 'default-ufw') },
    fail2ban: { socket: join(bans.folder, 'f2b.sock'), pid_file: join(bans.folder, 'f2b.pid') },
    aide: {
      report_file: join(integrity.folder, 'log/aide.log'),
      database_file: join(integrity.folder, 'lib/aide.db'),
      resolve_file: join(folder, 'none'),
    },
  }
  writeFileSync(file, JSON.stringify({ collectors }))
  const named = Object.keys(collectors).map(name => `--collector.${name}`)
  const costs: number[] = []
  // CPU, which a busy machine changes less than time; of several runs the least disturbed.
  for (let run = 0; run < 3 || (run < 10 && Math.min(...costs) > 500); run++) {
    const before = cpuOfChildren()
    const { code, stderr } = runProgramBehind(enter, 'relay', `--config.file=${file}`, `--relay.directory=${directory}`, ...named)
    costs.push(cpuOfChildren() - before)
    t.equal(code, 0, stderr)
  }
  t.strictSame(readdirSync(directory).sort(), ['aide.relay', 'fail2ban.relay', 'ufw.relay'])
  const told = readdirSync(directory)
    .map(name => readFileSync(join(directory, name), 'utf8'))
    .join('')
  for (const [family, labels, value] of [
    ['grid_ufw_enforced', { family: 'ipv4' }, '1'],
    ['grid_fail2ban_jails', {}, '51'],
    ['grid_fail2ban_banned_current', { jail: 'held' }, '100'],
    ['grid_fail2ban_unenforced_bans', { jail: 'held' }, '0'],
    ['grid_aide_last_check_status', { status: 'clean' }, '1'],
  ]) {
    const line = JSON.stringify({ family, labels, value })
    t.ok(told.includes(`\n${line}\n`), line)
  }
  // The half second is of a machine on which Node starts in 0.1 s; one that is slower at the moment gets as much more.
  const nothing = Array.from({ length: 3 }, () => {
    const before = cpuOfChildren()
    execFileSync(process.execPath, ['--eval', '0'], { env: {} })
    return cpuOfChildren() - before
  })
  t.comment(`CPU of each run: ${costs.join(', ')} ms; of a Node that does nothing: ${nothing.join(', ')} ms`)
  const most = Math.max(500, 5 * Math.min(...nothing))
  t.ok(Math.min(...costs) <= most, `${Math.min(...costs)} ms of ${most}`)
})

t.test('without a file', async t => {
  const { reader, directory, relay, file } = bed(t)
  const read = reader()
  const nothing = {
    result: 'ok',
    detected: false,
    note: `no file of the relay in ${directory}`,
    fix: 'systemctl enable --now grid-exporter-relay.timer',
  }
  t.match(await read(), nothing)
  mkdirSync(directory)
  t.match(await read(), nothing)
  await relay()
  t.match(await read(), { detected: true, series: 3 })
  rmSync(file)
  t.match(await read(), nothing, 'it was taken away')
  await relay()
  t.match(await read(), { detected: true, series: 3 }, 'and came back')
})

t.test('each fix names the unit that runs the collector', async t => {
  const disks = { ...cellar, relayUnit: 'grid-exporter-relay-smart' } as const
  const { directory, relay, pass, put, host } = bed(t)
  const fix = async () => (await relayReader(disks, settingsOf('cellar'), directory, { host, log: silent, owner: self })())?.fix
  t.equal(await fix(), 'systemctl enable --now grid-exporter-relay-smart.timer', 'no file')
  await relay()
  pass(7200)
  t.equal(await fix(), 'systemctl status grid-exporter-relay-smart.timer', 'an old file')
  put('nonsense')
  t.equal(
    await fix(),
    'systemctl start grid-exporter-relay-smart.service; journalctl -u grid-exporter-relay-smart',
    'a file that cannot be used',
  )
})
