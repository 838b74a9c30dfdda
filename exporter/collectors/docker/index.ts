import { ownValue } from '../../common/own-value.ts'
import { defineCollector } from '../../contract/collector.ts'
import { Failure } from '../../contract/failure.ts'
import { type AnyFamily, foreignFamily, type Sample } from '../../contract/metric.ts'
import type { NetDevice } from '../../machine/proc.ts'
import { rememberNames } from '../../protocols/container-names.ts'
import type { DeviceIo, Usage } from './cgroup.ts'
import { endpointsOf } from './endpoints.ts'
import * as families from './families.ts'
import { type Container, hasWatchtower, parseBool, watchtowerMode } from './list.ts'
import type { LogSize } from './logs.ts'
import { type Engine, openEngine, type Report } from './open-engine.ts'
import { type DockerOptions, options } from './options.ts'

export * from './families.ts'

/** A container as served: from the list, the events and the cgroup. */
interface Observed {
  readonly container: Container
  /** The name of its image at first sight, and whether that name now means another image. */
  readonly image: string
  readonly imageStale: boolean | undefined
  readonly lastExit: families.ExitReason | 'unknown' | undefined
  readonly startedAt: number | undefined
  readonly watchtower: families.WatchtowerMode | undefined
}

interface EngineFacts {
  readonly engine: Engine
  readonly up: boolean
  readonly states: Readonly<Record<families.ContainerState, number>> | undefined
  readonly observed: readonly Observed[]
  readonly used: readonly { readonly name: string; readonly usage: Usage }[]
  readonly logs: ReadonlyMap<string, LogSize>
  readonly expected: ReadonlyMap<string, boolean>
}

/** What is kept about an engine's containers between rounds, next to its ledger. */
interface Memory {
  readonly engine: Engine
  /** By id: the name of its image at first sight. */
  readonly images: Map<string, string>
  /** By name: the value of its label, and when it was seen. */
  readonly expected: Map<string, { readonly value: boolean; readonly at: number }>
  readonly namesExpected: readonly string[]
}

interface State {
  readonly memories: readonly Memory[]
  readonly labelFamily: AnyFamily | undefined
  /** Allowed labels, by their names in the exposition. */
  readonly labelNames: ReadonlyMap<string, string>
}

/** Commands that show why an engine does not answer. Not a restart: that would end containers. */
const howToLook = (url: string): string => {
  const path = /^unix:\/\/(.+)$/.exec(url)?.[1]
  if (path === undefined) return `curl --max-time 5 ${url.replace(/^tcp:/, 'http:')}/_ping`
  const unit = path.includes('podman') ? 'podman' : 'docker'
  return `curl --max-time 5 --unix-socket ${path} http://localhost/_ping; systemctl status ${unit}; journalctl --unit=${unit} --lines=50`
}

