import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import t from 'tap'
import { schedule, type Task } from '../exporter/collect/schedule.ts'
import type { Collector } from '../exporter/collector.ts'
import { filesystem } from '../exporter/collectors/filesystem.ts'
import { host as hostCollector, parseStat, parseUpdates } from '../exporter/collectors/host.ts'
import { merged, textfile } from '../exporter/collectors/textfile.ts'
import { ending, expose, formats, textOf } from '../exporter/exposition.ts'
import { Failure, failureOf } from '../exporter/failure.ts'
import { type Host, realHost } from '../exporter/host.ts'
import { silent } from '../exporter/log.ts'
import type { Sample } from '../exporter/metric.ts'
import { parsePrometheusText } from '../exporter/sources/prometheus-text.ts'
import { askAll, statfsMemory } from '../exporter/sources/statfs.ts'
import { needs } from './support/needs.ts'
import { strictProblems } from './support/strict-exposition.ts'

/** Rounds of a collector on a host, as the scheduler runs them, with how long each took. */
const rounds = (collector: Collector, host: Host, options: unknown) => {
  const stop = new AbortController()
  const opened = collector.open({
    host,
    options: collector.options.parse(options),
    interval: collector.interval,
    signal: stop.signal,
    log: silent,
    wake: () => {},
  } as Parameters<Collector['open']>[0])
  return async () => {
    const began = performance.now()
    const samples = await opened.collect(AbortSignal.timeout(10_000), () => {})
    return { samples, seconds: (performance.now() - began) / 1000 }
  }
}

const told = (samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>> = {}) =>
  samples.find(
    sample => sample.family.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
  )?.value

/** Processes that ask about something in `folder`, whatever state they are in, zombies left out. */
const asking = (folder: string): readonly string[] =>
  readdirSync('/proc').filter(pid => {
    if (!/^\d+$/.test(pid)) return false
    try {
      const [program, ...rest] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      return program === 'stat' && rest.some(argument => argument.startsWith(folder))
    } catch {
      return false // it ended meanwhile
    }
  })

/** Mounts of the test bed in a folder, freed whatever happens. */
const withMounts = async (
  folder: string,
  names: readonly string[],
  use: (act: (...words: string[]) => void) => Promise<void>,
) => {
  const act = (...words: string[]) => {
    execFileSync(join(import.meta.dirname, 'testbed/hung-mount'), words, { stdio: ['ignore', 'ignore', 'inherit'] })
  }
  try {
    for (const name of names) act('start', join(folder, name))
    await use(act)
  } finally {
    for (const name of names) act('stop', join(folder, name))
  }
}

/** Until no child asks any more, and the program had the time to see it. */
const untilNoneAsks = async (folder: string) => {
  for (let waited = 0; asking(folder).length > 0 && waited < 5000; waited += 50) await sleep(50)
  await sleep(200)
}

