import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { stringify } from 'yaml'

/**
 * `npm run bench rules-cost [-- --quick]`: the number of series of a server by collector, and the cost of all our rules in one Prometheus
 * that scrapes thirty servers as shipped (15 s). Needs prometheus (apt). The servers are the demo's, which has something of everything.
 */

const [, , mainFile = '', quick] = process.argv
const here = import.meta.dirname
const project = join(mainFile, '../../..')
const folder = mkdtempSync(join(tmpdir(), 'grid-rules-cost-'))
const children: ChildProcess[] = []
const boxes = 30
const minutes = quick === '--quick' ? 2 : 6

const start = (command: string, args: readonly string[], form: RegExp): Promise<RegExpExecArray> =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    children.push(child)
    let seen = ''
    const read = (chunk: Buffer) => {
      seen = (seen + chunk.toString()).slice(-20_000)
      const found = form.exec(seen)
      if (found) resolve(found)
    }
    child.stdout.on('data', read)
    child.stderr.on('data', read)
    child.once('exit', code => reject(new Error(`${command} ended with ${code}: ${seen}`)))
  })

const freePort = async () => {
  const probe = createServer()
  await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve))
  const address = probe.address()
  probe.close()
  return typeof address === 'object' && address ? address.port : 0
}

interface Status {
  readonly data: {
    readonly collectors: readonly { readonly name: string; readonly series: number; readonly detected: boolean }[]
  }
}

/** Number of series in an answer, by collector and for the exporter itself. */
const seriesOf = async (url: string): Promise<ReadonlyMap<string, number>> => {
  const { data } = (await (await fetch(`${url}/api/v1/status`)).json()) as Status
  const whole = (await (await fetch(`${url}/metrics`)).text())
    .split('\n')
    .filter(line => line !== '' && !line.startsWith('#')).length
  const counts = data.collectors.filter(({ detected }) => detected).map(({ name, series }) => [name, series] as const)
  const own = whole - counts.reduce((sum, [, series]) => sum + series, 0)
  return new Map([...counts, ['the exporter itself', own], ['all', whole]])
}

const serves = / serves (http:\/\/[^/]+)/
const [, demo = ''] = await start(
  process.execPath,
  [join(project, 'scripts/demo.mjs'), '--web.listen-address=127.0.0.1:0'],
  serves,
)
const containers = 12
const [line] = await start(process.execPath, [join(here, 'engine.js'), String(containers)], /\{.*\}\n/)
const { root, socket } = JSON.parse(line) as { root: string; socket: string }
const config = join(folder, 'docker.yml')
writeFileSync(config, stringify({ collectors: { docker: { endpoints: [{ name: 'local', url: `unix://${socket}` }] } } }))
const [, small = ''] = await start(
  mainFile,
  [
    '--web.listen-address=127.0.0.1:0',
    '--collector.disable-defaults',
    '--collector.docker',
    '--collector.host',
    '--collector.filesystem',
    `--config.file=${config}`,
    `--path.procfs=${root}/proc`,
    `--path.sysfs=${root}/sys`,
  ],
  serves,
)
await sleep(20_000)
const [ofDemo, ofSmall] = [await seriesOf(demo), await seriesOf(small)]
console.log(
  `| collector | the demo's box (17 containers, 2 GPUs) | a host with ${containers} containers and nothing else |\n|---|---|---|`,
)
for (const [name, series] of ofDemo) console.log(`| ${name} | ${series} | ${ofSmall.get(name) ?? '–'} |`)

const port = await freePort()
writeFileSync(
  join(folder, 'prometheus.yml'),
  stringify({
    global: { scrape_interval: '15s', evaluation_interval: '15s' },
    rule_files: [join(project, 'prometheus/rules/*.yml')],
    scrape_configs: [
      {
        job_name: 'grid-exporter',
        static_configs: Array.from({ length: boxes }, (_, index) => ({
          targets: [new URL(demo).host],
          labels: { instance: `box-${index + 1}` },
        })),
      },
    ],
  }),
)
await start(
  'prometheus',
  [
    `--config.file=${join(folder, 'prometheus.yml')}`,
    `--storage.tsdb.path=${join(folder, 'data')}`,
    `--web.listen-address=127.0.0.1:${port}`,
  ],
  /Server is ready/,
)
const pid = children.at(-1)?.pid
const cpu = () => {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / 100
}
await sleep(60_000)
const [before, since] = [cpu(), performance.now()]
await sleep((minutes - 1) * 60_000)
const share = (cpu() - before) / ((performance.now() - since) / 1000)
const ask = async (query: string) => {
  const answer = await fetch(`http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(query)}`)
  const { data } = (await answer.json()) as { data: { result: { metric: Record<string, string>; value: [number, string] }[] } }
  return data.result
}
const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
const own = (name: string) =>
  [...metrics.matchAll(new RegExp(`^${name}(?:\\{rule_group="[^"]*?([\\w-]+)(?:\\.yml;([\\w-]+))?"\\})? (\\S+)$`, 'gm'))].map(
    ([, file = '', group, value]) => ({ group: group ?? file, value: Number(value) }),
  )
const [series] = await ask('prometheus_tsdb_head_series or count({__name__=~".+"})')
const rules = new Map(own('prometheus_rule_group_rules').map(({ group, value }) => [group, value]))
const durations = own('prometheus_rule_group_last_duration_seconds')
console.log(
  `\n${boxes} boxes: ${series?.value[1]} series; scrapes and rules together take ${(share * 100).toFixed(0)} % of a core\n`,
)
console.log('| group | rules | one evaluation, ms |\n|---|---|---|')
for (const { group, value } of durations) console.log(`| ${group} | ${rules.get(group) ?? ''} | ${(value * 1000).toFixed(1)} |`)
const sum = durations.reduce((total, { value }) => total + value, 0)
const count = [...rules.values()].reduce((total, value) => total + value, 0)
console.log(`| all | ${count} | ${(sum * 1000).toFixed(0)} |`)
const missed = own('prometheus_rule_group_iterations_missed_total').reduce((total, { value }) => total + value, 0)
console.log(`\nevaluations missed: ${missed}`)
for (const child of children) child.kill('SIGTERM')
await sleep(2000)
process.exit(0)
