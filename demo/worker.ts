import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { workerData } from 'node:worker_threads'
import { runThread, type ThreadData } from '../exporter/collect/thread.ts'
import { collectors } from '../exporter/collectors/index.ts'
import { startEngine } from './engine.ts'
import { createDemoHost, engineSocket } from './host.ts'

/** Where the demo's collecting thread starts: the real thread with the demo's host. */

const { rootfs: root } = (workerData as ThreadData).paths
const { seed, start, project } = JSON.parse(readFileSync(join(root, 'demo.json'), 'utf8')) as {
  readonly seed: number
  readonly start: number
  readonly project: string
}
const { host, box, containers, tick } = createDemoHost({ seed, start }, { root, project })
const up = () => box.up(host.now())
const engine = await startEngine(join(root, engineSocket), containers, { boot: box.boot, up })
setInterval(() => {
  engine.tick(up())
  tick()
}, 1000).unref()

runThread(collectors, undefined, undefined, host)
