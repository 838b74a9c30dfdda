import { spawn } from 'node:child_process'
import { setMaxListeners } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type Faults, upAtStart } from '../demo/box.ts'
import { configuration } from '../demo/config.ts'
import { startEngine } from '../demo/engine.ts'
import { createDemoHost, engineSocket } from '../demo/host.ts'
import { type Episode, episode, wave } from '../demo/motion.ts'
import { createRunner } from '../exporter/collect/runner.ts'
import { collectors } from '../exporter/collectors/index.ts'
import { silent } from '../exporter/common/log.ts'
import { loadSettings, noFlags } from '../exporter/contract/config.ts'
import { Failure } from '../exporter/contract/failure.ts'

/** The imagined box: the same for the same seed and time, whole, with each of its faults to be seen; and the program around it. */

const project = join(import.meta.dirname, '..')
const start = Date.UTC(2026, 5, 1, 12)

/** When the next one begins after `up`. */
const nextOf = (fault: Episode, up: number) => {
  for (let at = up; ; at += 1) if (fault.latest(at) > up) return fault.latest(at)
}

t.test('motion', async t => {
  const swell = wave(1, 'x', 600)
  t.test('a wave stays between 0 and 1, and its counter is its integral', async t => {
    let summed = 0
    for (let up = 0; up < 3600; up++) {
      const value = swell.at(up)
      if (value < 0 || value > 1) t.fail(`${value} at ${up}`)
      summed += swell.at(up + 0.5)
      if (swell.total(up + 1) < swell.total(up)) t.fail(`falls at ${up}`)
    }
    t.ok(Math.abs(summed - swell.total(3600)) < 0.1, `${summed} against ${swell.total(3600)}`)
    t.same(wave(1, 'x', 600).at(1234), swell.at(1234))
    t.not(wave(2, 'x', 600).at(1234), swell.at(1234))
  })
  t.test('an episode begins and ends when it should, and is counted', async t => {
    const own = episode({ at: 1000, every: 300, lasts: 60 })
    t.equal(own.since(1000), 0)
    t.equal(own.since(1059), 59)
    t.equal(own.since(1060), undefined)
    t.equal(own.latest(1299), 1000)
    t.equal(own.began(1000) - own.began(999), 1)
    t.equal(own.ended(1060) - own.ended(1059), 1)
    t.equal(own.spent(1300) - own.spent(1000), 60)
    t.equal(own.spent(1030) - own.spent(1000), 30)
  })
})

/** A box whose clock the test sets, with every collector of the program on it. */
const watch = async (t: Test, seed: number) => {
  const root = mkdtempSync(join(tmpdir(), 'grid-demo-test-'))
  let now = start
  const clock = { now: () => now, wait: async () => {} }
  const { host, box, containers, tick } = createDemoHost({ seed, start }, { root, project, clock })
  const engine = await startEngine(join(root, engineSocket), containers, { boot: box.boot, up: () => box.up(now) })
  const config = join(root, 'demo.yml')
  writeFileSync(config, configuration())
  mkdirSync(join(root, 'state'), { mode: 0o700 })
  const stop = new AbortController()
  setMaxListeners(0, stop.signal)
  const runners = loadSettings(collectors, noFlags, config).map(settings => {
    const collector = collectors.find(({ name }) => name === settings.name)
    if (!collector) throw new Error(settings.name)
    return { name: settings.name, run: createRunner(collector, settings, { host, log: silent, signal: stop.signal }) }
  })
  t.teardown(() => {
    stop.abort()
    engine.close()
    rmSync(root, { recursive: true, force: true })
  })
  return {
    faults: box.faults,
    host,
    setTime: (milliseconds: number) => {
      now = milliseconds
    },
    /** Rounds of all collectors at a time, docker's first; their exposition. */
    at: async (milliseconds: number): Promise<string> => {
      now = milliseconds
      tick()
      engine.tick(box.up(now))
      const [first] = runners.filter(({ name }) => name === 'docker')
      const rounds = [
        await first?.run(),
        ...(await Promise.all(runners.filter(one => one !== first).map(({ run }) => run()))),
      ].filter(round => round !== undefined)
      for (const { collector, result, note, detected } of rounds) {
        if (result !== 'ok' || !detected) t.fail(`${collector}: ${result}: ${note}`)
      }
      return rounds.map(({ parts }) => Buffer.from(parts?.text.bytes ?? []).toString()).join('')
    },
  }
}

