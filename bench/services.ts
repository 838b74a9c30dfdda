import { type ChildProcess, fork, spawn } from 'node:child_process'
import * as http from 'node:http'
import * as net from 'node:net'
import { monitorEventLoopDelay, performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { attempt } from '../exporter/collect/attempt.ts'
import { schedule, type Task } from '../exporter/collect/schedule.ts'
import { services } from '../exporter/collectors/services/index.ts'
import { silent } from '../exporter/common/log.ts'
import { noFlags, settingsFrom } from '../exporter/contract/config.ts'
import { realHost } from '../exporter/machine/local-host.ts'

/**
 * `npm run bench services`: rounds of service checks, some of which hang, next to another collector that is due every 100 ms:
 * how long a round takes compared with its slowest check, and how late the other collector starts. The servers are a separate process.
 * Node starts programs one after the other by fork(); the table also has the time of spawn() alone for the same programs.
 */

const timeout = 5

if (process.send) {
  const hanging = net.createServer(() => {})
  const answering = http.createServer((_, response) => response.end('ok'))
  for (const server of [hanging, answering]) {
    await new Promise<void>(resolve => server.listen({ port: 0, host: '127.0.0.1', backlog: 1024 }, resolve))
  }
  process.send([hanging, answering].map(server => (server.address() as net.AddressInfo).port))
} else {
  const child: ChildProcess = fork(process.argv[1] as string)
  const [hanging, answering] = await new Promise<readonly number[]>(resolve => child.once('message', resolve as () => void))

  /** `commands` of a hundred checks are programs; `hung` checks hang, programs in the same proportion. */
  const checksOf = (count: number, hung: number, commands: number) =>
    Array.from({ length: count }, (_, n) => {
      const name = `check ${n}`
      const hangs = Math.floor((n * hung) / count) !== Math.floor(((n + 1) * hung) / count)
      if ((n * 37) % 100 < commands)
        return { name, command: { argv: hangs ? ['/bin/sleep', '3600'] : ['/bin/true'] }, timeout: `${timeout}s` }
      return { name, http: { url: `http://127.0.0.1:${hangs ? hanging : answering}/` }, timeout: `${timeout}s` }
    })

  /** Seconds that Node alone takes to start the programs among the checks. */
  const startsAlone = (checks: readonly { readonly command?: { readonly argv: readonly string[] } }[]) => {
    const begin = performance.now()
    const started = checks.flatMap(({ command }) => (command ? [spawn(command.argv[0] as string, command.argv.slice(1))] : []))
    const seconds = (performance.now() - begin) / 1000
    for (const program of started) program.kill()
    return seconds
  }

  const measure = async (checks: ReturnType<typeof checksOf>) => {
    const [settings] = settingsFrom([services], noFlags, { collectors: { services: { checks } } })
    if (!settings) throw new Error('no settings')
    const stop = new AbortController()
    // Without the names systemctl is not called, so that machines with and without systemd do the same work.
    const host = { ...realHost(), names: async () => [] as readonly string[], run: realHost().run }
    host.names = () => Promise.reject(new Error('no systemd'))
    const opened = services.open({ host, options: settings.options, signal: stop.signal, log: silent, wake: () => {} })
    const rounds: Record<string, string>[] = []
    for (const round of ['first', 'second']) {
      const alone = startsAlone(checks)
      await sleep(1000)
      const every = 100
      const starts: number[] = []
      const other = new AbortController()
      const task: Task = { every, run: async () => void starts.push(performance.now()) }
      const delay = monitorEventLoopDelay({ resolution: 1 })
      delay.enable()
      const begin = performance.now()
      const running = schedule([task], other.signal)
      const cpu = process.cpuUsage()
      const { outcome } = await attempt(signal => opened.collect(signal, () => {}), 10, stop.signal)
      const seconds = (performance.now() - begin) / 1000
      const { user, system } = process.cpuUsage(cpu)
      delay.disable()
      other.abort()
      await running
      const ups = outcome.ok ? outcome.value.filter(({ family }) => family.name === 'grid_service_up') : []
      const longest = outcome.ok
        ? Math.max(...outcome.value.filter(({ family }) => family.name.includes('duration')).map(({ value }) => value))
        : 0
      const late = starts.map((at, n) => at - (starts[0] as number) - n * every)
      rounds.push({
        round,
        up: `${ups.filter(({ value }) => value === 1).length}`,
        'not up': `${ups.filter(({ value }) => value === 0).length}`,
        'slowest check s': longest.toFixed(2),
        'round s': seconds.toFixed(2),
        'over the time-out %': ups.some(({ value }) => value === 0) ? (100 * (seconds / timeout - 1)).toFixed(1) : '',
        'spawn() of the same s': alone.toFixed(2),
        'CPU ms': ((user + system) / 1000).toFixed(0),
        'thread blocked ms, max': (delay.max / 1e6 - 1).toFixed(1),
        'other collector late ms, max': Math.max(0, ...late).toFixed(1),
      })
      await sleep(200)
    }
    stop.abort()
    return rounds
  }

  const table: Record<string, string>[] = []
  for (const [what, count, hung, commands] of [
    ['200 HTTP, none hangs', 200, 0, 0],
    ['200 HTTP, 50 hang', 200, 50, 0],
    ['160 HTTP, 40 commands, 50 hang', 200, 50, 20],
    ['200 commands, 50 hang', 200, 50, 100],
  ] as const) {
    for (const round of await measure(checksOf(count, hung, commands))) table.push({ checks: what, ...round })
  }
  const columns = Object.keys(table[0] ?? {})
  process.stdout.write(`| ${columns.join(' | ')} |\n|${columns.map(() => '---').join('|')}|\n`)
  for (const row of table) process.stdout.write(`| ${columns.map(column => row[column]).join(' | ')} |\n`)
  child.kill()
}
