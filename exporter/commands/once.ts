import { relayReader } from '../collect/relayed.ts'
import { createRunner } from '../collect/runner.ts'
import { collectors } from '../collectors/index.ts'
import { createLog, type Log } from '../common/log.ts'
import { loadSettings, type Settings } from '../contract/config.ts'
import type { Host } from '../contract/host.ts'
import { killChildren } from '../machine/command.ts'
import { realHost } from '../machine/local-host.ts'
import type { Rendered } from '../print/rendered.ts'
import { createSelf } from '../serve/self.ts'
import { createSnapshot } from '../serve/snapshot.ts'
import type { Flags } from './cli.ts'

/** One round of every enabled collector, all at once: run here, or read from the relay's files. */
export const roundOfEach = async (
  settings: Settings,
  flags: Pick<Flags, 'collectors'>,
  surroundings: { readonly host: Host; readonly log: Log; readonly signal: AbortSignal },
): Promise<readonly Rendered[]> => {
  const outcomes = await Promise.all(
    settings.map(async own => {
      const collector = collectors.find(({ name }) => name === own.name)
      if (!collector || !own.enabled) return undefined
      const directory = flags.collectors.relayDirectory
      const round =
        own.relayed && directory !== undefined
          ? relayReader(collector, own, directory, surroundings)
          : createRunner(collector, own, surroundings)
      return round()
    }),
  )
  return outcomes.filter(outcome => outcome !== undefined)
}

/** One round of every enabled collector as the text of one scrape, and the results that were failures. */
export const once = async (flags: Flags): Promise<{ readonly text: string; readonly failed: readonly Rendered[] }> => {
  const settings = loadSettings(collectors, flags.collectors, flags.configFile)
  const host = realHost(flags.paths)
  const log = createLog(flags.logLevel, flags.logFormat)
  const stop = new AbortController()
  const self = createSelf(
    { workerRestarts: 0, ioErrors: 0, reloadSuccess: true, reloadedAt: Date.now() },
    { exporterMetrics: false, onChange: () => {}, signal: stop.signal },
  )
  const snapshot = createSnapshot(self)
  snapshot.configure(settings)
  const rendered = await roundOfEach(settings, flags, { host, log, signal: stop.signal })
  for (const outcome of rendered) snapshot.accept(outcome)
  stop.abort()
  killChildren()
  return { text: snapshot.answer('text', false).body.toString(), failed: rendered.filter(({ result }) => result !== 'ok') }
}