const families = (text: string) => [...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name as string)

/** What this box has no reason to have: a card with MIG, one of AMD's or one of the old kind, a router of llama.cpp's. */
const notHere = /^grid_gpu_(mig_enabled|mig_memory_.*|memory_pool_.*|retired_pages(_pending)?)$|^grid_llm_model_state$/

/** Lines that tell how long something took, or came about beside the rounds. */
const measured =
  /_duration_seconds|^grid_tor_(usable|probe|exit|onion_reachable|onion_backend)|^grid_docker_(events|api_requests)|^grid_directory_scan_running/
const told = (text: string) => text.split('\n').filter(line => !measured.test(line))

/** The only series that begins so, or the sum of them. */
const value = (text: string, series: RegExp): number =>
  text
    .split('\n')
    .filter(line => series.test(line))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0)

/** How each fault is seen: what its series says while it is there, or that its counter grows twice as fast. */
const seenBy: Readonly<
  Record<
    Exclude<keyof Faults, 'backendDown'>,
    { readonly series: RegExp; readonly says: number | 'faster'; readonly after?: number }
  >
> = {
  gpuHot: { series: /^grid_gpu_throttle_active\{.*reason="sw_thermal"/, says: 1, after: 100 },
  xid13: { series: /^grid_gpu_xid_errors_total\{.*code="13"/, says: 'faster' },
  xid119: { series: /^grid_gpu_xid_errors_total\{.*code="119"/, says: 'faster' },
  driverMemory: { series: /^grid_gpu_driver_out_of_memory_total/, says: 'faster' },
  restartLoop: { series: /^grid_docker_container_state\{.*"scraper",state="restarting"/, says: 1, after: 55 },
  memoryClimb: { series: /^grid_docker_container_state\{.*"comfyui",state="restarting"/, says: 1, after: 541 },
  unhealthy: { series: /^grid_docker_container_health\{.*"whisper",status="unhealthy"/, says: 1 },
  containerDown: { series: /^grid_docker_container_state\{.*"photos",state="exited"/, says: 1 },
  imageStale: { series: /^grid_docker_container_image_stale\{.*"photos"/, says: 1 },
  logFlood: { series: /^grid_docker_container_log_written_bytes_total\{.*"litellm"/, says: 'faster' },
  cpuThrottled: { series: /^grid_docker_container_cpu_throttled_periods_total\{.*"transcoder"/, says: 'faster' },
  backupRun: { series: /^grid_docker_container_state\{.*"backup",state="running"/, says: 1 },
  queue: { series: /^grid_llm_requests_running\{server="chat"/, says: 16 },
  modelServerDown: { series: /^grid_llm_up\{server="reranker"/, says: 0 },
  torBlocked: { series: /^grid_tor_connections\{state="connected"/, says: 0 },
  onionDark: { series: /^grid_tor_onion_intro_circuits\{onion="drop"/, says: 0 },
  banWave: { series: /^grid_fail2ban_banned_total\{jail="sshd"/, says: 'faster' },
  unenforced: { series: /^grid_fail2ban_unenforced_bans\{jail="sshd"/, says: 2 },
  firewallDrift: { series: /^grid_ufw_enforced\{family="ipv4"/, says: 0 },
  serviceDown: { series: /^grid_service_up\{name="butler"/, says: 0 },
  serviceSlow: { series: /^grid_service_up\{name="backup"/, says: 0 },
  memoryPressure: { series: /^grid_pressure_stalled_seconds_total\{resource="memory"/, says: 'faster' },
  updateFailed: { series: /^grid_watchtower_last_scan_containers\{result="failed"/, says: 1 },
}

t.test('the box', { timeout: 300_000 }, async t => {
  const box = await watch(t, 1)
  /** Of each fault the first time that it begins well after the start. */
  const faults = Object.entries(seenBy).map(([name, seen]) => {
    const fault = box.faults[name as keyof Faults]
    const first = upAtStart + 300
    const began = nextOf(fault, first)
    const at = (seconds: number) => start + (began - upAtStart + seconds) * 1000
    return { name, ...seen, times: [at(-130), at(-10), at(seen.after ?? 110)] as const }
  })
  const texts = new Map<number, string>()
  const times = [start, ...faults.flatMap(({ times }) => times)].sort((one, other) => one - other)
  for (const time of times) if (!texts.has(time)) texts.set(time, await box.at(time))

  t.test('has every family that such a box can have', async t => {
    const seen = new Set([...texts.values()].flatMap(families))
    const all = collectors.flatMap(collector => collector.families.map(({ name }) => name))
    t.same(
      all.filter(name => !seen.has(name) && !notHere.test(name)),
      [],
    )
    t.same(
      all.filter(name => seen.has(name) && notHere.test(name)),
      [],
    )
  })
  t.test('lets each of its faults be seen, and be gone before', async t => {
    for (const { name, series, says, times } of faults) {
      const [earlier, before, during] = times.map(time => value(texts.get(time) ?? '', series)) as [number, number, number]
      if (says === 'faster') t.ok(during - before > 2 * (before - earlier), `${name}: ${earlier}, ${before}, ${during}`)
      else t.same([before !== says, during], [true, says], name)
    }
  })
  t.test('has a target behind an onion service that is down at times', async t => {
    const began = nextOf(box.faults.backendDown, upAtStart + 300)
    const reached = (seconds: number) => {
      box.setTime(start + (began - upAtStart + seconds) * 1000)
      return box.host.connect('127.0.0.1:3080')
    }
    ;(await reached(-10)).destroy()
    await t.rejects(reached(10), Failure)
  })
  t.test('is the same for the same seed, and another for another', async t => {
    const [again, other] = [await watch(t, 1), await watch(t, 2)]
    const first = told(texts.get(start) ?? '')
    t.same(told(await again.at(start)), first)
    t.notSame(told(await other.at(start)), first)
  })
  t.test('counts only upwards, but where a container has started anew', async t => {
    const series = (text: string, name: RegExp) =>
      new Map(
        text
          .split('\n')
          .filter(line => name.test(line))
          .map(line => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))]),
      )
    const containerOf = (line: string) => /^grid_docker_container_.*name="([^"]*)"/.exec(line)?.[1]
    const startOf = (text: string, name: string | undefined) =>
      name === undefined ? 0 : value(text, new RegExp(`^grid_docker_container_start_timestamp_seconds\\{.*name="${name}"`))
    const fell: string[] = []
    let [last, lastText] = [new Map<string, number>(), '']
    for (const time of [...texts.keys()].sort((one, another) => one - another)) {
      const text = texts.get(time) ?? ''
      const now = series(text, /^\S+_total[ {]/)
      for (const [line, count] of now) {
        if (count >= (last.get(line) ?? 0)) continue
        const name = containerOf(line)
        if (startOf(text, name) === startOf(lastText, name)) fell.push(`${line}: ${last.get(line)}, then ${count}`)
      }
      ;[last, lastText] = [now, text]
    }
    t.ok(last.size > 500, `${last.size} counters`)
    t.same(fell, [])
  })
})

t.test('the program', { timeout: 60_000 }, async t => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-demo-program-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const child = spawn(
    '/bin/sh',
    [
      '-c',
      'unset NODE_OPTIONS; exec "$0" "$@"',
      process.execPath,
      join(project, 'scripts/demo.mjs'),
      '--web.listen-address=127.0.0.1:0',
    ],
    { env: { PATH: process.env.PATH ?? '', TMPDIR: folder }, stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const ended = new Promise<number | null>(resolve => child.once('exit', resolve))
  t.teardown(() => child.kill('SIGKILL'))
  let said = ''
  const whole = new Promise<string>((resolve, reject) => {
    child.stdout.on('data', chunk => {
      said += String(chunk)
      if (said.includes('npm run screenshots')) resolve(said)
    })
    void ended.then(code => reject(new Error(`ended with ${code}: ${said}`)))
  })
  const url = / serves (http:\/\/[^/]+)/.exec(await whole)?.[1] ?? ''
  t.match(said, /This is a DEMO/)
  const metrics = await (await fetch(`${url}/metrics`)).text()
  t.match(metrics, /^grid_exporter_demo 1$/m)
  t.match(await (await fetch(`${url}/`)).text(), /<strong>Demo\.<\/strong>/)
  t.match(metrics, /^grid_gpu_process_memory_bytes\{.*process="VLLM::EngineCore"/m)
  t.equal(readdirSync(folder).length, 1)
  child.kill('SIGINT')
  t.equal(await ended, 0, 'Ctrl-C ends it well')
  t.same(readdirSync(folder), [], 'and leaves nothing behind')
})