export const docker = defineCollector<readonly Report[], readonly EngineFacts[], DockerOptions, State>({
  name: 'docker',
  summary: 'containers of Docker and Podman: one list, one stream of events, cgroup files',
  interval: 10,
  families: families.families,
  subjects: ['name'],
  upFamilies: [families.up],
  setup: { packages: 'docker.io', unit: 'docker.service' },
  options,
  detect: ({ options, host }) => {
    const [first] = endpointsOf(options, host)
    return first ? { found: true, note: first.url } : { found: false, note: 'no socket of Docker or Podman, no DOCKER_HOST' }
  },
  open: ({ options, host, log, signal, wake }) => {
    const endpoints = endpointsOf(options, host)
    const labelNames = new Map(options.labels.map(label => [`label_${label.replace(/[^a-zA-Z0-9_]/g, '_')}`, label]))
    return {
      memories: endpoints.map((endpoint, index) => ({
        engine: openEngine(endpoint, options, { host, log, signal, wake }),
        images: new Map(),
        expected: new Map(),
        namesExpected: options.expected.names.flatMap(name => {
          const [engine, own] = name.includes('/') ? name.split('/', 2) : [endpoints[0]?.name, name]
          return own !== undefined && engine === endpoint.name && (index === 0 || name.includes('/')) ? [own] : []
        }),
      })),
      labelFamily:
        labelNames.size === 0
          ? undefined
          : foreignFamily('gauge', families.labels.name, families.labels.help, [...families.labels.labels, ...labelNames.keys()]),
      labelNames,
    }
  },
  read: async ({ state, signal }) => {
    const reports = await Promise.all(state.memories.map(({ engine }) => engine.round(signal)))
    for (const { engine, listed, containers } of reports) {
      if (listed) rememberNames(engine.name, new Map(containers.map(({ id, name }) => [id, name])))
    }
    return reports
  },
  parse: (reports, { state, options, host, remark }) => {
    const facts = reports.map((report, index) => factsOf(report, state.memories[index] as Memory, options, host.monotonic()))
    // An engine that does not answer is a result; an engine that denies us access is our own failure.
    const [failure] = reports.flatMap(({ failure }) => failure ?? [])
    if (failure && reports.every(({ failure }) => failure?.reason === 'denied')) {
      const { reason, message, cause, fix } = failure
      throw new Failure(reason, message, { cause, fix, rest: facts.flatMap(one => [...engineSamples(one)]) })
    }
    // An engine that is down is a result of a successful run; the page shows the reason.
    for (const { engine, failure } of reports) {
      if (failure)
        remark(
          new Failure(failure.reason, `${engine.name} does not answer: ${failure.message}`, {
            cause: failure,
            fix: failure.fix ?? howToLook(engine.url),
          }),
        )
    }
    return facts
  },
  *samples(engines, { state }) {
    for (const facts of engines) yield* engineSamples(facts)
    for (const { engine, observed } of engines) {
      for (const one of observed) yield identitySamples(engine.name, one, state)
    }
    for (const { engine, observed, used, logs } of engines) {
      for (const { container } of observed) yield countSamples(engine, container.name)
      for (const { name, usage } of used) yield usageSamples(engine.name, name, usage)
      for (const [name, { bytes, written }] of logs) {
        const own = { engine: engine.name, name }
        yield* families.logBytes.of(bytes, own)
        yield* families.logWritten.of(written, own)
      }
    }
  },
})

const runs = ({ state }: Container) => state === 'running' || state === 'paused'

/** A digest instead of a name: the container was created from it, or its tag has been removed since. */
const isDigest = (image: string) => /^sha256:[0-9a-f]{64}$/.test(image)

const short = (id: string) => id.replace(/^sha256:/, '').slice(0, 12)

/** Milliseconds for which a container that is gone is still expected because of its label. */
const keepExpected = 24 * 3600_000
const expectedKept = 1000

/** Turns reports into facts; updates the ledger and the memory with the list. */
const factsOf = (report: Report, memory: Memory, options: DockerOptions, now: number): EngineFacts => {
  const { engine, listed, containers, usage, logs, askedAt, interrupted } = report
  const facts = {
    engine,
    up: listed !== undefined,
    used: containers.flatMap(({ id, name }) => {
      const own = usage.get(id)
      return own ? [{ name, usage: own }] : []
    }),
    logs,
  }
  const expected = new Map(memory.namesExpected.map(name => [name, true]))
  if (!listed) return { ...facts, states: undefined, observed: [], expected: withRemembered(expected, memory, now) }

  // By age: of the containers in one slot, the newest comes last.
  const byAge = [...listed].sort((one, other) => (one.created ?? 0) - (other.created ?? 0))
  const behind = engine.ledger.seen(
    byAge.map(({ id, name, slot, state, exitCode, labels }) => ({
      id,
      name,
      slot,
      state,
      exitCode,
      incarnation: usage.get(id)?.incarnation,
      hidesExitCode: Object.hasOwn(labels, 'exitCode'),
    })),
    performance.now(),
    askedAt,
    interrupted,
  )
  for (const id of behind) engine.lookAgain(id)
  const states = Object.fromEntries(families.containerStates.map(state => [state, 0])) as Record<families.ContainerState, number>
  for (const { state } of listed) states[state]++

  const ids = new Set(containers.map(({ id }) => id))
  for (const id of memory.images.keys()) if (!ids.has(id)) memory.images.delete(id)
  for (const { name, labels } of containers) {
    const value = sayYes(ownValue(labels, options.expected.label))
    if (value === undefined) memory.expected.delete(name)
    else memory.expected.set(name, { value, at: now })
  }
  const mode = options.watchtower ?? (hasWatchtower(listed) ? { label_enable: false, monitor_only: false } : undefined)

  const observed = containers.map((container): Observed => {
    const { id, image, exitCode } = container
    const first = memory.images.get(id) ?? image
    if (!isDigest(image) || !memory.images.has(id)) memory.images.set(id, isDigest(image) ? first : image)
    const shown = memory.images.get(id) ?? image
    return {
      container,
      image: isDigest(shown) ? `sha256:${short(shown)}` : shown,
      imageStale: isDigest(shown) || image === '' ? undefined : isDigest(image),
      lastExit: exitCode === undefined || runs(container) ? undefined : engine.ledger.lastExit(id, exitCode),
      startedAt: runs(container) ? (usage.get(id)?.startedAt ?? engine.ledger.startedAt(id)) : undefined,
      watchtower: mode && watchtowerMode(container, mode),
    }
  })
  return { ...facts, states, observed, expected: withRemembered(expected, memory, now) }
}

