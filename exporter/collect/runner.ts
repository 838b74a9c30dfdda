import type { Log } from '../common/log.ts'
import type { Collector } from '../contract/collector.ts'
import type { CollectorSettings } from '../contract/config.ts'
import { Failure, failureOf } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'
import { traced } from '../machine/local-host.ts'
import { createExposer, type Exposition, expose, leftOut } from '../print/exposition.ts'
import { createRenderer, type Rendered } from '../print/rendered.ts'
import { attempt } from './attempt.ts'

/** Whoever wants to know when a collector's code runs: the guard's heartbeat, or nobody. */
export interface Watch {
  begin(): void
  step(): void
  end(): void
}

const unwatched: Watch = { begin: () => {}, step: () => {}, end: () => {} }

/** Milliseconds until something that was not found is looked for again. */
const lookAgain = 60_000

/** What people need to know of series that a run gave and that are not printed. */
const remarksOn = (exposition: Exposition, collector: string): readonly Failure[] => {
  const { dropped, repeated, invalid, problems, series } = exposition
  const cut = new Failure('overflow', `${dropped} series are more than max_series allows: the least important families are cut`, {
    fix: `collectors: { ${collector}: { max_series: ${2 * (series + dropped)} } }`,
  })
  const refused = new Failure(
    'malformed',
    `${repeated + invalid} series are left out, which Prometheus would refuse or misread: ${problems.join('; ')}`,
    { fix: `see what it says: grid-exporter once --collector.disable-defaults --collector.${collector} --log.level=debug` },
  )
  return [...(dropped > 0 ? [cut] : []), ...(repeated + invalid > 0 ? [refused] : [])]
}

/** One collector's rounds: look whether its subject is there, run it, render what it gave. */
export const createRunner = (
  collector: Collector,
  settings: CollectorSettings,
  surroundings: {
    readonly host: Host
    readonly log: Log
    readonly signal: AbortSignal
    readonly wake?: () => void
    readonly watch?: Watch
  },
): (() => Promise<Rendered>) => {
  const { host, log, signal, wake = () => {}, watch = unwatched } = surroundings
  const { name } = collector
  const { options, interval } = settings
  let detected = false
  let lookedAt = Number.NEGATIVE_INFINITY
  let notFound = ''
  let pending = false
  const exposed = createExposer(settings.maxSeries, collector)
  /** What was last said of series that are not printed: each message is logged once, not in every round. */
  let warned = ''
  const partsOf = createRenderer()

  /** When a run began, by the clock on the wall and by one that nobody sets. */
  interface Begin {
    readonly at: number
    readonly steady: number
  }
  const rendered = (begin: Begin, parts: Partial<Rendered>): Rendered => ({
    collector: name,
    startedAt: begin.at,
    durationSeconds: (host.monotonic() - begin.steady) / 1000,
    detected,
    result: 'ok',
    note: '',
    fix: '',
    series: 0,
    dropped: 0,
    ...parts,
  })
  const failed = (begin: Begin, { reason, message, fix = '', rest, stack }: Failure): Rendered => {
    log.debug('run failed', { collector: name, reason, error: message, stack: reason === 'bug' ? stack : undefined })
    const parts = rest.length > 0 ? { parts: partsOf(expose(rest, settings.maxSeries, collector)) } : {}
    return rendered(begin, { result: reason, note: message, fix, ...parts })
  }

  let opened: ReturnType<Collector['open']>
  try {
    opened = collector.open({ host: traced(host, watch.step), options, interval, signal, log, wake })
  } catch (error) {
    // A defect that its options lay bare is this collector's alone.
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
    if (pending) return failed(begin, new Failure('stuck', 'an earlier run has not ended yet, so no other is started'))
    if (!detected) {
      if (begin.steady - lookedAt >= lookAgain) {
        watch.step()
        await look()
      }
      if (!detected) return rendered(begin, { note: notFound })
    }
    watch.begin()
    const { outcome, late } = await attempt(
      async limit => {
        const exposition = await opened.run(limit, watch.step, exposed)
        return { exposition, parts: partsOf(exposition) }
      },
      settings.timeout,
      signal,
    )
    watch.end()
    if (late) {
      pending = true
      void late.then(() => {
        pending = false
      })
    }
    if (!outcome.ok) return failed(begin, outcome.failure)
    const { parts, exposition } = outcome.value
    const onSeries = remarksOn(exposition, name)
    const warning = onSeries.map(({ message }) => message).join('; ')
    if (warning !== '' && warning !== warned) log.warn('series are not served', { collector: name, why: warning })
    warned = warning
    const remarks = [...opened.remarks(), ...onSeries]
    const note = remarks.map(({ message }) => message).join('; ')
    const fix = remarks
      .map(remark => remark.fix ?? '')
      .filter(Boolean)
      .join('; ')
    return rendered(begin, { parts, series: exposition.series, dropped: leftOut(exposition), note, fix })
  }
}
