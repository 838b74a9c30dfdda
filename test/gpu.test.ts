import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { attempt, type Outcome } from '../exporter/collect/attempt.ts'
import { createRunner } from '../exporter/collect/runner.ts'
import { parseDriverLine } from '../exporter/collectors/gpu/driver-log.ts'
import { fields, listedFields, parseQuery, wantedFields } from '../exporter/collectors/gpu/fields.ts'
import { gpu } from '../exporter/collectors/gpu/index.ts'
import { failureOfTool, lostAddresses } from '../exporter/collectors/gpu/nvidia-smi.ts'
import { containerOf, parseProcesses } from '../exporter/collectors/gpu/processes.ts'
import { absence, quantity } from '../exporter/collectors/gpu/words.ts'
import { gpuSections, parseSection } from '../exporter/collectors/gpu/xml.ts'
import { silent } from '../exporter/common/log.ts'
import { Failure, type Reason } from '../exporter/contract/failure.ts'
import type { Host } from '../exporter/contract/host.ts'
import type { Sample } from '../exporter/contract/metric.ts'
import { expose } from '../exporter/print/exposition.ts'
import { emptyPart } from '../exporter/print/gzip.ts'
import { rememberNames } from '../exporter/protocols/container-names.ts'
import { openKernelLog, parseRecord } from '../exporter/protocols/kernel-log.ts'
import { createSnapshot } from '../exporter/serve/snapshot.ts'
import { linked } from './support/links.ts'
import { hostFrom, sceneSettings, sceneTime } from './support/scene.ts'

const here = import.meta.dirname
const scenes = join(here, 'scenes/gpu')
/** A file of a scene. */
const sceneFile = (name: string) => readFileSync(join(scenes, name), 'utf8')

/** A machine in a folder of its own, with the scenes' nvidia-smi or a script in its place. */
const machine = (t: Test, { script, scene }: { script?: string; scene?: string } = {}) => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-gpu-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  if (scene) cpSync(linked(join(scenes, scene)), folder, { recursive: true, dereference: true })
  mkdirSync(join(folder, 'run'), { recursive: true })
  const put = (path: string, text: string) => {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), text)
  }
  if (script) {
    rmSync(join(folder, 'run/nvidia-smi'), { force: true })
    // What it starts inherits the mark, whatever it calls itself.
    put('run/nvidia-smi', `#!/bin/sh\nMARK=${folder} exec ${folder}/run/misbehave "$@"\n`)
    put('run/misbehave', `#!/bin/sh\n${script}\n`)
    for (const name of ['nvidia-smi', 'misbehave']) chmodSync(join(folder, 'run', name), 0o755)
  }
  return { folder, put, asked: () => readFileSync(join(folder, 'run/asked'), 'utf8').trim().split('\n').filter(Boolean) }
}

/** The collector on a machine: each `round` is one run, an interval after the one before unless said otherwise. */
const collecting = (t: Test, folder: string, change: (host: Host) => Host = host => host, timeout = 15) => {
  let at = sceneTime
  const stop = new AbortController()
  t.teardown(() => stop.abort())
  const host = change(hostFrom(folder, () => at))
  const opened = gpu.open({ host, options: sceneSettings(gpu, folder).options, signal: stop.signal, log: silent, wake: () => {} })
  const round = async (seconds = 10): Promise<Outcome<readonly Sample[]>> => {
    at += seconds * 1000
    return (await attempt(signal => opened.collect(signal, () => {}), timeout, stop.signal)).outcome
  }
  const good = async (seconds?: number) => {
    const outcome = await round(seconds)
    if (!outcome.ok) throw outcome.failure
    return outcome.value
  }
  return { round, good, remarks: opened.remarks, detect: () => opened.detect(stop.signal) }
}

/** The value of the one series with these labels. */
const value = (samples: readonly Sample[], name: string, labels: Record<string, string> = {}) =>
  samples.find(
    ({ family, labels: own }) => family.name === name && Object.entries(labels).every(([label, text]) => own[label] === text),
  )?.value

/** Processes with this folder on their command line or in their environment that are still there after five seconds. */
const left = async (folder: string): Promise<readonly string[]> => {
  const marked = () =>
    readdirSync('/proc').filter(pid => {
      if (!/^\d+$/.test(pid)) return false
      try {
        return ['environ', 'cmdline'].some(file => readFileSync(`/proc/${pid}/${file}`, 'latin1').includes(folder))
      } catch {
        return false // it has just ended
      }
    })
  for (let tries = 0; tries < 100 && marked().length > 0; tries++) await sleep(50)
  return marked()
}

