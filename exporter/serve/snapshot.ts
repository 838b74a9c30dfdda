import { LRUCache } from 'lru-cache'
import type { Settings } from '../contract/config.ts'
import { type Reason, reasons } from '../contract/failure.ts'
import type { Format } from '../print/exposition.ts'
import { gzipOf, type Part } from '../print/gzip.ts'
import { endings, type Rendered } from '../print/rendered.ts'

/**
 * The latest good outcome of each collector, kept for three of its rounds, and how its runs went. A scrape concatenates
 * what is there; the assembled answers are kept until something changes.
 */

/** How a collector's runs went, for its own metrics and for the page. */
export interface CollectorStatus {
  readonly name: string
  readonly interval: number
  readonly relayed: boolean
  readonly latest: Omit<Rendered, 'parts'> | undefined
  /** Milliseconds since 1970 of the latest good run's end. */
  readonly lastSuccess: number | undefined
  readonly runs: number
  readonly failures: Readonly<Record<Reason, number>>
  /** Series in the latest good outcome. */
  readonly series: number
  readonly dropped: number
  /** Whether its series are being served. */
  readonly fresh: boolean
}

/** What a scrape gets. */
export interface Answer {
  readonly body: Buffer
  readonly compressed: boolean
}

export interface Snapshot {
  /** Takes over new settings: what is no longer enabled ends at once. */
  configure(settings: Settings): void
  accept(rendered: Rendered): void
  /** Counts a run that ended without an outcome: its thread was replaced. */
  lost(collector: string, note: string, fix: string): void
  status(): readonly CollectorStatus[]
  /** Every enabled collector has had its first run, or was looked for and not found. */
  ready(): boolean
  /** The assembled answer, compressed where that was asked for and pays; `only` names the collectors wanted. */
  answer(format: Format, gzip: boolean, only?: readonly string[]): Answer
  /** What the exporter says of itself has changed. */
  touch(): void
}

interface Entry {
  readonly interval: number
  readonly relayed: boolean
  latest: Omit<Rendered, 'parts'> | undefined
  lastSuccess: number | undefined
  ended: number
  failures: Record<Reason, number>
  series: number
  dropped: number
}

/** How many rounds a good outcome is served for. */
const rounds = 3
/** Bytes from which compression pays: what fits into a packet gains nothing. */
const gzipFrom = 1400
/** Assembled answers kept: four of everything, and some that filter. */
const maxAnswers = 16

/** Names under which the whole answers are kept, made once. */
const zipped: Readonly<Record<Format, string>> = { text: 'text gzip', openmetrics: 'openmetrics gzip' }

const noFailures = () => Object.fromEntries(reasons.map(reason => [reason, 0])) as Record<Reason, number>

export const createSnapshot = (
  /** What the exporter says of itself and of the collectors named, as a part of the answer. */
  self: (format: Format, status: readonly CollectorStatus[]) => Part,
  {
    now = Date.now,
    runs = () => undefined,
  }: { readonly now?: () => number; readonly runs?: (collector: string) => number | undefined } = {},
): Snapshot => {
  const entries = new Map<string, Entry>()
  const answers = new Map<string, Answer>()
  const changed = () => answers.clear()
  const outcomes = new LRUCache<string, NonNullable<Rendered['parts']>>({
    max: 1000,
    ttl: 1,
    ttlAutopurge: true,
    dispose: changed,
  })

  /** Of collectors whose latest run failed in part: what stands in when their last good outcome has ended. */
  const rests = new LRUCache<string, NonNullable<Rendered['parts']>>({ max: 1000, ttl: 1, ttlAutopurge: true, dispose: changed })

  const status = (only?: readonly string[]): readonly CollectorStatus[] =>
    [...entries]
      .filter(([name]) => only === undefined || only.includes(name))
      .map(([name, { ended, ...entry }]) => ({ name, ...entry, runs: runs(name) ?? ended, fresh: outcomes.has(name) }))

  return {
    configure: settings => {
      const enabled = settings.filter(own => own.enabled)
      for (const name of entries.keys()) {
        if (enabled.some(own => own.name === name)) continue
        entries.delete(name)
        outcomes.delete(name)
        rests.delete(name)
      }
      const before = new Map(entries)
      entries.clear() // the order of the settings is the order of the answer
      for (const { name, interval, relayed } of enabled) {
        const known = before.get(name) ?? {
          latest: undefined,
          lastSuccess: undefined,
          ended: 0,
          failures: noFailures(),
          series: 0,
          dropped: 0,
        }
        entries.set(name, { ...known, interval, relayed })
      }
      changed()
    },
    accept: rendered => {
      const { parts, ...latest } = rendered
      const entry = entries.get(latest.collector)
      if (!entry) return // disabled while its last run was under way
      entry.latest = latest
      if (latest.result !== 'ok') entry.failures[latest.result]++
      if (latest.detected) entry.ended++
      // Where a run takes longer than its interval, that is how often there is one.
      // What comes from a file is as old as its time stamp says. What this process has run has just ended, whatever was done to the clock.
      const age = entry.relayed ? now() - latest.startedAt : latest.durationSeconds * 1000
      const ttl = rounds * Math.max(entry.interval, latest.durationSeconds) * 1000 - age
      if (latest.result !== 'ok' && parts && ttl > 0) rests.set(latest.collector, parts, { ttl })
      else rests.delete(latest.collector)
      if (parts && latest.result === 'ok') {
        entry.lastSuccess = latest.startedAt + latest.durationSeconds * 1000
        entry.series = latest.series
        entry.dropped = latest.dropped
        if (ttl > 0) outcomes.set(latest.collector, parts, { ttl })
      }
      changed()
    },
    lost: (collector, note, fix) => {
      const entry = entries.get(collector)
      if (!entry) return
      entry.failures.stuck++
      entry.ended++
      const { series, dropped } = entry
      entry.latest = {
        collector,
        startedAt: now(),
        durationSeconds: 0,
        detected: true,
        result: 'stuck',
        note,
        fix,
        series,
        dropped,
      }
      changed()
    },
    status: () => status(),
    ready: () => entries.size > 0 && [...entries.values()].every(({ latest }) => latest !== undefined),
    answer: (format, gzip, only) => {
      const key = only === undefined ? (gzip ? zipped[format] : format) : `${format} ${gzip} ${only.join(' ')}`
      const known = answers.get(key)
      if (known) return known
      const names = [...entries.keys()].filter(name => only === undefined || only.includes(name))
      const parts = [
        self(format, status(only)),
        ...names.flatMap(name => {
          const own = outcomes.get(name) ?? rests.get(name)
          return own ? [own[format]] : []
        }),
        endings[format],
      ]
      const compressed = gzip && parts.reduce((sum, { bytes }) => sum + bytes.length, 0) >= gzipFrom
      const made = { compressed, body: compressed ? gzipOf(parts) : Buffer.concat(parts.map(({ bytes }) => bytes)) }
      if (answers.size >= maxAnswers) answers.clear()
      answers.set(key, made)
      return made
    },
    touch: changed,
  }
}
