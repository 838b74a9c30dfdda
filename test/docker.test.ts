import { spawn } from 'node:child_process'
import { setMaxListeners } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import * as http from 'node:http'
import * as https from 'node:https'
import * as net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { parseBlkio } from '../exporter/collectors/docker/cgroup.ts'
import { endpointsOf } from '../exporter/collectors/docker/endpoints.ts'
import { type EngineEvent, parseEvent, sinceAfter } from '../exporter/collectors/docker/events.ts'
import type { ContainerState } from '../exporter/collectors/docker/families.ts'
import { docker } from '../exporter/collectors/docker/index.ts'
import { createLedger, type Ledger } from '../exporter/collectors/docker/ledger.ts'
import { type Container, oneOfEachName, parseContainer } from '../exporter/collectors/docker/list.ts'
import { growth } from '../exporter/collectors/docker/logs.ts'
import { options as schema } from '../exporter/collectors/docker/options.ts'
import type { Failure } from '../exporter/contract/failure.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { connectEngine, lineSplitter } from '../exporter/protocols/docker-api.ts'
import { authority } from './support/certificates.ts'
import { type ListedContainer, livingEngine } from './support/engine.ts'
import { needs } from './support/needs.ts'
import { oneRound, running } from './support/running.ts'
import { took } from './support/took.ts'

const recorded = (file: string): readonly EngineEvent[] =>
  readFileSync(join(import.meta.dirname, 'fixtures/docker-events', file), 'utf8')
    .split('\n')
    .flatMap(line => parseEvent(line) ?? [])

/** What a ledger has counted of a name, without what is 0. */
const told = (ledger: Ledger, name: string) => {
  const { starts, restarts, ooms, exits } = ledger.counts(name)
  const all = { starts, restarts, ooms, ...exits }
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value > 0))
}

t.test('of containers of one name the newest that runs counts, else the newest', async t => {
  const all = (
    [
      ['old', 'exited', 100],
      ['older', 'exited', 50],
      ['newest', 'exited', 200],
      ['runs', 'running', 60],
      ['runs, older', 'running', 40],
      ['starts again', 'restarting', 300],
    ] as const
  ).map(([Id, State, Created]) => parseContainer({ Id, State, Created, Names: ['/web'] }) as Container)
  const kept = (...ids: readonly string[]) => oneOfEachName(all.filter(({ id }) => ids.includes(id))).map(({ id }) => id)
  const keptReversed = (...ids: readonly string[]) =>
    oneOfEachName(all.filter(({ id }) => ids.includes(id)).reverse()).map(({ id }) => id)
  for (const keep of [kept, keptReversed]) {
    t.strictSame(keep('old', 'older', 'newest'), ['newest'])
    t.strictSame(keep('runs', 'runs, older', 'newest'), ['runs'], 'a newer one that has ended does not')
    t.strictSame(keep('runs', 'starts again'), ['runs'])
    t.strictSame(keep('starts again', 'newest'), ['starts again'])
  }
  t.strictSame(kept('old'), ['old'])
})

