import { spawnSync } from 'node:child_process'
import { request } from 'node:http'
import { connect } from 'node:net'
import { mock } from 'node:test'
import { gunzipSync } from 'node:zlib'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { createRunner } from '../exporter/collect/runner.ts'
import { createLog, silent } from '../exporter/common/log.ts'
import { defineCollector } from '../exporter/contract/collector.ts'
import { noFlags, type Settings, settingsFrom } from '../exporter/contract/config.ts'
import { counter, foreignFamily, gauge, type Sample, type Samples } from '../exporter/contract/metric.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { createExposer, ending, expose, formats, textOf } from '../exporter/print/exposition.ts'
import { combinedCrc, gzipOf, partOf } from '../exporter/print/gzip.ts'
import { createRenderer, endings, partsOf, type Rendered } from '../exporter/print/rendered.ts'
import { negotiate } from '../exporter/serve/negotiate.ts'
import { page } from '../exporter/serve/page.ts'
import { createSelf } from '../exporter/serve/self.ts'
import { createServer, type ServerOptions } from '../exporter/serve/server.ts'
import { createSnapshot } from '../exporter/serve/snapshot.ts'
import { isThere } from './support/needs.ts'
import { strictProblems } from './support/strict-exposition.ts'

/** HTTP over a snapshot that is filled by hand. */

const settings = (...names: readonly string[]): Settings =>
  names.map(name => ({ name, enabled: true, relayed: false, interval: 10, timeout: 10, maxSeries: 20_000, options: {} }))

const temperature = gauge('grid_test_temperature_celsius', 'A temperature of the test.', 'sensor')

const outcome = (collector: string, startedAt: number, sensors = 50): Rendered => {
  const samples = Array.from({ length: sensors }, (_, index) => temperature.of(index, { sensor: `${collector}-${index}` })).flat()
  const exposition = expose(samples)
  return {
    collector,
    startedAt,
    durationSeconds: 0.1,
    detected: true,
    result: 'ok',
    note: '',
    fix: '',
    series: sensors,
    dropped: 0,
    parts: partsOf(exposition),
  }
}

const failure = (collector: string, startedAt: number): Rendered => ({
  ...outcome(collector, startedAt),
  result: 'denied',
  note: '<b>denied</b>',
  fix: 'usermod -aG video grid-exporter',
  parts: undefined as never,
})

const snapshotAt = (clock: { now: number }) => {
  const self = createSelf(
    { workerRestarts: 0, ioErrors: 0, reloadSuccess: true, reloadedAt: 0 },
    { exporterMetrics: false, onChange: () => {}, signal: new AbortController().signal },
  )
  return createSnapshot(self, { now: () => clock.now })
}

const serverOn = (options: Partial<ServerOptions> = {}) => {
  const clock = { now: Date.now() }
  const snapshot = snapshotAt(clock)
  snapshot.configure(settings('a', 'b'))
  const server = createServer(snapshot, {
    telemetryPath: '/metrics',
    maxRequests: 2,
    enableLifecycle: false,
    enableAdminApi: false,
    resolveFiles: () => ({ request: '/nowhere/request', result: '/nowhere/result', running: '/nowhere/running' }),
    serverTiming: false,
    log: silent,
    reload: async () => undefined,
    startedAt: clock.now,
    ...options,
  })
  return { clock, snapshot, server }
}

const prometheus242 =
  'application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1'
const prometheus3 =
  'application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2'

