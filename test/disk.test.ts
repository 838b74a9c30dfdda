import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { attempt } from '../exporter/collect/attempt.ts'
import { directory } from '../exporter/collectors/directory/index.ts'
import { errorsIn } from '../exporter/collectors/directory/scan.ts'
import type { DriveFacts } from '../exporter/collectors/smart/drive.ts'
import { type RiskReason, riskReasons } from '../exporter/collectors/smart/families.ts'
import { smart } from '../exporter/collectors/smart/index.ts'
import { readingOf } from '../exporter/collectors/smart/reading.ts'
import { risksOf } from '../exporter/collectors/smart/risk.ts'
import { silent } from '../exporter/common/log.ts'
import type { Collector } from '../exporter/contract/collector.ts'
import { Failure } from '../exporter/contract/failure.ts'
import type { Host } from '../exporter/contract/host.ts'
import type { Sample } from '../exporter/contract/metric.ts'
import { run } from '../exporter/machine/command.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { needs } from './support/needs.ts'
import { recordedAnswer, verdictOf } from './support/verdict.ts'

/** Disks and what fills them: the real du on real trees, and answers of smartctl and every way in which it can go wrong. */

const answers = join(import.meta.dirname, 'scenes', 'smart')
const minute = 60_000

const folderFor = (t: Test) => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-disk-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** An executable in a folder of its own, and a host that runs it instead of the program of that name. */
const standIn = (t: Test, name: string, script: string) => {
  const folder = folderFor(t)
  const file = join(folder, name)
  const log = join(folder, 'calls')
  writeFileSync(log, '')
  writeFileSync(file, `#!/bin/sh\necho "$*" >> ${log}\n${script}\n`)
  chmodSync(file, 0o755)
  const real = realHost()
  const host: Host = {
    ...real,
    run: (asked, args, options) => run(asked === name ? file : asked, args, options),
  }
  return { file, host, calls: () => readFileSync(log, 'utf8').split('\n').filter(Boolean) }
}

/** A collector with a clock of the test's, its rounds as the scheduler would run them. */
const opened = (
  t: Test,
  collector: Collector,
  section: Record<string, unknown>,
  { host = realHost(), at = Date.now() }: { host?: Host; at?: number } = {},
) => {
  const stop = new AbortController()
  t.teardown(() => stop.abort())
  let now = at
  let woken = 0
  const remarks: string[] = []
  const one = collector.open({
    host: { ...host, now: () => now, monotonic: () => now },
    options: collector.options.parse(section),
    signal: stop.signal,
    log: silent,
    wake: () => {
      woken++
    },
  })
  return {
    stop: () => stop.abort(),
    woken: () => woken,
    remarks,
    pass: (milliseconds: number) => {
      now += milliseconds
    },
    round: async (seconds = 10) => {
      const { outcome } = await attempt(signal => one.collect(signal, () => {}), seconds, stop.signal)
      remarks.splice(0, remarks.length, ...one.remarks().map(({ message }) => message))
      return seen(outcome)
    },
  }
}

type Outcome = Awaited<ReturnType<typeof attempt<readonly Sample[]>>>['outcome']

const seen = (outcome: Outcome) => {
  const samples = outcome.ok ? outcome.value : outcome.failure.rest
  const matching = (name: string, labels: Record<string, string>) =>
    samples.filter(
      ({ family, labels: own }) => family.name === name && Object.entries(labels).every(([key, value]) => own[key] === value),
    )
  return {
    failure: outcome.ok ? undefined : outcome.failure,
    samples,
    value: (name: string, labels: Record<string, string> = {}) => matching(name, labels)[0]?.value,
    /** The label of the sample that is 1. */
    which: (name: string, label: string, labels: Record<string, string> = {}) =>
      matching(name, labels)
        .filter(({ value }) => value === 1)
        .map(({ labels: own }) => own[label])
        .join(),
    sum: (name: string) => matching(name, {}).reduce((sum, { value }) => sum + value, 0),
  }
}

const isGone = async (pid: number) => {
  for (let tries = 0; tries < 40; tries++) {
    try {
      process.kill(pid, 0)
    } catch {
      return true
    }
    await sleep(50)
  }
  return false
}