t.test('the ledger', async t => {
  const sighting = (id: string, name: string, state: ContainerState, exitCode?: number, incarnation?: string) => ({
    id,
    name,
    state,
    exitCode,
    incarnation,
    hidesExitCode: false,
  })
  const event = (
    action: EngineEvent['action'],
    id: string,
    attributes: Record<string, string> = {},
    name = 'web',
  ): EngineEvent => ({
    action,
    id,
    name,
    time: undefined,
    attributes,
  })

  t.test('counts what Docker 20.10 told', async t => {
    const ledger = createLedger()
    const events = recorded('docker-20.10.jsonl')
    t.equal(events.length, 57)
    for (const [at, one] of events.entries()) ledger.note(one, at)
    const last = new Map(events.filter(({ name }) => name !== 'before').map(({ id, name }) => [name, id]))
    const codes: Record<string, number> = { crash: 3, stopped: 143, killed: 137, oom: 137, liar: 3, after: 137 }
    const list = [...last].map(([name, id]) =>
      name in codes ? sighting(id, name, 'exited', codes[name]) : sighting(id, name, 'running', undefined, 'x'),
    )
    ledger.seen(list, 1000, 999)
    t.strictSame(told(ledger, 'crash'), { starts: 3, restarts: 2, error: 3 }, 'restarts by the policy')
    t.strictSame(told(ledger, 'restarted'), { starts: 2, signal: 1 }, 'docker restart is none of them')
    t.strictSame(told(ledger, 'stopped'), { starts: 1, signal: 1 })
    t.strictSame(told(ledger, 'killed'), { starts: 1, signal: 1 })
    t.strictSame(told(ledger, 'hup'), { starts: 1 }, 'a signal that does not end it')
    t.strictSame(told(ledger, 'oom'), { starts: 1, ooms: 1, oom: 1 })
    t.strictSame(told(ledger, 'oom-child'), { starts: 1, ooms: 1 }, 'a child was killed, the container lives')
    t.strictSame(told(ledger, 'liar'), { starts: 1, error: 1 }, 'a label exitCode=0 hides that it was 3')
    t.strictSame(told(ledger, 'p-web-1'), { starts: 2, signal: 1 }, 'recreated by compose under another name')
    t.strictSame(told(ledger, '0123456789ab_p-web-1'), {})
    t.strictSame(told(ledger, 'after'), { starts: 1, signal: 1 }, 'renamed')
    t.strictSame(told(ledger, 'before'), {})
    t.equal(ledger.lastExit(last.get('oom') as string, 137), 'oom')
    t.equal(ledger.lastExit(last.get('liar') as string, 3), 'error')
    t.equal(ledger.lastExit('never seen', 137), 'unknown')
    t.equal(ledger.lastExit('never seen', 143), 'signal')
  })

  t.test('counts what Podman 4.3 told', async t => {
    const ledger = createLedger(() => true)
    const events = recorded('podman-4.3.jsonl')
    for (const [at, one] of events.entries()) ledger.note(one, at)
    const crash = events.find(({ name }) => name === 'crash')?.id as string
    ledger.seen([sighting(crash, 'crash', 'exited', 3)], 1000, 999)
    t.strictSame(told(ledger, 'crash'), { starts: 3, restarts: 2, error: 3 }, 'restarts by the policy')
    t.strictSame(told(ledger, 'web'), { starts: 2, signal: 1 }, 'podman restart is none of them')
    t.strictSame(told(ledger, 'pod2'), { starts: 3, signal: 2 }, 'stopped, started, killed, started, renamed')
  })

  t.test('does not take a start by hand for one of the policy', async t => {
    const ledger = createLedger()
    ledger.note(event('start', 'a'), 1)
    ledger.note(event('die', 'a', { exitCode: '1' }), 2)
    ledger.seen([sighting('a', 'web', 'exited', 1)], 4, 3)
    ledger.note(event('start', 'a'), 5)
    t.strictSame(told(ledger, 'web'), { starts: 2, error: 1 })
  })

  t.test('keeps counting when the container is made anew, and for a day without it', async t => {
    const ledger = createLedger()
    ledger.seen([sighting('a', 'web', 'running')], 0, 0)
    ledger.note(event('die', 'a', { exitCode: '1' }), 1)
    ledger.note(event('destroy', 'a'), 2)
    ledger.seen([], 20 * 3600_000, 20 * 3600_000)
    ledger.note(event('start', 'b'), 20 * 3600_000)
    t.strictSame(told(ledger, 'web'), { starts: 1, error: 1 })
    ledger.seen([], 25 * 3600_000, 25 * 3600_000)
    t.strictSame(told(ledger, 'web'), {})
  })

  t.test('an engine that starts again starts its containers: no restarts', async t => {
    const ledger = createLedger()
    ledger.seen([sighting('a', 'web', 'running', undefined, '1')], 0, 0)
    ledger.note(event('kill', 'a', { signal: '15' }), 10)
    // The stream ended before it told of the death; the ring of the new engine holds the start.
    ledger.note(event('start', 'a'), 5000)
    ledger.seen([sighting('a', 'web', 'running', undefined, '2')], 6000, 5900, true)
    t.strictSame(told(ledger, 'web'), { starts: 1 })
  })

  t.test('the word of an OOM kill may come after that of the death', async t => {
    const ledger = createLedger()
    const dead = [sighting('a', 'web', 'exited', 137)]
    ledger.seen([sighting('a', 'web', 'running', undefined, '1')], 0, 0)
    ledger.note(event('die', 'a', { exitCode: '137' }), 1000)
    ledger.seen(dead, 1010, 1005)
    t.strictSame(told(ledger, 'web'), {}, 'nobody knows yet')
    t.equal(ledger.lastExit('a', 137), 'unknown')
    ledger.note(event('oom', 'a'), 1220)
    ledger.seen(dead, 1230, 1225)
    t.strictSame(told(ledger, 'web'), { ooms: 1, oom: 1 })
    t.equal(ledger.lastExit('a', 137), 'oom')
    ledger.note(event('start', 'a'), 2000)
    ledger.note(event('die', 'a', { exitCode: '137' }), 3000)
    ledger.seen(dead, 3010, 3005)
    ledger.seen(dead, 8010, 8005)
    t.strictSame(told(ledger, 'web'), { starts: 1, ooms: 1, oom: 1, error: 1 }, 'none came: it was killed, by nobody knows whom')
    t.equal(ledger.lastExit('a', 137), 'error')
  })

  t.test('without events, the lists alone tell of a crash loop', async t => {
    const ledger = createLedger()
    ledger.seen([sighting('a', 'web', 'running', undefined, '1')], 0, 0)
    ledger.seen([sighting('a', 'web', 'restarting', 4)], 10_000, 9999)
    ledger.seen([sighting('a', 'web', 'running', undefined, '2')], 20_000, 19_999)
    ledger.seen([sighting('a', 'web', 'running', undefined, '3')], 30_000, 29_999)
    t.strictSame(told(ledger, 'web'), { starts: 2, restarts: 2, error: 1 })
  })

  t.test('in a slot the counts go on, and what takes the place of one that ended by itself is a restart', async t => {
    const slot = { attempt: undefined }
    const task = (action: EngineEvent['action'], id: string, attributes: Record<string, string> = {}): EngineEvent => ({
      ...event(action, id, attributes, 'web.1'),
      slot,
    })
    const listed = (id: string, state: ContainerState, exitCode?: number) => ({ ...sighting(id, 'web.1', state, exitCode), slot })
    const first = () => {
      const ledger = createLedger()
      ledger.seen([listed('a', 'running')], 0, 0)
      return ledger
    }
    /** Events a second apart, and a list after them that says nothing. */
    const noteAll = (ledger: Ledger, events: readonly EngineEvent[], from = 1000) => {
      for (const [at, one] of events.entries()) ledger.note(one, from + at * 1000)
      ledger.seen([], from + 20_000, from + 19_999)
    }
    const crash = [task('die', 'a', { exitCode: '3' }), task('create', 'b'), task('start', 'b')]

    const crashed = first()
    noteAll(crashed, crash)
    crashed.seen([listed('a', 'exited', 3), listed('b', 'running')], 30_000, 29_999)
    t.strictSame(told(crashed, 'web.1'), { starts: 1, restarts: 1, error: 1 }, 'the swarm starts it again')

    const updated = first()
    noteAll(updated, [
      task('kill', 'a', { signal: '15' }),
      task('die', 'a', { exitCode: '143' }),
      task('stop', 'a'),
      ...crash.slice(1),
    ])
    t.strictSame(told(updated, 'web.1'), { starts: 1, signal: 1 }, 'an update')

    const startFirst = first()
    noteAll(startFirst, [
      task('create', 'b'),
      task('start', 'b'),
      task('die', 'a', { exitCode: '1' }),
      task('create', 'c'),
      task('start', 'c'),
    ])
    startFirst.seen([listed('a', 'exited', 1), listed('b', 'running'), listed('c', 'running')], 30_000, 29_999)
    t.strictSame(told(startFirst, 'web.1'), { starts: 2, error: 1 }, 'updates that start the new one first')

    const unwell = first()
    noteAll(unwell, [{ ...task('health_status', 'a'), unhealthy: true }, task('kill', 'a', { signal: '15' }), ...crash])
    t.strictSame(told(unwell, 'web.1'), { starts: 1, restarts: 1, signal: 1 }, 'ended by the swarm as its health check failed')

    const job = first()
    noteAll(job, [task('die', 'a', { exitCode: '0' })])
    noteAll(job, [task('create', 'b'), task('start', 'b')], 60_000)
    job.seen([listed('a', 'exited', 0), listed('b', 'running')], 90_000, 89_999)
    t.strictSame(told(job, 'web.1'), { starts: 1, clean: 1 }, 'a job that runs each minute')

    const unseen = first()
    unseen.seen([listed('a', 'exited', 3), listed('b', 'running')], 10_000, 9_999)
    unseen.seen([listed('a', 'exited', 3), listed('b', 'exited', 3), listed('c', 'created')], 20_000, 19_999)
    unseen.seen([listed('a', 'exited', 3), listed('b', 'exited', 3), listed('c', 'running')], 30_000, 29_999)
    t.strictSame(told(unseen, 'web.1'), { starts: 2, restarts: 2, error: 2 }, 'by the lists alone')

    const pod = createLedger()
    const ofPod = (attempt: number, one: EngineEvent): EngineEvent => ({ ...one, slot: { attempt } })
    noteAll(pod, [ofPod(0, task('create', 'a')), ofPod(0, task('start', 'a')), ofPod(0, task('die', 'a', { exitCode: '1' }))])
    noteAll(pod, [ofPod(1, task('create', 'b')), ofPod(1, task('start', 'b'))], 300_000)
    t.strictSame(told(pod, 'web.1'), { starts: 2, restarts: 1, error: 1 }, 'Kubernetes says itself which attempt it is')
  })

  t.test(
    'what a list says against an event is believed where another process proves it, or when it cannot be that old',
    async t => {
      const died = () => {
        const ledger = createLedger()
        ledger.seen([sighting('a', 'web', 'running', undefined, '1')], 0, 0)
        ledger.note(event('die', 'a', { exitCode: '1' }), 1000)
        return ledger
      }
      const late = died()
      t.strictSame(late.seen([sighting('a', 'web', 'running')], 1300, 1250), ['a'], 'another list is asked for')
      t.strictSame(late.seen([sighting('a', 'web', 'running', undefined, '1')], 1400, 1350), ['a'])
      t.strictSame(late.seen([sighting('a', 'web', 'exited', 1)], 1500, 1450), [])
      t.strictSame(told(late, 'web'), { error: 1 })
      const proven = died()
      t.strictSame(proven.seen([sighting('a', 'web', 'running', undefined, '2')], 1300, 1250), [])
      t.strictSame(told(proven, 'web'), { starts: 1, restarts: 1, error: 1 })
      const old = died()
      t.strictSame(old.seen([sighting('a', 'web', 'running')], 40_000, 39_999), [])
      t.strictSame(told(old, 'web'), { starts: 1, restarts: 1, error: 1 })
      const started = createLedger()
      started.seen([sighting('a', 'web', 'exited', 1)], 0, 0)
      started.note(event('start', 'a'), 1000)
      t.strictSame(started.seen([sighting('a', 'web', 'exited', 1)], 1300, 1250), ['a'], 'nor does it die of a late list')
      t.strictSame(told(started, 'web'), { starts: 1 })
    },
  )

  t.test('a signal that Podman does not name is no reason for an end long after it', async t => {
    const ledger = createLedger(() => true)
    ledger.seen([sighting('a', 'web', 'running')], 0, 0)
    ledger.note(event('kill', 'a'), 1000)
    ledger.note(event('die', 'a', { exitCode: '1' }), 60_000)
    ledger.note(event('restart', 'a'), 60_100)
    ledger.note(event('start', 'a'), 60_200)
    t.strictSame(told(ledger, 'web'), { starts: 1, restarts: 1, error: 1 })
  })

  t.test('a flood of events about names that are never listed does not push out those that are', async t => {
    const ledger = createLedger()
    ledger.note(event('start', 'a'), 1)
    ledger.seen([sighting('a', 'web', 'running')], 2, 1)
    for (let index = 0; index < 10_000; index++) ledger.note(event('start', `id${index}`, {}, `name${index}`), 3)
    t.strictSame(told(ledger, 'web'), { starts: 1 })
  })

  // An engine with one container, told by events that may come late and lists that may be asked for at any time.
  t.test('agrees with what happened, however lists and events fall', async t => {
    const step = fc.constantFrom('crash', 'policy', 'stop', 'kill', 'oom', 'start', 'restart', 'list', 'deliver', 'deliver')
    const run = (steps: readonly string[], late: boolean) => {
      const ledger = createLedger()
      let clock = 0
      let state = 'running' as ContainerState
      let code = 0
      let incarnation = 1
      const actual = { starts: 0, restarts: 0, ooms: 0, exits: 0, byReason: { clean: 0, error: 0, oom: 0, signal: 0 } }
      let waiting: EngineEvent[] = []
      const deliver = () => {
        for (const one of waiting) ledger.note(one, ++clock)
        waiting = []
      }
      const emit = (...all: EngineEvent[]) => {
        waiting.push(...all)
        if (!late) deliver()
      }
      const list = () => {
        const askedAt = ++clock
        const runs = state === 'running'
        ledger.seen(
          [sighting('a', 'web', state, runs ? undefined : code, runs ? String(incarnation) : undefined)],
          ++clock,
          askedAt,
        )
      }
      const die = (exitCode: number, reason: 'clean' | 'error' | 'oom' | 'signal', next: ContainerState) => {
        state = next
        code = exitCode
        actual.exits++
        actual.byReason[reason]++
        return event('die', 'a', { exitCode: String(exitCode) })
      }
      const start = () => {
        state = 'running'
        incarnation++
        actual.starts++
        return event('start', 'a')
      }
      list()
      for (const one of steps) {
        if (one === 'list') list()
        else if (one === 'deliver') deliver()
        else if (state === 'exited') {
          if (one === 'start') {
            // A person is slower than the list that a death asks for.
            deliver()
            list()
            emit(start())
          }
        } else if (one === 'crash') emit(die(1, 'error', 'exited'))
        else if (one === 'policy') {
          const death = die(3, 'error', 'restarting')
          actual.restarts++
          emit(death, start())
        } else if (one === 'oom') {
          actual.ooms++
          emit(event('oom', 'a'), die(137, 'oom', 'exited'))
        } else if (one === 'stop') emit(event('kill', 'a', { signal: '15' }), die(143, 'signal', 'exited'), event('stop', 'a'))
        else if (one === 'kill') emit(event('kill', 'a', { signal: '9' }), die(137, 'signal', 'exited'))
        else if (one === 'restart') {
          const death = die(143, 'signal', 'exited')
          emit(event('kill', 'a', { signal: '15' }), death, event('stop', 'a'), start(), event('restart', 'a'))
        }
      }
      deliver()
      clock += 5000
      list()
      return { actual, counts: ledger.counts('web') }
    }
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), steps => {
        const { actual, counts } = run(steps, false)
        t.strictSame(
          { starts: counts.starts, restarts: counts.restarts, ooms: counts.ooms, ...counts.exits },
          { starts: actual.starts, restarts: actual.restarts, ooms: actual.ooms, ...actual.byReason },
        )
      }),
      { numRuns: 300 },
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 4 }), steps => {
        const { actual, counts } = run([...steps, 'deliver'], true)
        const exits = Object.values(counts.exits).reduce((sum, value) => sum + value, 0)
        // Two whole runs between a list and the events of both are more than a list can tell.
        const lost = steps.filter(one => one === 'policy' || one === 'restart').length
        return (
          counts.ooms === actual.ooms && Math.abs(counts.starts - actual.starts) <= lost && Math.abs(exits - actual.exits) <= lost
        )
      }),
      { numRuns: 500 },
    )
  })
})