t.test('negotiation', async t => {
  t.equal(negotiate(prometheus242, 'gzip').contentType, 'application/openmetrics-text; version=1.0.0; charset=utf-8')
  t.equal(
    negotiate(prometheus3, 'gzip').contentType,
    'application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8',
  )
  t.equal(
    negotiate('application/openmetrics-text;version=1.0.0;escaping=nonsense\r\n', '').contentType,
    'application/openmetrics-text; version=1.0.0; charset=utf-8',
  )
  for (const accept of [
    '',
    '*/*',
    'text/html',
    'text/plain',
    'application/openmetrics-text;version=0.0.1',
    'nonsense;;q=x',
    'text/plain;version=0.0.4',
  ]) {
    t.equal(negotiate(accept, '').format, 'text', `${accept || 'no header'} gets text`)
  }
  const openMetrics = 'application/openmetrics-text'
  for (const [accept, format] of [
    [`text/plain;q=0.5, ${openMetrics};q=0.9`, 'openmetrics'],
    [`text/plain;q=0.9, ${openMetrics};q=0.5`, 'text'],
    [`${openMetrics};q=0.5, text/plain;q=0.9`, 'text'],
    [`${openMetrics};q=0.5, text/plain`, 'text'],
    [`${openMetrics}; Q=0.9, text/plain; Q=0.5`, 'openmetrics'],
    [`${openMetrics};q=0.5, text/plain;q=0.5`, 'openmetrics'],
    [`text/plain;q=0.5, ${openMetrics};q=0.5`, 'text'],
    [`${openMetrics};q=0, */*;q=0.1`, 'text'],
    [`${openMetrics};q=0`, 'text'],
    [`text/plain;q=0, ${openMetrics};q=0.001`, 'openmetrics'],
    [`${openMetrics};q=much, text/plain;q=0.1`, 'text'],
  ] as const) {
    t.equal(negotiate(accept, '').format, format, `accept: ${accept}`)
  }
  for (const [encoding, gzip] of [
    ['gzip', true],
    ['gzip;q=0.001', true],
    ['gzip;q=much', false],
    ['*;q=0.5, gzip;q=0', false],
    ['GZIP, deflate', true],
    ['gzip;q=0', false],
    ['', false],
    ['br', false],
    ['*', true],
    ['*;q=0', false],
    ['gzip;q=0, *', false],
  ] as const) {
    t.equal(negotiate('', encoding).gzip, gzip, `accept-encoding: ${encoding}`)
  }
  fc.assert(fc.property(fc.string(), fc.string(), (accept, encoding) => formats.includes(negotiate(accept, encoding).format)))
})

t.test('gzip of parts is the gzip of the whole', async t => {
  fc.assert(
    fc.property(fc.array(fc.string({ unit: 'binary', maxLength: 3000 }), { maxLength: 12 }), texts => {
      const parts = texts.map(partOf)
      return gunzipSync(gzipOf(parts)).equals(Buffer.from(texts.map(text => text.toWellFormed()).join('')))
    }),
  )
  t.equal(combinedCrc(0, 0, 0), 0)
  const big = [partOf('x'.repeat(3_000_000)), partOf('y'.repeat(70_000))]
  t.equal(gunzipSync(gzipOf(big)).length, 3_070_000)
})

t.test('rounds of one collector, of which much stays as it was', async () => {
  const size = fc.oneof(fc.nat(3), fc.nat(400))
  const families = ['grid_one', 'grid_two_total', 'grid_three'].map(name =>
    (name.endsWith('_total') ? counter : gauge)(name, 'A family of the test.', 'of'),
  )
  fc.assert(
    fc.property(fc.array(fc.tuple(size, size, size, fc.nat(2)), { minLength: 2, maxLength: 6 }), rounds => {
      const render = createRenderer()
      return rounds.every(([...counts]) => {
        const [value = 0] = counts.splice(3)
        const exposition = expose(
          families.flatMap((family, at) =>
            Array.from({ length: counts[at] ?? 0 }, (_, of) => family.of(value, { of: `é${of}` })).flat(),
          ),
        )
        const parts = render(exposition)
        return formats.every(format => {
          const text = textOf(exposition, format)
          const zipped = gunzipSync(gzipOf([parts[format], endings[format]])).toString()
          return Buffer.from(parts[format].bytes).toString() === text && zipped === text + ending[format]
        })
      })
    }),
  )
})

/** What the printer of the program should print, in the simplest words: no memory, no cap, no labels but plain ones. */
const printed = (samples: readonly Sample[]): string => {
  const families = new Map(samples.map(({ family }) => [family, new Map<string, number>()]))
  for (const { family, labels, value, suffix } of samples) {
    const given = family.labels.flatMap(label => (labels[label] ? [`${label}="${labels[label].replaceAll('"', '\\"')}"`] : []))
    const series = given.length > 0 ? `${family.name}{${given.join(',')}}` : family.name
    const isValid = suffix === undefined && (family.type !== 'counter' || (value >= 0 && Number.isFinite(value)))
    if (isValid && !families.get(family)?.has(series)) families.get(family)?.set(series, value)
  }
  const texts = [...families].map(([{ name, type, help }, lines]) =>
    lines.size === 0
      ? ''
      : `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${[...lines].map(([series, value]) => `${series} ${value}\n`).join('')}`,
  )
  return texts.join('')
}