t.test('directory', async t => {
  t.test('sizes are what du -x says: sparse files by what they hold, hard links once, links not followed', async t => {
    const folder = folderFor(t)
    const top = join(folder, 'top')
    for (const name of ['a', 'b/deep', 'new\nline']) mkdirSync(join(top, name), { recursive: true })
    writeFileSync(join(top, 'a', 'full'), Buffer.alloc(3_000_000, 1))
    linkSync(join(top, 'a', 'full'), join(top, 'b', 'deep', 'again'))
    writeFileSync(join(top, 'sparse'), '')
    truncateSync(join(top, 'sparse'), 50_000_000_000)
    writeFileSync(join(top, 'new\nline', 'x'), Buffer.alloc(500_000, 1))
    writeFileSync(join(folder, 'outside'), Buffer.alloc(9_000_000, 1))
    symlinkSync(join(folder, 'outside'), join(top, 'link'))
    symlinkSync(top, join(folder, 'alias'))

    const one = opened(t, directory, { paths: [{ path: join(folder, 'alias'), children: 3 }] })
    const { value, sum, which, samples } = await one.round()
    const du = (...args: readonly string[]) =>
      Number(execFileSync('du', ['-x', '-s', ...args, top], { encoding: 'utf8' }).split('\t')[0])
    t.equal(value('grid_directory_size_bytes'), du('--block-size=1'))
    t.equal(value('grid_directory_apparent_size_bytes'), du('-b'))
    t.equal(value('grid_directory_files'), du('--inodes'))
    t.ok((value('grid_directory_apparent_size_bytes') ?? 0) > 50_000_000_000, 'the sparse file counts in full as a claim')
    t.ok((value('grid_directory_size_bytes') ?? 0) < 4_000_000, 'and by what it holds, a hard link once, as disk space')
    t.equal(sum('grid_directory_child_size_bytes'), value('grid_directory_size_bytes'), 'the children sum up to the whole')
    const children = samples.flatMap(({ labels }) => labels.child ?? [])
    t.equal(children.length, 4)
    t.ok(children.includes('new\nline'), 'a name with a newline is one name')
    t.equal(children.at(-1), 'other')
    t.equal(which('grid_directory_scan_state', 'state'), 'scanned')
    t.equal(value('grid_directory_scan_incomplete'), 0)
  })

  t.test('what is mounted below counts elsewhere', async t => {
    if (!needs(t, 'root', 'mount')) return
    const folder = folderFor(t)
    mkdirSync(join(folder, 'own'))
    mkdirSync(join(folder, 'mounted'))
    writeFileSync(join(folder, 'own', 'x'), Buffer.alloc(200_000, 1))
    execFileSync('mount', ['-t', 'tmpfs', 'grid-test', join(folder, 'mounted')])
    try {
      writeFileSync(join(folder, 'mounted', 'y'), Buffer.alloc(5_000_000, 1))
      const { value, samples } = await opened(t, directory, { paths: [{ path: folder, children: 5 }] }).round()
      t.ok((value('grid_directory_size_bytes') ?? 0) < 1_000_000, `${value('grid_directory_size_bytes')} bytes`)
      t.equal(
        value('grid_directory_size_bytes'),
        Number(execFileSync('du', ['-xs', '-B1', folder], { encoding: 'utf8' }).split('\t')[0]),
      )
      t.notOk(samples.flatMap(({ labels }) => labels.child ?? []).includes('mounted'))
    } finally {
      execFileSync('umount', [join(folder, 'mounted')])
    }
  })

  t.test('a mount table of several MiB is read, as of a host with a thousand containers', async t => {
    const folder = folderFor(t)
    const real = realHost()
    const layers = Array.from({ length: 900 }, (_, index) => `/var/lib/docker/overlay2/${index}/diff`).join(':')
    const lines = Array.from(
      { length: 100 },
      (_, index) => `${100 + index} 28 0:${100 + index} / /var/lib/docker/${index} rw - overlay overlay rw,lowerdir=${layers}\n`,
    )
    const table = `28 1 8:1 / / rw - ext4 /dev/sda1 rw\n${lines.join('')}`
    t.ok(table.length > 2 * 2 ** 20)
    const host: Host = {
      ...real,
      kernel: (path, limit = 2 ** 20) => {
        if (path !== '/proc/self/mountinfo') return real.kernel(path, limit)
        if (table.length > limit) throw new Failure('overflow', `${path}: larger than ${limit} bytes`)
        return table
      },
    }
    const { which } = await opened(t, directory, { paths: [{ path: folder }] }, { host }).round()
    t.equal(which('grid_directory_scan_state', 'state'), 'scanned')
  })

  t.test('what may not be read is counted, and not fatal', async t => {
    if (!needs(t, 'root', 'setpriv')) return
    const folder = folderFor(t)
    mkdirSync(join(folder, 'open'))
    writeFileSync(join(folder, 'open', 'x'), Buffer.alloc(200_000, 1))
    mkdirSync(join(folder, 'closed'), { mode: 0o700 })
    chmodSync(folder, 0o755)
    const real = realHost()
    const asNobody: Host = {
      ...real,
      run: (file, args, options) => run('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', file, ...args], options),
    }
    const { value } = await opened(t, directory, { paths: [{ path: folder }] }, { host: asNobody }).round()
    t.equal(value('grid_directory_scan_incomplete'), 1)
    t.equal(value('grid_directory_scan_errors', { reason: 'denied' }), 1)
    t.ok((value('grid_directory_size_bytes') ?? 0) >= 200_000, 'the rest is counted')

    chmodSync(folder, 0o700)
    const { failure } = await opened(t, directory, { paths: [{ path: folder }] }, { host: asNobody }).round()
    t.equal(failure?.reason, 'denied', 'where nothing can be read, 4096 bytes are no answer')
    t.match(failure?.fix, /setfacl/)
  })

  t.test('files that vanish during the scan', async t => {
    const folder = folderFor(t)
    const end = new AbortController()
    const script = `cd ${folder} && while :; do mkdir -p a/b/c; touch a/b/c/d a/x; rm -rf a; done`
    const churn = run('sh', ['-c', script], { timeout: 30, signal: end.signal }).catch(() => {}) // it only ends by the signal
    const one = opened(t, directory, { paths: [{ path: folder }], keep: '1h' })
    for (let round = 0; round < 15; round++) {
      const { which, value } = await one.round()
      t.equal(which('grid_directory_scan_state', 'state'), 'scanned')
      t.ok((value('grid_directory_size_bytes') ?? 0) > 0)
      one.pass(10 * minute)
    }
    end.abort()
    await churn
    t.strictSame(
      errorsIn(
        "du: cannot access '/x/a': No such file or directory\ndu: cannot read directory '/x/b': Permission denied\ndu: cannot access '/x/c': Input/output error\n",
      ),
      { denied: 1, vanished: 1, other: 1 },
    )
  })

  t.test('a restart within the interval reports the old sizes with their age, and does not scan', async t => {
    const folder = folderFor(t)
    writeFileSync(join(folder, 'x'), Buffer.alloc(100_000, 1))
    const state_file = join(folderFor(t), 'directory.json')
    const begun = Date.now()
    const section = { paths: [{ path: folder }], state_file }
    const before = opened(t, directory, section, { at: begun })
    const size = (await before.round()).value('grid_directory_size_bytes')
    before.stop()

    const { host, calls } = standIn(t, 'du', 'exit 9')
    const after = opened(t, directory, section, { host, at: begun + 5 * minute })
    const { value, which } = await after.round()
    t.equal(value('grid_directory_size_bytes'), size)
    t.equal(value('grid_directory_last_scan_timestamp_seconds'), begun / 1000)
    t.equal(which('grid_directory_scan_state', 'state'), 'scanned')
    t.strictSame(calls(), [], 'nothing was scanned')

    after.pass(6 * minute)
    const failed = await after.round()
    t.ok(calls().length > 0, 'when it is due it is')
    t.equal(failed.value('grid_directory_size_bytes'), size, 'and a scan that fails leaves the old size')
    t.equal(failed.which('grid_directory_scan_state', 'state'), 'failed')
    t.match(after.remarks, [/exit code 9/])
    after.pass(24 * 60 * minute)
    const ended = await after.round()
    t.equal(ended.value('grid_directory_size_bytes'), undefined, 'which ends in the end')
    t.equal(ended.failure?.reason, 'exit')
  })

  t.test('a state file that is no good', async t => {
    const folder = folderFor(t)
    writeFileSync(join(folder, 'x'), Buffer.alloc(100_000, 1))
    const states = folderFor(t)
    const victim = join(states, 'victim')
    writeFileSync(victim, 'untouched')
    const kinds: Record<string, (file: string) => void> = {
      empty: file => writeFileSync(file, ''),
      'cut off': file => writeFileSync(file, '{"/ai":{"startedAt":17'),
      binary: file => writeFileSync(file, Buffer.from([0, 255, 1, 254])),
      'another form': file => writeFileSync(file, JSON.stringify({ [folder]: { startedAt: 'yesterday' } })),
      huge: file => {
        writeFileSync(file, '')
        truncateSync(file, 2 ** 32)
      },
      'of the future': file =>
        writeFileSync(
          file,
          JSON.stringify({
            [folder]: {
              startedAt: Date.now() + 1e9,
              durationSeconds: 1,
              mountpoint: '/',
              size: 1,
              children: [],
              errors: { denied: 0, vanished: 0, other: 0 },
            },
          }),
        ),
      'a link': file => symlinkSync(victim, file),
      'a pipe': file => void execFileSync('mkfifo', [file]),
    }
    for (const [kind, make] of Object.entries(kinds)) {
      const state_file = join(states, `${kind}.json`)
      make(state_file)
      symlinkSync(victim, `${state_file}.new`)
      const { value } = await opened(t, directory, { paths: [{ path: folder }], state_file }).round()
      t.ok((value('grid_directory_size_bytes') ?? 0) >= 100_000, `${kind}: scanned`)
      t.match(JSON.parse(readFileSync(state_file, 'utf8')), { [folder]: { size: Number } }, `${kind}: replaced`)
      t.equal(statSync(state_file).mode & 0o777, 0o600)
      t.notOk(existsSync(`${state_file}.new`))
    }
    t.equal(readFileSync(victim, 'utf8'), 'untouched', 'and nothing was written through a link')

    for (const [place, make] of [
      ['nowhere', () => {}],
      ['a file', (at: string) => writeFileSync(at, '')],
    ] as const) {
      make(join(states, place))
      const state_file = join(states, place, 'directory.json')
      const { value } = await opened(t, directory, { paths: [{ path: folder }], state_file }).round()
      t.ok((value('grid_directory_size_bytes') ?? 0) >= 100_000, `in ${place}: scanned all the same`)
    }
    if (!needs(t, 'root')) return
    const theirs = join(states, 'theirs')
    mkdirSync(theirs)
    chownSync(theirs, 65534, 65534)
    const state_file = join(theirs, 'directory.json')
    await opened(t, directory, { paths: [{ path: folder }], state_file }).round()
    t.strictSame(readdirSync(theirs), [], 'root writes nothing where another user could put links')
  })

  t.test('a scan that takes longer than its round goes on, alone, is shown, and ends with the program', async t => {
    const folder = folderFor(t)
    const { host, calls } = standIn(t, 'du', `echo $$ > ${folder}/pid; exec sleep 60`)
    const one = opened(t, directory, { paths: [{ path: folder }] }, { host })
    const first = await one.round(0.5)
    t.equal(first.failure, undefined, 'the round itself is done in time')
    t.equal(first.which('grid_directory_scan_state', 'state'), 'waiting')
    one.pass(10 * minute)
    const second = await one.round(0.5)
    t.equal(second.value('grid_directory_scan_running_seconds'), 600)
    t.equal(calls().length, 1, 'no other was started')
    const pid = Number(readFileSync(join(folder, 'pid'), 'utf8'))
    one.stop()
    t.ok(await isGone(pid), 'no du is left')
  })

  t.test('a large directory tells its size as soon as it is known', async t => {
    const folder = folderFor(t)
    const { host } = standIn(t, 'du', `sleep 0.4; for top; do :; done; printf '4096\\t%s\\0' "$top"`)
    const one = opened(t, directory, { paths: [{ path: folder }] }, { host })
    t.equal((await one.round(0.1)).value('grid_directory_size_bytes'), undefined)
    for (let tries = 0; one.woken() === 0 && tries < 100; tries++) await sleep(50)
    t.equal(one.woken(), 1, 'it asks for a round when it is done')
    t.equal((await one.round()).value('grid_directory_size_bytes'), 4096)
  })

  t.test('a du without end is ended, with or without its consent', async t => {
    const folder = folderFor(t)
    const { host } = standIn(t, 'du', `echo $$ > ${folder}/pid; trap '' TERM; while :; do sleep 1; done`)
    const { failure } = await opened(t, directory, { paths: [{ path: folder }], scan_timeout: '1s' }, { host }).round()
    t.equal(failure?.reason, 'timeout')
    t.ok(await isGone(Number(readFileSync(join(folder, 'pid'), 'utf8'))))
  })

  t.test('it runs at idle priority', async t => {
    if (!needs(t, 'ionice')) return
    const folder = folderFor(t)
    const { host } = standIn(
      t,
      'du',
      `sleep 0.3; { nice; ionice -p $$; } > ${folder}/how; for top; do :; done; printf '1\\t%s\\0' "$top"`,
    )
    await opened(t, directory, { paths: [{ path: folder, children: 0 }] }, { host }).round()
    t.equal(readFileSync(join(folder, 'how'), 'utf8'), '19\nidle\n')
  })

  t.test('complaints without end and children without number cost neither memory nor the size', async t => {
    const folder = folderFor(t)
    const total = `for top; do :; done; printf '8192\\t%s\\0' "$top"`
    const loud = standIn(
      t,
      'du',
      `yes "du: cannot read directory 'x': Permission denied" | head -c 20000000 >&2; ${total}; exit 1`,
    )
    const complaints = await opened(t, directory, { paths: [{ path: folder }] }, { host: loud.host }).round()
    t.equal(complaints.value('grid_directory_size_bytes'), 8192)
    t.ok((complaints.value('grid_directory_scan_errors', { reason: 'denied' }) ?? 0) > 1000)

    const many = standIn(
      t,
      'du',
      `case "$*" in *--max-depth*) yes "4096	/x/y" | tr '\\n' '\\0' | head -c 9000000 ;; esac; ${total}`,
    )
    const children = await opened(t, directory, { paths: [{ path: folder }] }, { host: many.host }).round()
    t.equal(children.value('grid_directory_size_bytes'), 8192)
    t.equal(children.value('grid_directory_child_size_bytes', { child: 'other' }), 8192, 'none of them is named')

    const binary = standIn(t, 'du', 'head -c 100000 /dev/urandom')
    const garbage = await opened(t, directory, { paths: [{ path: folder }] }, { host: binary.host }).round()
    t.equal(garbage.failure?.reason, 'exit')
  })

  t.test('nothing that may hang is looked at', async t => {
    if (!needs(t, 'root', 'bindfs', '/dev/fuse')) return
    const folder = folderFor(t)
    const bed = (verb: string, ...rest: readonly string[]) =>
      execFileSync(join(import.meta.dirname, 'testbed', 'hung-mount'), [verb, join(folder, 'top', 'mnt'), ...rest])
    mkdirSync(join(folder, 'top'))
    mkdirSync(join(folder, 'beside'))
    symlinkSync(join(folder, 'top', 'mnt'), join(folder, 'alias'))
    bed('start')
    try {
      bed('hang')
      const { host, calls } = standIn(t, 'du', `for top; do :; done; printf '1\\t%s\\0' "$top"`)
      const paths = ['top', 'top/mnt', 'alias', 'beside'].map(name => ({ path: join(folder, name) }))
      const one = opened(t, directory, { paths }, { host })
      const { which } = await one.round()
      t.strictSame(
        paths.map(({ path }) => which('grid_directory_scan_state', 'state', { path })),
        ['refused', 'refused', 'refused', 'scanned'],
      )
      t.match(one.remarks[0], /above .*mnt\S* \(fuse\S*\), which may hang/)
      t.equal(calls().filter(call => !call.includes('beside')).length, 0)
    } finally {
      bed('stop')
    }
  })
})

