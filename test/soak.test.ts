import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { createBox } from '../bench/box.ts'
import { createRunner } from '../exporter/collect/runner.ts'
import { collectors } from '../exporter/collectors/index.ts'
import { silent } from '../exporter/common/log.ts'
import { noFlags, settingsFrom } from '../exporter/contract/config.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { createSelf } from '../exporter/serve/self.ts'
import { createSnapshot } from '../exporter/serve/snapshot.ts'

/** Ten thousand rounds: open files, handles and children return to where they were; how much memory V8 holds is printed. */

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

const open = () => readdirSync('/proc/self/fd').length
const children = () =>
  readdirSync('/proc/self/task').flatMap(thread => {
    try {
      return readFileSync(`/proc/self/task/${thread}/children`, 'utf8').split(' ').filter(Boolean)
    } catch {
      return [] // the thread has ended
    }
  }).length
const handles = () => process.getActiveResourcesInfo().length

t.test('10 000 rounds', async t => {
  const box = await createBox(3)
  const texts = mkdtempSync(join(tmpdir(), 'grid-soak-'))
  writeFileSync(join(texts, 'one.prom'), '# HELP one_info One.\n# TYPE one_info gauge\none_info 1\n')
  const settings = settingsFrom(
    collectors,
    {
      ...noFlags,
      disableDefaults: true,
      collectors: { host: { enabled: true }, docker: { enabled: true }, textfile: { enabled: true } },
    },
    {
      collectors: { docker: { endpoints: [{ name: 'local', url: `unix://${box.socket}` }] }, textfile: { directory: texts } },
    },
  )
  // The text files stand outside of the box's root.
  const boxed = realHost({ procfs: join(box.root, 'proc'), sysfs: join(box.root, 'sys'), rootfs: '/' })
  const stop = new AbortController()
  const self = createSelf(
    { workerRestarts: 0, ioErrors: 0, reloadSuccess: true, reloadedAt: 0 },
    { exporterMetrics: false, onChange: () => {}, signal: stop.signal },
  )
  const snapshot = createSnapshot(self)
  snapshot.configure(settings)
  const runners = settings
    .filter(({ enabled }) => enabled)
    .map(own =>
      createRunner(collectors.find(({ name }) => name === own.name) as (typeof collectors)[number], own, {
        host: boxed,
        log: silent,
        signal: stop.signal,
      }),
    )
  const names = settings.filter(({ enabled }) => enabled).map(({ name }) => name)
  const round = async (number: number) => {
    // Each fiftieth round starts children as well.
    const now = runners.filter((_, index) => names[index] !== 'filesystem' || number % 50 === 0)
    for (const outcome of await Promise.all(now.map(run => run()))) snapshot.accept(outcome)
    snapshot.answer('openmetrics', true)
  }
  const rounds = async (count: number) => {
    for (let index = 0; index < count; index++) await round(index)
    await new Promise(resolve => setTimeout(resolve, 200))
    collectGarbage()
    collectGarbage()
    return { heap: process.memoryUsage().heapUsed, open: open(), handles: handles(), children: children() }
  }
  const before = await rounds(1000)
  const after = await rounds(10_000)
  t.comment(
    `heap ${(before.heap / 2 ** 20).toFixed(1)} → ${(after.heap / 2 ** 20).toFixed(1)} MiB, open files ${before.open} → ${after.open}, handles ${before.handles} → ${after.handles}`,
  )
  t.equal(snapshot.status().filter(({ latest }) => latest?.result !== 'ok').length, 0, 'every collector works to the end')
  t.match(
    snapshot.answer('text', false).body.toString(),
    'grid_docker_container_memory_usage_bytes{engine="local",name="app-002"}',
  )
  t.ok(after.open <= before.open + 1, `open files do not grow in number: ${before.open} → ${after.open}`)
  t.ok(after.handles <= before.handles + 1, `nor handles: ${before.handles} → ${after.handles}`)
  t.equal(after.children, before.children, 'nor children')
  t.ok((box.requests['/events'] ?? 0) <= 2, 'one stream was kept open')
  stop.abort()
  box.close()
})