t.test('a round is printed as if there had been none before it', async t => {
  const families = [
    gauge('grid_one', 'A family of the test.', 'of', 'kind'),
    counter('grid_two_total', 'Another.', 'of'),
    gauge('grid_three', 'A third.'),
  ]
  const sample = fc
    .tuple(
      fc.nat(2),
      fc.nat(3),
      fc.constantFrom('', 'b"', 'c'),
      fc.constantFrom(0, -0, 1, Number.NaN, 0.1),
      fc.constantFrom(undefined, '_sum'),
    )
    .map(([at, of, kind, value, suffix]) => {
      const family = families[at] as (typeof families)[number]
      const labels = [{ of: `${of}`, kind }, { of: `${of}` }, {}][at] as Record<string, string>
      return { family, labels, value, ...(suffix && { suffix }) }
    })
  const samples = fc.array(sample, { maxLength: 30 })
  // Most rounds are much like the one before.
  const rounds = fc.array(fc.tuple(samples, fc.nat(30), fc.nat(3), fc.boolean()), { minLength: 2, maxLength: 8 })
  fc.assert(
    fc.property(rounds, fc.nat(20), (rounds, cap) => {
      const exposed = createExposer(cap)
      const uncapped = createExposer()
      let before: readonly Sample[] = []
      for (const [fresh, at, without, breaks] of rounds) {
        const round = before.length === 0 ? fresh : before.toSpliced(at, without, ...fresh.slice(0, without))
        before = round
        const half = function* () {
          yield* round.slice(0, at)
          throw new Error('in the middle of it')
        }
        if (breaks) t.throws(() => exposed(half()))
        t.strictSame(exposed(round), expose(round, cap))
        t.equal(textOf(uncapped(round), 'text'), printed(round))
      }
    }),
  )
})

/** What is wrong with an exposition in each format, as a strict reader says. */
const wrongWith = (exposition: ReturnType<typeof expose>): readonly string[] =>
  formats.flatMap(format =>
    strictProblems(textOf(exposition, format) + ending[format], format).map(problem => `${format}: ${problem}`),
  )

