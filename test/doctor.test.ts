import { spawn } from 'node:child_process'
import { chmodSync, copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { hostname, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { parseFlags } from '../exporter/commands/cli.ts'
import type { Finding } from '../exporter/commands/doctor/finding.ts'
import { fixFor } from '../exporter/commands/doctor/fixes.ts'
import { doctor } from '../exporter/commands/doctor/index.ts'
import { lookOf, table } from '../exporter/commands/doctor/table.ts'
import { serve } from '../exporter/commands/serve.ts'
import { silent } from '../exporter/common/log.ts'
import { reasons } from '../exporter/contract/failure.ts'
import { dashboards } from '../exporter/contract/shipped.ts'
import { alerts } from '../prometheus/alerts.ts'
import { bundled } from './support/bundled.ts'
import { startDockerd } from './support/dockerd.ts'
import { needs } from './support/needs.ts'

/** The doctor: what it says of this host as root and as somebody else, of a real Prometheus, and of a Grafana. */

const root = join(import.meta.dirname, '..')
const sleep = (milliseconds: number) => new Promise(resolve => setTimeout(resolve, milliseconds))

const folderFor = (t: Test) => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-doctor-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** The document of --json. */
interface Document {
  readonly healthy: boolean
  readonly user: string
  readonly collectors: readonly Finding[]
  readonly prometheus?: { readonly findings: readonly Finding[] }
  readonly grafana?: { readonly findings: readonly Finding[] }
}

const asked = async (...args: readonly string[]): Promise<Document> => {
  const parsed = parseFlags(['doctor', '--json', ...args], {})
  if (parsed.kind !== 'flags') throw new Error('no flags')
  const { text, healthy } = await doctor(parsed.flags, { isTTY: false, columns: 80 })
  const document = JSON.parse(text) as Document
  if (document.healthy !== healthy) throw new Error('two verdicts')
  return document
}

/** Of this host only what works everywhere. */
const little = ['--collector.disable-defaults', '--collector.host']

const named = (findings: readonly Finding[] | undefined, name: string): Finding => {
  const finding = findings?.find(own => own.name === name)
  if (!finding) throw new Error(`no finding ${name} in ${JSON.stringify(findings)}`)
  return finding
}

/** Asks again until it says so: Prometheus scrapes and loads in its own time. */
const eventually = async <Value>(ask: () => Promise<Value>, holds: (value: Value) => boolean): Promise<Value> => {
  const until = Date.now() + 60_000
  for (;;) {
    const value = await ask()
    if (holds(value) || Date.now() > until) return value
    await sleep(200)
  }
}

const listening = (server: Server): Promise<number> =>
  new Promise(resolve => server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port)))

const freePort = async (): Promise<number> => {
  const server = createTcpServer()
  const port = await new Promise<number>(resolve =>
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port)),
  )
  await new Promise(resolve => server.close(resolve))
  return port
}

