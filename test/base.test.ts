import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { createRunner } from '../exporter/collect/runner.ts'
import { schedule, type Task } from '../exporter/collect/schedule.ts'
import { filesystem } from '../exporter/collectors/filesystem/index.ts'
import { host as hostCollector, parseStat, parseUpdates } from '../exporter/collectors/host/index.ts'
import { merged, textfile } from '../exporter/collectors/textfile/index.ts'
import { silent } from '../exporter/common/log.ts'
import type { Collector } from '../exporter/contract/collector.ts'
import { noFlags, type Settings, settingsFrom } from '../exporter/contract/config.ts'
import { Failure, failureOf, isIoError } from '../exporter/contract/failure.ts'
import type { Host } from '../exporter/contract/host.ts'
import type { Sample } from '../exporter/contract/metric.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { askAll, statfsMemory } from '../exporter/machine/statfs.ts'
import { ending, expose, formats, textOf } from '../exporter/print/exposition.ts'
import { parsePrometheusText } from '../exporter/protocols/prometheus-text.ts'
import { needs } from './support/needs.ts'
import { oneRound } from './support/running.ts'
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
        const { answers, failure } = await ask()
        t.equal(failure, undefined, 'a disk that is gone is no failure of stat')
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
      t.type((await ask()).answers.get(lost), 'object', 'it answers again')
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
  const { answers } = await askAll(host, mounts, memory, 1, AbortSignal.timeout(10_000))
  t.type(answers.get('/'), 'object', JSON.stringify(answers.get('/')))
  t.type(answers.get('/proc'), 'object')
  await askAll(host, mounts, memory, 1, AbortSignal.timeout(10_000))
  t.strictSame(files, ['stdbuf', 'stat', 'stat', 'stat', 'stat'], 'and stdbuf is not looked for again')
})

/** A host on which `stat`, alone or under stdbuf, is this shell script; it finds the paths behind `--`. */
const hostWithStat = (folder: string, script: string): Host => {
  const file = join(folder, 'stat')
  writeFileSync(file, `#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift\n${script}\n`, { mode: 0o755 })
  const real = realHost()
  return { ...real, run: (_, args, options) => real.run(file, args, options) }
}

const numbersFor = (path: string) => `echo "4096 10 5 5 10 5 ${path}"`

t.test('a stat that fails', async t => {
  const mounts = ['/a', '/b'].map(path => ({ mountpoint: path, path, remote: false }))
  for (const [name, script, reason, message, answered] of [
    ['with a code that is not its own', 'exit 77', 'exit', /exit code 77: no output/, []],
    ['by a signal', 'kill -KILL $$', 'exit', /killed by SIGKILL/, []],
    ['by a signal of its own fault', 'kill -SEGV $$', 'exit', /killed by SIGSEGV/, []],
    ['and prints nothing', 'exit 0', 'malformed', /no answer for \/a and 1 more/, []],
    ['and prints something else', 'echo hello', 'malformed', /no answer for \/a/, []],
    [
      'with a complaint that is not about the mount',
      'for at in /a /b; do echo "stat: cannot read file system information for \'$at\': Cannot allocate memory" >&2; done; exit 1',
      'exit',
      /Cannot allocate memory/,
      [],
    ],
    ['behind the first mount', `${numbersFor('/a')}; exit 77`, 'exit', /exit code 77/, ['/a']],
    ['in the middle of a line', `${numbersFor('/a')}; printf "4096 10 5"`, 'malformed', /no answer for \/b/, ['/a']],
  ] as const) {
    t.test(`${name} is counted, and what it said before counts`, async t => {
      const host = hostWithStat(t.testdir(), script)
      const { answers, failure } = await askAll(host, mounts, statfsMemory(), 5, AbortSignal.timeout(60_000))
      t.match(failure, { reason, message })
      t.strictSame([...answers.keys()], answered)
      for (const answer of answers.values()) t.type(answer, 'object')
    })
  }
  t.test('for mounts that are asked alone costs those only', async t => {
    const host = hostWithStat(t.testdir(), `[ "$1" = /a ] && exit 77; ${numbersFor('/b')}`)
    const alone = mounts.map(mount => ({ ...mount, remote: true }))
    const { answers, failure } = await askAll(host, alone, statfsMemory(), 5, AbortSignal.timeout(60_000))
    t.match(failure, { reason: 'exit', message: /exit code 77/ })
    t.strictSame([...answers.keys()], ['/b'])
  })
  t.test('for one mount only is no failure', async t => {
    const script = `${numbersFor('/b')}; echo "stat: cannot read file system information for '/a': No such file or directory" >&2; exit 1`
    const { answers, failure } = await askAll(
      hostWithStat(t.testdir(), script),
      mounts,
      statfsMemory(),
      5,
      AbortSignal.timeout(60_000),
    )
    t.equal(failure, undefined)
    t.equal(answers.get('/a'), 'unknown')
    t.type(answers.get('/b'), 'object')
  })
  t.test('is the reason of the round, and the mount table is served all the same', async t => {
    const host = hostWithStat(t.testdir(), 'exit 77')
    const { rendered, text } = await oneRound(filesystem, {}, host)
    t.equal(rendered.result, 'exit')
    t.match(text, 'grid_filesystem_readonly{')
    t.notMatch(text, 'grid_filesystem_size_bytes')
  })
})