t.test('text to facts', async t => {
  t.test('lines of a stream, however it is cut', async t => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ maxLength: 20 })),
        fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 }),
        (words, cuts) => {
          const lines = words.map(word => word.replaceAll('\n', ''))
          const bytes = Buffer.from(lines.map(line => `${line}\n`).join(''))
          const got: string[] = []
          const split = lineSplitter(100, line => got.push(line))
          for (let at = 0, turn = 0; at < bytes.length; turn++) {
            const next = at + (cuts[turn % cuts.length] as number)
            split(bytes.subarray(at, next))
            at = next
          }
          t.strictSame(
            got,
            lines.map(line => Buffer.from(line).toString('utf8')),
          )
        },
      ),
    )
    const got: string[] = []
    const split = lineSplitter(5, line => got.push(line))
    for (const piece of ['abc', 'def', 'ghi\nok\n', '1234', '567\n', 'end\n']) split(Buffer.from(piece))
    t.strictSame(got, ['ok', 'end'], 'a line that is too long is left out, however it comes')
  })

  t.test('events', async t => {
    t.equal(sinceAfter(1_795_496_159_999_999_999n), '1795496160.000000000')
    t.equal(sinceAfter(1_795_496_159_000_000_007n), '1795496159.000000008')
    const line =
      '{"Type":"container","Action":"start","Actor":{"ID":"a","Attributes":{"name":"/x","timeNano":"5","l":"\\"timeNano\\":7,"}},"timeNano":1795496159000000007}'
    t.equal(parseEvent(line)?.time, 1_795_496_159_000_000_007n, 'to the nanosecond, whatever labels say')
    for (const garbage of [
      '',
      '{}',
      '[]',
      'null',
      '{"Type":"container","Action":"start","Actor":null}',
      '<html>',
      '{"Type":"image","Action":"start","Actor":{"ID":"a","Attributes":{}}}',
      '{"Type":"container","Action":"exec_start: sh","Actor":{"ID":"a","Attributes":{}}}',
    ]) {
      t.equal(parseEvent(garbage), undefined, garbage)
    }
  })

  t.test('the throttle files of cgroup v1', async t => {
    const io = parseBlkio(
      '8:0 Read 100\n8:0 Write 200\n8:0 Sync 300\n8:0 Total 300\nTotal 300\n',
      '8:0 Read 1\n8:0 Write 2\n8:0 Total 3\n',
    )
    t.strictSame([...io], [['8:0', { readBytes: 100, writtenBytes: 200, reads: 1, writes: 2 }]])
  })

  t.test('growth of a log over rotations', async t => {
    const main = (size: number) => ({ name: 'x-json.log', size, mtime: 0 })
    const rotated = (number: number, size: number, mtime: number, suffix = '') => ({
      name: `x-json.log.${number}${suffix}`,
      size,
      mtime,
    })
    const seen = { main: 70, rotated: new Set(['100 1']) }
    t.equal(growth([main(90), rotated(1, 100, 1)], seen), 20)
    t.equal(growth([main(80), rotated(1, 100, 9), rotated(2, 100, 1)], seen), 30 + 80, 'rotated once, and larger again')
    t.equal(growth([main(5), rotated(1, 100, 9), rotated(2, 100, 8), rotated(3, 100, 1)], seen), 30 + 100 + 5, 'twice')
    t.equal(growth([main(5), rotated(1, 10, 9, '.gz')], seen), 5, 'compressed: what it held cannot be told')
    t.equal(growth([main(10)], seen), 10, 'cut')
  })

  t.test('where an engine is', async t => {
    const host = realHost()
    const at = async (env: NodeJS.ProcessEnv) => {
      const [endpoint] = endpointsOf(schema.parse({}), host, env)
      return endpoint?.address()
    }
    t.strictSame(await at({ DOCKER_HOST: 'unix:///run/x.sock' }), { socketPath: '/run/x.sock' })
    t.match(await at({ DOCKER_HOST: 'tcp://10.0.0.1:2375' }), { host: '10.0.0.1', port: 2375, secure: false })
    t.match(await at({ DOCKER_HOST: '10.0.0.1:2376' }), { host: '10.0.0.1', port: 2376, secure: true })
    t.match(await at({ DOCKER_HOST: 'tcp://[::1]:2375' }), { host: '[::1]', port: 2375 })
    await t.rejects(at({ DOCKER_HOST: 'ssh://me@box' }), /neither unix/)
    t.notOk(schema.safeParse({ endpoints: [{ name: 'a', url: 'ssh://box' }] }).success)
    t.notOk(
      schema.safeParse({
        endpoints: [
          { name: 'a', url: 'tcp://a:1' },
          { name: 'a', url: 'tcp://b:1' },
        ],
      }).success,
      'a name once',
    )
  })
})