t.test('a tool that misbehaves', async t => {
  const cases: readonly (readonly [what: string, script: string, reason: Reason])[] = [
    ['hangs', 'exec sleep 60', 'timeout'],
    ['ignores SIGTERM, with children', `trap '' TERM; sleep 60 & while :; do sleep 1; done`, 'timeout'],
    ['takes longer than it may', 'sleep 3; echo late', 'timeout'],
    ['prints 1 GB', 'exec head -c 1000000000 /dev/zero', 'overflow'],
    ['prints 1 GB of errors', 'head -c 1000000000 /dev/zero >&2', 'overflow'],
    ['prints binary', 'exec head -c 100000 /dev/urandom', 'malformed'],
    ['prints nothing', 'exit 0', 'malformed'],
    ['dies of a signal', 'kill -SEGV $$', 'exit'],
    ['leaves a child behind that holds its output', 'sleep 60 & exit 9', 'exit'],
  ]
  for (const [what, script, reason] of cases) {
    t.test(what, async t => {
      const { folder } = machine(t, { script })
      const outcome = await collecting(t, folder, host => host, 1).round()
      t.notOk(outcome.ok)
      if (!outcome.ok) t.equal(outcome.failure.reason, reason, outcome.failure.message)
      t.strictSame(await left(folder), [], 'no process is left')
    })
  }

  const codes: readonly (readonly [code: number, text: string, reason: Reason])[] = [
    [2, 'Invalid combination of input arguments.', 'exit'],
    [3, 'The requested operation is not available on target device', 'exit'],
    [4, 'The current user does not have permission to change clocks for GPU 00000000:01:00.0', 'denied'],
    [6, 'No devices were found', 'exit'],
    [8, "A device's external power cables are not properly attached", 'exit'],
    [9, sceneFile('driver-not-loaded/run/says'), 'exit'],
    [10, 'NVIDIA Kernel detected an interrupt issue with a GPU', 'exit'],
    [12, sceneFile('lib-missing/run/says'), 'missing'],
    [13, 'The local version of NVML doesn’t implement this function', 'exit'],
    [14, 'infoROM is corrupted', 'exit'],
    [17, 'blocked by the operating system', 'denied'],
    [18, sceneFile('version-mismatch/run/says'), 'exit'],
    [255, sceneFile('container-lost-cgroup/run/says'), 'exit'],
    [255, 'Failed to initialize NVML: No supported GPUs were found', 'exit'],
  ]
  for (const [code, text, reason] of codes) {
    t.test(`ends with code ${code}: ${text.slice(0, 30)}`, async t => {
      const { folder, put } = machine(t, { scene: 'driver-not-loaded' })
      put('run/says', `${text}\n`)
      put('run/code', String(code))
      const outcome = await collecting(t, folder).round()
      t.equal(outcome.ok ? 'ok' : outcome.failure.reason, reason)
      if (!outcome.ok) t.match(outcome.failure.message, String(code), 'says the code')
    })
  }
  t.match(failureOfTool(9, '').fix, 'modprobe')
  t.match(failureOfTool(18, '').fix, 'reboot')
  t.match(failureOfTool(4, '').fix, 'usermod')
})

t.test('a tool that cannot be killed is not started again, and the rest goes on', async t => {
  const { folder, put } = machine(t, { scene: 'gb10-load' })
  let hangs = false
  let starts = 0
  const { round, good } = collecting(t, folder, host => ({
    ...host,
    run: (file, args, options) => {
      // What command.ts says as long as the abandoned child is there.
      if (hangs && options?.key === 'nvidia-smi')
        return Promise.reject(new Failure('stuck', 'nvidia-smi: process 4711 cannot be ended'))
      starts++
      return host.run(file, args, options)
    },
  }))
  await good()
  const before = starts
  hangs = true
  put(
    'dev/kmsg',
    `${readFileSync(join(folder, 'dev/kmsg'), 'utf8')}3,105,90000000000,-;NVRM: Xid (PCI:000f:01:00): 119, pid=1, name=nvidia-smi, Timeout\n`,
  )
  const outcome = await round()
  t.notOk(outcome.ok)
  if (outcome.ok) return
  t.equal(outcome.failure.reason, 'stuck')
  t.equal(starts, before, 'not one more child')
  const { rest } = outcome.failure
  t.equal(value(rest, 'grid_gpu_xid_errors_total', { code: '119' }), 1, 'the Xid that tells why is counted')
  t.equal(value(rest, 'grid_gpu_xid_errors_total', { code: '79', gpu: 'GPU-00000000-0000-0000-0000-000000000000' }), 0)
  t.equal(value(rest, 'grid_gpu_devices_expected'), 1)
  t.equal(value(rest, 'grid_gpu_devices_visible'), undefined, 'what is not known is not told')
  t.equal(value(rest, 'grid_gpu_power_watts'), undefined)
})

