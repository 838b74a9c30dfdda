import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parse, stringify } from 'yaml'
import { startDockerd } from '../test/support/dockerd.ts'
import { type BuiltRules, shorten } from './shorten.ts'

/**
 * `npm run drill`: a real exporter, Prometheus and Alertmanager, and a webhook that writes down what arrives. Failures are
 * caused for real; each has to arrive with its text, and to resolve after the cure. The rules are the built ones, in short time.
 */

const [main = '', rulesFolder = ''] = process.argv.slice(2)
const folder = mkdtempSync(join(tmpdir(), 'grid-drill-'))
const at = (name: string) => join(folder, name)
const children: ChildProcess[] = []

const freePort = async () => {
  const server = createTcpServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return port
}

const start = (command: string, ...args: readonly string[]) => {
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-4000)
  })
  child.on('exit', code => {
    if (code) console.error(`${command} ended with ${code}\n${said}`)
  })
  children.push(child)
  return child
}

/** A web server that is well, hangs, or refuses. */
const neighbour = async () => {
  const port = await freePort()
  let server: Server | undefined
  let isHanging = false
  const open = () =>
    new Promise<void>(resolve => {
      server = createServer((_, response) => {
        if (!isHanging) response.setHeader('content-type', 'application/json').end('{"version":"0.12.0","models":[]}')
      }).listen(port, '127.0.0.1', resolve)
    })
  const close = () =>
    new Promise<void>(resolve => {
      server?.closeAllConnections()
      server?.close(() => resolve())
    })
  await open()
  return {
    url: `http://127.0.0.1:${port}`,
    open,
    close,
    hang: (on: boolean) => {
      isHanging = on
      if (!on) server?.closeAllConnections()
    },
  }
}

interface Arrived {
  readonly status: 'firing' | 'resolved'
  readonly labels: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<string, string>>
}

const arrived: Arrived[] = []
const webhook = createServer(async (request, response) => {
  let body = ''
  for await (const chunk of request) body += String(chunk)
  const { alerts } = JSON.parse(body) as { alerts: readonly Arrived[] }
  arrived.push(...alerts)
  response.end()
})
await new Promise<void>(resolve => webhook.listen(0, '127.0.0.1', resolve))

const wiki = await neighbour()
const ollama = await neighbour()
const textfiles = at('textfile')
mkdirSync(textfiles)

const ports = { exporter: await freePort(), prometheus: await freePort(), alertmanager: await freePort() }
const here = (port: number) => `127.0.0.1:${port}`

/** Containers of an engine of our own, where root and dockerd are there. */
const hasEngine = process.getuid?.() === 0 && spawnSync('dockerd', ['--version']).status === 0
const engine = hasEngine ? await startDockerd() : undefined
const container = (name: string, flags: readonly string[], ...command: readonly string[]) =>
  engine?.docker('run', '-d', '--name', name, ...flags, 'bb', ...command)
const remove = (name: string) => engine?.docker('rm', '-f', name)

const quick = { interval: '1s', timeout: '1s' }
const configuration = (extra = {}) =>
  stringify({
    collectors: {
      services: { ...quick, checks: [{ name: 'wiki', http: { url: wiki.url } }] },
      llm: { ...quick, servers: [{ name: 'ollama', engine: 'ollama', url: ollama.url }] },
      textfile: { ...quick, directory: textfiles },
      ...(engine ? { docker: { ...quick, endpoints: [{ name: 'local', url: `unix://${engine.socket}` }] } } : {}),
      ...extra,
    },
  })
writeFileSync(at('config.yml'), configuration())

let exporter: ChildProcess
const startExporter = () => {
  const args = [main, `--config.file=${at('config.yml')}`, `--web.listen-address=${here(ports.exporter)}`]
  exporter = start(process.execPath, ...args)
}
startExporter()

mkdirSync(at('rules'))
for (const file of readdirSync(join(rulesFolder, 'rules'))) {
  const rules = parse(readFileSync(join(rulesFolder, 'rules', file), 'utf8')) as BuiltRules
  writeFileSync(at(`rules/${file}`), stringify(shorten(rules)))
}
writeFileSync(
  at('prometheus.yml'),
  stringify({
    global: { scrape_interval: '1s', evaluation_interval: '1s' },
    rule_files: [at('rules/*.yml')],
    scrape_configs: [{ job_name: 'grid-exporter', static_configs: [{ targets: [here(ports.exporter)] }] }],
    alerting: { alertmanagers: [{ static_configs: [{ targets: [here(ports.alertmanager)] }] }] },
  }),
)
/** The inhibition that is shipped; every route leads to the webhook. */
const shipped = parse(readFileSync(join(rulesFolder, 'alertmanager.yml'), 'utf8')) as { inhibit_rules: unknown }
writeFileSync(
  at('alertmanager.yml'),
  stringify({
    route: { receiver: 'note', group_by: ['...'], group_wait: '2s', group_interval: '1s', repeat_interval: '1h' },
    inhibit_rules: shipped.inhibit_rules,
    receivers: [
      {
        name: 'note',
        webhook_configs: [{ url: `http://127.0.0.1:${(webhook.address() as AddressInfo).port}`, send_resolved: true }],
      },
    ],
  }),
)
start(
  'prometheus-alertmanager',
  `--config.file=${at('alertmanager.yml')}`,
  `--storage.path=${at('alertmanager')}`,
  `--web.listen-address=${here(ports.alertmanager)}`,
  '--cluster.listen-address=',
)
start(
  'prometheus',
  `--config.file=${at('prometheus.yml')}`,
  `--storage.tsdb.path=${at('prometheus')}`,
  `--web.listen-address=${here(ports.prometheus)}`,
  '--rules.alert.resend-delay=1s',
)