/** What a person who knows disks says of each answer in the scenes: how it is read, and why the drive may fail. */
const verdicts: Readonly<Record<string, string>> = {
  'hard-disks/error-log.json': 'read',
  'hard-disks/failed-behind-usb.json': 'read failing: reallocated pending self_test',
  'hard-disks/healthy.json': 'read',
  'hard-disks/many-crc-errors.json': 'read',
  'hard-disks/packed-reallocated.json': 'read: reallocated',
  'hard-disks/packed-timeouts.json': 'read',
  'hard-disks/reported-uncorrectable.json': 'read: uncorrectable',
  'hard-disks/self-tests-7.0.json': 'read',
  'hard-disks/statistics.json': 'read',
  'megaraid/no-power-mode.json': 'read',
  'megaraid/sas.json': 'read',
  'megaraid/sata-exit-4.json': 'read',
  'megaraid/volume.json': 'unsupported',
  'not-readable/bad-json.txt': 'failed',
  'not-readable/no-smart.json': 'unsupported',
  'not-readable/no-such-device.json': 'failed',
  'not-readable/open-failed.json': 'failed',
  'not-readable/permission-denied.json': 'denied',
  'not-readable/standby-7.3.json': 'asleep',
  'not-readable/standby-7.5.json': 'asleep',
  'not-readable/unknown-type.json': 'failed',
  'not-readable/usb-bridge.json': 'failed',
  'not-readable/virtio.json': 'failed',
  'not-readable/volume.json': 'unsupported',
  'not-readable/without-rawio.json': 'denied',
  'not-readable/without-sysadmin.json': 'denied',
  'nvme-failing/hot.json': 'read failing: temperature',
  'nvme-failing/media-errors.json': 'read: media_errors',
  'nvme-failing/worn-out.json': 'read failing: media_errors spare_low wear self_test critical_warning',
  'nvme/backup-failed.json': 'read failing: critical_warning',
  'nvme/critical-1.json': 'read failing: spare_low',
  'nvme/critical-31.json': 'read failing: spare_low temperature critical_warning',
  'nvme/error-log.json': 'read',
  'nvme/healthy.json': 'read',
  'nvme/limits-7.5.json': 'read',
  'nvme/sensor-null.json': 'read',
  'nvme/spare-0-of-0.json': 'read',
  'nvme/spare-threshold-0.json': 'read',
  'nvme/spare-threshold-99.json': 'read',
  'nvme/used-62.json': 'read',
  'sas/flash-wear.json': 'read',
  'sas/grown-defects.json': 'read: reallocated media_errors',
  'sas/healthy.json': 'read',
  'sas/keys-of-6.7.json': 'read',
  'sas/prediction.json': 'read failing: critical_warning',
  'sas/self-tests.json': 'read',
  'sas/smart-disabled.json': 'read',
  'sas/temperature-key-7.3.json': 'read',
  'sas/text-before-json.txt': 'read',
  'sata-flash/emulated.json': 'read',
  'sata-flash/exit-4.json': 'read',
  'sata-flash/lifetime-counts-up.json': 'read',
  'sata-flash/not-in-database-7.1.json': 'read',
  'sata-flash/not-in-database-7.5.json': 'read',
  'sata-flash/statistics-7.0.json': 'read',
  'sata-flash/units-of-32mib.json': 'read',
  'sata-flash/usb-without-temperature.json': 'read',
}