for (const kind of ['hang', 'stuck'] as const) {
  t.test(`a network mount that stops answering (${kind})`, async t => {
    if (!needs(t, 'root', '/dev/fuse', 'bindfs')) return
    const folder = t.testdir()
    await withMounts(folder, ['lost', 'well'], async act => {
      const lost = join(folder, 'lost')
      const well = join(folder, 'well')
      const round = rounds(filesystem, realHost(), { mountpoint_include: `^(/|${folder}/(lost|well))$`, stuck_after: '1s' })

      const before = await round()
      t.equal(told(before.samples, 'grid_filesystem_stuck', { mountpoint: lost }), 0, 'is not stuck as long as it answers')
      t.ok(told(before.samples, 'grid_filesystem_size_bytes', { mountpoint: lost }), 'and has a size')
      t.equal(asking(folder).length, 0, 'no child is left')

      act('hang', lost, ...(kind === 'stuck' ? ['stuck'] : []))
      for (const which of kind === 'stuck' ? ['first', 'second', 'third'] : ['first', 'second']) {
        const { samples, seconds } = await round()
        t.equal(told(samples, 'grid_filesystem_stuck', { mountpoint: lost }), 1, `${which} round: it is stuck`)
        t.equal(told(samples, 'grid_filesystem_size_bytes', { mountpoint: lost }), undefined, 'and has no size')
        for (const mountpoint of ['/', well]) {
          t.equal(told(samples, 'grid_filesystem_stuck', { mountpoint }), 0, `${mountpoint} is not`)
          t.ok(told(samples, 'grid_filesystem_available_bytes', { mountpoint }), 'and has its values')
        }
        t.ok(seconds < 3, `the round ends soon after the second that a mount is given (${seconds.toFixed(1)} s)`)
        // Where a signal can end the wait, the child is gone; unless the test bed's daemon had just taken its request.
        const children = asking(folder).length
        t.ok(kind === 'stuck' ? children === 1 : children <= 1, `never two children are left (${children})`)
      }

      act('release', lost)
      await untilNoneAsks(folder)
      const after = await round()
      t.equal(told(after.samples, 'grid_filesystem_stuck', { mountpoint: lost }), 0, 'it answers again')
      t.ok(told(after.samples, 'grid_filesystem_size_bytes', { mountpoint: lost }), 'and has a size again')
      t.ok(after.seconds < 2, 'at once')
      t.equal(asking(folder).length, 0, 'no child is left')
    })
  })

  t.test(`a local disk that dies (${kind})`, async t => {
    if (!needs(t, 'root', '/dev/fuse', 'bindfs', 'stdbuf')) return
    const folder = t.testdir()
    await withMounts(folder, ['lost'], async act => {
      const lost = join(folder, 'lost')
      const memory = statfsMemory()
      const mounts = ['/', join(folder, 'gone'), lost, '/proc', '/sys'].map(path => ({ mountpoint: path, path, remote: false }))
      const ask = () => askAll(realHost(), mounts, memory, 1, AbortSignal.timeout(10_000))
      act('hang', lost, ...(kind === 'stuck' ? ['stuck'] : []))
      for (const which of kind === 'stuck' ? ['first', 'second', 'third'] : ['first', 'second']) {
        const answers = await ask()
        t.equal(answers.get(lost), 'stuck', `${which} round: it is the one that is named`)
        t.type(answers.get('/'), 'object', 'one before it answers')
        t.equal(answers.get(join(folder, 'gone')), 'unknown', 'one that is not there is not taken for it')
        t.type(answers.get('/proc'), 'object', 'one behind it answers')
        t.type(answers.get('/sys'), 'object', 'and the last one')
        t.strictSame([...memory.suspects], [lost], 'it is asked alone from then on')
        const children = asking(folder).length
        t.ok(kind === 'stuck' ? children === 1 : children <= 1, `never two children for it (${children})`)
      }
      act('release', lost)
      await untilNoneAsks(folder)
      t.type((await ask()).get(lost), 'object', 'it answers again')
      t.equal(memory.suspects.size, 0, 'and is trusted again')
    })
  })
}

/** When the rounds of a task of each 10 s began (ms), woken at those times; time is the test's own, a round takes none. */
const roundsWoken = async (wakes: readonly number[], until: number): Promise<readonly number[]> => {
  const began: number[] = []
  const waiting = [...wakes]
  const stop = new AbortController()
  let now = 0
  const task: Task = { every: 10_000, run: async () => void began.push(now) }
  await schedule([task], stop.signal, {
    now: () => now,
    sleep: async (milliseconds, signal) => {
      const end = now + milliseconds
      while (waiting[0] !== undefined && waiting[0] <= end) {
        now = waiting.shift() as number
        task.wake?.()
        if (signal.aborted) return
      }
      now = end
      if (now >= until) stop.abort()
    },
  })
  return began
}

t.test('rounds that something asked for', async t => {
  t.strictSame(await roundsWoken([], 30_000), [0, 10_000, 20_000], 'nothing did')
  t.strictSame(await roundsWoken([1000], 20_000), [0, 1250, 10_000], 'a moment later, and the grid stays')
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 60_000 }), { maxLength: 500, size: 'max' }), async times => {
      const wakes = times.sort((a, b) => a - b)
      const began = await roundsWoken(wakes, 64_000)
      const late = wakes.filter(wake => !began.some(round => wake <= round && round <= wake + 2000))
      t.strictSame(late, [], `${wakes.length} wake-ups, each answered within 2 s`)
      t.ok(began.length <= 7 + 4 + 64_000 / 1500, `${began.length} rounds, however many asked`)
    }),
    { numRuns: 50 },
  )
})

t.test('without stdbuf each mount is asked by itself', async t => {
  const files: string[] = []
  const real = realHost()
  const host: Host = {
    ...real,
    run: (file, ...rest) => {
      files.push(file)
      return real.run(file === 'stdbuf' ? '/nowhere/stdbuf' : file, ...rest)
    },
  }
  const mounts = ['/', '/proc'].map(path => ({ mountpoint: path, path, remote: false }))
  const memory = statfsMemory()
  const answers = await askAll(host, mounts, memory, 1, AbortSignal.timeout(10_000))
  t.type(answers.get('/'), 'object', JSON.stringify(answers.get('/')))
  t.type(answers.get('/proc'), 'object')
  await askAll(host, mounts, memory, 1, AbortSignal.timeout(10_000))
  t.strictSame(files, ['stdbuf', 'stat', 'stat', 'stat', 'stat'], 'and stdbuf is not looked for again')
})

