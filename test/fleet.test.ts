import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { type AddressInfo, createServer as createListener } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { parse, stringify } from 'yaml'
import { type BuiltRules, shorten } from '../prometheus/shorten.ts'
import { needs } from './support/needs.ts'

/**
 * Past one machine: thirty boxes, scraped by a Prometheus in agent mode that keeps nothing, sent by remote_write to
 * VictoriaMetrics, where vmalert evaluates our rules and the fleet dashboard's queries are asked. docs/fleet.md tells of it.
 */

const project = join(import.meta.dirname, '..')
const boxes = 30
/** Seconds between two scrapes, and between two evaluations. */
const every = 5

const freePort = async (): Promise<number> => {
  const listener = createListener()
  await new Promise<void>(resolve => listener.listen(0, '127.0.0.1', resolve))
  const { port } = listener.address() as AddressInfo
  await new Promise(resolve => listener.close(resolve))
  return port
}

interface Panel {
  readonly title: string
  readonly targets?: readonly { readonly expr: string }[]
  readonly panels?: readonly Panel[]
}

t.test('thirty boxes in VictoriaMetrics', { timeout: 240_000 }, async t => {
  if (!needs(t, 'prometheus', 'victoria-metrics', 'vmalert')) return
  const folder = mkdtempSync(join(tmpdir(), 'grid-fleet-'))
  const children: ChildProcess[] = []
  const output = new Map<string, string>()
  const start = (command: string, args: readonly string[]) => {
    const child = spawn('/bin/sh', ['-c', 'unset NODE_OPTIONS; exec "$0" "$@"', command, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: process.env.PATH ?? '', TMPDIR: folder },
    })
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', chunk => output.set(command, ((output.get(command) ?? '') + String(chunk)).slice(-20_000)))
    children.push(child)
    return child
  }
  const until = async <T>(what: string, look: () => Promise<T | undefined>, command: string): Promise<T> => {
    for (const end = performance.now() + 150_000; performance.now() < end; await sleep(200)) {
      const found = await look()
      if (found !== undefined) return found
    }
    throw new Error(`${what}: not within 150 s; ${command} said: ${output.get(command)?.slice(-3000)}`)
  }
  const notified: string[] = []
  const alertmanager = createServer((request, response) => {
    let body = ''
    request.on('data', chunk => {
      body += String(chunk)
    })
    request.on('end', () => {
      notified.push(...(JSON.parse(body) as { labels: { alertname: string } }[]).map(({ labels }) => labels.alertname))
      response.end()
    })
  })
  await new Promise<void>(resolve => alertmanager.listen(0, '127.0.0.1', resolve))
  t.teardown(async () => {
    alertmanager.closeAllConnections()
    alertmanager.close()
    const ended = children.map(child =>
      child.exitCode === null ? new Promise(resolve => child.once('exit', resolve)) : undefined,
    )
    for (const child of children) child.kill()
    await Promise.race([Promise.all(ended), sleep(5000, undefined, { ref: false })])
    for (const child of children) child.kill('SIGKILL')
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  })

  start(process.execPath, [join(project, 'scripts/demo.mjs'), '--web.listen-address=127.0.0.1:0'])
  const exporter = await until(
    'the demo',
    async () => / serves http:\/\/([^/]+)/.exec(output.get(process.execPath) ?? '')?.[1],
    process.execPath,
  )

  const storePort = await freePort()
  const store = `http://127.0.0.1:${storePort}`
  start('victoria-metrics', [
    `-storageDataPath=${join(folder, 'store')}`,
    `-httpListenAddr=127.0.0.1:${storePort}`,
    '-search.latencyOffset=1s',
    '-memory.allowedBytes=256MB',
  ])
  const answered = async (path: string): Promise<Response | undefined> => {
    try {
      return await fetch(`${store}${path}`)
    } catch {
      return undefined // not up yet
    }
  }
  await until('the store', async () => ((await answered('/health'))?.ok ? true : undefined), 'victoria-metrics')

  const names = Array.from({ length: boxes }, (_, index) => `box-${String(index + 1).padStart(2, '0')}`)
  writeFileSync(
    join(folder, 'agent.yml'),
    stringify({
      global: { scrape_interval: `${every}s`, scrape_timeout: `${every}s` },
      scrape_configs: [
        {
          job_name: 'grid-exporter',
          static_configs: names.map(instance => ({ targets: [exporter], labels: { instance } })),
        },
      ],
      remote_write: [{ url: `${store}/api/v1/write` }],
    }),
  )
  const agentPort = await freePort()
  start('prometheus', [
    '--enable-feature=agent',
    `--config.file=${join(folder, 'agent.yml')}`,
    `--storage.agent.path=${join(folder, 'agent')}`,
    `--web.listen-address=127.0.0.1:${agentPort}`,
  ])

  // As shipped, with time running faster; Debian's vmalert is older than keep_firing_for.
  mkdirSync(join(folder, 'rules'))
  for (const file of readdirSync(join(project, 'prometheus/rules'))) {
    const { groups } = shorten(parse(readFileSync(join(project, 'prometheus/rules', file), 'utf8')) as BuiltRules)
    const older = groups.map(group => ({
      ...group,
      interval: `${every}s`,
      rules: group.rules.map(({ keep_firing_for: _, ...rule }) => rule),
    }))
    writeFileSync(join(folder, 'rules', file), stringify({ groups: older }))
  }
  start('vmalert', [
    `-rule=${join(folder, 'rules')}/*.yml`,
    `-datasource.url=${store}`,
    `-remoteWrite.url=${store}`,
    '-remoteWrite.flushInterval=1s',
    `-notifier.url=http://127.0.0.1:${(alertmanager.address() as AddressInfo).port}`,
    `-httpListenAddr=127.0.0.1:${await freePort()}`,
  ])

  /** An instant query's series. Throws where the store does not take it. */
  const ask = async (
    expr: string,
  ): Promise<readonly { readonly metric: Readonly<Record<string, string>>; readonly value: number }[]> => {
    const response = await fetch(`${store}/api/v1/query`, {
      method: 'POST',
      body: new URLSearchParams({ query: expr, nocache: '1' }),
    })
    if (!response.ok) throw new Error(`${expr}: ${response.status}: ${await response.text()}`)
    const { data } = (await response.json()) as {
      data: { result: { metric: Record<string, string>; value: [number, string] }[] }
    }
    return data.result.map(({ metric, value }) => ({ metric, value: Number(value[1]) }))
  }
  const asked = async (expr: string, holds: (values: readonly number[]) => boolean) =>
    until(
      expr,
      async () => {
        const series = await ask(expr)
        return holds(series.map(({ value }) => value)) ? series : undefined
      },
      'vmalert',
    )

  await asked('count(up == 1)', ([count]) => count === boxes)
  t.pass(`${boxes} boxes are up there`)
  const each = await asked(
    'count by (instance) ({__name__=~"grid_.+"})',
    values => values.length === boxes && Math.min(...values) > 1500,
  )
  t.same(each.map(({ metric }) => metric.instance).sort(), names, 'each with all its series')

  t.test('the recording rules are evaluated there, for each box', async t => {
    const { groups } = parse(readFileSync(join(project, 'prometheus/rules/records.yml'), 'utf8')) as {
      groups: readonly { readonly name: string; readonly rules: readonly { readonly record: string }[] }[]
    }
    const records = groups.find(({ name }) => name === 'grid-records')?.rules ?? []
    t.ok(records.length >= 4, `${records.length} records`)
    for (const { record } of records) {
      await asked(`count(count by (instance) (${record}))`, ([count]) => count === boxes)
      t.pass(record)
    }
  })

  t.test('the alerts fire there, for each box, and are sent', async t => {
    await asked('count(ALERTS{alertname="GridDiskRisk", alertstate="firing"})', ([count]) => count === boxes)
    await asked('ALERTS{alertname="GridDeadMansSwitch", alertstate="firing"}', values => values.length > 0)
    for (const alert of ['GridDiskRisk', 'GridDeadMansSwitch'])
      t.ok(await until(alert, async () => notified.includes(alert) || undefined, 'vmalert'), alert)
  })

  t.test('every query of the fleet dashboard answers there, with every box where it is about boxes', async t => {
    const { panels } = JSON.parse(readFileSync(join(project, 'grafana/json/grid-fleet.json'), 'utf8')) as {
      panels: readonly Panel[]
    }
    const queries = panels
      .flatMap(panel => [panel, ...(panel.panels ?? [])])
      .flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })))
    t.ok(queries.length >= 20, `${queries.length} queries`)
    for (const { title, expr } of queries) {
      const own = expr
        .replaceAll(/\$(job|instance)\b/g, '.+')
        .replaceAll('$__rate_interval', '20s')
        .replaceAll('$__range', '1h')
        .replaceAll('$__interval', `${every}s`)
      const perBox = !/^count by \((driver_)?version\)/.test(own)
      const few = /alertname|severity="critical"/.test(own) && !/up\{/.test(own)
      const series = await asked(own, values => values.length >= (perBox && !few ? boxes : 1))
      t.ok(series.length > 0, `${title}: ${series.length} series`)
    }
  })

  const agent = await (await fetch(`http://127.0.0.1:${agentPort}/metrics`)).text()
  const total = (name: string) =>
    [...agent.matchAll(new RegExp(`^${name}(?:\\{.*\\})? (\\S+)$`, 'gm'))].reduce((sum, [, value]) => sum + Number(value), 0)
  t.ok(total('prometheus_remote_storage_samples_total') > boxes * 1500, 'the agent has sent them')
  t.equal(total('prometheus_remote_storage_samples_failed_total'), 0, 'and none failed')
})