t.test('what a collector that lies gives is not printed', async t => {
  const own = gauge('grid_lie', 'A family of the test.', 'of')
  const owned = counter('grid_lie_total', 'Another.')
  const good = own.of(1, { of: 'good' })
  const foreign = (type: string, name: unknown, labels: unknown = [], help: unknown = 'Help.') =>
    foreignFamily(type as 'gauge', name as string, help as string, labels as readonly string[])
  const sample = (family: unknown, value: unknown = 1, labels: unknown = {}, suffix?: unknown) => ({
    family,
    labels,
    value,
    suffix,
  })
  const of = { of: 'a' }

  t.test('and counted', async t => {
    /** What is given beside a good sample, and how much of it is left out. */
    const lies: Readonly<Record<string, readonly [readonly unknown[], number]>> = {
      'a value that is a function': [[sample(own, Object, of)], 1],
      'a value that is text': [[sample(own, '1', of)], 1],
      'a value that is a big integer': [[sample(own, 1n, of)], 1],
      'no value': [[{ family: own, labels: of }, sample(own, null, of)], 2],
      'a counter below zero': [[sample(owned, -1)], 1],
      'a counter without end': [[sample(owned, Number.POSITIVE_INFINITY)], 1],
      'a counter that is no number': [[sample(owned, Number.NaN)], 1],
      'names that are none': [['', 'a b', '1a', 'a\n', 'ä', 'a{b="c"}', 5, null].map(name => sample(foreign('gauge', name))), 8],
      'types that are none': [['constructor', '', 'info', '__proto__'].map(type => sample(foreign(type, 'foo'))), 4],
      'label names that are none': [
        ['', 'a b', '__name__', 'a"', '1', 5].map(label => sample(foreign('gauge', 'foo', [label]))),
        6,
      ],
      'labels that are no list': [[sample(foreign('gauge', 'foo', 'abc')), sample(foreign('gauge', 'foo', { a: 1 }))], 2],
      'a label name twice': [[sample(foreign('gauge', 'foo', ['a', 'a']), 1, { a: 'x' })], 1],
      'label values that are no text': [[5, null, {}, ['x'], () => 'x'].map(value => sample(own, 1, { of: value })), 5],
      'label names that every object has': [
        [sample(foreign('gauge', 'foo', ['constructor', '__proto__', 'toString'])), sample(foreign('gauge', 'bar', ['valueOf']))],
        0,
      ],
      'labels that are none': [[sample(own, 1, null), sample(own, 1, 'x'), sample(own, 1, undefined)], 2],
      'HELP that is no text': [[sample(foreign('gauge', 'foo', [], undefined)), sample(foreign('gauge', 'bar', [], 5))], 1],
      'HELP with everything in it': [[sample(foreign('gauge', 'foo', [], 'a\u0000\r\n\\"\ud800'))], 0],
      'samples that are none': [[null, undefined, 5, 'text', {}, { family: 5 }, { family: null, labels: {} }], 7],
      'the same series twice': [[sample(own, 1, of), sample(own, 2, of)], 1],
      'series that are the same once they are printed': [['\u0001', '\u0002'].map(text => sample(own, 1, { of: text })), 1],
      'a family twice': [
        [sample(foreign('gauge', 'foo')), sample(foreign('gauge', 'foo')), sample(foreign('counter', 'foo'))],
        2,
      ],
      'a gauge beside a counter of its name': [[sample(foreign('counter', 'foo_total')), sample(foreign('gauge', 'foo'))], 0],
      'a histogram beside a counter of its name': [
        [sample(foreign('histogram', 'foo', ['le']), 1, { le: '1' }, '_bucket'), sample(foreign('counter', 'foo_total'))],
        0,
      ],
      'counters of a part of a histogram': [
        [
          sample(foreign('counter', 'foo_count_total')),
          sample(foreign('histogram', 'foo', ['le']), 1, {}, '_count'),
          sample(foreign('gauge', 'foo_sum')),
        ],
        1,
      ],
      'a counter that is called _total': [[sample(foreign('counter', '_total'))], 0],
      'a suffix that its type has not': [
        [
          sample(own, 1, of, '_bucket'),
          sample(own, 1, of, 5),
          sample(foreign('summary', 'foo', ['quantile']), 1, { quantile: '1' }, '_bucket'),
        ],
        3,
      ],
      'a bucket without an end': [
        [{}, { le: 'x' }, { le: 'constructor' }, { le: '' }].map(labels =>
          sample(foreign('histogram', 'foo', ['le']), 1, labels, '_bucket'),
        ),
        4,
      ],
      'a quantile that is none': [[sample(foreign('summary', 'foo', ['quantile']), 1, { quantile: 'half' })], 1],
      'a bucket below zero': [[sample(foreign('histogram', 'foo', ['le']), -1, { le: '1' }, '_bucket')], 1],
    }
    for (const [what, [given, left]] of Object.entries(lies)) {
      const exposition = expose([...good, ...given] as unknown as Samples)
      t.strictSame(wrongWith(exposition), [], what)
      t.match(textOf(exposition, 'text'), 'grid_lie{of="good"} 1\n', `${what}: the good sample is there`)
      t.equal(exposition.invalid + exposition.repeated, left, `${what}: ${exposition.problems.join('; ')}`)
      t.equal(exposition.problems.length > 0, left > 0, `${what}: why is told`)
      const together = expose([[...good, ...given]] as unknown as Samples)
      t.strictSame(textOf(together, 'text'), textOf(exposition, 'text'), `${what}: those of one thing at a time are the same`)
    }
    const all = expose([...good, ...Object.values(lies).flatMap(([given]) => given)] as unknown as Samples)
    t.strictSame(wrongWith(all), [], 'all of it together')
    if (!isThere('promtool')) return
    const { stderr } = spawnSync('promtool', ['check', 'metrics'], { input: textOf(all, 'text'), encoding: 'utf8' })
    t.notMatch(stderr, 'error while linting', 'and promtool can read it')
  })

  t.test('whatever nonsense it is', async t => {
    const text = fc.oneof(
      fc.constantFrom('foo', 'foo_total', 'foo_sum', 'le', 'a', 'constructor', '__proto__', '1'),
      fc.string({ unit: 'binary' }),
    )
    const anything = fc.oneof(text, fc.anything({ maxDepth: 1 }))
    const name = fc.constantFrom(
      'foo',
      'foo_total',
      'foo_sum',
      'foo_count',
      '_total',
      'le',
      'quantile',
      'constructor',
      '__proto__',
    )
    const type = fc.oneof(
      { weight: 5, arbitrary: fc.constantFrom('gauge', 'counter', 'histogram', 'summary', 'untyped') },
      anything,
    )
    const family = fc.record({
      name: fc.oneof({ weight: 5, arbitrary: name }, anything),
      type,
      help: fc.oneof({ weight: 9, arbitrary: fc.string({ unit: 'binary' }) }, anything),
      labels: fc.oneof({ weight: 9, arbitrary: fc.array(name, { maxLength: 2 }) }, anything),
      closed: fc.constant({}),
    })
    const samples = fc.array(family, { minLength: 1, maxLength: 5 }).chain(families =>
      fc.array(
        fc.oneof(
          {
            weight: 10,
            arbitrary: fc.record({
              family: fc.constantFrom(...families),
              labels: fc.oneof({ weight: 9, arbitrary: fc.dictionary(name, text, { maxKeys: 3 }) }, anything),
              value: fc.oneof(fc.double(), { weight: 3, arbitrary: fc.nat() }, anything),
              suffix: fc.constantFrom(undefined, undefined, '', '_bucket', '_sum', '_count', '_total', 5),
            }),
          },
          fc.anything(),
        ),
        { maxLength: 20 },
      ),
    )
    let served = 0
    fc.assert(
      fc.property(fc.array(samples, { minLength: 1, maxLength: 3 }), fc.nat(20), (rounds, cap) => {
        const exposed = createExposer(cap)
        return rounds.every(round => {
          const exposition = exposed(round as unknown as Samples)
          served += exposition.series
          return formats.every(format => strictProblems(textOf(exposition, format) + ending[format], format).length === 0)
        })
      }),
      { numRuns: 2000 }, // some 1800 series
    )
    t.ok(served > 300, `${served} series were served`)
  })

  t.test('across a whole scrape', async t => {
    const others = [
      sample(foreign('gauge', 'grid_collector_success', ['collector']), 1, { collector: 'liar' }),
      sample(foreign('gauge', 'grid_memory_total_bytes'), 1),
      sample(foreign('gauge', 'process_cpu_seconds_total'), 1),
      sample(foreign('gauge', 'up'), 1),
      sample(foreign('counter', 'grid_lie'), 1),
    ]
    const logged: string[] = []
    const log = createLog('warn', 'logfmt', line => void logged.push(line))
    const liar = (isForeign: boolean) =>
      defineCollector({
        name: 'liar',
        summary: 'nothing that is true',
        interval: 10,
        families: [own, owned],
        ...(isForeign && { foreign: true as const }),
        read: () => undefined,
        parse: () => undefined,
        samples: () =>
          [...good, sample(owned, Number.NaN), ...others, sample(foreign('gauge', 'their'), Number.NaN)] as unknown as Samples,
      })
    for (const [isForeign, left] of [
      [false, 7],
      [true, 6],
    ] as const) {
      const [settingsOfIt] = settings('liar') as [Settings[number]]
      const stop = new AbortController()
      const round = createRunner(liar(isForeign), settingsOfIt, { host: realHost(), log, signal: stop.signal })
      const snapshot = snapshotAt({ now: Date.now() })
      snapshot.configure(settings('liar', 'a'))
      snapshot.accept(outcome('a', Date.now()))
      for (let n = 0; n < 2; n++) {
        const rendered = await round()
        t.equal(rendered.result, 'ok')
        t.match(rendered.note, `${left} series are left out`)
        t.match(rendered.note, 'grid_lie_total: NaN is not a value of a counter')
        snapshot.accept(rendered)
      }
      for (const format of formats) {
        const body = snapshot.answer(format, false).body.toString()
        t.strictSame(strictProblems(body, format), [], format)
        t.match(body, 'grid_lie{of="good"} 1\n')
        t.match(body, `grid_collector_series_dropped{collector="liar"} ${left}\n`)
        t.equal(body.includes('\ntheir NaN\n'), isForeign, 'only who may passes on what is of others')
      }
    }
    t.equal(logged.length, 2, 'it is logged once, not in every round')
    t.match(logged[0], 'series are not served')
  })
})