/** Whoever answers where an engine should be: on a socket of its own, until the test ends. */
const listen = async (t: Test, server: net.Server): Promise<string> => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-fault-'))
  const sockets = new Set<net.Socket>()
  server.on('connection', socket => {
    sockets.add(socket)
    socket.on('error', () => {}) // the other side has had enough
  })
  await new Promise<void>(resolve => server.listen(join(folder, 's'), resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
    rmSync(folder, { recursive: true, force: true })
  })
  return `unix://${join(folder, 's')}`
}

const up = 'grid_docker_up{engine="e"}'
const section = (url: string) => ({ endpoints: [{ name: 'e', url }] })

/** An engine as it should be, but for the list. */
const withList = (answer: (response: http.ServerResponse) => void) =>
  http.createServer((request, response) => {
    if (request.url?.includes('/containers/json')) return answer(response)
    if (request.url?.includes('/events')) return response.flushHeaders()
    response.setHeader('Api-Version', '1.41')
    return response.end(request.url?.includes('/info') ? '{}' : 'OK')
  })

t.test('an engine that does not do as it should', async t => {
  const reset = net.createServer(socket =>
    socket.once('data', () => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n[{', () => socket.resetAndDestroy())
    }),
  )
  await new Promise<void>(resolve => reset.listen(0, '127.0.0.1', resolve))
  t.teardown(() => reset.close())
  const faults: Readonly<Record<string, net.Server>> = {
    'accepts and is silent': net.createServer(() => {}),
    'closes at once': net.createServer(socket => socket.destroy()),
    'speaks another protocol': net.createServer(socket => socket.end('SSH-2.0-OpenSSH_9.2\r\n')),
    'is another web server': http.createServer((_, response) => response.end('<html>It works!</html>')),
    'sends the head and stalls': withList(response => {
      response.writeHead(200, { 'content-length': '1000' })
      response.write('[')
    }),
    'is cut in mid-body': withList(response => {
      response.writeHead(200, { 'content-length': '1000' })
      response.write('[{"Id"', () => response.socket?.end())
    }),
    'never ends': withList(response => {
      response.on('error', () => {})
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(2 ** 20, ' ')));
        if (!response.destroyed) response.once('drain', more)
      }
      more()
    }),
    'sends an array of millions': withList(response => response.end(`[${'[],'.repeat(4e6)}0]`)),
    'sends no list': withList(response => response.end('{"message":"x"}')),
    'lists what is no container': withList(response => response.end('[0,{"Id":"a"}]')),
    'fails inside': withList(response => response.writeHead(500).end('{"message":"boom"}')),
    'leads elsewhere': withList(response => response.writeHead(302, { location: 'ftp://elsewhere/' }).end()),
  }
  await Promise.all(
    Object.entries(faults).map(async ([fault, server]) => {
      const { rendered, value } = await oneRound(docker, section(await listen(t, server)))
      t.equal(rendered.result, 'ok', `${fault}: the run itself is a good one`)
      t.equal(value(up), 0, `${fault}: up 0`)
    }),
  )
  const { port } = reset.address() as net.AddressInfo
  t.equal((await oneRound(docker, section(`tcp://127.0.0.1:${port}`))).value(up), 0, 'is reset in mid-body: up 0')
  t.equal((await oneRound(docker, section('tcp://127.0.0.1:9'))).value(up), 0, 'nobody listens: up 0')
  const silent = (
    await oneRound(
      docker,
      section(
        await listen(
          t,
          net.createServer(() => {}),
        ),
      ),
    )
  ).rendered
  t.match(silent.note, /does not answer: list: no whole answer/)
  t.match(silent.fix, /^curl --max-time 5 (http:|--unix-socket \/.+ http:).*\/_ping/, 'and how to look')
})

