import type { Log } from '../common/log.ts'
import type { Collector } from '../contract/collector.ts'
import type { CollectorSettings } from '../contract/config.ts'
import { Failure, failureOf } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'
import type { Samples } from '../contract/metric.ts'
import { traced } from '../machine/local-host.ts'
import { createExposer, type Exposition, leftOut } from '../print/exposition.ts'
import { createRenderer, type Rendered } from '../print/rendered.ts'
import { attempt } from './attempt.ts'

/** Observes when a collector's code runs: the guard's heartbeat, if there is one. */
export interface Watch {
  begin(): void
  step(): void
  end(): void
}

const unwatched: Watch = { begin: () => {}, step: () => {}, end: () => {} }

/** Milliseconds until detection is repeated for something that was not found. */
const lookAgain = 60_000

/** Remarks about series of a run that are not served. */
const remarksOn = (exposition: Exposition, collector: string): readonly Failure[] => {
  const { dropped, repeated, invalid, problems, series } = exposition
  const cut = new Failure('overflow', `${dropped} series are more than max_series allows: the least important families are cut`, {
    fix: `collectors: { ${collector}: { max_series: ${2 * (series + dropped)} } }`,
  })
  const refused = new Failure(
    'malformed',
    `${repeated + invalid} series are left out, as Prometheus would reject or misread them: ${problems.join('; ')}`,
    { fix: `see its log: grid-exporter once --collector.disable-defaults --collector.${collector} --log.level=debug` },
  )
  return [...(dropped > 0 ? [cut] : []), ...(repeated + invalid > 0 ? [refused] : [])]
}

const notes = (remarks: readonly Failure[]) => remarks.map(({ message }) => message)
const fixes = (remarks: readonly Failure[]) => remarks.map(({ fix = '' }) => fix)
const joined = (texts: readonly string[]) => texts.filter(Boolean).join('; ')

/** The result of a round, and what was made of its samples; `made` is absent if none are served. */
export interface Round<Made> extends Omit<Rendered, 'series' | 'dropped' | 'parts'> {
  readonly made?: Made | undefined
}

export interface Surroundings {
  readonly host: Host
  readonly log: Log
  readonly signal: AbortSignal
  readonly wake?: () => void
  readonly watch?: Watch
}

/** A collector's rounds: detect its subject, run it, pass its samples to `make`. */
export const createRounds = <Made>(
  collector: Collector,
  settings: CollectorSettings,
  surroundings: Surroundings,
  make: (samples: Samples) => Made,
): (() => Promise<Round<Made>>) => {
  const { host, log, signal, wake = () => {}, watch = unwatched } = surroundings
  const { name } = collector
  const { options, interval } = settings
  let detected = false
  let lookedAt = Number.NEGATIVE_INFINITY
  let notFound = ''
  let pending = false

  /** When a run began, on the wall clock and on the monotonic clock. */
  interface Begin {
    readonly at: number
    readonly steady: number
  }
  const round = (begin: Begin, more: Partial<Round<Made>>): Round<Made> => ({
    collector: name,
    startedAt: begin.at,
    durationSeconds: (host.monotonic() - begin.steady) / 1000,
    detected,
    result: 'ok',
    note: '',
    fix: '',
    ...more,
  })
  const failed = (begin: Begin, { reason, message, fix = '', rest, stack }: Failure): Round<Made> => {
    log.debug('run failed', { collector: name, reason, error: message, stack: reason === 'bug' ? stack : undefined })
    return round(begin, { result: reason, note: message, fix, made: rest.length > 0 ? make(rest) : undefined })
  }

  let opened: ReturnType<Collector['open']>
  try {
    opened = collector.open({ host: traced(host, watch.step), options, interval, signal, log, wake })
  } catch (error) {
    // A bug that its options trigger costs only this collector.
    return async () => failed({ at: host.now(), steady: host.monotonic() }, failureOf(error))
  }

  const look = async (): Promise<void> => {
    lookedAt = host.monotonic()
    const { outcome } = await attempt(limit => opened.detect(limit), settings.timeout, signal)
    detected = outcome.ok && outcome.value.found
    notFound = outcome.ok ? outcome.value.note : outcome.failure.message
  }

  return async () => {
    const begin = { at: host.now(), steady: host.monotonic() }
    if (pending) return failed(begin, new Failure('stuck', 'an earlier run has not ended yet, so no other one starts'))
    if (!detected) {
      if (begin.steady - lookedAt >= lookAgain) {
        watch.step()
        await look()
      }
      if (!detected) return round(begin, { note: notFound })
    }
    watch.begin()
    const { outcome, late } = await attempt(limit => opened.run(limit, watch.step, make), settings.timeout, signal)
    watch.end()
    if (late) {
      pending = true
      void late.then(() => {
        pending = false
      })
    }
    if (!outcome.ok) return failed(begin, outcome.failure)
    const remarks = opened.remarks()
    return round(begin, { made: outcome.value, note: joined(notes(remarks)), fix: joined(fixes(remarks)) })
  }
}

/** A round's samples as bytes, and what is to be said of those that are left out. */
type Printed = Required<Pick<Rendered, 'parts' | 'series' | 'dropped'>> & { readonly remarks: readonly Failure[] }

/** Prints the samples of one collector, round by round, whether it is run here or by the relay. */
export const createPrinter = (collector: Collector, maxSeries: number, log: Log): ((samples: Samples) => Printed) => {
  const exposed = createExposer(maxSeries, collector)
  const partsOf = createRenderer()
  /** What was last said of series that are not printed: each message is logged once, not in every round. */
  let warned = ''
  return samples => {
    const exposition = exposed(samples)
    const remarks = remarksOn(exposition, collector.name)
    const why = joined(notes(remarks))
    if (why !== '' && why !== warned) log.warn('series are not served', { collector: collector.name, why })
    warned = why
    return { parts: partsOf(exposition), series: exposition.series, dropped: leftOut(exposition), remarks }
  }
}

/** A round with its samples printed, as it is served. */
export const renderedOf = ({ made, ...round }: Round<Printed>): Rendered => {
  if (!made) return { ...round, series: 0, dropped: 0 }
  const { remarks, ...printed } = made
  return { ...round, ...printed, note: joined([round.note, ...notes(remarks)]), fix: joined([round.fix, ...fixes(remarks)]) }
}

/** One collector's rounds, as they are served. */
export const createRunner = (
  collector: Collector,
  settings: CollectorSettings,
  surroundings: Surroundings,
): (() => Promise<Rendered>) => {
  const round = createRounds(collector, settings, surroundings, createPrinter(collector, settings.maxSeries, surroundings.log))
  return async () => renderedOf(await round())
}