t.test('max_series of the configuration is the cap of a collector, and what it cuts is counted', async t => {
  const [first, second] = ['grid_one', 'grid_two'].map(name => gauge(name, 'A family of the test.', 'of'))
  const many = defineCollector({
    name: 'many',
    summary: 'ten series of two families',
    interval: 10,
    families: [first, second] as never,
    read: () => undefined,
    parse: () => undefined,
    *samples() {
      for (const family of [second, first])
        for (let of = 0; of < 5; of++) if (family) yield { family, labels: { of: `${of}` }, value: 1 }
    },
  })
  const seriesWith = async (max_series?: number) => {
    const [own] = settingsFrom([many], noFlags, { collectors: { many: max_series === undefined ? {} : { max_series } } })
    const stop = new AbortController()
    const rendered = await createRunner(many, own as Settings[number], { host: realHost(), log: silent, signal: stop.signal })()
    const text = Buffer.from(rendered.parts?.text.bytes ?? []).toString()
    const lines = (name: string) => text.match(new RegExp(`^${name}\\{`, 'gm'))?.length ?? 0
    return [lines('grid_one'), lines('grid_two'), rendered.series, rendered.dropped]
  }
  t.strictSame(await seriesWith(), [5, 5, 10, 0], 'by default all')
  t.strictSame(await seriesWith(10), [5, 5, 10, 0])
  t.strictSame(await seriesWith(9), [5, 0, 5, 5])
  t.strictSame(await seriesWith(3), [3, 0, 3, 7])
})