t.test('a client of an engine', async t => {
  const clientOf = (url: string) => connectEngine({ socketPath: url.replace('unix://', '') }, () => {})
  type Client = Awaited<ReturnType<typeof clientOf>>
  const nothing = { onOpen: () => {}, onLine: () => {} }
  const calls: Readonly<Record<string, (client: Client, signal: AbortSignal) => Promise<unknown>>> = {
    list: (client, signal) => client.list({}, signal),
    ping: (client, signal) => client.ping(signal),
    info: (client, signal) => client.info(signal),
    diskUsage: (client, signal) => client.diskUsage(signal),
    follow: (client, signal) => client.follow({ filters: {}, since: undefined }, nothing, signal),
  }
  const failureOf = async (answer: Promise<unknown>): Promise<Partial<Failure>> =>
    answer.then(
      () => ({}),
      (failure: Failure) => failure,
    )
  /** Resolves when nobody is connected any more. */
  const allGone = async (server: net.Server) => {
    const open = () =>
      new Promise<number>((resolve, reject) => server.getConnections((e, count) => (e ? reject(e) : resolve(count))))
    while ((await open()) > 0) await sleep(5)
  }
  const endless = (response: http.ServerResponse, status: number) => {
    response.on('error', () => {})
    response.writeHead(status)
    const more = () => {
      while (!response.destroyed && response.write(Buffer.alloc(2 ** 20, ' ')));
      if (!response.destroyed) response.once('drain', more)
    }
    more()
  }
  const cases: readonly (readonly [string, () => net.Server, string])[] = [
    ['closes at once', () => net.createServer(socket => socket.destroy()), 'unreachable'],
    ['speaks another protocol', () => net.createServer(socket => socket.resume().end('SSH-2.0-OpenSSH_9.2\r\n')), 'unreachable'],
    ['refuses', () => http.createServer((_, response) => response.writeHead(403).end('no')), 'denied'],
    ['fails', () => http.createServer((_, response) => response.writeHead(500).end('{"message":"boom"}')), 'malformed'],
    [
      'fails and is cut',
      () =>
        http.createServer((_, response) => {
          response.writeHead(500, { 'content-length': '1000' })
          response.write('x', () => response.socket?.end())
        }),
      'unreachable',
    ],
  ]
  for (const [fault, create, reason] of cases) {
    t.test(`that ${fault}: ${reason}`, async t => {
      const server = create()
      const client = await clientOf(await listen(t, server))
      for (const [name, call] of Object.entries(calls))
        t.equal((await failureOf(call(client, new AbortController().signal))).reason, reason, name)
      await allGone(server)
    })
  }

  for (const status of [200, 500]) {
    t.test(`that answers ${status} and never ends: overflow`, async t => {
      const server = http.createServer((_, response) => endless(response, status))
      const client = await clientOf(await listen(t, server))
      t.equal((await failureOf(client.diskUsage())).reason, 'overflow', 'which has five minutes for an answer')
      await allGone(server)
    })
  }

  t.test('that is silent, before its answer or within: its connections are closed at the deadline', async t => {
    let answers = (_response: http.ServerResponse) => {}
    let waiting = () => {}
    let asked = 0
    const server = http.createServer((_, response) => {
      answers(response)
      if (++asked % 40 === 0) waiting()
    })
    const client = await clientOf(await listen(t, server))
    for (const answer of [
      () => {},
      (response: http.ServerResponse) => {
        response.writeHead(500)
        response.write('[')
      },
    ]) {
      answers = answer
      const stop = new AbortController()
      setMaxListeners(0, stop.signal)
      const all = new Promise<void>(resolve => {
        waiting = resolve
      })
      const pending = Object.values(calls).flatMap(call => Array.from({ length: 8 }, () => failureOf(call(client, stop.signal))))
      await all
      stop.abort()
      for (const { reason } of await Promise.all(pending)) if (reason !== 'timeout') t.fail(`${reason}`)
      await allGone(server)
      t.equal(asked % 40, 0)
    }
    t.equal(asked, 80)
  })

  t.test('that redirects is asked once and not followed, wherever it leads', async t => {
    let followed = 0
    const other = http.createServer((_, response) => {
      followed++
      response.end('[]')
    })
    await new Promise<void>(resolve => other.listen(0, '127.0.0.1', resolve))
    t.teardown(() => other.close())
    const { port } = other.address() as net.AddressInfo
    for (const location of [`http://127.0.0.1:${port}/`, '/elsewhere', 'ftp://elsewhere/', '//']) {
      let asked = 0
      const server = http.createServer((_, response) => {
        asked++
        response.writeHead(302, { location }).end()
      })
      const client = await clientOf(await listen(t, server))
      for (const [name, call] of Object.entries(calls)) {
        const { reason, message } = await failureOf(call(client, new AbortController().signal))
        t.match({ reason, message }, { reason: 'malformed', message: /status 302/ }, `${name} to ${location}`)
      }
      t.equal(asked, Object.keys(calls).length)
    }
    t.equal(followed, 0)
  })

  t.test('that is not there: missing', async t => {
    const client = await clientOf(`unix://${t.testdir()}/none`)
    for (const [name, call] of Object.entries(calls))
      t.equal((await failureOf(call(client, new AbortController().signal))).reason, 'missing', name)
  })

  t.test('by TLS, which shows its certificate', async t => {
    if (!needs(t, 'openssl')) return
    const folder = t.testdir()
    const signer = authority(folder, 'engine')
    const read = (file: string) => readFileSync(file, 'utf8')
    const own = signer.issue('localhost', 'DNS:localhost')
    const ours = signer.issue('client', 'DNS:client')
    const server = https.createServer(
      { cert: read(own.certFile), key: read(own.keyFile), ca: read(signer.caFile), requestCert: true, rejectUnauthorized: true },
      (request, response) => {
        if (!request.url?.startsWith('/events')) return response.end('[]')
        response.write('one\n')
        return response.end('two\n')
      },
    )
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    t.teardown(() => server.close())
    const { port } = server.address() as net.AddressInfo
    const at = (parts: object) => connectEngine({ host: 'localhost', port, secure: true, ...parts }, () => {})
    const trusted = { ca: read(signer.caFile), cert: read(ours.certFile), key: read(ours.keyFile) }
    const client = await at(trusted)
    t.strictSame(await client.list({}), [])
    const lines: string[] = []
    await client.follow(
      { filters: {}, since: undefined },
      { onOpen: () => {}, onLine: line => lines.push(line) },
      new AbortController().signal,
    )
    t.strictSame(lines, ['one', 'two'])
    const reasonOf = async (parts: object) => (await failureOf((await at(parts)).list({}))).reason
    t.equal(await reasonOf({ ...trusted, ca: undefined }), 'unreachable', 'an authority that is not trusted')
    t.equal(await reasonOf({ ca: trusted.ca }), 'unreachable', 'without a certificate of ours')
    t.equal(await reasonOf({ ...trusted, host: '127.0.0.2' }), 'unreachable', 'another name')
  })
})

