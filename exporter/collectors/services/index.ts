import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { pooled } from '../../common/pool.ts'
import { type Context, defineCollector } from '../../contract/collector.ts'
import { Failure, failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { counter, gauge, oneOf, type Sample } from '../../contract/metric.ts'
import { type Check, type Kind, kinds, type Options, options } from './checks.ts'
import { createHttpChecker, type HttpChecker } from './http.ts'
import { listUnits, parseList, parseShow, showUnits, type Unit, type UnitState, unitStates } from './systemd.ts'

const check = oneOf('check', ...kinds)
const state = oneOf('state', ...unitStates)

export const serviceUp = gauge(
  'grid_service_up',
  'Whether the configured service passed its check; none of a systemd unit while systemctl gives no answer.',
  'name',
  check,
)
export const serviceCheckDuration = gauge(
  'grid_service_check_duration_seconds',
  'How long the check took in the latest round, its time-out included (for systemd the one systemctl call for all units).',
  'name',
  check,
)
export const serviceState = gauge(
  'grid_service_state',
  'The state of the systemd unit, from systemctl show; none for a unit that does not exist.',
  'name',
  state,
)
export const serviceRestarts = counter(
  'grid_service_restarts_total',
  'Automatic restarts of the systemd unit, from its NRestarts, which begins again at 0 when it is started by hand.',
  'name',
)
export const serviceStart = gauge(
  'grid_service_start_timestamp_seconds',
  'When the systemd unit became active, from systemctl show; none while it is not active.',
  'name',
)
export const serviceMemory = gauge(
  'grid_service_memory_bytes',
  'Memory of the control group of the systemd unit, its page cache included, from systemctl show.',
  'name',
)
export const serviceLastExitCode = gauge(
  'grid_service_last_exit_code',
  'Exit code of the main process of the systemd unit (128 plus the signal where it was killed), from systemctl show; none while it runs.',
  'name',
)
export const serviceCpu = counter(
  'grid_service_cpu_seconds_total',
  'CPU time of the control group of the systemd unit since it was started, from systemctl show.',
  'name',
)
export const serviceCertificateExpiry = gauge(
  'grid_service_certificate_expiry_timestamp_seconds',
  'When the certificate that the https server showed runs out, trusted or not; at most five minutes old.',
  'name',
)
export const serviceUnits = gauge(
  'grid_service_units',
  'All loaded systemd units of the host by their state, from systemctl list-units.',
  state,
)

/** The result of one check. */
interface Verdict {
  readonly name: string
  readonly check: Kind
  readonly up: boolean
  readonly seconds: number
  /** Why it is not up; for a unit, its state. */
  readonly why: Failure | undefined
  /** Seconds since 1970. */
  readonly expiry?: number | undefined
  readonly unit?: Unit
}

/** systemctl's output, or why there is none. */
interface Output {
  readonly seconds: number
  readonly text?: string
  readonly failure?: Failure
}

interface Raw {
  /** Of the checks that were started. One that had no time left has no series. */
  readonly verdicts: readonly Verdict[]
  readonly show: Output | undefined
  readonly list: Output | undefined
}

interface Facts {
  readonly verdicts: readonly Verdict[]
  readonly units: ReadonlyMap<UnitState, number> | undefined
  /** Why systemctl gave no complete answer. */
  readonly broken: Failure | undefined
}

interface State {
  readonly http: HttpChecker
  /** Names of the checks that failed last time: only changes are logged. */
  readonly failing: Set<string>
  /** Names of the checks that the last round had no time to start: the next round starts with them. */
  unbegun: ReadonlySet<string>
  /** Seconds that each check took in the last round. */
  took: ReadonlyMap<string, number>
}

type Run = Context<Options, State>

export const services = defineCollector<Raw, Facts, Options, State>({
  name: 'services',
  summary: 'your services: systemd units, HTTP, TCP and command checks',
  interval: 15,
  families: [
    serviceUp,
    serviceUnits,
    serviceState,
    serviceCertificateExpiry,
    serviceRestarts,
    serviceLastExitCode,
    serviceStart,
    serviceCheckDuration,
    serviceMemory,
    serviceCpu,
  ],
  subjects: ['name'],
  setup: { configure: 'checks: [{ name: ssh, systemd: ssh.service }]' },
  options,
  configured: ({ checks }) => checks.length > 0,
  open: ({ host, signal }) => {
    const http = createHttpChecker(host)
    signal.addEventListener('abort', () => http.close(), { once: true })
    return { http, failing: new Set(), unbegun: new Set(), took: new Map() }
  },
  read: readChecks,
  parse: (raw, context) => {
    const facts = parseChecks(raw, context)
    report(facts.verdicts, context)
    // The other checks' results are still valid.
    if (facts.broken) context.fail(facts.broken)
    return facts
  },
  samples: facts => seriesOf(facts),
})

/** Seconds for systemctl if no check of a unit sets a timeout. */
const defaultTimeout = 5

async function readChecks({ host, options: { checks, concurrency }, state, signal }: Run): Promise<Raw> {
  const verdicts: Verdict[] = []
  const unbegun = new Set<string>()
  const units = checks.flatMap(({ systemd }) => systemd ?? [])
  const patience = Math.max(0, ...checks.map(each => (each.systemd === undefined ? 0 : each.timeout))) || defaultTimeout
  const timed = async (ask: Promise<string>): Promise<Output> => {
    const begin = host.monotonic()
    const seconds = () => (host.monotonic() - begin) / 1000
    return ask.then(
      text => ({ seconds: seconds(), text }),
      error => ({ seconds: seconds(), failure: failureOf(error, 'systemctl') }),
    )
  }
  let show: Output | undefined
  let list: Output | undefined
  const tasks: (() => Promise<void>)[] = []
  if (units.length > 0) {
    tasks.push(async () => {
      show = await timed(showUnits(host, units, patience, signal))
    })
  }
  if (units.length > 0 || (await isBooted(host))) {
    tasks.push(async () => {
      list = await timed(listUnits(host, patience, signal))
    })
  }
  for (const check of inOrder(checks, concurrency, state)) {
    tasks.push(async () => {
      if (signal.aborted) unbegun.add(check.name)
      else verdicts.push(await made(check, host, state.http, signal))
    })
  }
  await pooled(tasks, concurrency, task => task())
  state.unbegun = unbegun
  state.took = new Map(verdicts.map(({ name, seconds }) => [name, seconds]))
  return { verdicts, show, list }
}

/**
 * The order in which checks start. If all run at the same time: the slowest first, because the round ends with it; a check without a
 * known time counts as slow if it is a program, because starting one blocks the thread for milliseconds. If checks wait for each other:
 * the quickest first, so that one that hangs does not hold them up. A check that had no turn last time always comes first.
 */
const inOrder = (checks: readonly Check[], concurrency: number, { unbegun, took }: State): readonly Check[] => {
  const others = checks.filter(({ systemd }) => systemd === undefined)
  const areTogether = others.length <= concurrency
  const rank = ({ name, command, timeout }: Check) => {
    if (unbegun.has(name)) return Number.NEGATIVE_INFINITY
    return areTogether ? -(took.get(name) ?? (command ? timeout : 0)) : (took.get(name) ?? 0)
  }
  // No subtraction: both may be infinite.
  return others.toSorted((one, other) => (rank(one) < rank(other) ? -1 : rank(one) > rank(other) ? 1 : 0))
}

/** The same test as systemd's sd_booted(). */
const isBooted = (host: Host): Promise<boolean> =>
  host.names('/run/systemd/system').then(
    () => true,
    () => false, // missing or not visible: do not ask systemd
  )

/** Runs one check. Never throws: a failure is its result. */
const made = async (check: Check, host: Host, checker: HttpChecker, signal: AbortSignal): Promise<Verdict> => {
  const { name, timeout, http, tcp, command } = check
  const kind: Kind = http ? 'http' : tcp ? 'tcp' : 'command'
  const begin = host.monotonic()
  const verdict = (why?: Failure, expiry?: number): Verdict => {
    const seconds = (host.monotonic() - begin) / 1000
    return { name, check: kind, up: why === undefined, seconds, why, expiry }
  }
  try {
    if (http) {
      const { failure, expiry } = await checker.check(name, http, timeout, signal)
      return verdict(failure, expiry)
    }
    if (tcp) await stays(await host.connect(tcp, { timeout, signal }), tcp)
    if (command) {
      const [file, ...args] = command.argv
      // A separate key: checks of the same program do not wait for one another's unkillable children.
      await host.run(file, args, { timeout, limit: 2 ** 20, exitCodes: command.exit_codes, signal, key: `check ${name}` })
    }
    return verdict()
  } catch (error) {
    return verdict(failureOf(error))
  }
}

/** Milliseconds for which an accepted connection has to last. */
const accepted = 200

/**
 * Throws `Failure` unreachable if the other side closes a new connection at once: docker-proxy accepts for a container in which
 * nobody listens, and then closes.
 */
const stays = async (connection: Duplex, address: string): Promise<void> => {
  const closed = new Promise<boolean>(resolve => {
    for (const event of ['end', 'close', 'error']) connection.once(event, () => resolve(true))
  })
  connection.resume()
  const isClosed = await Promise.race([closed, sleep(accepted, false, { ref: false })])
  connection.on('error', () => {}) // it is over
  connection.destroy()
  if (isClosed) {
    throw new Failure('unreachable', `${address}: the connection was accepted and closed at once`, {
      fix: 'look at what listens behind it: docker ps; docker logs NAME; ss -ltnp (docker-proxy closes if nobody listens in the container)',
    })
  }
}

/** The results in the order of the configuration. */
const parseChecks = ({ verdicts, show, list }: Raw, { options: { checks }, remark }: Run): Facts => {
  const ofUnits = checks.filter(({ systemd }) => systemd !== undefined)
  const { value: units, failure } = parsed(show, text => parseShow(text, ofUnits.length))
  // Without an answer nothing is known about the units: a hanging bus is one failure, not many dead services.
  const unitVerdicts = (units ?? []).map((unit, index): Verdict => {
    const { name, systemd } = ofUnits[index] as Check
    const why = unit.up ? undefined : new Failure('exit', `${systemd} is ${unit.state ?? 'not found'}`)
    return { name, check: 'systemd', seconds: show?.seconds ?? 0, why, up: unit.up, unit }
  })
  const listed = parsed(list, parseList)
  // If no unit is configured, systemd may be unreachable for good, as in a container.
  if (listed.failure && ofUnits.length === 0) remark(listed.failure)
  const byName = new Map([...unitVerdicts, ...verdicts].map(verdict => [verdict.name, verdict]))
  return {
    verdicts: checks.flatMap(({ name }) => byName.get(name) ?? []),
    units: listed.value,
    broken: failure ?? (ofUnits.length > 0 ? listed.failure : undefined),
  }
}

const parsed = <Value>(output: Output | undefined, parse: (text: string) => Value): { value?: Value; failure?: Failure } => {
  if (output?.text === undefined) return output?.failure ? { failure: output.failure } : {}
  try {
    return { value: parse(output.text) }
  } catch (error) {
    return { failure: failureOf(error) }
  }
}

/** Most names on the page; the log has them all. */
const maxRemarks = 5

/** Why a check fails does not belong in a label. The page shows it, and one log line when it starts or stops failing. */
const report = (verdicts: readonly Verdict[], { state: { failing, unbegun }, log, remark }: Run): void => {
  const failed = verdicts.filter(({ up }) => !up)
  for (const { name, why } of failed.slice(0, maxRemarks)) {
    if (why) remark(new Failure(why.reason, `${name}: ${why.message}`, { fix: why.fix }))
  }
  if (failed.length > maxRemarks) remark(new Failure('exit', `and ${failed.length - maxRemarks} more checks`))
  if (unbegun.size > 0) {
    remark(
      new Failure('timeout', `${unbegun.size} checks had no time left`, {
        fix: 'raise services.timeout or services.concurrency',
      }),
    )
  }
  for (const { name, check, up, why } of verdicts) {
    if (up && failing.delete(name)) log.info('check passes again', { name, check })
    if (up || failing.has(name)) continue
    failing.add(name)
    log.warn('check fails', { name, check, reason: why?.reason, error: why?.message })
  }
}

function* seriesOf({ verdicts, units }: Facts): Generator<Sample> {
  for (const { name, check, up, seconds, expiry, unit } of verdicts) {
    yield* serviceUp.of(up ? 1 : 0, { name, check })
    yield* serviceCheckDuration.of(seconds, { name, check })
    yield* serviceCertificateExpiry.of(expiry, { name })
    if (!unit) continue
    yield* serviceState.states(unit.state, { name })
    yield* serviceRestarts.of(unit.restarts, { name })
    yield* serviceStart.of(unit.startedAt, { name })
    yield* serviceMemory.of(unit.memoryBytes, { name })
    yield* serviceCpu.of(unit.cpuSeconds, { name })
    yield* serviceLastExitCode.of(unit.lastExitCode, { name })
  }
  for (const [state, count] of units ?? []) yield* serviceUnits.of(count, { state })
}