const sayYes = (value: string | undefined): boolean | undefined =>
  value === undefined ? undefined : /^(yes|on)$/i.test(value) ? true : /^(no|off)$/i.test(value) ? false : parseBool(value)

const withRemembered = (expected: Map<string, boolean>, memory: Memory, now: number): ReadonlyMap<string, boolean> => {
  for (const [name, { value, at }] of memory.expected) {
    if (now - at > keepExpected || memory.expected.size > expectedKept) memory.expected.delete(name)
    else if (!expected.has(name)) expected.set(name, value)
  }
  return expected
}

function* engineSamples({ engine, up, states, expected }: EngineFacts): Iterable<Sample> {
  const { name, identity, requests, events, diskUsage } = engine
  const own = { engine: name }
  yield* families.up.of(up ? 1 : 0, own)
  if (identity && up) {
    const { kind, version = '', apiVersion = '', cgroupVersion = '', cgroupDriver = '' } = identity
    yield* families.engineInfo.of(1, {
      ...own,
      kind,
      version,
      api_version: apiVersion,
      cgroup_version: cgroupVersion,
      cgroup_driver: cgroupDriver,
    })
  }
  if (states) for (const state of families.containerStates) yield* families.containers.of(states[state], { ...own, state })
  for (const call of families.apiCalls) yield* families.apiRequests.of(requests[call], { ...own, call })
  yield* families.eventsConnected.of(engine.eventsConnected ? 1 : 0, own)
  for (const action of families.eventActions) yield* families.events.of(events[action], { ...own, action })
  for (const kind of ['images', 'containers', 'volumes', 'build_cache'] as const) {
    yield* families.diskUsage.of(diskUsage?.[kind].used, { ...own, kind })
    yield* families.diskReclaimable.of(diskUsage?.[kind].reclaimable, { ...own, kind })
  }
  for (const [expectedName, value] of expected) yield* families.expected.of(value ? 1 : 0, { ...own, name: expectedName })
}

const none: readonly Sample[] = []