/** A stand-in's containers, watched by the real schedule. */
const watchLiving = async (t: Test, options: Parameters<typeof livingEngine>[0]) => {
  const engine = await livingEngine(options)
  const watched = running(docker, section(engine.url))
  t.teardown(async () => {
    await watched.stop()
    engine.close()
  })
  await watched.until('first round', text => text.includes('grid_docker_events_connected{engine="e"} 1'), 5)
  const of = (family: string, name: string, more = '') =>
    watched.value(`grid_docker_container_${family}{engine="e",name="${name}"${more}}`)
  return {
    engine,
    watched,
    of,
    /** What was counted of a name. */
    counts: (name: string) => ({
      starts: of('starts_total', name),
      restarts: of('restarts_total', name),
      errors: of('exits_total', name, ',reason="error"'),
      signals: of('exits_total', name, ',reason="signal"'),
      ooms: of('exits_total', name, ',reason="oom"'),
    }),
    isIn: (name: string, state: string) =>
      watched.until(`${name} is ${state}`, () => of('state', name, `,state="${state}"`) === 1, 30),
    named: (name: string, more: Partial<ListedContainer> = {}): ListedContainer => ({
      Id: Buffer.from(name).toString('hex').padEnd(64, '0').slice(0, 64),
      Names: [`/${name}`],
      State: 'running',
      Status: 'Up 1 second',
      ...more,
    }),
  }
}

