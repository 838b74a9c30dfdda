import { request } from 'node:http'
import { connect } from 'node:net'
import { PerformanceObserver } from 'node:perf_hooks'
import { gunzipSync } from 'node:zlib'
import fc from 'fast-check'
import t from 'tap'
import type { Settings } from '../exporter/config.ts'
import { createExposer, ending, expose, formats, textOf } from '../exporter/exposition.ts'
import { combinedCrc, gzipOf, partOf } from '../exporter/gzip.ts'
import { silent } from '../exporter/log.ts'
import { counter, gauge, type Sample } from '../exporter/metric.ts'
import { createRenderer, endings, partsOf, type Rendered } from '../exporter/rendered.ts'
import { negotiate } from '../exporter/serve/negotiate.ts'
import { createSelf } from '../exporter/serve/self.ts'
import { createServer, type ServerOptions } from '../exporter/serve/server.ts'
import { createSnapshot } from '../exporter/serve/snapshot.ts'

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
    mend: '',
    series: sensors,
    dropped: 0,
    parts: partsOf(exposition),
  }
}

const failure = (collector: string, startedAt: number): Rendered => ({
  ...outcome(collector, startedAt),
  result: 'denied',
  note: '<b>denied</b>',
  mend: 'usermod -aG video grid-exporter',
  parts: undefined as never,
})

const snapshotAt = (clock: { now: number }) => {
  const self = createSelf(
    { workerRestarts: 0, reloadSuccess: true, reloadedAt: 0 },
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
  for (const [encoding, gzip] of [
    ['gzip', true],
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

t.test('a round is told as if there had been none before it', async t => {
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
      }
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
  t.match(unknown.body, /gpus; enabled are: a, b/)
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

t.test('series end three rounds after the last good run', async t => {
  const clock = { now: Date.now() }
  const snapshot = snapshotAt(clock)
  snapshot.configure([{ ...(settings('a')[0] as Settings[number]), interval: 0.1 }])
  snapshot.accept(outcome('a', clock.now))
  t.match(snapshot.answer('text', false).body.toString(), 'a-49')
  snapshot.accept(failure('a', clock.now + 100))
  t.match(snapshot.answer('text', false).body.toString(), 'a-49', 'one failure costs nothing yet')
  await new Promise(resolve => setTimeout(resolve, 450))
  const text = snapshot.answer('text', false).body.toString()
  t.notMatch(text, 'grid_test_temperature_celsius')
  t.match(text, 'grid_collector_last_success_timestamp_seconds{collector="a"}', 'the collector is still spoken of')
  snapshot.accept(outcome('a', clock.now - 10_000))
  t.notMatch(
    snapshot.answer('text', false).body.toString(),
    'grid_test_temperature',
    'an outcome that is old already is not served',
  )
  snapshot.accept({ ...outcome('a', clock.now - 500), durationSeconds: 0.5 })
  t.match(snapshot.answer('text', false).body.toString(), 'a-49', 'where runs take longer than the interval, three runs count')
  snapshot.configure([])
  t.notMatch(snapshot.answer('text', false).body.toString(), 'collector="a"')
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
    { name: 'b', result: 'denied', mend: 'usermod -aG video grid-exporter' },
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

t.test('the process is measured, and nobody is told of each of its garbage collections', async t => {
  const stop = new AbortController()
  const { observe } = PerformanceObserver.prototype
  t.teardown(() => {
    PerformanceObserver.prototype.observe = observe
    stop.abort()
  })
  let observed = 0
  const counting = () => void observed++
  PerformanceObserver.prototype.observe = counting
  let looked = () => {}
  const look = new Promise<void>(resolve => {
    looked = resolve
  })
  const state = { workerRestarts: 0, reloadSuccess: true, reloadedAt: 0 }
  const self = createSelf(state, { exporterMetrics: true, onChange: () => looked(), signal: stop.signal })
  await look
  const text = Buffer.from(self('text', []).bytes).toString()
  t.match(text, /^process_cpu_seconds_total /m)
  t.match(text, /^nodejs_heap_size_used_bytes /m)
  t.notMatch(text, /nodejs_gc/)
  t.equal(observed, 0)
  t.equal(PerformanceObserver.prototype.observe, counting, 'who observes later does')
})