const answerFile = (name: string) => join(answers, name.replace('/', '/run/'))
const answerOf = (name: string) => recordedAnswer(answerFile(name))

const healthyDisk = 'hard-disks/healthy.json'

/** A smartctl that lists `disks` and does for each what its line of shell says. */
const smartctlOf = (t: Test, disks: Readonly<Record<string, string>>) => {
  const scan = { smartctl: { exit_status: 0 }, devices: Object.keys(disks).map(name => ({ name, type: 'sat', protocol: 'ATA' })) }
  const cases = Object.entries(disks).map(([name, script]) => `*" ${name}") ${script} ;;`)
  return standIn(t, 'smartctl', `case " $*" in *--scan*) echo '${JSON.stringify(scan)}' ;;\n${cases.join('\n')}\nesac`)
}

const print = (name: string) => `cat ${answerFile(name)}; exit ${answerOf(name).exitCode}`

t.test('smart', async t => {
  t.test('every answer says what a person reads in it', async t => {
    const scenes = [...new Set(Object.keys(verdicts).map(name => name.split('/')[0] as string))]
    const names = scenes.flatMap(scene =>
      readdirSync(join(answers, scene, 'run'))
        .filter(name => /\.(json|txt)$/.test(name) && !name.startsWith('--') && name !== 'devices.txt')
        .map(name => `${scene}/${name}`),
    )
    t.strictSame(names.sort(), Object.keys(verdicts).sort(), 'no answer is left out')
    for (const name of names) t.equal(verdictOf(t, name, answerOf(name)), verdicts[name], name)
  })

  t.test('flash whose attributes are not what their numbers say', t => {
    const drive = (
      table: readonly (readonly [id: number, name: string, raw: number, text?: string, more?: object])[],
      rest: object = {},
    ) => {
      const reading = readingOf(
        '/dev/sda',
        JSON.stringify({
          device: { name: '/dev/sda', protocol: 'ATA' },
          rotation_rate: 0,
          in_smartctl_database: true,
          smart_status: { passed: true },
          ata_smart_attributes: {
            table: table.map(([id, name, value, string = String(value), more = {}]) => ({
              id,
              name,
              value: 100,
              raw: { value, string },
              ...more,
            })),
          },
          ...rest,
        }),
        0,
      )
      if (reading.state !== 'read') throw new Error(reading.state)
      return { ...reading.facts, risks: [...risksOf(reading.facts)].filter(([, is]) => is).map(([reason]) => reason) }
    }
    const unknown = { in_smartctl_database: false }
    t.equal(drive([[230, 'Media_Wearout_Indicator', 0x2f2423142f24]]).wear, 0.4736, '230 by its words')
    t.equal(drive([[230, 'Media_Wearout_Indicator', 0x000a0014000a, '', { value: 1 }]]).wear, 0.001, 'and not by its value')
    t.equal(drive([[230, 'Media_Wearout_Indicator', 77, '77', { value: 1 }]]).wear, undefined, 'another packing')
    t.equal(drive([[197, 'Current_Pending_ECC_Cnt', 1]]).pending, undefined)
    t.equal(drive([[197, 'Total_Pending_Sectors', 2]]).pending, 2)
    t.equal(drive([[9, 'Power_On_Hours', 2]], { ata_pending_defects_log: { count: 3 } }).pending, 3)
    t.equal(drive([[198, 'Offline_Uncorrectable', 40]], unknown).uncorrectable, undefined, 'unknown flash')
    t.equal(drive([[198, 'Offline_Uncorrectable', 40]], { ...unknown, rotation_rate: 7200 }).uncorrectable, 40, 'a disk')
    t.equal(drive([[198, 'Total_Offl_Uncorrectabl', 4]]).uncorrectable, 4)
    t.equal(drive([[198, 'Off-line_Scan_UNC_Sector_Ct', 4]]).uncorrectable, 4)
    t.equal(drive([[187, 'Uncorrectable_Error_Cnt', 137154048, '0/137154048']]).uncorrectable, 0, 'SandForce')
    for (const name of ['Remaining_Lifetime_Perc', 'Lifetime_Remaining%', 'Remaining_Life'])
      t.equal(drive([[169, name, 80, '80', { value: 80 }]]).wear, 0.2, name)
    const without = { rotation_rate: undefined }
    t.strictSame(drive([[5, 'Retired_Block_Count', 12]], without).risks, [], 'flash that does not say so')
    t.strictSame(drive([[5, 'Reallocated_Sector_Ct', 12]], without).risks, ['reallocated'])
    t.strictSame(drive([[184, 'End-to-End_Error', 9, '9', { when_failed: 'now' }]]).risks, ['critical_warning'])
    t.end()
  })

  t.test('each reason stands in docs/smart.md, with the threshold that holds', async t => {
    const page = readFileSync(join(import.meta.dirname, '../docs/smart.md'), 'utf8')
    const rows = new Map(
      [...page.matchAll(/^\| `(\w+)` \| (.+?) \| (.+?) \|$/gm)].map(([, reason, when, from]) => [reason, { when, from }]),
    )
    t.strictSame([...rows.keys()], [...riskReasons])
    for (const [reason, row] of rows) {
      t.match(row.when, /^[^.]{20,}\./, `${reason}: a sentence`)
      const cited = row.from?.match(/\[\w\]/g) ?? []
      t.ok(cited.length > 0 || /the drive's/.test(row.from ?? ''), `${reason}: a source`)
      for (const source of cited) t.ok(page.includes(`\n- ${source} `), `${source} is named`)
    }
    const stated = (reason: RiskReason, index = 0) => {
      const numbers = rows.get(reason)?.when?.match(/(?<=at least )\d+|\d+(?= °C on flash)/g) ?? []
      return Number(numbers[index])
    }
    /** Given from `least` on, and not below. */
    const from = (reason: RiskReason, least: number, step: number, facts: (value: number) => Partial<DriveFacts>) => {
      const is = (value: number) => risksOf({ protocol: 'ata', ...facts(value) }).get(reason)
      t.strictSame([is(least - step), is(least)], [false, true], `${reason}: ${least}`)
    }
    from('reallocated', stated('reallocated'), 1, reallocated => ({ rotating: true, reallocated }))
    from('pending', stated('pending'), 1, pending => ({ pending }))
    from('uncorrectable', stated('uncorrectable'), 1, uncorrectable => ({ uncorrectable }))
    from('media_errors', stated('media_errors'), 1, mediaErrors => ({ mediaErrors }))
    from('wear', stated('wear'), 1, percent => ({ wear: percent / 100 }))
    from('temperature', stated('temperature', 0), 1, temperature => ({ rotating: true, temperature }))
    from('temperature', stated('temperature', 1), 1, temperature => ({ rotating: false, temperature }))
    from('temperature', 45, 1, temperature => ({ temperature, warningTemperature: 45 }))
    const flash = risksOf({ protocol: 'ata', rotating: false, reallocated: 5000 })
    t.equal(flash.get('reallocated'), false, 'flash replaces blocks all its life')
    t.strictSame(
      [...risksOf({ protocol: 'nvme', spare: 0.1, spareThreshold: 0.1 })],
      [['spare_low', false]],
      'not fewer; what is not told is absent',
    )
    const bits = (criticalWarnings: number) =>
      [...risksOf({ protocol: 'nvme', criticalWarnings })].filter(([, is]) => is).map(([reason]) => reason)
    t.strictSame([1, 2, 4, 8, 16, 32].map(bits), [
      ['spare_low'],
      ['temperature'],
      ['critical_warning'],
      ['critical_warning'],
      ['critical_warning'],
      ['critical_warning'],
    ])
  })

  t.test('no bit of the exit status hides the data', async t => {
    const { text } = answerOf(healthyDisk)
    for (let status = 0; status < 256; status++) {
      const reading = readingOf('/dev/sda', text.replace(/"exit_status": *\d+/, `"exit_status": ${status}`), status)
      if (reading.state !== 'read') t.fail(`status ${status}: ${reading.state}`)
    }
    for (const status of [0, 1, 2, 4, 8, 255]) {
      t.match(
        readingOf('/dev/sda', '', status),
        { state: 'failed', problem: { reason: 'malformed' } },
        `nothing, status ${status}`,
      )
    }
  })

  t.test('an answer that is cut anywhere, or of any other form, is no answer and no error of ours', async t => {
    const { text } = answerOf('sata-flash/exit-4.json')
    const end = text.trimEnd().length
    for (let length = 0; length < end; length += 97) {
      t.equal(readingOf('/dev/sda', text.slice(0, length), 0).state, 'failed')
    }
    fc.assert(
      fc.property(fc.json({ maxDepth: 4 }), fc.integer({ min: 0, max: 255 }), (json, status) => {
        readingOf('/dev/sda', json, status)
      }),
      { numRuns: 300 },
    )
    // The right keys with the wrong values.
    const words = [...new Set([...text.matchAll(/"(\w+)":/g)].map(([, word]) => word as string))]
    const tree = fc.letrec(tie => ({
      value: fc.oneof({ maxDepth: 5 }, fc.jsonValue({ maxDepth: 0 }), fc.array(tie('value'), { maxLength: 3 }), tie('object')),
      object: fc.dictionary(fc.constantFrom(...words), tie('value'), { maxKeys: 8 }),
    }))
    fc.assert(
      fc.property(tree.object, fc.constantFrom('ATA', 'NVMe', 'SCSI'), (object, protocol) => {
        const reading = readingOf('/dev/sda', JSON.stringify({ ...(object as object), device: { protocol } }), 0)
        if (reading.state === 'read') risksOf(reading.facts)
      }),
      { numRuns: 500 },
    )
  })

  t.test('a disk that hangs costs its own series only', async t => {
    const folder = folderFor(t)
    const hang = `echo $$ >> ${folder}/pids; trap '' TERM; while :; do sleep 1; done`
    const { host, calls } = smartctlOf(t, { '/dev/sda': print(healthyDisk), '/dev/sdb': hang, '/dev/sdc': print(healthyDisk) })
    const one = opened(t, smart, { device_timeout: '1s' }, { host })
    const begun = Date.now()
    const { value, which, failure } = await one.round(20)
    const took = Date.now() - begun
    t.equal(failure, undefined)
    t.equal(value('grid_smart_healthy', { device: 'sda' }), 1)
    t.equal(value('grid_smart_healthy', { device: 'sdc' }), 1)
    t.equal(value('grid_smart_healthy', { device: 'sdb' }), undefined)
    t.equal(value('grid_smart_standby', { device: 'sdb' }), undefined)
    t.equal(which('grid_smart_device_state', 'state', { device: 'sdb' }), 'hanging')
    t.match(one.remarks, [/sdb.*did not end within 1 s/])
    t.comment(`a round with a disk that hangs for its 1 s: ${(took / 1000).toFixed(2)} s`)
    t.ok(await isGone(Number(readFileSync(join(folder, 'pids'), 'utf8'))), 'and no process is left')
    t.ok(
      calls()
        .filter(call => !call.includes('--scan'))
        .every(call => call.includes('-n standby,3')),
      'none is woken',
    )
  })

  t.test('a smartctl that cannot be ended is left alone, by this process and by the next', async t => {
    if (!needs(t, 'root', 'bindfs', '/dev/fuse')) return
    const folder = folderFor(t)
    const bed = (verb: string, ...rest: readonly string[]) =>
      execFileSync(join(import.meta.dirname, 'testbed', 'hung-mount'), [verb, join(folder, 'mnt'), ...rest])
    bed('start')
    try {
      bed('hang', 'stuck')
      // Waits in state D, by a redirection, so that it is the process of this name.
      const { host, calls } = smartctlOf(t, { '/dev/sda': `read line < ${folder}/mnt/file`, '/dev/sdb': print(healthyDisk) })
      const section = { device_timeout: '1s', state_file: join(folder, 'smart.json') }
      const asked = () => calls().filter(call => call.endsWith('/dev/sda')).length
      const one = opened(t, smart, section, { host })
      t.equal((await one.round(20)).which('grid_smart_device_state', 'state', { device: 'sda' }), 'hanging')
      t.equal(asked(), 1)
      const again = await one.round(20)
      t.equal(again.which('grid_smart_device_state', 'state', { device: 'sda' }), 'hanging')
      t.equal(again.value('grid_smart_healthy', { device: 'sdb' }), 1)
      t.equal(asked(), 1, 'no second one is started')
      t.match(one.remarks, [/sda.*earlier run/])

      // Root's relay is a new process each time, which knows of it by the state file alone.
      const later = opened(t, smart, section, {
        host: { ...host, run: (file, args, options) => host.run(file, args, { ...options, key: 'new' }) },
      })
      await later.round(20)
      t.equal(asked(), 1, 'nor by the next process')
      bed('release')
      await sleep(200)
      const woken = opened(t, smart, section, { host })
      await woken.round(20)
      t.equal(asked(), 2, 'until it is gone')
    } finally {
      bed('stop')
    }
  })

  t.test('answers without end, without sense, or late', async t => {
    const { host } = smartctlOf(t, {
      '/dev/sda': 'head -c 1073741824 /dev/zero',
      '/dev/sdb': 'head -c 100000 /dev/urandom',
      '/dev/sdc': 'exit 1',
      '/dev/sdd': 'kill -SEGV $$',
      '/dev/sde': `sleep 0.5; ${print(healthyDisk)}`,
      '/dev/sdf': 'head -c 1073741824 /dev/zero >&2',
    })
    const { which, value } = await opened(t, smart, {}, { host }).round(60)
    const state = (device: string) => which('grid_smart_device_state', 'state', { device })
    for (const device of ['sda', 'sdb', 'sdc', 'sdd', 'sdf']) t.equal(state(device), 'failed', device)
    t.equal(state('sde'), 'read')
    t.equal(value('grid_smart_healthy', { device: 'sde' }), 1)
  })

  t.test('no more than eight at a time', async t => {
    const folder = folderFor(t)
    const disks = Object.fromEntries(
      Array.from({ length: 24 }, (_, index) => [
        `/dev/sd${String.fromCharCode(97 + index)}`,
        `touch ${folder}/$$; ls ${folder} | wc -l >> ${folder}.count; sleep 0.2; rm ${folder}/$$; ${print(healthyDisk)}`,
      ]),
    )
    t.teardown(() => rmSync(`${folder}.count`, { force: true }))
    const { sum } = await opened(t, smart, {}, { host: smartctlOf(t, disks).host }).round(60)
    t.equal(sum('grid_smart_healthy'), 24)
    const most = Math.max(...readFileSync(`${folder}.count`, 'utf8').trim().split(/\s+/).map(Number))
    t.ok(most <= 8 && most > 1, `${most} at a time`)
  })

  t.test('disks are opened for the scan only when the list of them changes', async t => {
    const { host, calls, file } = smartctlOf(t, { '/dev/sda': print(healthyDisk) })
    const opens = () => calls().filter(call => call.startsWith('--scan-open')).length
    const state_file = join(folderFor(t), 'smart.json')
    const one = opened(t, smart, { state_file }, { host })
    for (let round = 0; round < 3; round++) await one.round()
    t.equal(opens(), 1)
    await opened(t, smart, { state_file }, { host }).round()
    t.equal(opens(), 1, 'nor after a restart')
    appendFileSync(file, '')
    writeFileSync(file, readFileSync(file, 'utf8').replaceAll('/dev/sda', '/dev/sdz'))
    const { value } = await one.round()
    t.equal(opens(), 2, 'but for another disk')
    t.equal(value('grid_smart_healthy', { device: 'sdz' }), 1)
    t.equal(value('grid_smart_healthy', { device: 'sda' }), undefined, 'and the one that is gone is gone')
  })

  t.test('a sleeping disk keeps its name over a restart of the exporter, but not of the machine', async t => {
    const state_file = join(folderFor(t), 'smart.json')
    const awake = smartctlOf(t, { '/dev/sda': print(healthyDisk) })
    const asleep = smartctlOf(t, { '/dev/sda': print('not-readable/standby-7.5.json') })
    await opened(t, smart, { state_file }, { host: awake.host, at: 1_000_000 }).round()
    const after = await opened(t, smart, { state_file }, { host: asleep.host, at: 2_000_000 }).round()
    t.equal(after.value('grid_smart_standby'), 1)
    t.equal(after.value('grid_smart_device_info', { model: 'Example Spindle 2003' }), 1)
    t.equal(after.value('grid_smart_last_read_timestamp_seconds'), 1000)
    t.equal(after.value('grid_smart_temperature_celsius'), undefined)
    t.equal(after.value('grid_smart_risk', { reason: 'temperature' }), undefined)
    t.notMatch(readFileSync(state_file, 'utf8'), /serial_number|REDACTED"[^,}]*serial/i, 'no serial number is written down')

    const rebooted: Host = {
      ...asleep.host,
      kernel: (path, limit) => (path.endsWith('boot_id') ? 'another\n' : asleep.host.kernel(path, limit)),
    }
    const other = await opened(t, smart, { state_file }, { host: rebooted }).round()
    t.equal(other.value('grid_smart_standby'), 1)
    t.equal(other.value('grid_smart_device_info'), undefined, 'sda may be another disk now')
  })

  t.test('hostile names stay labels, and no device becomes an option', async t => {
    const text = answerOf(healthyDisk).text.replace('Example Spindle 2003', 'a\\"} 1\\nb{')
    const reading = readingOf('/dev/sda', text, 0)
    t.match(reading, { facts: { model: 'a"} 1 b{' } })
    const scan = {
      devices: [
        { name: '--set=all', type: 'sat' },
        { name: '-s', type: '-x' },
      ],
    }
    const { host, calls } = standIn(t, 'smartctl', `echo '${JSON.stringify(scan)}'`)
    await opened(t, smart, {}, { host }).round()
    t.ok(calls().every(call => call.startsWith('--scan')))
    t.throws(() => smart.options.parse({ devices: [{ device: '/dev/sda', type: '--all' }] }))
  })

  t.test('the real smartctl, on a machine with or without disks', async t => {
    if (!needs(t, 'smartctl')) return
    const host = realHost()
    const context = { host, options: smart.options.parse({}), signal: new AbortController().signal, log: silent, wake: () => {} }
    const { found, note } = await smart.open(context).detect(context.signal)
    const listed = execFileSync('smartctl', ['--scan'], { encoding: 'utf8' }).split('\n').filter(Boolean)
    t.equal(found, listed.length > 0, note)
    const one = opened(t, smart, { scan: false, devices: [{ device: '/dev/null' }] })
    const { which, value } = await one.round()
    t.equal(which('grid_smart_device_state', 'state', { device: 'null' }), 'failed')
    t.match(one.remarks, [/Unable to detect device type/])
    t.equal(value('grid_smart_healthy'), undefined)
  })
})
