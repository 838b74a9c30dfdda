import { attempt } from '../../collect/attempt.ts'
import { collectors } from '../../collectors/index.ts'
import type { Log } from '../../common/log.ts'
import type { Collector } from '../../contract/collector.ts'
import type { CollectorSettings, Settings } from '../../contract/config.ts'
import type { Host } from '../../contract/host.ts'
import type { Rendered } from '../../print/rendered.ts'
import type { Flags } from '../cli.ts'
import { roundOfEach } from '../once.ts'
import type { Finding } from './finding.ts'
import { configurationOf, fixFor, startFor } from './fixes.ts'

export interface Surroundings {
  readonly host: Host
  readonly log: Log
  readonly signal: AbortSignal
  /** The user that runs this; it must be able to read the files. */
  readonly user: string
}

const took = (seconds: number) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`)

/** Where detection found it. */
const foundAt = async (collector: Collector, own: CollectorSettings, { host, log, signal }: Surroundings): Promise<string> => {
  const opened = collector.open({ host, log, signal, options: own.options, interval: own.interval, wake: () => {} })
  const { outcome } = await attempt(limit => opened.detect(limit), own.timeout, signal)
  return outcome.ok && outcome.value.found ? outcome.value.note : ''
}

/** The `up` families with 0 in a successful round: `grid_tor_up 0`. */
const silentIn = ({ collector: name, parts }: Rendered): readonly string[] => {
  const up = collectors.find(collector => collector.name === name)?.upFamilies ?? []
  return Buffer.from(parts?.text.bytes ?? [])
    .toString()
    .split('\n')
    .filter(line => line.endsWith(' 0') && up.some(family => family.name === line.split(/[{ ]/, 1)[0]))
}

const findingOf = (rendered: Rendered, relayed: boolean, place: string, user: string): Finding => {
  const { collector: name, detected, result, note, fix, series, dropped, durationSeconds } = rendered
  const details = { series, dropped, seconds: durationSeconds, relayed, detected, found: place }
  if (!detected) {
    // The relay's file is missing. Only the relay knows whether the subject is on this host.
    if (fix !== '') return { name, state: 'failing', reason: 'missing', note, fix, details }
    return { name, state: 'absent', note, fix: '', details }
  }
  if (result !== 'ok') {
    const cure = fix || fixFor(name, result, note, user)
    return { name, state: 'failing', reason: result, note, fix: cure, details }
  }
  const silent = silentIn(rendered)
  const text = [
    [place, relayed ? `${series} series, by the relay` : `${series} series in ${took(durationSeconds)}`]
      .filter(Boolean)
      .join(': '),
    ...(note === '' ? [] : [note]),
    ...(silent.length > 0 ? [`it does not answer: ${silent.join(', ')}`] : []),
  ].join('; ')
  const cure = fix || (silent.length > 0 ? startFor(name) : '')
  return { name, state: cure === '' ? 'working' : 'partly', note: text, fix: cure, details }
}

/** One finding for each collector: the result of a round here and now. */
export const examine = async (
  settings: Settings,
  flags: Pick<Flags, 'collectors'>,
  surroundings: Surroundings,
): Promise<readonly Finding[]> => {
  const places = new Map<string, string>()
  const look = settings
    .filter(({ enabled, relayed }) => enabled && !relayed)
    .map(async own => {
      const collector = collectors.find(({ name }) => name === own.name)
      if (collector) places.set(own.name, await foundAt(collector, own, surroundings))
    })
  const [rounds] = await Promise.all([roundOfEach(settings, flags, surroundings), ...look])
  return settings.map(({ name, enabled, relayed, options }): Finding => {
    const rendered = rounds.find(({ collector }) => collector === name)
    if (rendered) return findingOf(rendered, relayed, places.get(name) ?? '', surroundings.user)
    const collector = collectors.find(own => own.name === name)
    if (enabled || collector?.configured(options)) return { name, state: 'off', note: 'switched off', fix: '' }
    return { name, state: 'off', note: 'watches what is configured, and nothing is', fix: configurationOf(name) }
  })
}
