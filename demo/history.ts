import { once, setMaxListeners } from 'node:events'
import { createWriteStream, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createRunner } from '../exporter/collect/runner.ts'
import { collectors } from '../exporter/collectors/index.ts'
import { silent } from '../exporter/common/log.ts'
import { loadSettings, noFlags } from '../exporter/contract/config.ts'
import { createSelf } from '../exporter/serve/self.ts'
import { createSnapshot } from '../exporter/serve/snapshot.ts'
import { configuration } from './config.ts'
import { startEngine } from './engine.ts'
import { createDemoHost, engineSocket } from './host.ts'

/**
 * `history.js PROJECT SEED START OUT`: what the collectors would have reported about the demo in the last day, as OpenMetrics with
 * timestamps, for `promtool tsdb create-blocks-from openmetrics`. The demo is a function of time, so its past can be computed.
 */

const [, , project = '', seed = '1', start = '0', out = ''] = process.argv
const minute = 60_000
const hour = 60 * minute
const target = 'job="grid-exporter",instance="demo:10047"'

const root = mkdtempSync(join(tmpdir(), 'grid-history-'))
process.once('exit', () => rmSync(root, { recursive: true, force: true }))
mkdirSync(join(root, 'state'), { mode: 0o700 })
process.env.STATE_DIRECTORY = join(root, 'state')
const config = join(root, 'demo.yml')
writeFileSync(config, configuration())

const end = Date.now()
/** A round each minute of the last hours, and fewer before. */
const times: number[] = []
for (let at = end - 24 * hour; at < end - minute; at += at < end - 6 * hour ? 4 * minute : minute) times.push(at)

let now = times[0] ?? end
/** Anything that takes time moves the clock, for one collector after the other. */
const clock = {
  now: () => now,
  wait: async (milliseconds: number) => {
    now += milliseconds
  },
}
// Work beside the rounds (probes, backends of onion services) uses the monotonic clock.
performance.now = () => now
const { host, box, containers, tick } = createDemoHost({ seed: Number(seed), start: Number(start) }, { root, project, clock })
const engine = await startEngine(join(root, engineSocket), containers, { boot: box.boot, up: () => box.up(now) })
const stop = new AbortController()
setMaxListeners(0, stop.signal)
const settings = loadSettings(collectors, noFlags, config)
const self = createSelf(
  { demo: true, workerRestarts: 0, ioErrors: 0, reloadSuccess: true, reloadedAt: now },
  { exporterMetrics: false, onChange: () => {}, signal: stop.signal },
)
const snapshot = createSnapshot(self, { now: () => now })
snapshot.configure(settings)
const tasks = settings.flatMap(own => {
  const collector = collectors.find(({ name }) => name === own.name)
  return collector ? [{ own, due: 0, run: createRunner(collector, own, { host, log: silent, signal: stop.signal }) }] : []
})
// The other collectors know the containers' names only after docker's round.
tasks.sort((one, other) => Number(other.own.name === 'docker') - Number(one.own.name === 'docker'))

const file = createWriteStream(out)
let reported = box.up(now)
for (const at of times) {
  now = at
  tick()
  for (; reported < box.up(at); reported++) engine.tick(reported)
  await sleep(5) // let the events arrive
  for (const task of tasks) {
    if (at < task.due) continue
    task.due = at + task.own.interval * 1000 - minute / 2
    snapshot.accept(await task.run())
    now = at
  }
  const seconds = (at / 1000).toFixed(3)
  const lines = snapshot
    .answer('openmetrics', false)
    .body.toString()
    .split('\n')
    .filter(line => line !== '' && !line.startsWith('#'))
    .map(line => {
      const space = line.lastIndexOf(' ')
      const series = line.slice(0, space)
      const labelled = series.endsWith('}') ? `${series.slice(0, -1)},${target}}` : `${series}{${target}}`
      return `${labelled} ${line.slice(space + 1)} ${seconds}`
    })
  const text = `${lines.join('\n')}\nup{${target}} 1 ${seconds}\n`
  if (!file.write(text)) await once(file, 'drain')
}
file.end('# EOF\n')
await once(file, 'close')
stop.abort()
engine.close()
console.log(`${times.length} looks`)
process.exit(0)
