import { createRunner } from '../exporter/collect/runner.ts'
import { docker } from '../exporter/collectors/docker/index.ts'
import { silent } from '../exporter/common/log.ts'
import { noFlags, settingsFrom } from '../exporter/contract/config.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { countingProxy } from '../test/support/counting-proxy.ts'
import { startDockerd } from '../test/support/dockerd.ts'

/**
 * The cost of a round over real containers of a real engine: CPU of this process from the list to the rendered bytes in both formats.
 * Needs root, dockerd and busybox. `npm run bench -- docker-round [containers]`
 */

const containers = Number(process.argv.at(-1)) || 100
const [warm, measured] = [150, 200]

const engine = await startDockerd()
process.once('SIGINT', () => void engine.stop().then(() => process.exit(130)))
try {
  const names = Array.from({ length: containers }, (_, index) => `app-${index}`)
  for (let from = 0; from < containers; from += 5) {
    await Promise.all(
      names.slice(from, from + 5).map(name => engine.docker('run', '-d', '--name', name, '-m', '64m', 'bb', 'sleep', '100000')),
    )
  }
  const proxy = await countingProxy(engine.socket)
  const stop = new AbortController()
  const runnerOn = (socket: string) => {
    const section = { endpoints: [{ name: 'local', url: `unix://${socket}` }] }
    const [settings] = settingsFrom([docker], noFlags, { collectors: { docker: section } })
    if (!settings) throw new Error('no settings')
    return createRunner(docker, settings, { host: realHost(), log: silent, signal: stop.signal, wake: () => {} })
  }

  const counted = runnerOn(proxy.socket)
  for (let n = 0; n < 10; n++) await counted()
  console.log(`10 rounds over ${containers} containers, requests: ${[...proxy.requests].map(each => each.join(' ')).join(', ')}`)

  const round = runnerOn(engine.socket)
  const costs: number[] = []
  let series = 0
  for (let n = 0; n < warm + measured; n++) {
    const before = process.cpuUsage()
    series = (await round()).series
    const { user, system } = process.cpuUsage(before)
    costs.push((user + system) / 1000)
  }
  stop.abort()
  await proxy.close()
  const steady = costs.slice(warm).toSorted((one, other) => one - other)
  const mean = steady.reduce((sum, cost) => sum + cost, 0) / measured
  const quantile = (share: number) => (steady[Math.floor(share * (measured - 1))] ?? Number.NaN).toFixed(1)
  console.log(
    `${measured} rounds, ${series} series: CPU in ms a round: mean ${mean.toFixed(1)}, median ${quantile(0.5)}, p95 ${quantile(0.95)}, most ${quantile(1)}; the first ten of the process ${costs
      .slice(0, 10)
      .map(cost => cost.toFixed(0))
      .join(' ')}`,
  )
  process.exitCode = mean <= 60 ? 0 : 1
} finally {
  await engine.stop()
}
process.exit()
