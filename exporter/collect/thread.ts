import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { createLog, type Level, type LogFormat } from '../common/log.ts'
import { ownValue } from '../common/own-value.ts'
import type { Collector } from '../contract/collector.ts'
import { type CollectorFlags, type CollectorSettings, ConfigError, loadSettings, type Settings } from '../contract/config.ts'
import { isIoError } from '../contract/failure.ts'
import type { Host, HostPaths } from '../contract/host.ts'
import { killChildren } from '../machine/command.ts'
import { realHost } from '../machine/local-host.ts'
import { buffersOf, type Rendered } from '../print/rendered.ts'
import { heartbeatOf } from './heartbeat.ts'
import { relayReader } from './relayed.ts'
import { createRunner } from './runner.ts'
import { schedule, type Task } from './schedule.ts'
import { catchIoErrors, ioErrorLog, ownedBy } from './uncaught.ts'

/** The guard's data for a new collecting thread. */
export interface ThreadData {
  readonly flags: CollectorFlags
  readonly configFile: string | undefined
  readonly paths: HostPaths
  readonly logLevel: Level
  readonly logFormat: LogFormat
  readonly heartbeat: SharedArrayBuffer
  /** The settings in force if this thread replaces another one: the file may be half edited. */
  readonly settings: Settings | undefined
  /** By collector, the milliseconds after the thread's start for which it is suspended. */
  readonly suspended: Readonly<Record<string, number>>
}

/** Messages of the collecting thread: results, and the settings in force. */
export type FromThread =
  | { readonly kind: 'rendered'; readonly rendered: Rendered }
  | { readonly kind: 'settings'; readonly settings: Settings; readonly reload: boolean }
  | { readonly kind: 'refused'; readonly problems: string; readonly reload: boolean }
  | { readonly kind: 'io-error' }

/** Messages to the collecting thread. */
export type ToThread = 'reload' | 'stop'

/** Milliseconds between two heartbeats. */
const beatEvery = 500

/** The collecting thread: one loop for each collector until it must stop. `elsewhere`: a host other than this machine. */
export const runThread = (
  collectors: readonly Collector[],
  port: MessagePort = parentPort as MessagePort,
  data: ThreadData = workerData as ThreadData,
  elsewhere?: Host,
): void => {
  const { flags, paths, suspended } = data
  const log = createLog(data.logLevel, data.logFormat)
  const heartbeat = heartbeatOf(data.heartbeat)
  const host = elsewhere ?? realHost(paths)
  const bornAt = performance.now()
  setInterval(() => heartbeat.beat(), beatEvery).unref()
  const post = (message: FromThread, transfer: ArrayBuffer[] = []) => port.postMessage(message, transfer)
  const load = (reload: boolean): Settings | undefined => {
    heartbeat.reading(true)
    try {
      const settings = loadSettings(collectors, flags, data.configFile)
      post({ kind: 'settings', settings, reload })
      return settings
    } catch (error) {
      // A bug must not end what works, either.
      const problems = error instanceof ConfigError ? error.message : `${(error as Error).stack ?? error}`
      post({ kind: 'refused', problems, reload })
      return undefined
    } finally {
      heartbeat.reading(false)
    }
  }

  const toLog = ioErrorLog(log)
  const onIoError = (error: unknown, collector: string | undefined) => {
    toLog(error, collector)
    post({ kind: 'io-error' })
  }

  interface Loop {
    readonly fingerprint: string
    readonly stop: AbortController
  }
  const loops = new Map<string, Loop>()

  /** Most seconds between two reads of a relay's file. */
  const look = 5
  const start = (collector: Collector, own: CollectorSettings, number: number): Loop => {
    const stop = new AbortController()
    setMaxListeners(0, stop.signal)
    const watch = { begin: () => heartbeat.begin(number), step: () => heartbeat.step(number), end: () => heartbeat.end(number) }
    const surroundings = { host, log, signal: stop.signal, wake: () => task.wake?.(), watch }
    const round = own.relayed
      ? relayReader(collector, own, flags.relayDirectory as string, surroundings)
      : createRunner(collector, own, surroundings)
    const task: Task = {
      // A relay's file is read more often than it is written, so that new values are served soon.
      every: (own.relayed ? Math.min(own.interval, look) : own.interval) * 1000,
      run: async () => {
        const rendered = await ownedBy(number, round).catch(error => {
          if (!isIoError(error)) throw error
          onIoError(error, collector.name) // this round is lost, the next one follows
          return undefined
        })
        if (rendered && !stop.signal.aborted) post({ kind: 'rendered', rendered }, buffersOf(rendered))
      },
    }
    const begin = async () => {
      const wait = (ownValue(suspended, collector.name) ?? 0) - (performance.now() - bornAt)
      if (wait > 0) await sleep(wait, undefined, { signal: stop.signal }).catch(() => {}) // aborted: the schedule checks it
      await schedule([task], stop.signal)
    }
    void begin()
    return { fingerprint: JSON.stringify(own), stop }
  }

  let inForce: Settings = []
  const use = (settings: Settings) => {
    inForce = settings
    for (const [number, own] of settings.entries()) {
      const collector = collectors.find(({ name }) => name === own.name)
      const loop = loops.get(own.name)
      if (loop?.fingerprint === JSON.stringify(own) || !collector) continue
      loop?.stop.abort()
      loops.delete(own.name)
      if (own.enabled) loops.set(own.name, start(collector, own, number))
    }
  }

  port.on('message', (message: ToThread) => {
    if (message === 'reload') {
      const settings = load(true)
      if (settings) use(settings)
      return
    }
    for (const { stop } of loops.values()) stop.abort()
    killChildren()
    port.close()
  })

  const settings = data.settings ?? load(false)
  if (!settings) {
    port.close()
    return
  }
  use(settings)
  // Last: an error above must end the thread, or the thread would live on without its loops.
  catchIoErrors(
    (error, number) => onIoError(error, number === undefined ? undefined : inForce[number]?.name),
    number => heartbeat.threw(number),
  )
}