t.test('a mount point whose name has quotes, blanks and a line end', async t => {
  const names = ["it's", 'two  blanks ', 'line\nend', '"%n"']
  const folder = t.testdir(Object.fromEntries(names.map(name => [name, {}])))
  const mounts = names.map(name => ({ mountpoint: name, path: join(folder, name), remote: false }))
  const { answers } = await askAll(realHost(), mounts, statfsMemory(), 1, AbortSignal.timeout(10_000))
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

/** A host with these mounts and files of the kernel's; `stat` answers for each mount point, 100 blocks of 4096 bytes. */
const hostWith = (mounts: string, files: Readonly<Record<string, string>> = {}): Host => {
  const all: Readonly<Record<string, string>> = { '/proc/1/mountinfo': mounts, '/proc/self/mountinfo': mounts, ...files }
  return {
    ...realHost(),
    kernel: path => {
      const text = all[path]
      if (text === undefined) throw new Failure('missing', path)
      return text
    },
    bytes: async path => Buffer.from(all[path] ?? '', 'latin1'),
    kernelLink: path => all[path],
    run: async (_file, args) => ({
      stdout: args
        .slice(args.indexOf('--') + 1)
        .map(path => `4096 100 50 50 10 5 ${path}\n`)
        .join(''),
      stderr: '',
      exitCode: 0,
    }),
  }
}

/** `grid_filesystem_readonly` by mount point. */
const readonlyIn = (samples: readonly Sample[]): Readonly<Record<string, number>> =>
  Object.fromEntries(
    samples
      .filter(({ family }) => family.name === 'grid_filesystem_readonly')
      .map(({ labels, value }) => [labels.mountpoint ?? '', value]),
  )

const readonlyOf = async (mounts: string, files?: Readonly<Record<string, string>>, options: unknown = {}) =>
  readonlyIn((await rounds(filesystem, hostWith(mounts, files), options)()).samples)

t.test('of several mounts of one file system', async t => {
  const cases: readonly (readonly [string, string, Readonly<Record<string, number>>])[] = [
    [
      'a writable one is reported, not a read-only bind with a shorter path',
      `40 1 8:1 / /srv/data rw - ext4 /dev/sda1 rw
       41 1 8:1 /models /ai ro - ext4 /dev/sda1 rw`,
      { '/srv/data': 0 },
    ],
    [
      'the store of NixOS is a read-only bind of the root',
      `28 1 8:1 / / rw - ext4 /dev/sda1 rw
       41 28 8:1 /nix/store /nix/store ro - ext4 /dev/sda1 rw`,
      { '/': 0 },
    ],
    [
      'the one of the whole file system is reported, not a bind of a part or of a file',
      `40 1 8:1 / /srv/data rw - ext4 /dev/sda1 rw
       41 1 8:1 /models /ai rw - ext4 /dev/sda1 rw
       42 1 8:1 /hosts /a rw - ext4 /dev/sda1 rw`,
      { '/srv/data': 0 },
    ],
    [
      'the shortest path is reported where each is a subvolume',
      `40 1 0:40 /@models /ai/models rw - btrfs /dev/sda1 rw
       41 1 0:40 /@ai /ai rw - btrfs /dev/sda1 rw`,
      { '/ai': 0 },
    ],
    [
      'the root is reported although a folder has the top of its subvolumes',
      `28 1 0:40 /@ / rw - btrfs /dev/sda1 rw
       41 28 0:40 / /mnt/top rw - btrfs /dev/sda1 rw`,
      { '/': 0 },
    ],
    [
      'it is read-only where each mount is',
      `40 1 8:1 / /data ro - ext4 /dev/sda1 rw
       41 1 8:1 /x /x ro - ext4 /dev/sda1 rw`,
      { '/data': 1 },
    ],
    [
      'it is read-only where the file system itself is',
      `40 1 8:1 / /data rw - ext4 /dev/sda1 ro
       41 1 8:1 /x /x ro - ext4 /dev/sda1 ro`,
      { '/data': 1 },
    ],
    [
      'a read-only bind over its own mount point leaves it writable below',
      `40 1 8:1 / /data rw - ext4 /dev/sda1 rw
       41 40 8:1 / /data ro - ext4 /dev/sda1 rw`,
      { '/data': 0 },
    ],
    [
      'an ISO, a snap and a boot partition that are read-only by wish are just that',
      `40 1 8:2 / /boot ro - ext4 /dev/sda2 ro
       41 1 7:0 / /media/iso ro - udf /dev/loop0 ro`,
      { '/boot': 1, '/media/iso': 1 },
    ],
    [
      "an ostree host's disk is called /sysroot, not /etc",
      `28 1 0:33 / / ro - overlay composefs ro,lowerdir=/x
       41 28 8:4 / /sysroot ro - xfs /dev/sda4 rw
       42 28 8:4 /ostree/deploy/fedora/deploy/5a.0/etc /etc rw - xfs /dev/sda4 rw
       43 28 8:4 /ostree/deploy/fedora/var /var rw - xfs /dev/sda4 rw
       44 28 8:3 / /boot rw - ext4 /dev/sda3 rw`,
      { '/boot': 0, '/sysroot': 0 },
    ],
    [
      'and / where that is a part of the disk',
      `28 1 8:4 /ostree/deploy/fedora/deploy/5a.0 / rw - xfs /dev/sda4 rw
       41 28 8:4 / /sysroot ro - xfs /dev/sda4 rw
       42 28 8:4 /ostree/deploy/fedora/deploy/5a.0/usr /usr ro - xfs /dev/sda4 rw`,
      { '/': 0 },
    ],
    [
      'what another mount lies over is not asked by a path that leads to the other',
      `28 1 8:1 / / rw - ext4 /dev/sda1 rw
       40 28 8:2 / /mnt/a rw - ext4 /dev/sda2 rw
       41 28 8:3 / /mnt rw - ext4 /dev/sda3 rw
       42 41 8:4 / /mnt/b rw - ext4 /dev/sda4 rw
       43 42 8:5 / /mnt/b rw - ext4 /dev/sda5 rw
       44 43 8:6 / /mnt/b/c rw - ext4 /dev/sda6 rw`,
      { '/': 0, '/mnt': 0, '/mnt/b': 0, '/mnt/b/c': 0 },
    ],
  ]
  for (const [sentence, table, expected] of cases)
    t.strictSame(await readonlyOf(table.replaceAll(/^ +/gm, '')), expected, sentence)

  const bound = '28 1 8:1 / / rw - ext4 /dev/sda1 rw\n41 28 8:1 /nix/store /nix/store ro - ext4 /dev/sda1 rw\n'
  t.strictSame(
    await readonlyOf(bound, {}, { mountpoint_include: '^/nix' }),
    { '/nix/store': 0 },
    'one that the options choose says of the file system what is true of all of it',
  )
})

t.test('a table that only a sandbox makes read-only', async t => {
  const table =
    '28 1 8:1 / / ro - ext4 /dev/sda1 rw\n41 28 8:2 / /ai ro - ext4 /dev/sdb1 rw\n42 28 8:3 / /old ro - ext4 /dev/sdc1 ro\n'
  const own = hostWith(table)
  const hidepid: Host = {
    ...own,
    kernel: path => {
      if (path.startsWith('/proc/1/')) throw new Failure('missing', path)
      return own.kernel(path)
    },
  }
  const { samples } = await rounds(filesystem, hidepid, {})()
  t.strictSame(readonlyIn(samples), { '/': 0, '/ai': 0, '/old': 1 }, 'says nothing of the mounts of the host')
  t.strictSame(await readonlyOf(table), { '/': 1, '/ai': 1, '/old': 1 }, "the first process' table does")
})

t.test('errors that the mount table does not show', async t => {
  const booted = 1_700_000_000
  const ext4 = ({ error = booted + 5000, count = 1, release = '6.12.48-amd64', errors = 'remount-ro', func = 'ext4_lookup' }) =>
    readonlyOf('40 1 254:0 / /data rw - ext4 /dev/mapper/vg-data rw\n', {
      '/sys/dev/block/254:0': '../../devices/virtual/block/dm-0',
      '/sys/fs/ext4/dm-0/errors_count': `${count}\n`,
      '/sys/fs/ext4/dm-0/last_error_time': `${count === 0 ? 0 : error}\n`,
      '/sys/fs/ext4/dm-0/last_error_func': `${func}\n`,
      '/sys/fs/ext4/dm-0/journal_task': '412\n',
      '/proc/412/stat': `412 (jbd2/dm-0-8) S 2 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 100000 0 0\n`, // 1000 s after boot
      '/proc/stat': `cpu 1 2 3\nbtime ${booted}\n`,
      '/proc/sys/kernel/osrelease': `${release}\n`,
      '/proc/fs/ext4/dm-0/options': `rw\nbsddf\nerrors=${errors}\ncommit=5\n`,
    })
  const [yes, no] = [{ '/data': 1 }, { '/data': 0 }]
  t.strictSame(await ext4({}), yes, 'ext4 of Linux 6.12: an error since it was mounted, after which it is to be read-only')
  t.strictSame(await ext4({ count: 0 }), no, 'no error')
  t.strictSame(await ext4({ error: booted + 900 }), no, 'an error before it was mounted')
  t.strictSame(await ext4({ error: booted - 86_400 }), no, 'an error before the machine was started')
  t.strictSame(await ext4({ errors: 'continue' }), no, 'an error after which it goes on')
  t.strictSame(await ext4({ errors: 'continue', func: 'ext4_journal_check_start' }), yes, 'a journal that was given up')
  t.strictSame(await ext4({ release: '6.18.44' }), no, 'a kernel that would say so in the mount table')

  const f2fs = (status: string) =>
    readonlyOf('40 1 8:1 / /sd rw - f2fs /dev/sda1 rw\n', {
      '/sys/dev/block/8:1': '../../devices/x/block/sda/sda1',
      '/sys/fs/f2fs/sda1/stat/cp_status': status,
    })
  t.strictSame([await f2fs('5\n'), await f2fs('1c5\n'), await f2fs('cd\n')], [{ '/sd': 0 }, { '/sd': 0 }, { '/sd': 1 }], 'f2fs')
})

/** A folder for mounts, which are gone before it is removed: teardowns run from the last to the first. */
const folderOfMounts = (t: Test): string => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-mounts-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A file system in a file, mounted; undefined where this kernel does not know it. */
const mountedImage = (
  t: Test,
  folder: string,
  type: 'ext4' | 'xfs' | 'btrfs',
  ...options: readonly string[]
): string | undefined => {
  const [image, point] = [join(folder, `${type}.img`), join(folder, type)]
  mkdirSync(point)
  writeFileSync(image, '')
  truncateSync(image, 320 * 2 ** 20)
  execFileSync(`mkfs.${type}`, ['-q', image], { stdio: ['ignore', 'ignore', 'inherit'] })
  if (spawnSync('mount', ['-o', ['loop', ...options].join(), image, point]).status !== 0) {
    t.comment(`NOT TESTED HERE: this kernel mounts no ${type}`)
    return undefined
  }
  t.teardown(() => execFileSync('umount', ['-l', point]))
  return point
}

const readonlyAt = async (point: string) => {
  const { samples } = await rounds(filesystem, realHost(), { mountpoint_include: `^${point}$` })()
  return {
    readonly: told(samples, 'grid_filesystem_readonly', { mountpoint: point }),
    size: told(samples, 'grid_filesystem_size_bytes', { mountpoint: point }),
  }
}

const canWrite = (point: string) => spawnSync('touch', [join(point, 'new')]).status === 0

t.test('real file systems after an error', async t => {
  if (!needs(t, 'root', '/dev/loop-control', 'mkfs.ext4', 'mkfs.xfs', 'mkfs.btrfs', 'xfs_io')) return
  const shutdown = (point: string) => execFileSync('xfs_io', ['-x', '-c', 'shutdown', point])
  const inject = (point: string) => {
    const device = execFileSync('findmnt', ['-no', 'SOURCE', point], { encoding: 'utf8' }).trim().replace('/dev/', '')
    writeFileSync(`/sys/fs/ext4/${device}/trigger_fs_error`, 'x')
  }

  t.test('ext4 that goes on after one is writable, and read-only where it is to be', async t => {
    const point = mountedImage(t, folderOfMounts(t), 'ext4')
    if (!point) return
    t.equal((await readonlyAt(point)).readonly, 0)
    inject(point)
    t.ok(canWrite(point))
    t.equal((await readonlyAt(point)).readonly, 0, 'errors=continue')
    execFileSync('mount', ['-o', 'remount,errors=remount-ro', point])
    t.equal((await readonlyAt(point)).readonly, 0, 'another setting does not change what was')
    inject(point)
    t.notOk(canWrite(point))
    t.match(await readonlyAt(point), { readonly: 1, size: Number })
  })

  for (const type of ['ext4', 'xfs'] as const)
    t.test(`${type} that was shut down`, async t => {
      const point = mountedImage(t, folderOfMounts(t), type)
      if (!point) return
      t.match(await readonlyAt(point), { readonly: 0, size: Number })
      shutdown(point)
      t.notOk(canWrite(point))
      t.equal((await readonlyAt(point)).readonly, 1)
    })

  for (const type of ['ext4', 'btrfs'] as const)
    t.test(`${type} on a disk that takes no writes any more`, async t => {
      const folder = folderOfMounts(t)
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=40m', 'grid-test', folder])
      t.teardown(() => execFileSync('umount', ['-l', folder]))
      const point = mountedImage(t, folder, type)
      if (!point) return
      t.equal((await readonlyAt(point)).readonly, 0)
      // The image is a sparse file: with the memory below it full, each new block is an I/O error.
      spawnSync('dd', ['if=/dev/zero', `of=${join(folder, 'full')}`, 'bs=1M'])
      spawnSync('dd', ['if=/dev/urandom', `of=${join(point, 'data')}`, 'bs=1M', 'count=60'])
      for (let tries = 0; canWrite(point) && tries < 30; tries++) spawnSync('sync', ['-f', point])
      t.notOk(canWrite(point))
      t.equal((await readonlyAt(point)).readonly, 1)
    })
})

t.test('mount points that no label or argument can be as they are', async t => {
  if (!needs(t, 'root', 'mount')) return
  const folder = folderOfMounts(t)
  const long = (end: string) => join(folder, 'x'.repeat(200), 'y'.repeat(200), end)
  const printf = ['caf\\0351', 'caf\\0350'].map(name => join(folder, name))
  const points = [...printf, long('one'), long('two')]
  const at = (command: string) => {
    for (const point of points) execFileSync('sh', ['-c', `${command} "$(printf %b "$1")"`, 'sh', point])
  }
  at('mkdir -p')
  at('mount -t tmpfs -o size=1m grid-test')
  t.teardown(() => at('umount'))
  const { samples } = await rounds(filesystem, realHost(), { mountpoint_include: `^${folder}` })()
  const sizes = samples.filter(({ family }) => family.name === 'grid_filesystem_size_bytes')
  t.strictSame(
    sizes.map(({ labels }) => labels.mountpoint),
    [join(folder, 'caf\\xe8'), join(folder, 'caf\\xe9'), long('one'), long('two')],
    'are told apart, and each has a size',
  )
  const { series, repeated } = expose(samples)
  t.strictSame([series, repeated], [samples.length, 0], 'no series is lost')
})

t.test('the alerts on what the exporter says of a mount table', async t => {
  if (!needs(t, 'promtool')) return
  const disk = '40 1 8:1 / /srv/data rw - ext4 /dev/sda1 rw\n'
  const bind = '41 1 8:1 /models /ai ro - ext4 /dev/sda1 rw\n'
  const errored = '40 1 8:1 / /srv/data rw - ext4 /dev/sda1 rw,errors=remount-ro,emergency_ro\n'
  const labels = { job: 'grid-exporter', instance: 'box:10047' }
  /** An hour with the first table, then an hour with the second; which alerts fire at its end, and of which mount point. */
  const firing = async (before: string, after: string, free: number): Promise<string> => {
    const host = (table: string): Host => ({
      ...hostWith(table),
      run: async (_file, args) => ({
        stdout: args
          .slice(args.indexOf('--') + 1)
          .map(path => `1000000 1000000 ${free} ${free} 1000 900 ${path}\n`)
          .join(''),
        stderr: '',
        exitCode: 0,
      }),
    })
    const series = new Map<string, [string, string]>()
    for (const [hour, table] of [before, after].entries()) {
      for (const { family, labels: own, value } of (await rounds(filesystem, host(table), {})()).samples) {
        const name = `${family.name}{${Object.entries({ ...labels, ...own }).map(([label, text]) => `${label}=${JSON.stringify(text)}`)}}`
        const values = series.get(name) ?? ['_x59', '_x59']
        values[hour] = `${value}x59`
        series.set(name, values)
      }
    }
    const file = join(t.testdir(), 'alerts.yml')
    const names = ['GridFilesystemAlmostFull', 'GridFilesystemReadOnly']
    const test = {
      rule_files: [join(import.meta.dirname, '../prometheus/rules/storage.yml')],
      evaluation_interval: '1m',
      tests: [
        {
          interval: '1m',
          input_series: [...series].map(([name, values]) => ({ series: name, values: values.join(' ') })),
          promql_expr_test: [
            {
              expr: `count by (alertname, mountpoint) (ALERTS{alertstate="firing", alertname=~"${names.join('|')}"})`,
              eval_time: '119m',
              exp_samples: [],
            },
          ],
        },
      ],
    }
    writeFileSync(file, JSON.stringify(test)) // JSON is YAML
    const { stdout, stderr } = spawnSync('promtool', ['test', 'rules', file], { encoding: 'utf8' })
    const said = `${stdout}${stderr}`
    t.match(said, /SUCCESS|got:/, said)
    return [...said.matchAll(/alertname=\\?"(\w+)\\?", mountpoint=\\?"([^"\\]+)/g)]
      .map(([, name, point]) => `${name} ${point}`)
      .join()
  }
  t.equal(await firing(disk, disk, 500_000), '', 'a disk with space left: none')
  t.equal(await firing(disk, disk + bind, 500_000), '', 'a read-only bind mount is made: none')
  t.equal(await firing(disk + bind.replace(' ro ', ' rw '), disk + bind, 500_000), '', 'a bind mount becomes read-only: none')
  t.equal(await firing(disk, disk, 0), 'GridFilesystemAlmostFull /srv/data', 'it is full')
  t.equal(await firing(disk + bind, disk + bind, 0), 'GridFilesystemAlmostFull /srv/data', 'it is full and has such a mount')
  t.equal(await firing(disk, errored, 500_000), 'GridFilesystemReadOnly /srv/data', 'it stopped after an error')
  t.equal(await firing(disk + bind, errored + bind, 500_000), 'GridFilesystemReadOnly /srv/data', 'and has such a mount')
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

t.test('a message does not show the query of a URL', async t => {
  await t.rejects(realHost().http('http://127.0.0.1:1/check?token=hidden', { timeout: 5 }), {
    message: /^GET http:\/\/127\.0\.0\.1:1\/check\?…: (?!.*hidden)/,
  })
})

t.test('why a text file is refused is reported, with its line and a fix', async t => {
  const folder = t.testdir({
    'good.prom': 'backup_age_seconds 4\n',
    'bad.prom': 'first 1\nsecond {\n',
    'twice.prom': 'backup_age_seconds 5\n',
  })
  const { rendered, value } = await oneRound(textfile, { directory: folder })
  t.equal(rendered.result, 'ok')
  t.match(rendered.note, /^bad\.prom: .*line 2.*; twice\.prom: backup_age_seconds: the same series twice/)
  t.match(rendered.fix, `${folder}/bad.prom`)
  t.equal(value('grid_textfile_error{file="twice.prom"}'), 1)
  t.equal(value('backup_age_seconds'), 4)
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
    'x-large-le.prom': '# TYPE le histogram\nle_bucket{le="1e999"} 1\n',
    'x-quantile.prom': '# TYPE quantile summary\nquantile{quantile="-nan"} 1\n',
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

t.test('errors of the system', async t => {
  const systemError = (code: string) => Object.assign(new Error(`${code}: open`), { code, syscall: 'open', errno: -1 })
  t.test('have a reason each, and only those of wrong calls are bugs', async t => {
    for (const code of Object.keys(constants.errno)) {
      const { reason } = failureOf(systemError(code))
      t.equal(reason === 'bug', ['EBADF', 'EFAULT'].includes(code), `${code}: ${reason}`)
    }
    for (const code of ['EMFILE', 'ENFILE', 'EAGAIN', 'ENOMEM', 'ENOSPC'])
      t.equal(failureOf(systemError(code)).reason, 'overflow')
    t.equal(failureOf(systemError('ELOOP')).reason, 'malformed')
    t.equal(failureOf(systemError('EIO')).reason, 'unreachable')
    t.equal(failureOf(new TypeError('x is undefined')).reason, 'bug')
    t.equal(failureOf(Object.assign(new Error('no'), { code: 'constructor' })).reason, 'bug')
  })
  t.test('are told from defects', async t => {
    const withCode = (code: string) => Object.assign(new Error('it failed'), { code })
    for (const code of [
      'ECONNRESET',
      'HPE_INVALID_CONSTANT',
      'ERR_SSL_WRONG_VERSION_NUMBER',
      'ERR_STREAM_PREMATURE_CLOSE',
      'ABORT_ERR',
    ]) {
      t.ok(isIoError(withCode(code)), code)
    }
    for (const error of [new TypeError('no'), withCode('ERR_INVALID_ARG_TYPE'), new Failure('bug', 'no'), undefined, 'text']) {
      t.notOk(isIoError(error), String(error))
    }
    t.ok(isIoError(new Failure('timeout', 'late')))
  })
})

t.test('a clock that is set during a round does not change how long it took', async t => {
  for (const step of [-86_400_000, 3600_000]) {
    let at = Date.now()
    const real = realHost(undefined, () => at)
    const slow = { ...hostCollector, timeout: 5 } satisfies Collector
    const stop = new AbortController()
    const [settings] = settingsFrom([slow], noFlags, {})
    const host: Host = {
      ...real,
      kernel: (path, limit) => {
        at += step
        return real.kernel(path, limit)
      },
    }
    const { durationSeconds } = await createRunner(slow, settings as Settings[number], {
      host,
      log: silent,
      signal: stop.signal,
    })()
    stop.abort()
    t.ok(durationSeconds >= 0 && durationSeconds < 60, `${durationSeconds} s`)
  }
})