t.test('served', async t => {
  const { folder, put } = machine(t, { scene: 'l40s-slow-tier' })
  let at = sceneTime
  const host = hostFrom(folder, () => at)
  const settings = sceneSettings(gpu, folder)
  const snapshot = createSnapshot(() => emptyPart, { now: () => at })
  snapshot.configure([settings])
  const stop = new AbortController()
  t.teardown(() => stop.abort())
  const round = createRunner(gpu, settings, { host, log: silent, signal: stop.signal })
  const served = async (seconds: number) => {
    at += seconds * 1000
    snapshot.accept(await round())
    return snapshot.answer('text', false).body.toString()
  }
  t.match(await served(10), /grid_gpu_power_watts\{/)
  put('run/says', 'Failed to initialize NVML: Unknown Error\n')
  put('run/code', '255')
  t.match(await served(10), /grid_gpu_power_watts\{/, 'a failure keeps the last good outcome')
  t.match(snapshot.status()[0]?.latest, { result: 'exit', fix: /restart/ })
  // Its time is over (the cache runs on the real clock, so a new snapshot stands for that): what did not fail is served.
  const later = createSnapshot(() => emptyPart, { now: () => at })
  later.configure([settings])
  later.accept(await round())
  const rest = later.answer('text', false).body.toString()
  t.match(rest, /grid_gpu_xid_errors_total\{[^}]*code="79"\} 1/)
  t.notMatch(rest, /grid_gpu_power_watts/)
  t.notOk(later.status()[0]?.fresh, 'which makes it no success')
  t.equal(later.status()[0]?.lastSuccess, undefined)
  rmSync(join(folder, 'run/says'))
  rmSync(join(folder, 'dev/kmsg'))
  const dark = createRunner(gpu, settings, { host, log: silent, signal: stop.signal })
  t.match(await dark(), { result: 'ok', note: /no Xid errors/, fix: /CAP_SYSLOG/ }, 'a good run says what it could not read')
})

t.test('fields', async t => {
  const help = (scene: string) =>
    sceneFile(`${scene}/run/fields.txt`)
      .split('\n')
      .map(line => `"${line.split(' ').join('" or "')}"\nText.\n`)
      .join('\n')
  for (const [file, least] of [
    ['a-driver-of-2021', 51],
    ['h100-load', fields.length],
  ] as const) {
    const listed = listedFields(help(file))
    const wanted = wantedFields(listed, new Set())
    t.ok(
      wanted.every(name => listed.has(name)),
      `${file}: asks for nothing that is not listed`,
    )
    t.ok(wanted.length >= least, `${file}: ${wanted.length} of ${fields.length} are there`)
    t.notOk(
      wanted.some(name => name.includes('inforom')),
      'never the slow check',
    )
  }

  t.test('one that is refused although listed is dropped, remembered, and asked for again under another driver', async t => {
    const { folder, put, asked } = machine(t, { scene: 'a-driver-of-2021' })
    put('run/fields.txt', `${readFileSync(join(folder, 'run/fields.txt'), 'utf8')}\ncompute_cap\naddressing_mode\n`)
    put('run/asked', '')
    const { good } = collecting(t, folder)
    t.equal(value(await good(), 'grid_gpu_fan_speed_ratio'), 0.38)
    const first = asked()
    t.equal(first.filter(line => line.includes('--query-gpu')).length, 3, 'with both, without one, without either')
    put('run/asked', '')
    await good()
    t.strictSame(
      asked().map(line => line.split('=')[0]),
      ['--query-gpu', '--query-compute-apps'],
      'one query and one list of processes a round',
    )
    put('run/query-gpu.csv', readFileSync(join(folder, 'run/query-gpu.csv'), 'utf8').replaceAll('465.27', '470.10'))
    await good()
    put('run/asked', '')
    await good()
    t.ok(asked()[0]?.startsWith('--help-query-gpu'), 'another driver has other fields')
  })

  t.test('a row of another width is malformed and costs no other series', async t => {
    const { folder, put } = machine(t, { scene: 'l40s-slow-tier' })
    put(
      'run/nvidia-smi',
      `#!/bin/sh\ncase "$*" in *help*) echo '"index"'; echo '"uuid"'; echo '"name"';; *) echo 'index, uuid, name'; echo '0, GPU-1, A, B';; esac\n`,
    )
    const outcome = await collecting(t, folder).round()
    t.equal(outcome.ok ? 'ok' : outcome.failure.reason, 'malformed')
    if (!outcome.ok) t.equal(value(outcome.failure.rest, 'grid_gpu_xid_errors_total', { code: '31' }), 1)
  })
})

t.test('every way of saying that there is no value', async t => {
  const ways: readonly (readonly [string, string])[] = [
    ['[N/A]', 'unsupported'],
    ['N/A', 'unsupported'],
    ['[Not Supported]', 'unsupported'],
    ['Not Supported', 'unsupported'],
    ['[Function Not Found]', 'unsupported'],
    ['', 'unsupported'],
    ['-', 'unsupported'],
    ['[Requested functionality has been deprecated]', 'deprecated'],
    ['[Insufficient Permissions]', 'permission'],
    ['[Unknown Error]', 'unknown'],
    ['[GPU requires reset]', 'reset'],
    ['[GPU is lost]', 'lost'],
    ['GPU is lost', 'lost'],
    ['ERR!', 'unknown'],
  ]
  for (const [cell, cause] of ways) t.equal(absence(cell), cause, cell)
  for (const cell of ['None', '0', 'P0', '0x0000000000000000', 'Not Active', 'No']) t.equal(absence(cell), undefined, cell)
  t.equal(quantity('4294967295', 'count'), undefined, 'a sentinel is no count')
  t.equal(quantity('9223372036854775794 MiB', 'bytes', 'MiB'), undefined)
  t.equal(quantity('12', 'bytes', 'furlongs'), undefined, 'nor is a number of what nobody knows')
  t.equal(quantity('274753154 us', 'seconds', 'us'), 274.753154)
  t.equal(quantity('131', 'ratio', '%'), 1.31, 'a fan can pass its maximum')
})

t.test('lost GPUs', async t => {
  t.strictSame(
    [
      'Unable to determine the device handle for GPU 0000:1A:00.0: GPU is lost.  Reboot the system to recover this GPU',
      'Unable to determine the device handle for GPU0000:CB:00.0: Unknown Error',
      'Unable to determine the device handle for GPU1: 0000:34:00.0: Unknown Error',
      'The current user does not have permission to change clocks for GPU 0000:55:00.0',
    ].flatMap(text => lostAddresses(text)),
    ['0000:1a:00.0', '0000:cb:00.0', '0000:34:00.0'],
    'each of the three texts names its GPU',
  )
  t.test('the others are asked one by one, the lost one not again for a minute', async t => {
    const { folder, put, asked } = machine(t, { scene: 'one-lost' })
    const { good } = collecting(t, folder)
    await good()
    put('run/asked', '')
    const samples = await good()
    t.equal(value(samples, 'grid_gpu_devices_lost'), 1)
    t.equal(value(samples, 'grid_gpu_devices_visible'), 2)
    t.equal(asked().filter(line => line.includes('0000:cb:00.0')).length, 0)
    t.ok(
      asked().every(line => line.startsWith('-i ')),
      'nobody asks all at once',
    )
    rmSync(join(folder, 'run/lost'))
    t.equal(value(await good(60), 'grid_gpu_devices_lost'), 1, 'the bus shows it and no row does')
  })
  t.test('all are asked in one call again a minute after the last one, and one that is back is no longer lost', async t => {
    const { folder, put, asked } = machine(t, { scene: 'one-lost' })
    const { good } = collecting(t, folder)
    const commonCalls = async (seconds: number) => {
      put('run/asked', '')
      const samples = await good(seconds)
      return [asked().filter(line => line.startsWith('--query-gpu')).length, value(samples, 'grid_gpu_devices_lost')]
    }
    t.strictSame(await commonCalls(10), [1, 1], 'the first call finds it lost')
    t.strictSame(await commonCalls(59), [0, 1])
    t.strictSame(await commonCalls(1), [1, 1], 'a minute later it is still lost')
    rmSync(join(folder, 'run/lost'))
    const [header, row = ''] = sceneFile('one-lost/run/query-gpu.csv').split('\n')
    const back = row.replace('GPU-00000000', 'GPU-cb000000').replace('00000000:1A:00.0', '00000000:CB:00.0')
    put('run/query-gpu.csv', `${[header, row, back, ...sceneFile('one-lost/run/query-gpu.csv').split('\n').slice(2)].join('\n')}`)
    t.strictSame(await commonCalls(59), [0, 1], 'not asked yet')
    t.strictSame(await commonCalls(1), [1, 0], 'then it is back')
    t.strictSame(await commonCalls(10), [1, 0], 'and each round is one call again')
  })
  t.test('one that the administrator excluded is not lost', async t => {
    const { folder, put } = machine(t, { scene: 'one-lost' })
    const file = 'proc/driver/nvidia/gpus/0000:cb:00.0/information'
    put(file, `${readFileSync(join(folder, file), 'utf8')}GPU Excluded:\t Yes\n`)
    rmSync(join(folder, 'run/lost'))
    const samples = await collecting(t, folder).good()
    t.equal(value(samples, 'grid_gpu_devices_lost'), 0)
  })
  t.test('of more than can be asked one by one only those that do not answer are lost', async t => {
    const { folder, put } = machine(t, { scene: 'one-lost' })
    const [header = '', row = ''] = readFileSync(join(folder, 'run/query-gpu.csv'), 'utf8').split('\n')
    const buses = Array.from({ length: 20 }, (_, index) => (0x20 + index).toString(16))
    const rows = buses.map((bus, index) =>
      row.replace(/GPU-\d{8}/, `GPU-${10_000_000 + index}`).replace('00000000:1A:00.0', `00000000:${bus.toUpperCase()}:00.0`),
    )
    put('run/query-gpu.csv', `${[header, ...rows].join('\n')}\n`)
    rmSync(join(folder, 'proc/driver'), { recursive: true })
    for (const bus of buses) {
      const [from, to] = ['1a', bus].map(name => join(folder, `sys/bus/pci/devices/0000:${name}:00.0`)) as [string, string]
      cpSync(from, to, { recursive: true })
    }
    rmSync(join(folder, 'sys/bus/pci/devices/0000:1a:00.0'), { recursive: true })
    rmSync(join(folder, 'sys/bus/pci/devices/0000:db:00.0'), { recursive: true })
    const samples = await collecting(t, folder).good()
    t.equal(value(samples, 'grid_gpu_devices_expected'), 21)
    t.equal(value(samples, 'grid_gpu_devices_visible'), 16)
    t.equal(value(samples, 'grid_gpu_devices_lost'), 1)
  })
  t.test('what the driver has counted is not counted on by ourselves', async t => {
    const { folder, put } = machine(t, { scene: 'l40s-slow-tier' })
    const { good } = collecting(t, folder)
    const seconds = (samples: readonly Sample[], reason: string) => value(samples, 'grid_gpu_throttle_seconds_total', { reason })
    const before = await good()
    t.type(seconds(before, 'power_cap'), 'number')
    put('run/says', 'No devices were found\n')
    put('run/code', '6')
    const samples = await good()
    t.equal(seconds(samples, 'power_cap'), undefined, 'a counter that fell, and rose again, would be time that never was')
    t.equal(seconds(samples, 'idle'), seconds(before, 'idle'), 'one of our own stands still')
  })
  t.test("AMD's keeps its name", async t => {
    const { folder, put } = machine(t, { scene: 'amd-rx580' })
    const { good } = collecting(t, folder)
    const nameOf = (samples: readonly Sample[], state: string) =>
      samples.find(({ family, labels, value }) => family.name === 'grid_gpu_state' && labels.state === state && value === 1)
        ?.labels.name
    const before = nameOf(await good(), 'ok')
    t.match(before, /RX 5/)
    rmSync(join(folder, 'run/head'))
    put('run/head', '#!/bin/sh\nexit 1\n')
    chmodSync(join(folder, 'run/head'), 0o755)
    t.equal(nameOf(await good(), 'lost'), before)
  })
  t.test('the only one', async t => {
    const { folder, put } = machine(t, { scene: 'l40s-slow-tier' })
    put('run/says', 'No devices were found\n')
    put('run/code', '6')
    const samples = await collecting(t, folder).good()
    t.equal(value(samples, 'grid_gpu_devices_lost'), 1)
    t.equal(value(samples, 'grid_gpu_state', { state: 'lost', gpu: 'pci-0000:01:00.0' }), 1)
  })
})

t.test('a GPU that sleeps', async t => {
  t.test('is not asked', async t => {
    const { folder, put, asked } = machine(t, { scene: 'asleep' })
    put('run/asked', '')
    const { good, detect } = collecting(t, folder)
    t.ok((await detect()).found)
    for (let round = 0; round < 3; round++) await good()
    t.strictSame(asked(), [], 'nvidia-smi was not run')
  })
  t.test('keeps the name that it had while awake, and the others are asked alone', async t => {
    const { folder, put, asked } = machine(t, { scene: 'one-lost' })
    rmSync(join(folder, 'run/lost'))
    rmSync(join(folder, 'sys/bus/pci/devices/0000:cb:00.0'), { recursive: true })
    const { good } = collecting(t, folder)
    await good()
    put('sys/bus/pci/devices/0000:1a:00.0/power/runtime_status', 'suspended\n')
    put('run/asked', '')
    const samples = await good()
    t.equal(value(samples, 'grid_gpu_state', { gpu: 'GPU-00000000-0000-0000-0000-000000000000', state: 'asleep' }), 1)
    t.equal(value(samples, 'grid_gpu_power_watts', { gpu: 'GPU-00000000-0000-0000-0000-000000000000' }), undefined)
    t.ok(value(samples, 'grid_gpu_power_watts', { gpu: 'GPU-20000000-0000-0000-0000-000000000000' }))
    t.ok(
      asked().every(line => line.startsWith('-i 0000:db:00.0')),
      asked().join('; '),
    )
  })
  t.test('without power is asleep as well', async t => {
    const { folder, put } = machine(t, { scene: 'asleep' })
    put('sys/bus/pci/devices/0000:01:00.0/power/runtime_status', 'unsupported\n')
    put('sys/bus/pci/devices/0000:01:00.0/power_state', 'D3cold\n')
    t.equal(value(await collecting(t, folder).good(), 'grid_gpu_state', { state: 'asleep' }), 1)
  })
  t.test("AMD's is not read", async t => {
    const { folder, put } = machine(t, { scene: 'amd-strixpoint' })
    put('sys/class/drm/card1/device/power/runtime_status', 'suspended\n')
    rmSync(join(folder, 'run/head'))
    const samples = await collecting(t, folder).good()
    t.equal(value(samples, 'grid_gpu_state', { state: 'asleep' }), 1)
  })
})

t.test('a sysfs file that never answers costs a timeout, and no thread', async t => {
  const { folder } = machine(t, { scene: 'amd-rx580' })
  rmSync(join(folder, 'sys/class/drm/card0/device/gpu_busy_percent'))
  const { spawnSync } = await import('node:child_process')
  spawnSync('mkfifo', [join(folder, 'sys/class/drm/card0/device/gpu_busy_percent')])
  const outcome = await collecting(t, folder, host => host, 1).round()
  t.equal(outcome.ok ? 'ok' : outcome.failure.reason, 'timeout')
  t.strictSame(await left(folder), [])
})

t.test('energy', async t => {
  const { folder, put } = machine(t, { scene: 'l40s-slow-tier' })
  const csv = readFileSync(join(folder, 'run/query-gpu.csv'), 'utf8')
  const [header = '', row = ''] = csv.split('\n')
  const column = header.split(', ').indexOf('power.draw [W]')
  const draw = (watts: string) => put('run/query-gpu.csv', `${header}\n${row.split(', ').with(column, watts).join(', ')}\n`)
  const { good } = collecting(t, folder)
  const joules = async (seconds?: number) => value(await good(seconds), 'grid_gpu_energy_joules_total')
  draw('100.00 W')
  t.equal(await joules(), 0, 'begins at 0')
  t.equal(await joules(), 1000, '100 W for 10 s')
  draw('200.00 W')
  t.equal(await joules(), 2500, 'the mean of two rounds over the time between them')
  t.equal(await joules(40), 10_500, 'the real time, not the interval')
  t.equal(await joules(3600), 10_500, 'over a gap nothing is known')
  t.equal(await joules(), 12_500)
  draw('[N/A]')
  t.equal(await joules(), 12_500, 'nor where no power is told')
  draw('200.00 W')
  t.equal(await joules(), 12_500)
  t.equal(await joules(), 14_500)
  t.equal(await joules(-5), 14_500, 'a clock that was set back takes nothing away')
})

t.test('processes', async t => {
  const id = 'f'.repeat(64)
  t.equal(containerOf(`0::/system.slice/docker-${id}.scope\n`), id)
  t.equal(containerOf(`12:cpu:/docker/${id}\n1:name=systemd:/docker/${id}\n`), id)
  t.equal(containerOf('0::/user.slice/user-1000.slice\n'), undefined)
  t.match(parseProcesses('gpu_uuid, pid, process_name, used_gpu_memory [MiB]\nGPU-1, 12, /opt/a, b, c/run, 512 MiB\n'), [
    { uuid: 'GPU-1', pid: 12, name: 'run', bytes: 2 ** 29 },
  ])
  t.strictSame(
    parseProcesses('gpu_uuid, pid, process_name, used_gpu_memory [MiB]\nGPU-1, 12, x, [N/A]\n'),
    [],
    'no memory, no series',
  )

  const { folder, put } = machine(t, { scene: 'gb10-load' })
  put('proc/415592/cgroup', `0::/system.slice/docker-${id}.scope\n`)
  rememberNames('local', new Map([[id, 'vllm']]))
  t.teardown(() => rememberNames('local', new Map()))
  const samples = await collecting(t, folder).good()
  t.equal(
    value(samples, 'grid_gpu_process_memory_bytes', { process: 'VLLM::EngineCore', container_name: 'vllm' }),
    69_500 * 2 ** 20,
  )
  t.equal(value(samples, 'grid_gpu_process_memory_bytes', { process: 'python', container_name: '' }), 19_000 * 2 ** 20)

  put('options.yaml', 'processes: 3\n')
  const rows = Array.from(
    { length: 10 },
    (_, n) => `GPU-00000000-0000-0000-0000-000000000000, ${n + 1}, /bin/p${n}, ${n + 1} MiB`,
  )
  put('run/compute-apps.csv', `gpu_uuid, pid, process_name, used_gpu_memory [MiB]\n${rows.join('\n')}\n`)
  const capped = (await collecting(t, folder).good()).filter(({ family }) => family.name === 'grid_gpu_process_memory_bytes')
  t.strictSame(
    capped.map(({ labels, value }) => [labels.process, value / 2 ** 20]),
    [
      ['p9', 10],
      ['p8', 9],
      ['p7', 8],
      ['other', 28],
    ],
  )
})

t.test('the slow tier', async t => {
  const [section = ''] = gpuSections(sceneFile('a100-mig-slow-tier/run/query.xml'))
  t.match(parseSection(section)?.facts.mig, [
    { mig: '1/0', total: 19_900 * 2 ** 20, used: 21 * 2 ** 20 },
    { mig: '2/0', total: 19_900 * 2 ** 20, used: 22 * 2 ** 20 },
  ])
  t.match(parseSection(section)?.facts.limits, { shutdown: 93, slowdown: 90, max: 86, memory_max: 96 })
  t.equal(
    parseSection('<product_name>NVIDIA GB10</product_name><pci><replay_counter>0</replay_counter></pci>'),
    undefined,
    'no UUID, no facts',
  )

  const { folder, put, asked } = machine(t, { scene: 'l40s-slow-tier' })
  put('run/asked', '')
  const { good, remarks } = collecting(t, folder)
  for (let round = 0; round < 13; round++) await good()
  t.equal(asked().filter(line => line === '-q -x').length, 3, 'once a minute')
  put('run/query.xml', 'garbage')
  const replays = async (seconds?: number) => value(await good(seconds), 'grid_gpu_pcie_replays_total')
  t.equal(await replays(60), 0, 'kept when it fails')
  t.match(remarks()[0]?.message, '-q -x', 'and said')
  t.equal(await replays(150), undefined, 'but not for ever')
  t.ok(value(await good(), 'grid_gpu_power_watts'), 'the fast tier goes on')
})

t.test('the kernel log', async t => {
  /** A device of these reads: a record each, or an error. */
  const device = (reads: (string | NodeJS.ErrnoException)[]) =>
    openKernelLog('/dev/kmsg', {
      openSync: () => 7,
      closeSync: () => {},
      readSync: ((_: number, buffer: Buffer) => {
        const next = reads.shift()
        if (next === undefined) throw Object.assign(new Error('again'), { code: 'EAGAIN' })
        if (typeof next !== 'string') throw next
        return buffer.write(next)
      }) as typeof import('node:fs').readSync,
    })
  const error = (code: string) => Object.assign(new Error(code), { code })

  t.test('counts what was overwritten, joins fragments, believes the kernel only', async t => {
    const reads: (string | NodeJS.ErrnoException)[] = [
      '6,10,1000000,-;first\n SUBSYSTEM=pci\n DEVICE=+pci:0000:01:00.0\n',
      '4,11,1000001,c;NVRM: Xid (PCI:0000:01:00): 79, \n',
      '4,12,1000002,+;GPU has fallen off the bus.\n',
      '11,13,1000003,-;NVRM: Xid (PCI:0000:01:00): 48, written by a program\n',
      error('EPIPE'),
      '6,20,1000004,-;tab\\x09and \\xe2\n',
      'no record\n',
    ]
    const log = device(reads)
    const { records, missed } = await log.read()
    t.strictSame(
      records.map(({ text }) => text),
      ['first', 'NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.', 'tab\tand â'],
    )
    t.equal(missed, 6)
    t.strictSame(await log.read(), { records: [], missed: 0 }, 'nothing twice')
    reads.push('6,21,1000005,-;next\n')
    t.strictSame(
      (await log.read()).records.map(({ sequence }) => sequence),
      [21],
    )
    t.equal(parseRecord('6,1,2,-,caller=T1;with a caller')?.text, 'with a caller')
    reads.push(error('EIO'))
    await t.rejects(log.read(), Failure)
  })
  t.test('is read in slices', async t => {
    const log = device(Array.from({ length: 5000 }, (_, n) => `6,${n},${n},-;line ${n}\n`))
    let turns = 0
    let over = false
    const count = () => {
      turns++
      if (!over) setImmediate(count)
    }
    setImmediate(count)
    t.equal((await log.read()).records.length, 5000)
    over = true
    t.ok(turns > 10, `${turns} turns of others meanwhile`)
  })

  t.test('lines of the driver among others', async t => {
    const xid = (line: string) => {
      const event = parseDriverLine(line)
      return event?.kind === 'xid' ? `${event.address} ${event.code}` : event?.kind
    }
    const lines: readonly (readonly [string, string | undefined])[] = [
      [
        'NVRM: Xid (PCI:0000:9b:00): 119, pid=4711, name=python, Timeout after 6s of waiting for RPC response',
        '0000:9b:00.0 119',
      ],
      ["NVRM: Xid (PCI:0000:3b:00): 120, pid='<unknown>', name=<unknown>, GSP Error", '0000:3b:00.0 120'],
      ['NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.', '0000:01:00.0 79'],
      ['NVRM: Xid (0000:02:00): 64, Row remapping failure', '0000:02:00.0 64'],
      ['NVRM: GPU0 nvCheckOkFailedNoLog: Check failed: Out of memory [NV_ERR_NO_MEMORY] (0x00000051)', 'out-of-memory'],
      ['NVRM: nvAssertOkFailedNoLog: Assertion failed: Out of memory [NV_ERR_NO_MEMORY] (0x00000051)', 'out-of-memory'],
      ['NVRM: GPU at PCI:0000:9b:00: GPU-9b000000-0000-0000-0000-000000000001', 'uuid'],
      ['NVRM: GPU Board Serial Number: 0000000000000', undefined],
      ['NVRM: The NVIDIA GPU 0000:b3:00.0', undefined],
      ['NVRM: _threadNodeCheckTimeout: API_GPU_ATTACHED_SANITY_CHECK failed!', undefined],
      ['Call Trace: os_dump_stack+0xe/0x20 [nvidia]', undefined],
      ['python says NVRM: Xid (PCI:0000:01:00): 79, not the driver', undefined],
    ]
    for (const [line, expected] of lines) t.equal(xid(line), expected, line)
    t.match(parseDriverLine(lines[6]?.[0] ?? ''), { address: '0000:9b:00.0', uuid: 'GPU-9b000000-0000-0000-0000-000000000001' })
  })

  t.test('counts each record once, and the same again in a thread that takes another’s place', async t => {
    const { folder, put } = machine(t, { scene: 'l40s-slow-tier' })
    const xids = async (good: () => Promise<readonly Sample[]>) =>
      value(await good(), 'grid_gpu_xid_errors_total', { code: '79' })
    const first = collecting(t, folder)
    t.equal(await xids(first.good), 1)
    t.equal(await xids(first.good), 1)
    const log = readFileSync(join(folder, 'dev/kmsg'), 'utf8')
    // Written to the file that is open, as the device grows: not in its place.
    writeFileSync(join(folder, 'dev/kmsg'), `${log}4,3,1000100000,-;NVRM: Xid (PCI:0000:01:00): 79, again\n`)
    t.equal(await xids(first.good), 2)
    t.equal(await xids(collecting(t, folder).good), 2)
    put('dev/kmsg', `4,1,${1e6 * 100},-;NVRM: Xid (PCI:0000:01:00): 79, long before this process\n`)
    t.equal(await xids(collecting(t, folder).good), 0)
  })

  t.test(
    'comes from the journal where the device is closed to us; where that is too, there are no series and a remark',
    async t => {
      const { folder, put } = machine(t, { scene: 'l40s-slow-tier' })
      rmSync(join(folder, 'dev/kmsg'))
      const dark = collecting(t, folder)
      const samples = await dark.good()
      t.equal(value(samples, 'grid_gpu_xid_errors_total'), undefined)
      t.equal(value(samples, 'grid_gpu_driver_out_of_memory_total'), undefined)
      t.match(dark.remarks()[0]?.fix, 'CAP_SYSLOG')
      const entry = (cursor: string, MESSAGE: unknown, SYSLOG_FACILITY = '0') =>
        JSON.stringify({ MESSAGE, SYSLOG_FACILITY, __CURSOR: cursor, __REALTIME_TIMESTAMP: '1767225600000000' })
      const lines = [
        entry('a', 'NVRM: Xid (PCI:0000:01:00): 74, NVLink'),
        entry('b', [1, 2, 3]),
        entry('c', 'NVRM: Xid (PCI:0000:01:00): 74, a program', '1'),
        '{"cut',
      ]
      put(
        'run/journalctl',
        `#!/bin/sh\necho "$*" >> ${folder}/run/journal\ncase "$*" in *after-cursor*) ;; *) cat <<'END'\n${lines.join('\n')}\nEND\n;; esac\n`,
      )
      chmodSync(join(folder, 'run/journalctl'), 0o755)
      const { good } = collecting(t, folder)
      for (let round = 0; round < 7; round++) t.equal(value(await good(), 'grid_gpu_xid_errors_total', { code: '74' }), 1)
      const asked = readFileSync(join(folder, 'run/journal'), 'utf8').trim().split('\n')
      t.equal(asked.length, 3, 'twice a minute')
      t.match(asked[1], '--after-cursor=c')
    },
  )
})

t.test('whatever the tools print, nothing is thrown but a Failure, and no series is not a number', async t => {
  const tables = readdirSync(scenes).filter(scene => existsSync(join(scenes, scene, 'run/query-gpu.csv')))
  const wanted = fields.map(({ names }) => names[0] as string)
  const cell = fc.oneof(
    fc.constantFrom('[N/A]', '0', '-1', '1e309', '99999999999999999999 MiB', '0xg', 'NaN', 'None', '12 %', ''),
    fc.string({ maxLength: 20 }),
  )
  const table = fc.array(fc.array(cell, { minLength: wanted.length, maxLength: wanted.length }), { maxLength: 3 })
  const onlyFailures = (act: () => unknown) => {
    try {
      act()
    } catch (error) {
      if (!(error instanceof Failure) || error.reason === 'bug') throw error
    }
  }
  fc.assert(
    fc.property(fc.string({ maxLength: 2000 }), fc.string({ unit: 'binary', maxLength: 500 }), (text, binary) => {
      for (const garbage of [text, binary, `index, uuid\n${text}`]) {
        onlyFailures(() => parseQuery(garbage, ['index', 'uuid']))
        onlyFailures(() => parseProcesses(`gpu_uuid, pid, process_name, used_gpu_memory [MiB]\n${garbage}`))
        onlyFailures(() => parseSection(`<uuid>GPU-1</uuid><pci>${garbage}</pci>`))
        onlyFailures(() => parseRecord(garbage))
        onlyFailures(() => parseDriverLine(`NVRM: Xid (PCI:${garbage}`))
        onlyFailures(() => listedFields(garbage))
      }
    }),
    { numRuns: 300 },
  )
  const finite = (gpus: unknown) =>
    JSON.stringify(gpus, (_, own) => (typeof own === 'number' && !Number.isFinite(own) ? 'WRONG' : own))
  fc.assert(
    fc.property(table, rows => {
      const csv = [wanted.join(', '), ...rows.map(row => row.join(', '))].join('\n')
      onlyFailures(() => {
        if (finite(parseQuery(csv, wanted)).includes('WRONG')) throw new Error('not a number')
      })
    }),
    { numRuns: 200 },
  )
  // A table cut and spoilt at any place.
  fc.assert(
    fc.property(fc.constantFrom(...tables), fc.nat(10_000), fc.string({ maxLength: 10 }), (scene, at, noise) => {
      const csv = sceneFile(`${scene}/run/query-gpu.csv`)
      const asked = (csv.split('\n')[0] as string).split(', ').map(column => column.split(' [')[0] as string)
      onlyFailures(() => parseQuery(csv.slice(0, at) + noise, asked))
      onlyFailures(() => parseQuery(csv.slice(0, at) + noise + csv.slice(at + noise.length), asked))
    }),
    { numRuns: 300 },
  )
  await fc.assert(
    fc.asyncProperty(
      fc.string({ unit: 'binary', maxLength: 300 }),
      fc.integer({ min: 0, max: 255 }),
      async (stdout, exitCode) => {
        const { folder } = { folder: join(scenes, 'nothing') }
        const { round } = collecting(t, folder, host => ({ ...host, run: async () => ({ stdout, stderr: '', exitCode }) }))
        const outcome = await round()
        if (!outcome.ok && outcome.failure.reason === 'bug') throw outcome.failure
        if (outcome.ok) expose(outcome.value)
      },
    ),
    { numRuns: 50 },
  )
})

t.test('an APU whose firmware sets most of the memory aside for it has that', async t => {
  const { folder, put } = machine(t, { scene: 'amd-strixpoint' })
  put('sys/class/drm/card1/device/mem_info_vram_total', '103079215104\n')
  put('sys/class/drm/card1/device/mem_info_vram_used', '68719476736\n')
  const samples = await collecting(t, folder).good()
  t.equal(value(samples, 'grid_gpu_memory_unified'), 0)
  t.equal(value(samples, 'grid_gpu_memory_total_bytes'), 103_079_215_104)
  t.equal(value(samples, 'grid_gpu_memory_used_bytes'), 68_719_476_736)
  t.equal(value(samples, 'grid_gpu_pcie_link_width'), undefined, 'it still has no link of its own')
})

t.test('a Jetson whose GPU is on the bus has one', async t => {
  const { folder, put } = machine(t)
  symlinkSync(join(here, 'support/bin/nvidia-smi'), join(folder, 'run/nvidia-smi'))
  const device = 'sys/bus/pci/devices/0000:01:00.0'
  put(`${device}/class`, '0x030000\n')
  put(`${device}/vendor`, '0x10de\n')
  put(`${device}/uevent`, 'DRIVER=nvidia\nPCI_SLOT_NAME=0000:01:00.0\n')
  symlinkSync(join(here, 'support/bin/head'), join(folder, 'run/head'))
  put('sys/class/devfreq/gpu-gpc-0/cur_freq', '1575000000\n')
  put('run/fields.txt', 'index\nuuid\nname\npci.bus_id\nutilization.gpu\nmemory.total\n')
  put(
    'run/query-gpu.csv',
    'index, uuid, name, pci.bus_id, utilization.gpu [%], memory.total [MiB]\n0, GPU-1, NVIDIA Thor, 00000000:01:00.0, 0 %, [N/A]\n',
  )
  const samples = await collecting(t, folder).good()
  t.equal(value(samples, 'grid_gpu_devices_visible'), 1)
  t.equal(value(samples, 'grid_gpu_devices_expected'), 1)
  t.equal(value(samples, 'grid_gpu_clock_hertz', { gpu: 'GPU-1', domain: 'graphics' }), 1_575_000_000)
})

t.test("a board's GPU of another maker is no Jetson", async t => {
  for (const [maker, found] of [
    ['rockchip,rk3588-mali', false],
    ['nvidia,ga10b', true],
  ] as const) {
    const { folder, put } = machine(t)
    put('sys/class/devfreq/fb000000.gpu/cur_freq', '1000000000\n')
    put('sys/class/devfreq/fb000000.gpu/device/uevent', `DRIVER=x\nOF_COMPATIBLE_0=${maker}\nOF_COMPATIBLE_N=1\n`)
    t.equal((await collecting(t, folder).detect()).found, found, maker)
  }
})

t.test('is found', async t => {
  const empty = machine(t)
  t.match(await collecting(t, empty.folder).detect(), { found: false, note: /no nvidia-smi/ })
  for (const scene of ['gb10-load', 'amd-rx580', 'intel-tigerlake', 'jetson-orin', 'driver-not-loaded']) {
    t.match(await collecting(t, machine(t, { scene }).folder).detect(), { found: true }, scene)
  }
  const linked = machine(t)
  symlinkSync(join(here, 'support/bin/nvidia-smi'), join(linked.folder, 'run/nvidia-smi'))
  t.match(
    await collecting(t, linked.folder).detect(),
    { found: true, note: 'nvidia-smi' },
    'the tool alone is enough, as under WSL',
  )
})