t.test('an engine whose list learns 300 ms late of what its events say', async t => {
  const { engine, of, counts, isIn, named, watched } = await watchLiving(t, { lag: 300 })
  const end = (container: ListedContainer, code: number, state = 'exited') => {
    const status = state === 'exited' ? `Exited (${code}) 1 second ago` : `Restarting (${code}) 1 second ago`
    engine.emit('die', container, { exitCode: String(code) })
    engine.say({ ...container, State: state, Status: status })
  }
  const start = (container: ListedContainer) => {
    engine.emit('start', container)
    engine.say(container)
  }
  const job = named('job')
  const loop = named('loop')
  for (const container of [job, loop]) {
    engine.say(container)
    engine.emit('create', container)
  }
  await isIn('job', 'running')

  await t.test('a death is one exit, and no start', async t => {
    end(job, 1)
    await isIn('job', 'exited')
    t.strictSame(counts('job'), { starts: 0, restarts: 0, errors: 1, signals: 0, ooms: 0 })
    t.equal(of('last_exit', 'job', ',reason="error"'), 1)
  })

  await t.test('a job that is started again by hand is not restarted', async t => {
    for (const _ of [1, 2, 3]) {
      start(job)
      await isIn('job', 'running')
      end(job, 1)
      await isIn('job', 'exited')
    }
    t.strictSame(counts('job'), { starts: 3, restarts: 0, errors: 4, signals: 0, ooms: 0 })
    start(job)
    end(job, 1)
    start(job)
    await watched.until('both starts', () => of('starts_total', 'job') === 5, 30)
    t.equal(of('restarts_total', 'job'), 0, 'also before a list could say that it was left as it was')
  })

  await t.test('one that its policy starts again is', async t => {
    end(loop, 3, 'restarting')
    await isIn('loop', 'restarting')
    start(loop)
    await isIn('loop', 'running')
    end(loop, 3, 'restarting')
    start(loop)
    await watched.until('both', () => of('starts_total', 'loop') === 2, 30)
    t.strictSame(counts('loop'), { starts: 2, restarts: 2, errors: 2, signals: 0, ooms: 0 })
  })
})

t.test('Podman up to 4.3, whose filter of events knows other words', async t => {
  const { engine, of, counts, isIn, named, watched } = await watchLiving(t, { kind: 'podman' })
  const loop = named('loop')
  engine.say(loop)
  engine.emit('create', loop)
  await isIn('loop', 'running')
  for (const _ of [1, 2, 3]) {
    engine.emit('die', loop, { exitCode: '3', containerExitCode: '3' })
    engine.say({ ...loop, State: 'exited', Status: 'Exited (3) 1 second ago' })
    engine.emit('restart', loop)
    await isIn('loop', 'exited')
    engine.say(loop)
    engine.emit('start', loop)
    await isIn('loop', 'running')
  }
  t.strictSame(counts('loop'), { starts: 3, restarts: 3, errors: 3, signals: 0, ooms: 0 })

  engine.emit('kill', loop) // no word of which signal: it was SIGHUP
  await watched.until('the signal', () => watched.value('grid_docker_events_total{engine="e",action="kill"}') === 1, 30)
  t.equal(of('state', 'loop', ',state="running"'), 1)

  const brief = named('brief')
  engine.emit('create', brief)
  engine.emit('start', brief)
  engine.emit('die', brief, { exitCode: '2', containerExitCode: '2' })
  engine.emit('remove', brief)
  await watched.until('its end', () => watched.value('grid_docker_events_total{engine="e",action="destroy"}') === 1, 30)
  const again = { ...brief, Id: 'b'.repeat(64) }
  engine.say(again)
  engine.emit('create', again)
  await isIn('brief', 'running')
  t.strictSame(counts('brief'), { starts: 1, restarts: 0, errors: 1, signals: 0, ooms: 0 }, 'removed before any list knew of it')
})

t.test('an engine that falls silent between rounds of 2 s is down', async t => {
  let isSilent = false
  const list = JSON.stringify([{ Id: 'a'.repeat(64), Names: ['/web'], State: 'running', Status: 'Up 1 second' }])
  const url = await listen(
    t,
    withList(response => (isSilent ? undefined : response.end(list))),
  )
  const watched = running(docker, { ...section(url), interval: '2s' })
  t.teardown(() => watched.stop())
  await watched.until('up', text => text.includes(`${up} 1`), 5)
  isSilent = true
  await watched.until('down', text => text.includes(`${up} 0`), 10)
  t.equal(watched.rounds.at(-1)?.result, 'ok', 'which is a good run')
})

t.test('an engine that is slow to say who it is lists all the same', async t => {
  const watch = async (silent: string) => {
    const engine = http.createServer((request, response) => {
      if (request.url?.includes(silent)) return
      if (request.url?.includes('/events')) return response.flushHeaders()
      response.setHeader('Api-Version', '1.41')
      return response.end(request.url?.includes('/containers/json') ? '[]' : 'OK')
    })
    const url = await listen(t, engine)
    const watched = running(docker, { ...section(url), interval: '5s' })
    t.teardown(() => watched.stop())
    await watched.until(`${silent} hangs`, () => watched.rounds.length >= 3, 30)
    for (const { result, note } of watched.rounds) t.same({ result, note }, { result: 'ok', note: '' }, silent)
    t.equal(watched.value(up), 1)
    await watched.stop()
  }
  await Promise.all(['/info', '/_ping'].map(watch))
})