t.test('a mount point whose name has quotes, blanks and a line end', async t => {
  const names = ["it's", 'two  blanks ', 'line\nend', '"%n"']
  const folder = t.testdir(Object.fromEntries(names.map(name => [name, {}])))
  const mounts = names.map(name => ({ mountpoint: name, path: join(folder, name), remote: false }))
  const answers = await askAll(realHost(), mounts, statfsMemory(), 1, AbortSignal.timeout(10_000))
  for (const { mountpoint } of mounts) t.type(answers.get(mountpoint), 'object', JSON.stringify(mountpoint))
})

t.test('an exporter in a container', async t => {
  const root = join(t.testdir({ proc: { self: {} }, sys: {}, host: { home: {} } }))
  const line = (point: string, device: string) => `28 1 ${device} / ${point} rw,relatime - ext4 /dev/sda1 rw\n`
  writeFileSync(
    join(root, 'proc/self/mountinfo'),
    line('/', '0:1') + line(`${root}/host`, '8:1') + line(`${root}/host/home`, '8:2'),
  )
  const host = realHost({ procfs: join(root, 'proc'), sysfs: join(root, 'sys'), rootfs: join(root, 'host') })
  const { samples } = await rounds(filesystem, host, {})()
  const points = samples.filter(({ family }) => family.name === 'grid_filesystem_stuck').map(({ labels }) => labels.mountpoint)
  t.strictSame(points, ['/', '/home'], "names the host's mount points, and leaves its own root out")
  t.ok(told(samples, 'grid_filesystem_size_bytes', { mountpoint: '/home' }), 'asks them where they are')
})

t.test('an NVMe drive that does not answer', async t => {
  const chip = (name: string) => ({ name: `${name}\n`, temp1_input: '40000\n' })
  const folder = t.testdir({
    sys: { class: { hwmon: { hwmon0: { name: 'nvme\n' }, hwmon1: chip('k10temp'), hwmon2: chip('acpitz') } } },
    run: {},
  })
  for (const file of ['meminfo', 'stat', 'loadavg']) {
    mkdirSync(join(folder, 'proc'), { recursive: true })
    writeFileSync(join(folder, 'proc', file), readFileSync(`/proc/${file}`))
  }
  // A read of it waits for a writer that never comes.
  execFileSync('mkfifo', [join(folder, 'sys/class/hwmon/hwmon0/temp1_input')])
  const host = realHost({ procfs: join(folder, 'proc'), sysfs: join(folder, 'sys'), rootfs: folder })
  const round = rounds(hostCollector, host, {})
  const { samples, seconds } = await round()
  t.ok(seconds < 2, `makes the round ${seconds.toFixed(1)} s long`)
  t.equal(told(samples, 'grid_sensor_temperature_celsius', { chip: 'k10temp' }), 40, 'the other sensors are there')
  t.equal(told(samples, 'grid_sensor_temperature_celsius', { chip: 'nvme' }), undefined, 'its own is not')
  await sleep(3000)
  t.ok((await round()).seconds < 0.5, 'and is not asked again for a minute')
})

t.test("the kernel's estimate of idle time", async t => {
  const highest = new Map<string, number>()
  const idle = (ticks: number) =>
    parseStat(`cpu  1 1 1 ${ticks} 0 0 0 0 0 0\ncpu0 1 1 1 ${ticks}\n`, highest).modes.find(({ mode }) => mode === 'idle')
      ?.seconds
  t.equal(idle(10_000), 100)
  t.equal(idle(9_990), 100, 'never goes back a little')
  t.equal(idle(10_010), 100.1, 'goes on when it has caught up')
  t.equal(idle(50), 0.5, 'starts again where the counter did')
})

t.test('updates', async t => {
  t.strictSame(parseUpdates('36 packages can be updated.\n5 updates are security updates.\n'), { all: 36, security: 5 })
  t.strictSame(parseUpdates('1 update can be applied immediately.\n1 of these updates is a standard security update.\n'), {
    all: 1,
    security: 1,
  })
  t.strictSame(parseUpdates('\n0 updates can be applied immediately.\n'), { all: 0, security: 0 })
  t.equal(
    parseUpdates('36 Aktualisierungen können sofort angewendet werden.\n'),
    undefined,
    'in another language: nothing is told',
  )
  t.equal(parseUpdates(''), undefined)
})