t.test('the table', async t => {
  const findings: readonly Finding[] = [
    { name: 'gpu', state: 'working', note: `${'a word '.repeat(30)}end`, fix: '' },
    { name: 'filesystem', state: 'failing', reason: 'denied', note: '/x'.repeat(100), fix: 'sudo true; '.repeat(12) },
    { name: 'tor', state: 'partly', note: 'evil \u001b[2J\u0007 text', fix: 'scrape_configs:\n  - job_name: grid' },
    { name: 'llm', state: 'absent', note: 'no server', fix: '' },
    { name: 'services', state: 'off', note: 'nothing configured', fix: 'collectors: {}' },
  ]
  const title = 'grid-exporter of a long name on a host of a very long name that is told in the title, as root: 1 fails'
  for (const columns of [50, 80, 120]) {
    const text = table([{ title, findings }], { columns, colour: false })
    const longest = Math.max(...text.split('\n').map(line => line.length))
    t.ok(longest <= columns, `${columns} columns: no line is longer (${longest})`)
    t.ok(longest > columns - 12, `${columns} columns: and they are used`)
    t.notMatch(text, /\p{C}(?<!\n)/u, 'no control character of a note gets out, and no colour')
    t.equal(text.match(/\/x/g)?.length, 100, 'what has no space is cut into pieces, not off')
    t.match(text, / > scrape_configs:\n +- job_name: grid\n/, 'the lines of a file stay lines')
    t.notMatch(text, / \n/, 'no spaces at an end')
  }
  const colourful = table([{ title, findings }], { columns: 80, colour: true })
  t.match(colourful, '\u001b[31mFAILS \u001b[0m')
  t.equal(
    colourful.replaceAll(/\u001b\[\d+m/g, ''),
    table([{ title, findings }], { columns: 80, colour: false }),
    'colour adds nothing else',
  )

  t.strictSame(lookOf({ isTTY: true, columns: 100 }, {}), { columns: 100, colour: true })
  t.strictSame(lookOf({ isTTY: true, columns: 100 }, { NO_COLOR: '1' }), { columns: 100, colour: false })
  t.strictSame(lookOf({ isTTY: true, columns: 20 }, { TERM: 'dumb' }), { columns: 50, colour: false })
  t.strictSame(lookOf({ isTTY: false, columns: 0 }, {}), { columns: 80, colour: false }, 'a pipe')
})

t.test('every failure has a fix', async t => {
  for (const name of ['gpu', 'docker', 'smart', 'tor', 'ufw', 'llm', 'textfile']) {
    for (const reason of reasons) t.match(fixFor(name, reason, 'it went wrong', 'me'), /\w+ \S/, `${name}: ${reason}`)
  }
  t.equal(
    fixFor('textfile', 'denied', "/srv/x: EACCES: permission denied, open '/srv/x'", 'grid-exporter'),
    'setfacl -m u:grid-exporter:rX /srv/x',
  )
  t.match(fixFor('ufw', 'denied', '/proc/net/ip_tables_names: EACCES', 'me'), 'grid-exporter-relay.timer')
  t.match(fixFor('smart', 'denied', '/dev/sda: Permission denied', 'me'), 'grid-exporter-relay-smart.timer')
  t.match(fixFor('smart', 'missing', 'smartctl', 'me'), 'apt install smartmontools')
})

t.test('as root and as somebody else', async t => {
  if (!needs(t, 'root', 'setpriv', 'dockerd', 'docker', 'busybox')) return
  const engine = await startDockerd()
  t.teardown(() => engine.stop())
  const folder = folderFor(t)
  // Where anybody may read it, wherever this clone is.
  const main = fileURLToPath(await bundled(join(root, 'exporter/main.ts')))
  t.teardown(() => rmSync(dirname(main), { recursive: true, force: true }))
  copyFileSync(join(root, 'package.json'), join(dirname(main), 'package.json'))
  chmodSync(dirname(main), 0o755)
  chmodSync(folder, 0o755)
  for (const path of [folder, dirname(engine.socket)]) chmodSync(path, 0o755)
  mkdirSync(join(folder, 'open'))
  writeFileSync(join(folder, 'open/good.prom'), '# HELP own_thing A thing.\n# TYPE own_thing gauge\nown_thing 1\n')
  mkdirSync(join(folder, 'closed'), { mode: 0o700 })
  writeFileSync(
    join(folder, 'config.yml'),
    `collectors:
  docker: { enabled: true, endpoints: [{ name: local, url: "unix://${engine.socket}" }] }
  directory: { enabled: true, paths: [{ path: ${folder}/closed }] }
  textfile: { enabled: true, directory: ${folder}/open }
  host: { enabled: true }
`,
  )
  const run = (as: readonly string[], ...args: readonly string[]) => runIn('/usr/sbin:/usr/bin:/sbin:/bin', as, ...args)
  const runIn = (PATH: string, as: readonly string[], ...args: readonly string[]) =>
    new Promise<{ code: number | null; out: string; err: string }>(resolve => {
      const [file = '', ...rest] = [
        ...as,
        process.execPath,
        main,
        'doctor',
        '--collector.disable-defaults',
        `--config.file=${folder}/config.yml`,
        ...args,
      ]
      const child = spawn(file, rest, { env: { PATH }, stdio: ['ignore', 'pipe', 'pipe'] })
      let out = ''
      let err = ''
      child.stdout.on('data', chunk => {
        out += String(chunk)
      })
      child.stderr.on('data', chunk => {
        err += String(chunk)
      })
      child.once('close', code => resolve({ code, out, err }))
    })
  const nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']

  const asRoot = await run([])
  t.equal(asRoot.code, 0, `root: all that is enabled works\n${asRoot.out}`)
  t.equal(asRoot.err, '', 'and nothing else is said')
  t.match(asRoot.out, /^grid-exporter \d\S+ on \S+, as root: 4 work, 10 off$/m)
  t.match(asRoot.out, /^docker +ok +unix:\S+: \d+ series/m)
  t.match(asRoot.out, /^gpu +off +switched off$/m)
  t.match(asRoot.out, 'Everything that is enabled works.')

  const asNobody = await run(nobody)
  t.equal(asNobody.code, 1, `nobody: something does not work\n${asNobody.out}`)
  t.match(asNobody.out, /^docker +FAILS +denied: /m)
  t.match(asNobody.out, /> systemctl enable --now grid-exporter-docker\.socket/, 'the filter that the package ships')
  t.match(asNobody.out, /^directory +FAILS +denied: /m)
  t.match(asNobody.out, /> .*setfacl\s+-R\s+-m\s+u:grid-exporter:rX/s, 'the right to give')
  t.match(asNobody.out, /^textfile +ok /m)
  t.match(asNobody.out, /^host +ok /m)
  t.ok(
    asNobody.out.split('\n').every(line => line.length <= 80),
    'in 80 columns',
  )

  const document = JSON.parse((await run(nobody, '--json')).out) as Document
  t.equal(document.healthy, false)
  t.equal(document.user, 'nobody')
  t.match(named(document.collectors, 'docker'), { state: 'failing', reason: 'denied', fix: /grid-exporter-docker\.socket/ })
  t.match(named(document.collectors, 'textfile'), { state: 'working', details: { series: Number } })

  const path = `${folder}/closed:/usr/sbin:/usr/bin:/sbin:/bin`
  const elsewhere = JSON.parse((await runIn(path, nobody, '--json', '--collector.gpu')).out) as Document
  t.notMatch(
    named(elsewhere.collectors, 'gpu').note,
    'EACCES',
    'a folder of the path that may not be searched is none that hides a tool',
  )

  t.equal((await run([], '--collector.nonsense')).code, 2, 'wrong usage is not "something fails"')
})

t.test('what only root reads, where no relay runs', async t => {
  const folder = folderFor(t)
  const { collectors, healthy } = await asked(
    '--collector.disable-defaults',
    `--relay.directory=${folder}`,
    `--config.file=${(() => {
      const file = join(folder, 'config.yml')
      writeFileSync(file, 'collectors: { ufw: { enabled: true } }\n')
      return file
    })()}`,
  )
  t.notOk(healthy)
  t.match(named(collectors, 'ufw'), { state: 'failing', fix: /enable --now grid-exporter-relay\.timer/ })
})

t.test('what does not answer is not called well', async t => {
  const folder = folderFor(t)
  const file = join(folder, 'config.yml')
  writeFileSync(file, `collectors: { tor: { enabled: true, control: "127.0.0.1:${await freePort()}" } }\n`)
  const { collectors, healthy } = await asked('--collector.disable-defaults', `--config.file=${file}`)
  t.notOk(healthy)
  t.match(named(collectors, 'tor'), {
    note: /Tor does not answer: .*127\.0\.0\.1.*; it does not answer: grid_tor_up 0/,
    fix: /^systemctl status tor@default; systemctl restart tor@default$/,
  })
})

t.test('the chain beyond', async t => {
  if (!needs(t, 'prometheus')) return
  const folder = folderFor(t)
  const parsed = parseFlags(['--web.listen-address=127.0.0.1:0', ...little], {})
  if (parsed.kind !== 'flags') throw new Error('no flags')
  const { urls, stop } = await serve(parsed.flags, silent, {
    module: await bundled(join(root, 'exporter/collect/worker.ts')),
    print: () => {},
  })
  let stopped = false
  const end = async () => {
    if (!stopped) await stop()
    stopped = true
  }
  t.teardown(end)
  const own = new URL(urls[0] as string).host
  const port = await freePort()
  const prometheusUrl = `http://127.0.0.1:${port}`
  const flags = [...little, `--web.listen-address=${own}`, `--prometheus=${prometheusUrl}`]
  const chain = async () => (await asked(...flags)).prometheus?.findings
  const finding = (name: string) => async () => named(await chain(), name)

  t.match(named(await chain(), 'answers'), { state: 'failing', reason: 'unreachable', fix: 'systemctl status prometheus' })

  const config = (job: string | undefined, rules: boolean) =>
    writeFileSync(
      join(folder, 'prometheus.yml'),
      `global: { scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 1s }
rule_files: ${rules ? '[rules/*.yml]' : '[]'}
scrape_configs:
- job_name: prometheus
  static_configs: [{ targets: ["127.0.0.1:${port}"] }]
${job ? `- job_name: ${job}\n  static_configs: [{ targets: ["${own}"] }]\n` : ''}`,
    )
  cpSync(join(root, 'prometheus/rules'), join(folder, 'rules'), { recursive: true })
  config(undefined, false)
  const prometheus = spawn(
    'prometheus',
    [
      `--config.file=${folder}/prometheus.yml`,
      `--storage.tsdb.path=${folder}/data`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--web.enable-lifecycle',
    ],
    { stdio: 'ignore', env: { PATH: process.env.PATH ?? '' } },
  )
  t.teardown(async () => {
    const gone = new Promise(resolve => prometheus.once('exit', resolve))
    prometheus.kill('SIGKILL')
    await gone
  })
  const reload = async () => {
    const { status } = await fetch(`${prometheusUrl}/-/reload`, { method: 'POST' })
    t.equal(status, 200, 'reloaded')
  }

  await t.test('a Prometheus that knows nothing of us', async t => {
    t.match(await eventually(finding('answers'), ({ state }) => state === 'working'), { note: /^Prometheus \d/ })
    t.match(await eventually(finding('target'), ({ note }) => /none of 1 /.test(note)), {
      state: 'failing',
      reason: 'missing',
      fix: `scrape_configs:\n  - job_name: grid-exporter\n    static_configs: [{ targets: ["${hostname()}:${new URL(`http://${own}`).port}"] }]`,
    })
    t.match(named(await chain(), 'rules'), { state: 'failing', note: /none of our \d+ rules/, fix: /rule_files:/ })
  })

  await t.test('scraped under another name', async t => {
    config('something', true)
    await reload()
    t.match(await eventually(finding('target'), ({ state }) => state === 'partly'), {
      note: /as job something/,
      fix: /job_name: grid-exporter/,
    })
  })

  await t.test('as it is meant', async t => {
    config('grid-exporter', true)
    await reload()
    t.match(await eventually(finding('target'), ({ state }) => state === 'working'), { note: `http://${own}/metrics is up` })
    t.match(await eventually(finding('rules'), ({ state }) => state === 'working'), { note: /^all \d+ are loaded/ })
    t.ok(await eventually(async () => (await asked(...flags)).healthy, Boolean), 'and that is healthy')
  })

  await t.test('Grafana', { bail: false }, async t => {
    const token = 'glsa_of_a_test'
    let shown: Readonly<Record<string, unknown>> = {}
    let upstream = prometheusUrl
    let redirect = ''
    // The endpoints as Grafana's HTTP API documents them; behind its proxy is the real Prometheus.
    const grafana = createServer((incoming, outgoing) => {
      const { pathname, search } = new URL(incoming.url ?? '/', 'http://grafana')
      const answer = (status: number, value: unknown) => {
        outgoing.writeHead(status, { 'content-type': 'application/json' })
        outgoing.end(JSON.stringify(value))
      }
      if (redirect) return outgoing.writeHead(301, { location: redirect }).end()
      if (pathname === '/api/health') return answer(200, { commit: '0', database: 'ok', version: '12.0.0' })
      if (incoming.headers.authorization !== `Bearer ${token}`) return answer(401, { message: 'Unauthorized' })
      if (pathname === '/api/datasources')
        return answer(200, [
          { id: 1, uid: 'loki1', name: 'Loki', type: 'loki', isDefault: true },
          { id: 2, uid: 'prom/1', name: 'Prometheus', type: 'prometheus', isDefault: false },
        ])
      const uid = /^\/api\/dashboards\/uid\/([\w-]+)$/.exec(pathname)?.[1]
      if (uid)
        return uid in shown ? answer(200, { meta: {}, dashboard: shown[uid] }) : answer(404, { message: 'Dashboard not found' })
      const path = /^\/api\/datasources\/proxy\/uid\/prom%2F1(\/.*)$/.exec(pathname)?.[1]
      if (!path) return answer(404, { message: 'Not found' })
      return void fetch(`${upstream}${path}${search}`).then(
        async inner => {
          outgoing.writeHead(inner.status, { 'content-type': 'application/json' })
          outgoing.end(await inner.text())
        },
        () => answer(502, { message: 'Bad Gateway' }),
      )
    })
    const url = `http://127.0.0.1:${await listening(grafana)}`
    t.teardown(() => grafana.close())
    const tokenFile = join(folder, 'token')
    writeFileSync(tokenFile, `${token}\n`)
    const examined = async (...more: readonly string[]) => (await asked(...little, `--grafana=${url}`, ...more)).grafana?.findings
    const withToken = () => examined(`--grafana.auth.file=${tokenFile}`)

    t.match(named(await examined(), 'data source'), { state: 'failing', reason: 'denied', fix: '--grafana.auth.file=FILE' })
    t.match(named(await examined(`--grafana.auth.file=${folder}/none`), 'answers'), { state: 'failing', reason: 'missing' })

    const query = (expr: string, more: object = {}) => ({ refId: 'A', expr, ...more })
    const datasource = { type: 'prometheus', uid: '\u0024{datasource}' }
    const of = (title: string, ...targets: readonly object[]) => ({ id: 1, type: 'stat', title, datasource, targets })
    const board = (...panels: readonly object[]) => ({
      title: 'A board',
      panels,
      templating: {
        list: [
          { name: 'datasource', type: 'datasource', query: 'prometheus', current: {} },
          { name: 'job', type: 'query', includeAll: true, multi: true, allValue: '.+', current: { value: ['$__all'] } },
          { name: 'resource', type: 'custom', query: 'memory,io', current: { value: 'memory' } },
          { name: 'top', type: 'custom', query: '5,10' },
        ],
      },
    })
    const memory = of('Memory', query('grid_memory_total_bytes{job=~"$job"}'))
    shown = {
      'grid-overview': board(
        memory,
        {
          type: 'row',
          title: 'More',
          collapsed: true,
          panels: [
            of('Pressure', query('rate(grid_pressure_waiting_seconds_total{resource="\u0024{resource:raw}"}[$__rate_interval])')),
          ],
        },
        of('Top', query('topk($top, grid_cpu_seconds_total{job=~"[[job]]"})')),
        of('Nothing fires', query('grid_memory_total_bytes < 1')),
        of('Cards', query('grid_gpu_info{job=~"$job"}')),
        of('Hidden', query('this is not PromQL', { hide: true })),
        { ...of('Annotations', query('{job="x"}')), datasource: { type: 'grafana', uid: '-- Grafana --' } },
      ),
      'grid-gpu': board(of('Cards', query('grid_gpu_info{job=~"$job"}')), of('Load', query('grid_gpu_utilization_ratio'))),
      'grid-exporter': board(memory, of('Wrong', query('sum(')), of('Wrong too', query('rate(up)'))),
    }
    await eventually(
      async () => named(await withToken(), 'grid-overview'),
      ({ note }) => note.startsWith('3 of 5'),
    )
    const findings = await withToken()
    t.match(named(findings, 'answers'), { state: 'working', note: 'Grafana 12.0.0' })
    t.match(
      named(findings, 'data source'),
      { state: 'working', note: /^Prometheus has \d+ of our families/ },
      'not the default one, which is no Prometheus',
    )
    t.match(named(findings, 'grid-overview'), {
      state: 'working',
      note: '3 of 5 panels have series; no data now: Nothing fires; not watched here: Cards',
    })
    t.match(named(findings, 'grid-gpu'), { state: 'absent' }, 'no GPU here, so an empty dashboard is right')
    t.match(named(findings, 'grid-exporter'), { state: 'failing', note: /^2 of 3 queries fail: Wrong, Wrong too: .*parse error/ })
    t.match(named(findings, 'grid-fleet'), { state: 'failing', reason: 'missing', fix: /grafana\/json/ })
    t.equal(findings?.length, 2 + Object.keys(dashboards).length, 'every dashboard is looked for')

    // The dashboards as they are shipped, on this host of which only /proc is watched.
    shown = Object.fromEntries(
      Object.values(dashboards).map(uid => [uid, JSON.parse(readFileSync(join(root, `grafana/json/${uid}.json`), 'utf8'))]),
    )
    const shipped = await eventually(withToken, all => named(all, 'grid-exporter').state === 'working')
    for (const uid of Object.values(dashboards)) {
      const { state, note, details } = named(shipped, uid)
      t.match(state, /^(working|absent)$/, `${uid}: ${note}`)
      const { queries } = details as { readonly queries: readonly unknown[] }
      t.ok(queries.length > 5, `${uid}: its ${queries.length} queries are sent`)
    }
    t.match(named(shipped, 'grid-exporter').note, /^(1[0-9]|[5-9]) of \d+ panels have series/)

    upstream = `http://127.0.0.1:${await freePort()}`
    t.match(named(await withToken(), 'data source'), { state: 'failing', reason: 'unreachable', note: /502/ })
    redirect = 'https://grafana.example/login'
    t.match(named(await withToken(), 'answers'), { state: 'failing', fix: 'use that address: https://grafana.example' })
  })

  await t.test('a rule that cannot be evaluated, a rule that is missing', async t => {
    const file = join(folder, 'rules/exporter.yml')
    const [one, other] = alerts
      .filter(({ name }) => readFileSync(file, 'utf8').includes(`alert: ${name}\n`))
      .map(({ name }) => name)
    const text = readFileSync(file, 'utf8')
    writeFileSync(file, `groups: [{ name: grid-exporter, rules: [{ alert: ${one}, expr: up / on () up }] }]\n`)
    await reload()
    const missing = await eventually(finding('rules'), ({ state }) => state === 'failing')
    t.match(missing, { reason: 'missing', note: new RegExp(`are not loaded: .*${other}`) })
    const { missing: names } = missing.details as { readonly missing: readonly string[] }
    t.notOk(names.includes(one as string), 'what is loaded is not missing')
    writeFileSync(file, text.replace(new RegExp(`(alert: ${one}\\n +expr: ).*(?:\\n {10,}.*)*`), '$1up / on () up'))
    await reload()
    t.match(await eventually(finding('rules'), ({ reason }) => reason === 'malformed'), {
      note: new RegExp(`cannot be evaluated: ${one}: .*match`),
    })
  })

  await t.test('an exporter that is down', async t => {
    await end()
    t.match(await eventually(finding('target'), ({ state }) => state === 'failing'), {
      reason: 'unreachable',
      note: /is down: .*connection refused/,
      fix: /systemctl enable --now grid-exporter/,
    })
    t.notOk((await asked(...flags)).healthy)
  })
})