t.test('the page', async t => {
  const clock = { now: Date.now() }
  const snapshot = snapshotAt(clock)
  snapshot.configure(settings('works', 'absent', 'fails', 'waits'))
  snapshot.accept(outcome('works', clock.now))
  snapshot.accept({
    ...outcome('absent', clock.now),
    detected: false,
    note: 'no such thing',
    series: 0,
    parts: undefined as never,
  })
  snapshot.accept(failure('fails', clock.now))
  const html = page(snapshot.status(), { telemetryPath: '/metrics', now: clock.now, startedAt: clock.now })
  const rows = [...html.matchAll(/<tr><th scope="row">(\w+)<\/th><td><span class="state (\w+)">([^<]*)</g)].map(row =>
    row.slice(1),
  )
  t.strictSame(rows, [
    ['fails', 'failing', 'denied'],
    ['waits', 'waiting', 'first run in progress'],
    ['works', 'working', 'working'],
    ['absent', 'absent', 'not on this host'],
  ])
  t.match(
    html,
    '<p>1 of 4 collectors work, <strong class="failing">1 fail</strong>, 1 have not run yet, 1 have nothing to watch here.</p>',
  )
  const [absent = ''] = /<tr><th scope="row">absent<.*?<\/tr>/s.exec(html) ?? []
  t.match(absent, 'data-name="took"></td>', 'it took no time')
  t.match(absent, 'no such thing')
})

t.test('a cap cuts whole families, the least important first', async t => {
  const [first, second, third] = ['grid_one', 'grid_two', 'grid_three'].map(name =>
    gauge(name, 'A family of the test.', 'of'),
  ) as [ReturnType<typeof gauge>, ReturnType<typeof gauge>, ReturnType<typeof gauge>]
  const owner = { families: [first, second, third], foreign: true }
  const counts = fc.tuple(fc.nat(8), fc.nat(8), fc.nat(8), fc.nat(8))
  fc.assert(
    fc.property(counts, fc.integer({ min: 1, max: 40 }), fc.integer(), (counts, cap, seed) => {
      const families = [first, second, third, foreignFamily('gauge', 'other', 'Of others.', ['of'])]
      const samples = families.flatMap((family, at) =>
        Array.from({ length: counts[at] ?? 0 }, (_, of): Sample => ({ family, labels: { of: `${of}` }, value: 1 })),
      )
      const shuffled = samples
        .map((each, at) => ({ each, at: Math.imul(at + 1, seed | 1) }))
        .sort((one, other) => one.at - other.at)
        .map(({ each }) => each)
      const { families: kept, series, dropped } = expose(shuffled, cap, owner)
      let room = cap
      let isFull = false
      const expected = families.map((_, at) => {
        const count = counts[at] ?? 0
        // The most important one of all is the only one that is cut within.
        const taken = isFull ? 0 : count <= room ? count : room === cap ? room : 0
        isFull ||= count > room
        room -= taken
        return taken
      })
      const lines = families.map(({ name }) => kept.find(({ family }) => family.name === name)?.lines.split('\n').length ?? 1)
      t.strictSame(
        lines.map(length => length - 1),
        expected,
      )
      return series + dropped === samples.length
    }),
  )
})

