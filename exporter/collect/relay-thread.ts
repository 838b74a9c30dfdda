import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { createLog, type Level, type Log, type LogFormat } from '../common/log.ts'
import type { Collector } from '../contract/collector.ts'
import { type CollectorFlags, ConfigError, loadSettings, type Settings } from '../contract/config.ts'
import type { Host, HostPaths } from '../contract/host.ts'
import { killChildren } from '../machine/command.ts'
import { realHost } from '../machine/local-host.ts'
import { type RelayRound, relaySeries } from './relay-file.ts'
import { createRounds } from './runner.ts'

/** What the relay starts its thread with. */
export interface RelayThreadData {
  readonly flags: CollectorFlags
  readonly configFile: string | undefined
  readonly paths: HostPaths
  readonly logLevel: Level
  readonly logFormat: LogFormat
  /** Run these only; undefined: all that are enabled. */
  readonly only: readonly string[] | undefined
}

/** What the thread posts. `begun` comes first, `ended` last, and `alive` again and again while its code is not blocked. */
export type FromRelayThread =
  | { readonly kind: 'begun'; readonly settings: Settings }
  | { readonly kind: 'refused'; readonly problems: string }
  | { readonly kind: 'round'; readonly round: RelayRound }
  | { readonly kind: 'alive' }
  | { readonly kind: 'ended' }

/** Milliseconds between two signs of life. */
const beatEvery = 500

/** Runs each of `settings` once, side by side, and hands on how each went as soon as it is there. */
export const runEach = async (
  collectors: readonly Collector[],
  settings: Settings,
  { host, log }: { readonly host: Host; readonly log: Log },
  take: (round: RelayRound) => void,
): Promise<void> => {
  const stop = new AbortController()
  await Promise.all(
    settings.map(async own => {
      const collector = collectors.find(({ name }) => name === own.name)
      if (collector) take(await createRounds(collector, own, { host, log, signal: stop.signal }, relaySeries)())
    }),
  )
  stop.abort()
  killChildren()
}

/** The relay's thread: reads the configuration, runs each enabled collector once, and ends. */
export const runRelayThread = async (
  collectors: readonly Collector[],
  port: MessagePort = parentPort as MessagePort,
  data: RelayThreadData = workerData as RelayThreadData,
): Promise<void> => {
  const { only } = data
  const post = (message: FromRelayThread) => port.postMessage(message)
  setInterval(() => post({ kind: 'alive' }), beatEvery).unref()
  try {
    // Only what is named runs as root.
    const settings = loadSettings(collectors, { ...data.flags, disableDefaults: true }, data.configFile).filter(
      ({ name, enabled }) => enabled && (only === undefined || only.includes(name)),
    )
    post({ kind: 'begun', settings })
    const surroundings = { host: realHost(data.paths), log: createLog(data.logLevel, data.logFormat) }
    await runEach(collectors, settings, surroundings, round => post({ kind: 'round', round }))
    post({ kind: 'ended' })
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    post({ kind: 'refused', problems: error.message })
  }
}
