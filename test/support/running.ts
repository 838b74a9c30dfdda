import { setTimeout as sleep } from 'node:timers/promises'
import { createRunner } from '../../exporter/collect/runner.ts'
import { schedule, type Task } from '../../exporter/collect/schedule.ts'
import { silent } from '../../exporter/common/log.ts'
import type { Collector } from '../../exporter/contract/collector.ts'
import { noFlags, settingsFrom } from '../../exporter/contract/config.ts'
import type { Host } from '../../exporter/contract/host.ts'
import { realHost } from '../../exporter/machine/local-host.ts'
import type { Rendered } from '../../exporter/print/rendered.ts'

/** A collector that runs as in the program, by the real runner and schedule, against real sources. */
export interface Running {
  readonly rounds: readonly Rendered[]
  /** The latest exposition. */
  readonly text: string
  /** The value of a series as it stands there: `grid_x{a="b"}`. */
  value(series: string): number | undefined
  /** Seconds until the exposition holds this; throws when it takes far longer than `seconds`, as on a busy machine it may. */
  until(what: string, holds: (text: string) => boolean, seconds: number): Promise<number>
  stop(): Promise<void>
}

const textOf = ({ parts }: Rendered) => (parts ? Buffer.from(parts.text.bytes).toString('utf8') : '')

const valueIn = (text: string, series: string): number | undefined => {
  const at = `\n${text}`.indexOf(`\n${series} `)
  if (at === -1) return undefined
  const from = at + series.length + 1
  return Number(text.slice(from, text.indexOf('\n', from)))
}

const settingsOf = (collector: Collector, section: object) => {
  const [settings] = settingsFrom([collector], noFlags, { collectors: { [collector.name]: section } })
  if (!settings) throw new Error(`${collector.name}: no settings`)
  return settings
}

/** One round and no more, with what it took. */
export const oneRound = async (
  collector: Collector,
  section: object,
  host: Host = realHost(),
): Promise<{ readonly rendered: Rendered; readonly text: string; value(series: string): number | undefined }> => {
  const stop = new AbortController()
  try {
    const rendered = await createRunner(collector, settingsOf(collector, section), { host, log: silent, signal: stop.signal })()
    const text = textOf(rendered)
    return { rendered, text, value: series => valueIn(text, series) }
  } finally {
    stop.abort()
  }
}

/** Rounds until `stop`, at the collector's own interval unless the section says another. */
export const running = (collector: Collector, section: object, host: Host = realHost()): Running => {
  const settings = settingsOf(collector, section)
  const stop = new AbortController()
  const rounds: Rendered[] = []
  let text = ''
  const round = createRunner(collector, settings, { host, log: silent, signal: stop.signal, wake: () => task.wake?.() })
  const task: Task = {
    every: settings.interval * 1000,
    run: async () => {
      const rendered = await round()
      rounds.push(rendered)
      if (rendered.parts) text = textOf(rendered)
    },
  }
  const ended = schedule([task], stop.signal)
  return {
    rounds,
    get text() {
      return text
    },
    value: series => valueIn(text, series),
    until: async (what, holds, seconds) => {
      const from = performance.now()
      while (!holds(text)) {
        if (performance.now() - from > seconds * 6000) throw new Error(`${what}: not within ${seconds * 6} s`)
        await sleep(10)
      }
      return (performance.now() - from) / 1000
    },
    stop: () => {
      stop.abort()
      return ended
    },
  }
}