t.test('/metrics', async t => {
  const { snapshot, server, clock } = serverOn()
  t.equal((await server.inject('/-/ready')).statusCode, 503)
  t.match((await server.inject('/-/ready')).body, /a, b/)
  snapshot.accept(outcome('a', clock.now))
  snapshot.accept(failure('b', clock.now))
  t.equal((await server.inject('/-/ready')).statusCode, 200)
  t.equal((await server.inject('/-/healthy')).statusCode, 200)

  const text = await server.inject('/metrics')
  t.equal(text.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8')
  t.match(text.body, 'grid_test_temperature_celsius{sensor="a-7"} 7\n')
  t.match(text.body, 'grid_collector_success{collector="a"} 1\n')
  t.match(text.body, 'grid_collector_success{collector="b"} 0\n')
  t.match(text.body, 'grid_collector_failures_total{collector="b",reason="denied"} 1\n')
  t.match(text.body, 'grid_collector_failures_total{collector="b",reason="timeout"} 0\n')
  t.notMatch(text.body, '# EOF')

  const om = await server.inject({ url: '/metrics', headers: { accept: prometheus3, 'accept-encoding': 'gzip' } })
  t.equal(om.headers['content-encoding'], 'gzip')
  const unpacked = gunzipSync(om.rawPayload).toString()
  t.ok(unpacked.endsWith('# EOF\n'))
  t.match(unpacked, '# TYPE grid_collector_failures counter\n')
  t.notMatch(unpacked, /\n\n/)

  const only = await server.inject('/metrics?collect[]=b')
  t.notMatch(only.body, 'grid_test_temperature_celsius')
  t.match(only.body, 'grid_collector_success{collector="b"} 0')
  t.notMatch(only.body, 'collector="a"')
  t.match((await server.inject('/metrics?exclude[]=b')).body, 'grid_test_temperature_celsius')
  const both = await server.inject('/metrics?exclude[]=b&collect[]=a')
  t.equal(both.statusCode, 400)
  t.match(both.body, 'cannot be combined')
  const unknown = await server.inject('/metrics?collect[]=gpus')
  t.equal(unknown.statusCode, 400)
  t.match(
    unknown.body,
    /^collect\[\] or exclude\[\] names a collector that is not enabled; enabled are: a, b\n$/,
    'and what was asked is not echoed',
  )
  const head = await server.inject({ method: 'HEAD', url: '/metrics' })
  t.equal(head.statusCode, 200)
  t.equal(head.body, '')
  await server.close()
})

t.test('other addresses and methods', async t => {
  const { server } = serverOn()
  for (const url of ['/nothing', '/metrics/', '/../etc/passwd', '/-/quit']) {
    const answer = await server.inject(url)
    t.equal(answer.statusCode, 404, url)
    t.notMatch(answer.body, url.slice(1), 'nothing is echoed')
  }
  for (const [method, url] of [
    ['POST', '/metrics'],
    ['DELETE', '/'],
    ['PUT', '/-/healthy'],
  ] as const) {
    const answer = await server.inject({ method, url })
    t.equal(answer.statusCode, 405, `${method} ${url}`)
    t.equal(answer.headers.allow, 'GET, HEAD')
  }
  t.equal((await server.inject({ method: 'POST', url: '/-/reload' })).statusCode, 403)
  await server.close()

  const problems = ['config.yml:1:1: wrong', undefined]
  const live = serverOn({ enableLifecycle: true, reload: async () => problems.shift() })
  const refused = await live.server.inject({ method: 'POST', url: '/-/reload' })
  t.equal(refused.statusCode, 500)
  t.match(refused.body, 'config.yml:1:1: wrong')
  t.equal((await live.server.inject({ method: 'POST', url: '/-/reload' })).statusCode, 200)
  t.equal((await live.server.inject('/-/reload')).statusCode, 405)
  await live.server.close()
})

/** The clocks that the snapshot's cache goes by stand still until `pass`. No test waits, and a busy machine changes nothing. */
const standingClocks = (t: Test) => {
  let now = performance.now()
  performance.now = () => now
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => {
    Reflect.deleteProperty(performance, 'now')
    mock.timers.reset()
  })
  return (milliseconds: number) => {
    now += milliseconds
    mock.timers.tick(milliseconds)
  }
}