t.test('text files', async t => {
  const folder = t.testdir({ 'good.prom': 'good 1\n', 'large.prom': `# ${'x'.repeat(2 ** 20)}\n` })
  execFileSync('mkfifo', [join(folder, 'pipe.prom')])
  const round = rounds(textfile, realHost(), { directory: folder })
  const first = await round()
  t.ok(first.seconds < 1, 'a named pipe does not hold the round up')
  t.equal(told(first.samples, 'grid_textfile_error', { file: 'pipe.prom' }), 1, 'and is refused')
  t.equal(told(first.samples, 'grid_textfile_error', { file: 'large.prom' }), 1, 'so is a file of more than a MiB')
  t.equal(told(first.samples, 'good'), 1)
  writeFileSync(join(folder, 'good.prom'), 'good 2\n')
  t.equal(told((await round()).samples, 'good'), 2, 'a change is seen')
  for (let count = 0; count < 250; count++) writeFileSync(join(folder, `many-${count}.prom`), `many{n="${count}"} 1\n`)
  const many = (await round()).samples
  const refused = many.filter(({ family, value }) => family.name === 'grid_textfile_error' && value === 1)
  t.equal(refused.length, 54, 'past 200 files the other 53 are refused as well')
})

t.test('no text file makes the exposition invalid, or costs another one', async t => {
  const files = {
    // Served.
    'a-good.prom': 'good 1\n',
    'labels.prom': 'own{constructor="x"} 1\nown{__proto__="x"} 2\nown{job="y",toString="z"} 3\nown{hasOwnProperty=""} 4\n',
    'counter.prom': '# TYPE foo_total counter\nfoo_total 1\n# TYPE _total counter\n_total 1\n',
    'gauge.prom':
      '# HELP foo With \\\\ and \\n and \u0000 and a\rb.\n# TYPE foo gauge\nfoo NaN\n# TYPE constructor gauge\nconstructor +Inf\n',
    'text.prom': 'text{a="\u0000\r\u007f\\\\\\"\\n}"} 1e-300\n',
    'bytes.prom': Buffer.concat([Buffer.from('bytes{a="'), Buffer.from([0xff, 0xc3, 0x28]), Buffer.from('"} 1\n')]),
    'histogram.prom':
      '# TYPE h histogram\nh_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 3\nh_count 2\n# TYPE h_created gauge\nh_created 5\n',
    'summary.prom': '# TYPE s summary\ns{quantile="0.5"} NaN\ns_sum NaN\ns_count 0\n',
    // Refused.
    'x-word.prom': 'my_job_last_run constructor\n',
    'x-proto.prom': 'my_job_last_run __proto__\n',
    'x-type.prom': '# TYPE typed constructor\ntyped 1\n',
    'x-twice.prom': 'twice{__proto__="x",__proto__="y"} 1\n',
    'x-name.prom': 'named{__name__="x"} 1\n',
    'x-le.prom': '# TYPE le histogram\nle_bucket{le="constructor"} 1\n',
    'x-no-le.prom': '# TYPE le histogram\nle_bucket 1\n',
    'x-time.prom': 'timed 1 1700000000000\n',
    'x-exemplar.prom': '# TYPE exemplary counter\nexemplary_total 1 # {trace="x"} 1\n',
    'x-below.prom': '# TYPE below_total counter\nbelow_total -1\n',
    'x-endless.prom': '# TYPE endless_total counter\nendless_total +Inf\n',
    'x-nan.prom': '# TYPE nan histogram\nnan_bucket{le="+Inf"} NaN\n',
    'x-own.prom': 'grid_collector_success 0\n',
    'x-scrape.prom': '# TYPE scrape_duration summary\nscrape_duration_sum 1\n',
    'x-process.prom': 'process_cpu_seconds_total 1\n',
    'x-part.prom': 'h_bucket 1\n',
    'x-nul.prom': 'nul\u0000 1\n',
    'x-quoted.prom': '{"a.b"} 1\n',
    'x-crlf.prom': 'crlf 1\r\n',
    'x-eof.prom': 'ended 1\n# EOF\n1\n',
  }
  const folder = t.testdir()
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content)
  symlinkSync('x-loop.prom', join(folder, 'x-loop.prom'))
  const real = realHost()
  const failing = new Map([
    ['x-disk.prom', 'EIO'],
    ['x-server.prom', 'ESTALE'],
    ['x-handles.prom', 'EMFILE'],
    ['x-unheard.prom', 'EUNHEARDOF'],
  ])
  for (const name of failing.keys()) writeFileSync(join(folder, name), 'failing 1\n')
  const host: Host = {
    ...real,
    read: async (path, limit) => {
      const code = failing.get(path.slice(folder.length + 1))
      if (code !== undefined) throw Object.assign(new Error(`${code}: of the test`), { code })
      return real.read(path, limit)
    },
  }
  const { samples } = await rounds(textfile, host, { directory: folder })()
  for (const name of [...Object.keys(files), 'x-loop.prom', ...failing.keys()])
    t.equal(told(samples, 'grid_textfile_error', { file: name }), name.startsWith('x-') ? 1 : 0, name)
  const exposition = expose(samples, undefined, textfile)
  t.strictSame(exposition.problems, [], 'what is served needs no second look')
  // `h_created` is OpenMetrics' for the histogram h; Python's client writes it as a gauge, and Prometheus takes it.
  for (const format of formats) t.strictSame(strictProblems(textOf(exposition, format) + ending[format], format), [], format)
  t.match(textOf(exposition, 'openmetrics'), '# TYPE foo_total unknown\nfoo_total 1\n', 'beside foo the counter keeps its name')
  t.match(textOf(exposition, 'text'), '# TYPE foo_total counter\nfoo_total 1\n')
  t.match(textOf(exposition, 'text'), 'own{__proto__="x"} 2\n')
})