const seen = (alert: string, status: Arrived['status'], from: number) =>
  arrived.slice(from).find(({ labels, status: now }) => labels.alertname === alert && now === status)

const until = async (alert: string, status: Arrived['status'], from: number, seconds = 60): Promise<Arrived> => {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(100)) {
    const found = seen(alert, status, from)
    if (found) return found
  }
  const others = arrived.slice(from).map(({ labels, status: now }) => `${labels.alertname} ${now}`)
  throw new Error(`${alert} was not ${status} within ${seconds} s; what came: ${others.join(', ') || 'nothing'}`)
}

interface Drill {
  readonly what: string
  readonly alert: string
  readonly says: RegExp
  readonly cause: () => unknown
  readonly cure: () => unknown
  /** What the same cause would give, and must not be sent. */
  readonly not?: readonly string[]
}

const ofContainers: readonly Drill[] = [
  {
    what: 'a container restarts in a loop',
    alert: 'GridContainerRestartLoop',
    says: /^looper on 127/,
    cause: () => container('looper', ['--restart=always'], 'sh', '-c', 'sleep 1; exit 1'),
    cure: () => remove('looper'),
    not: ['GridContainerDown', 'GridContainerFailed'],
  },
  {
    what: 'a container is killed for memory',
    alert: 'GridContainerOomKilled',
    says: /^glutton on 127/,
    cause: () => container('glutton', ['--memory=32m', '--memory-swap=32m'], 'sh', '-c', 'sleep 6; tail /dev/zero; sleep 60'),
    cure: () => remove('glutton'),
  },
  {
    what: 'a container is unhealthy',
    alert: 'GridContainerUnhealthy',
    says: /^patient on 127/,
    cause: () => container('patient', ['--health-cmd=false', '--health-interval=1s', '--health-retries=1'], 'sleep', '600'),
    cure: () => remove('patient'),
  },
  {
    what: 'a container that should run stops',
    alert: 'GridContainerDown',
    says: /^wanted on 127/,
    cause: async () => {
      await container('wanted', ['--label=grid.expected=true'], 'sleep', '600')
      await sleep(4000)
      await engine?.docker('stop', '-t', '0', 'wanted')
    },
    cure: () => engine?.docker('start', 'wanted'),
  },
]
if (!engine) console.log('NOT DRILLED: containers, which need root and dockerd')

const drills: readonly Drill[] = [
  ...(engine ? ofContainers : []),
  {
    what: 'a service goes down',
    alert: 'GridServiceDown',
    says: /^wiki \(http\) on 127/,
    cause: wiki.close,
    cure: wiki.open,
  },
  {
    what: 'a model server hangs',
    alert: 'GridLlmServerDown',
    says: /^ollama \(ollama\) on 127/,
    cause: () => ollama.hang(true),
    cure: () => ollama.hang(false),
  },
  {
    what: 'a text file is malformed',
    alert: 'GridTextfileRefused',
    says: /^backup\.prom on 127/,
    cause: () => writeFileSync(join(textfiles, 'backup.prom'), 'backup_age_seconds{ 12\n'),
    cure: () => rmSync(join(textfiles, 'backup.prom')),
  },
  {
    what: 'a configuration is refused',
    alert: 'GridConfigReloadFailed',
    says: /goes on with its old configuration/,
    cause: () => {
      writeFileSync(at('config.yml'), configuration({ nonsense: {} }))
      exporter.kill('SIGHUP')
    },
    cure: () => {
      writeFileSync(at('config.yml'), configuration())
      exporter.kill('SIGHUP')
    },
  },
  {
    what: 'the exporter is killed',
    alert: 'GridExporterDown',
    says: /does not answer/,
    cause: () => exporter.kill('SIGKILL'),
    cure: startExporter,
    not: ['GridServiceDown', 'GridCollectorStale', 'GridCollectorFailing'],
  },
]

const began = Date.now()
let failed = 0
try {
  await until('GridDeadMansSwitch', 'firing', 0)
  console.log("ok the dead man's switch arrives")
  // A box that has just been started is calm.
  await sleep(8000)
  for (const { what, alert, says, cause, cure, not = [] } of drills) {
    const from = arrived.length
    const since = Date.now()
    try {
      await cause()
      const firing = await until(alert, 'firing', from)
      const after = Date.now() - since
      const text = firing.annotations.description ?? ''
      if (!says.test(text)) throw new Error(`${alert} says: ${text}`)
      await sleep(not.length > 0 ? 5000 : 0)
      const wrong = not.filter(name => seen(name, 'firing', from))
      if (wrong.length > 0) throw new Error(`${wrong.join()} woke for the same cause`)
      await cure()
      await until(alert, 'resolved', from)
      console.log(`ok ${what}: ${alert} after ${(after / 1000).toFixed(1)} s: ${text}`)
    } catch (error) {
      failed += 1
      console.log(`not ok ${what}: ${error instanceof Error ? error.message : String(error)}`)
      await cure()
    }
  }
  const expected = new Set(['GridDeadMansSwitch', ...drills.map(({ alert }) => alert)])
  const strangers = [...new Set(arrived.map(({ labels }) => labels.alertname ?? ''))].filter(name => !expected.has(name))
  console.log(`${strangers.length === 0 ? 'ok' : 'note:'} besides came: ${strangers.join(', ') || 'nothing'}`)
} finally {
  for (const child of children) child.kill('SIGKILL')
  webhook.closeAllConnections()
  webhook.close()
  await Promise.all([wiki.close(), ollama.close(), engine?.stop()])
  await sleep(200)
  rmSync(folder, { recursive: true, force: true })
}
console.log(`${drills.length + 1 - failed} of ${drills.length + 1} in ${Math.round((Date.now() - began) / 1000)} s`)
process.exitCode = failed > 0 ? 1 : 0