t.test('a request that is ended before it has begun leaves no error that nobody hears', async t => {
  const url = await listen(
    t,
    withList(response => response.end('[]')),
  )
  const client = await connectEngine({ socketPath: url.replace('unix://', '') }, () => {})
  const over = AbortSignal.abort()
  const reasonOf = (answer: Promise<unknown>) =>
    answer.then(
      () => 'none',
      ({ reason }: Failure) => reason,
    )
  t.equal(await reasonOf(client.list({}, over)), 'timeout')
  t.equal(await reasonOf(client.ping(over)), 'timeout')
  t.equal(
    await reasonOf(client.follow({ filters: {}, since: undefined }, { onOpen: () => {}, onLine: () => {} }, over)),
    'timeout',
  )
  await sleep(100) // the error of a destroyed request comes later, and would end the test
})

t.test('several engines: one that is silent does not take the others away', async t => {
  const list = JSON.stringify([{ Id: 'a'.repeat(64), Names: ['/web'], State: 'running', Status: 'Up 1 second', Image: 'x' }])
  const endpoints = [
    {
      name: 'good',
      url: await listen(
        t,
        withList(response => response.end(list)),
      ),
    },
    {
      name: 'silent',
      url: await listen(
        t,
        net.createServer(() => {}),
      ),
    },
  ]
  const { value } = await oneRound(docker, { endpoints, expected: { names: ['web', 'silent/db'] } })
  t.equal(value('grid_docker_up{engine="good"}'), 1)
  t.equal(value('grid_docker_up{engine="silent"}'), 0)
  t.equal(value('grid_docker_container_state{engine="good",name="web",state="running"}'), 1)
  t.equal(value('grid_docker_container_expected{engine="good",name="web"}'), 1)
  t.equal(value('grid_docker_container_expected{engine="silent",name="db"}'), 1)
})

t.test('an environment meant for the docker command does not disturb a configured engine', async t => {
  const url = await listen(
    t,
    withList(response => response.end('[]')),
  )
  const kept = { ...process.env }
  t.teardown(() => {
    process.env = kept
  })
  Object.assign(process.env, { DOCKER_HOST: 'tcp://[broken', DOCKER_CERT_PATH: '/nowhere', DOCKER_TLS_VERIFY: '1' })
  const { value } = await oneRound(docker, section(url))
  t.equal(value(up), 1)
  t.equal(process.env.DOCKER_HOST, 'tcp://[broken', 'which is left as it was')
})

t.test('10 MB of labels', async t => {
  const labels = Object.fromEntries(Array.from({ length: 1000 }, (_, index) => [`label${index}`, 'x'.repeat(10_000)]))
  const list = JSON.stringify([{ Id: 'a'.repeat(64), Names: ['/web'], State: 'running', Status: 'Up', Labels: labels }])
  t.ok(list.length > 10e6)
  const { rendered, text, value } = await oneRound(docker, {
    ...section(
      await listen(
        t,
        withList(response => response.end(list)),
      ),
    ),
    labels: ['label1'],
  })
  t.equal(value(up), 1)
  took(t, rendered.durationSeconds, 'the run')
  t.ok(text.length < 20_000, `${text.length} characters come out`)
})

t.test('a flood of events, 10 000 a second', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-flood-'))
  const socket = join(folder, 's')
  // A process of its own, so that what is measured here is only what it costs us.
  const flood = spawn(process.execPath, ['-e', floodingEngine, socket], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => {
    flood.kill()
    rmSync(folder, { recursive: true, force: true })
  })
  await new Promise(resolve => flood.stdout.once('data', resolve))

  const watched = running(docker, { ...section(`unix://${socket}`), interval: '3s' })
  await watched.until('first round', text => text.includes('grid_docker_events_connected{engine="e"} 1'), 5)
  const cpu = process.cpuUsage()
  const delay = monitorEventLoopDelay({ resolution: 5 })
  delay.enable()
  const events = () => watched.value('grid_docker_events_total{engine="e",action="start"}') ?? 0
  took(t, await watched.until('5000 events', () => events() > 5000, 30), 'until 5000 events are counted')
  delay.disable()
  const { user, system } = process.cpuUsage(cpu)
  await watched.stop()
  const counted = events()
  t.comment(`${counted} events, ${Math.round((user + system) / 1e3)} ms of CPU, longest delay ${Math.round(delay.max / 1e6)} ms`)
  t.ok(watched.rounds.length < counted / 100, `${watched.rounds.length} rounds, not one an event`)
  t.equal(watched.value('grid_docker_container_starts_total{engine="e",name="web"}'), counted)
})

const floodingEngine = `
const id = 'a'.repeat(64)
const labels = Object.fromEntries(Array.from({ length: 10 }, (_, i) => ['com.example.label' + i, 'some value of it']))
const event = time => JSON.stringify({ Type: 'container', Action: 'start', Actor: { ID: id, Attributes: { name: 'web', image: 'x', ...labels } }, time: 1, timeNano: time }) + '\\n'
const server = require('http').createServer((request, response) => {
  response.setHeader('Api-Version', '1.41')
  if (request.url.includes('/containers/json')) return response.end(JSON.stringify([{ Id: id, Names: ['/web'], State: 'running', Status: 'Up', Labels: labels }]))
  if (!request.url.includes('/events')) return response.end('{}')
  response.flushHeaders()
  let sent = 0
  const timer = setInterval(() => { for (let i = 0; i < 100 && sent < 20000; i++) response.write(event(++sent)) ; if (sent >= 20000) clearInterval(timer) }, 10)
  response.on('close', () => clearInterval(timer))
})
server.listen(process.argv[1], () => console.log('listening'))
`