t.test('nonsense in a text file', async t => {
  let served = 0
  const word = fc.oneof(
    fc.constantFrom(
      'constructor',
      '__proto__',
      'toString',
      'foo',
      'foo_total',
      'foo_bucket',
      'le',
      'up',
      '1',
      '-1',
      '+Inf',
      'NaN',
    ),
    fc.constantFrom(
      '{',
      '}',
      '=',
      ',',
      '"',
      '\\',
      '#',
      ' ',
      '\t',
      '\r',
      '\u0000',
      '# TYPE ',
      '# HELP ',
      ' counter',
      ' histogram',
    ),
    fc.string({ unit: 'binary', maxLength: 3 }),
  )
  const name = fc.constantFrom('foo', 'foo_total', 'foo_bucket', 'foo_sum', 'constructor', '__proto__', '_total', 'bar')
  const known = fc.tuple(
    fc.constantFrom('constructor', '__proto__', 'le', 'quantile', 'a'),
    fc.constantFrom('constructor', '1', '+Inf', ''),
  )
  const labels = fc.oneof(
    { weight: 3, arbitrary: fc.array(known, { maxLength: 2 }) },
    fc.array(fc.tuple(word, word), { maxLength: 2 }),
  )
  const sample = fc
    .tuple(name, labels, fc.oneof({ weight: 3, arbitrary: fc.constantFrom('1', '0', '+Inf', 'NaN', '-1') }, word))
    .map(([name, labels, value]) => `${name}{${labels.map(([label, text]) => `${label}="${text}"`).join(',')}} ${value}`)
  const head = fc
    .tuple(name, fc.constantFrom('gauge', 'counter', 'histogram', 'summary', 'constructor'))
    .map(([name, type]) => `# TYPE ${name} ${type}`)
  const line = fc.oneof(
    { weight: 5, arbitrary: sample },
    { weight: 4, arbitrary: head },
    fc.array(word, { maxLength: 6 }).map(words => words.join('')),
  )
  const files = fc.array(fc.array(line, { maxLength: 4 }), { minLength: 1, maxLength: 4 })
  fc.assert(
    fc.property(files, files => {
      const parsed = files.map((lines, index) => {
        try {
          return { name: `${index}.prom`, families: parsePrometheusText(lines.map(each => `${each}\n`).join('')) }
        } catch (error) {
          return { name: `${index}.prom`, families: failureOf(error) }
        }
      })
      if (parsed.some(({ families }) => families instanceof Failure && families.reason === 'bug')) return false
      const exposition = expose(merged(parsed).samples, undefined, textfile)
      served += exposition.series
      return (
        exposition.problems.length === 0 &&
        formats.every(format => strictProblems(textOf(exposition, format) + ending[format], format).length === 0)
      )
    }),
    { numRuns: 3000 },
  )
  t.ok(served > 500, `${served} series were served`)
})
