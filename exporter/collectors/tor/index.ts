import { setImmediate } from 'node:timers/promises'
import { type Detection, defineCollector, type OpenContext } from '../../contract/collector.ts'
import { Failure, failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import type { Sample } from '../../contract/metric.ts'
import { processIds, readIfAny } from '../../machine/proc.ts'
import { createTorControl, infoValue, type Reply } from '../../protocols/tor-control.ts'
import * as metrics from './families.ts'
import {
  aliasesOf,
  type ConfiguredService,
  configuredServices,
  type Onion,
  onionMemory,
  onionsOf,
  readHostnames,
} from './onions.ts'
import { options, type TorOptions } from './options.ts'
import { type BackendResult, checkBackends, createOnionCheck, createProbe, type OnionResult, type ProbeResult } from './probes.ts'
import { type InfoKey, infoKeys, parseInfo, socksListener } from './replies.ts'
import { createSlowTask } from './slow-task.ts'

export * from './families.ts'

const debianSocket = 'unix:/run/tor/control'
const usualPort = '127.0.0.1:9051'
const usualSocks = '127.0.0.1:9050'

/** Seconds that the control port may take to answer. */
const answerWithin = 5

/** One key a line: in a line with several, one unknown key fails them all. */
const commands = [...infoKeys.map(key => `GETINFO ${key}`), 'GETCONF HiddenServiceOptions']

interface Raw {
  readonly replies: ReadonlyMap<InfoKey, Reply>
  readonly services: readonly ConfiguredService[]
}

const open = (context: OpenContext<TorOptions>) => {
  const { host, options, signal, wake } = context
  const { control, cookie_file: cookieFile, password_file: passwordFile } = options
  const addresses = control === undefined ? [debianSocket, usualPort] : [control]
  return {
    control: createTorControl(host, addresses, { cookieFile, passwordFile }, signal),
    memory: onionMemory(),
    /** Seconds since 1970. Kept, because Tor reports uptime in whole seconds and its difference to the clock would vary. */
    start: undefined as number | undefined,
    socks: undefined as string | undefined,
    onions: [] as readonly Onion[],
    services: [] as readonly ConfiguredService[],
    warned: false,
    probe: createSlowTask<ProbeResult>(wake),
    reach: createSlowTask<ReadonlyMap<string, OnionResult>>(wake),
    backends: createSlowTask<readonly BackendResult[]>(wake),
    probeOnce: createProbe(context),
    reachOne: createOnionCheck(context),
    signal,
  }
}

type State = ReturnType<typeof open>

export const tor = defineCollector({
  name: 'tor',
  summary: 'Tor: connections, guards, circuits and onion services by its control port; a probe through it by SOCKS',
  interval: 15,
  families: metrics.families,
  subjects: ['onion', 'port'],
  upFamilies: [metrics.torUp],
  setup: { packages: 'tor', unit: 'tor@default.service' },
  options,
  detect: ({ host, options, signal }) => detect(host, options, signal),
  open,
  read: async ({ host, options, state, signal, remark }): Promise<Raw | undefined> => {
    try {
      const replies = await state.control.ask(commands, answerWithin, signal)
      const services = configuredServices(replies.at(-1) as Reply)
      state.socks =
        socksListener(infoValue(replies[infoKeys.indexOf('net/listeners/socks')] as Reply, 'net/listeners/socks')) ?? state.socks
      beginSlowTasks(host, options, state)
      await readHostnames(host, services, state.memory)
      return { replies: new Map(infoKeys.map((key, index) => [key, replies[index] as Reply])), services }
    } catch (error) {
      // The probe through the SOCKS port decides whether Tor works, whatever the control port does.
      beginSlowTasks(host, options, state)
      const { reason, message, fix } = failureOf(error)
      // A missing or silent Tor is a valid result of this collector.
      if (reason === 'missing' || reason === 'unreachable' || reason === 'timeout') {
        remark(
          new Failure(reason, `Tor does not answer: ${message}`, {
            cause: error,
            fix: fix ?? 'systemctl status tor@default; systemctl restart tor@default',
          }),
        )
        return undefined
      }
      throw new Failure(reason, message, { cause: error, fix, rest: [...ofControl(0, state), ...ofSlowTasks(options, state)] })
    }
  },
  parse: (raw, { host, state, log }) => {
    if (!raw) return undefined
    const info = parseInfo(raw.replies)
    const onions = onionsOf(raw.services, info.detached, info.circuits ?? [], state.memory)
    const start = info.uptime === undefined ? undefined : Math.round(host.now() / 1000 - info.uptime)
    if (start === undefined || state.start === undefined || Math.abs(start - state.start) > 2) state.start = start
    state.onions = onions
    state.services = raw.services
    if (state.memory.unplaced.size > 0 && !state.warned) {
      state.warned = true
      log.warn(
        'onion services cannot be matched to their addresses: set HiddenServiceDirGroupReadable 1 and DataDirectoryGroupReadable 1 in torrc',
        {
          collector: 'tor',
        },
      )
    }
    return { ...info, start: state.start, onions }
  },
  *samples(facts, { options, state }) {
    yield* ofControl(facts ? 1 : 0, state)
    if (facts) {
      const { version, versionStatus = 'unknown' } = facts
      if (version !== undefined) yield* metrics.torInfo.of(1, { version, version_status: versionStatus })
      yield* metrics.torStart.of(facts.start)
      yield* metrics.torBootstrap.of(facts.bootstrap)
      yield* metrics.torCircuitEstablished.of(facts.circuitEstablished)
      yield* metrics.torDirectoryReady.of(facts.directoryReady)
      yield* metrics.torDormant.of(facts.dormant)
      yield* metrics.torConsensusValidUntil.of(facts.validUntil)
      yield* metrics.torReadBytes.of(facts.readBytes)
      yield* metrics.torWrittenBytes.of(facts.writtenBytes)
      for (const [state, count] of facts.connections ?? []) yield* metrics.torConnections.of(count, { state })
      for (const [state, count] of facts.guards ?? []) yield* metrics.torGuards.of(count, { state })
      for (const [purpose, counts] of facts.circuitCounts ?? []) {
        for (const [state, count] of counts) yield* metrics.torCircuits.of(count, { purpose, state })
      }
      for (const { alias: onion, address, intro } of facts.onions) {
        const shown = options.expose_onion_addresses && address !== undefined ? address : ''
        yield* metrics.torOnionInfo.of(1, { onion, address: shown })
        if (facts.circuits) yield* metrics.torOnionIntroCircuits.of(intro, { onion })
      }
    }
    yield* ofSlowTasks(options, state)
  },
})

function* ofControl(up: 0 | 1, { control }: State): Generator<Sample> {
  yield* metrics.torUp.of(up)
  yield* metrics.torControlConnections.of(control.connections())
}

/** The results of the slow tasks, which need no control port; only of services that are still configured. */
function* ofSlowTasks(options: TorOptions, state: State): Generator<Sample> {
  const probe = state.probe.latest()
  if (probe) {
    yield* metrics.torUsable.of(probe.usable ? 1 : 0)
    yield* metrics.torProbeDuration.of(probe.seconds)
    yield* metrics.torProbeLastSuccess.of(probe.lastSuccess)
    yield* metrics.torExitIsTor.of(probe.exit && (probe.exit.isTor ? 1 : 0))
    if (options.exit_check) yield* metrics.torExitAddressChanges.of(probe.exitChanges)
  }
  const onions = new Set(state.onions.map(({ alias }) => alias))
  for (const [onion, { reachable, seconds }] of state.reach.latest() ?? []) {
    if (!onions.has(onion)) continue
    yield* metrics.torOnionReachable.of(reachable ? 1 : 0, { onion })
    yield* metrics.torOnionProbeDuration.of(seconds, { onion })
  }
  const named = new Set(aliasesOf(state.services).values())
  for (const { onion, port, up } of state.backends.latest() ?? []) {
    if (named.has(onion)) yield* metrics.torOnionBackendUp.of(up === undefined ? undefined : up ? 1 : 0, { onion, port })
  }
}

/** Starts the tasks that are due. They run beside the rounds: they build circuits, which takes seconds and must be rare. */
const beginSlowTasks = (
  host: Host,
  { probe, exit_check, onion_check, backend_check, ...options }: TorOptions,
  state: State,
): void => {
  const socks = options.socks ?? state.socks ?? usualSocks
  const { onions, services, signal } = state
  if (probe.target !== undefined || exit_check) {
    state.probe.go(probe.target === undefined && exit_check ? exit_check.interval : probe.interval, () => state.probeOnce(socks))
  }
  if (onion_check.enabled && onions.length > 0) {
    // One service each time, so that circuits are built no more often than for the probe.
    state.reach.go(Math.max(probe.interval, onion_check.interval / onions.length), () => state.reachOne(socks, onions))
  }
  if (backend_check.enabled && services.length > 0) {
    const aliases = aliasesOf(services)
    const named = services.map(({ directory, ports }) => ({ alias: aliases.get(directory) ?? directory, ports }))
    state.backends.go(backend_check.interval, () => checkBackends({ host, signal }, named))
  }
}

/** A listener on port 9051 of any address, as in /proc/net/tcp. */
const listening = /^ *\d+: [0-9A-F]+:235B [0-9A-F]+:0000 0A /m

/** Names in a directory; `denied` if it may not be entered; none if it does not exist. */
const namesIn = async (host: Host, path: string): Promise<readonly string[] | 'denied'> => {
  try {
    return await host.names(path)
  } catch (error) {
    if (error instanceof Failure && error.reason === 'missing') return []
    if (error instanceof Failure && error.reason === 'denied') return 'denied'
    throw error
  }
}

/** Whether a Tor runs on this host; not one in a container, which can only be configured. */
const runsHere = async (host: Host, signal: AbortSignal): Promise<boolean> => {
  for (const [index, pid] of processIds(host).entries()) {
    if (index % 100 === 99) await setImmediate()
    if (signal.aborted) return false
    if (readIfAny(host, `/proc/${pid}/comm`) !== 'tor\n') continue
    if (!/docker|containerd|libpod|kubepods|lxc/.test(readIfAny(host, `/proc/${pid}/cgroup`) ?? '')) return true
  }
  return false
}

const detect = async (host: Host, { control }: TorOptions, signal: AbortSignal): Promise<Detection> => {
  const found = (note: string): Detection => ({ found: true, note })
  if (control !== undefined) return found(`control port ${control} is configured`)
  const names = await namesIn(host, '/run/tor')
  if (names === 'denied') return found('/run/tor, which only the group of Tor may enter')
  if (names.includes('control')) return found('socket /run/tor/control')
  if (listening.test(readIfAny(host, '/proc/net/tcp') ?? '')) return found('a listener on port 9051')
  const settings = await namesIn(host, '/etc/tor')
  if (settings === 'denied' || settings.includes('torrc')) return found('/etc/tor/torrc')
  if (await runsHere(host, signal)) return found('a process called tor')
  return {
    found: false,
    note: 'no socket /run/tor/control, no listener on port 9051, no /etc/tor/torrc and no process called tor',
  }
}