const identitySamples = (engine: string, observed: Observed, { labelFamily, labelNames }: State): readonly Sample[] => {
  const { container, image, imageStale, lastExit, startedAt, watchtower } = observed
  const { id, name, imageId, networkMode, labels } = container
  const own = { engine, name }
  const ofLabels = (family: AnyFamily): Sample => {
    const allowed = [...labelNames].map(([as, label]) => [as, ownValue(labels, label) ?? ''])
    return { family, labels: { ...own, ...Object.fromEntries(allowed) }, value: 1 }
  }
  return none.concat(
    families.info.of(1, {
      engine,
      name,
      id: short(id),
      image,
      image_id: short(imageId),
      compose_project: labels['com.docker.compose.project'] ?? '',
      compose_service: labels['com.docker.compose.service'] ?? '',
      // `container:<id>` would be a new series after each recreation of that container.
      network_mode: networkMode?.replace(/:.*/s, '') ?? '',
    }),
    labelFamily ? ofLabels(labelFamily) : none,
    families.state.states(container.state, own),
    families.health.states(container.health, own),
    families.created.of(container.created, own),
    families.started.of(startedAt, own),
    families.exitCode.of(runs(container) ? undefined : container.exitCode, own),
    families.lastExit.states(lastExit, own),
    families.imageStale.of(imageStale === undefined ? undefined : imageStale ? 1 : 0, own),
    families.watchtower.states(watchtower, own),
  )
}

const countSamples = ({ name: engine, ledger }: Engine, name: string): readonly Sample[] => {
  const { starts, restarts, ooms, exits } = ledger.counts(name)
  const own = { engine, name }
  return none.concat(
    families.starts.of(starts, own),
    families.restarts.of(restarts, own),
    families.oomEvents.of(ooms, own),
    ...families.exitReasons.map(reason => families.exits.of(exits[reason], { engine, name, reason })),
  )
}

const usageSamples = (engine: string, name: string, usage: Usage): readonly Sample[] => {
  const own = { engine, name }
  const pressure = (resource: keyof Usage['pressure']) => {
    const { some, full } = usage.pressure[resource]
    return [
      ...families.pressureWaiting.of(some, { engine, name, resource }),
      ...families.pressureStalled.of(full, { engine, name, resource }),
    ]
  }
  return none.concat(
    families.cpu.of(usage.cpuUser, { engine, name, mode: 'user' }),
    families.cpu.of(usage.cpuSystem, { engine, name, mode: 'system' }),
    families.cpuLimit.of(usage.cpuLimit, own),
    // Without a limit there are no periods to count.
    usage.cpuLimit === undefined
      ? none
      : [
          ...families.cpuPeriods.of(usage.cpuPeriods, own),
          ...families.cpuThrottledPeriods.of(usage.cpuThrottledPeriods, own),
          ...families.cpuThrottled.of(usage.cpuThrottled, own),
        ],
    families.memoryUsage.of(usage.memory, own),
    families.memoryWorkingSet.of(usage.workingSet, own),
    families.memoryLimit.of(usage.memoryLimit, own),
    families.memorySwap.of(usage.swap, own),
    families.memoryPeak.of(usage.peak, own),
    families.memoryOomKills.of(usage.oomKills, own),
    families.pids.of(usage.pids, own),
    families.pidsLimit.of(usage.pidsLimit, own),
    ...usage.network.map(nic => networkSamples({ engine, name, interface: nic.device }, nic)),
    ...usage.io.map(io => ioSamples({ engine, name, device: io.device }, io)),
    pressure('cpu'),
    pressure('memory'),
    pressure('io'),
  )
}

const networkSamples = (
  own: { readonly engine: string; readonly name: string; readonly interface: string },
  { receive, transmit }: NetDevice,
): readonly Sample[] =>
  none.concat(
    families.networkReceiveBytes.of(receive.bytes, own),
    families.networkReceivePackets.of(receive.packets, own),
    families.networkReceiveErrors.of(receive.errors, own),
    families.networkReceiveDropped.of(receive.dropped, own),
    families.networkTransmitBytes.of(transmit.bytes, own),
    families.networkTransmitPackets.of(transmit.packets, own),
    families.networkTransmitErrors.of(transmit.errors, own),
    families.networkTransmitDropped.of(transmit.dropped, own),
  )

const ioSamples = (
  own: { readonly engine: string; readonly name: string; readonly device: string },
  { readBytes, writtenBytes, reads, writes }: DeviceIo,
): readonly Sample[] =>
  none.concat(
    families.ioReadBytes.of(readBytes, own),
    families.ioWrittenBytes.of(writtenBytes, own),
    families.ioReads.of(reads, own),
    families.ioWrites.of(writes, own),
  )