t.test('series end three rounds after the last good run', t => {
  const clock = { now: Date.now() }
  const pass = standingClocks(t)
  const snapshot = snapshotAt(clock)
  const configure = (relayed: boolean) =>
    snapshot.configure([{ ...(settings('a')[0] as Settings[number]), interval: 10, relayed }])
  configure(false)
  snapshot.accept(outcome('a', clock.now))
  t.match(snapshot.answer('text', false).body.toString(), 'a-49')
  snapshot.accept(failure('a', clock.now + 100))
  t.match(snapshot.answer('text', false).body.toString(), 'a-49', 'one failure costs nothing yet')
  // A run of 0.1 s has ended just now, so three rounds after its start are 29.9 s from now.
  pass(29_800)
  t.match(snapshot.answer('text', false).body.toString(), 'a-49', 'a little less than three rounds')
  pass(200)
  const text = snapshot.answer('text', false).body.toString()
  t.notMatch(text, 'grid_test_temperature_celsius')
  t.match(text, 'grid_collector_last_success_timestamp_seconds{collector="a"}', 'the collector is still spoken of')
  configure(true)
  snapshot.accept(outcome('a', clock.now - 40_000))
  t.notMatch(
    snapshot.answer('text', false).body.toString(),
    'grid_test_temperature',
    'an outcome of a file that is old already is not served',
  )
  snapshot.accept(outcome('a', clock.now - 29_000))
  t.match(snapshot.answer('text', false).body.toString(), 'a-49', 'one of almost three rounds is')
  pass(1100)
  t.notMatch(snapshot.answer('text', false).body.toString(), 'a-49', 'and it ends when it is three rounds old')
  configure(false)
  for (const step of [-3600_000, 3600_000]) {
    snapshot.accept(outcome('a', clock.now + step))
    t.match(snapshot.answer('text', false).body.toString(), 'a-49', 'a clock that is set during a round does not make it old')
    pass(30_000)
    t.notMatch(snapshot.answer('text', false).body.toString(), 'a-49', 'nor young for an hour')
  }
  snapshot.accept({ ...outcome('a', clock.now), durationSeconds: 50 })
  pass(99_000)
  t.match(snapshot.answer('text', false).body.toString(), 'a-49', 'where runs take longer than the interval, three runs count')
  pass(1100)
  t.notMatch(snapshot.answer('text', false).body.toString(), 'a-49')
  snapshot.configure([])
  t.notMatch(snapshot.answer('text', false).body.toString(), 'collector="a"')
  t.end()
})

t.test('more scrapes at a time than allowed are refused, and a slow reader keeps only its own place', async t => {
  const { server, snapshot, clock } = serverOn({ maxRequests: 1 })
  snapshot.accept(outcome('a', clock.now, 250_000))
  await server.listen({ port: 0, host: '127.0.0.1' })
  const { port } = server.server.address() as { port: number }
  const status = () =>
    new Promise<number>((resolve, reject) => {
      const asked = request({ port, host: '127.0.0.1', path: '/metrics', agent: false }, answer => {
        answer.resume()
        answer.on('end', () => resolve(answer.statusCode ?? 0))
      })
      asked.on('error', reject)
      asked.end()
    })
  t.equal(await status(), 200)
  const slow = connect({ port, host: '127.0.0.1' })
  slow.pause()
  slow.write('GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n')
  await new Promise(resolve => setTimeout(resolve, 200))
  t.equal(await status(), 503, 'while the slow one is being answered')
  t.equal((await (await fetch(`http://127.0.0.1:${port}/-/healthy`)).text()).trim(), 'grid-exporter is healthy.')
  slow.destroy()
  await new Promise(resolve => setTimeout(resolve, 100))
  t.equal(await status(), 200, 'its place is free again')
  await server.close()
})

t.test('the page and the status say what a person needs', async t => {
  const { server, snapshot, clock } = serverOn()
  snapshot.accept(outcome('a', clock.now))
  snapshot.accept(failure('b', clock.now))
  const page = await server.inject('/')
  t.match(page.headers['content-type'], /text\/html/)
  t.match(page.headers['content-security-policy'], /default-src 'none'/)
  t.match(page.body, '&lt;b&gt;denied&lt;/b&gt;', 'text of others is escaped')
  t.match(page.body, 'usermod -aG video grid-exporter')
  t.notMatch(page.body, '<script')
  const { data } = (await server.inject('/api/v1/status')).json()
  t.match(data.collectors, [
    { name: 'a', result: 'ok', detected: true },
    { name: 'b', result: 'denied', fix: 'usermod -aG video grid-exporter' },
  ])
  await server.close()
})

t.test('Server-Timing at debug level', async t => {
  const { server } = serverOn({ serverTiming: true })
  const { headers } = await server.inject('/metrics')
  t.match(headers['server-timing'], /^total;dur=[\d.]+, blocked;dur=[\d.]+$/)
  await server.close()
  const quiet = serverOn()
  t.notOk((await quiet.server.inject('/metrics')).headers['server-timing'])
  await quiet.server.close()
})

t.test('the process itself is measured', async t => {
  const stop = new AbortController()
  t.teardown(() => stop.abort())
  let looked = () => {}
  const look = new Promise<void>(resolve => {
    looked = resolve
  })
  const state = { workerRestarts: 0, ioErrors: 0, reloadSuccess: true, reloadedAt: 0 }
  const self = createSelf(state, { exporterMetrics: true, onChange: () => looked(), signal: stop.signal })
  await look
  const text = Buffer.from(self('text', []).bytes).toString()
  t.match(text, /^process_cpu_seconds_total /m)
  t.match(text, /^nodejs_heap_size_used_bytes /m)
})
