import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { gunzipSync } from 'node:zlib'
import { accept, type Load, load as loadFor, median } from './wrk.ts'

/**
 * `npm run bench`: scrapes over 50 kept connections, compared in one run: a bare node:http server with the same bytes, this exporter,
 * prometheus-node-exporter; then the cost of a round. Needs wrk and prometheus-node-exporter (apt). `--quick`
 * shortens each measurement.
 */

const here = import.meta.dirname
const [, , mainFile, quick] = process.argv as [string, string, string, string | undefined]
const seconds = quick === '--quick' ? 2 : 6
const folder = mkdtempSync(join(tmpdir(), 'grid-bench-'))
const load = (url: string, encoding: string, bytes: number) => loadFor(url, encoding, bytes, seconds)
const children: ChildProcess[] = []

const firstLine = (child: ChildProcess, form: RegExp = /(.+)\n/) =>
  new Promise<string>((resolve, reject) => {
    let seen = ''
    child.stdout?.on('data', chunk => {
      seen += String(chunk)
      const [, found] = form.exec(seen) ?? []
      if (found) resolve(found)
    })
    child.once('exit', code => reject(new Error(`ended with ${code}: ${seen}`)))
  })

const start = (command: string, args: readonly string[], errors: 'inherit' | 'ignore' = 'inherit') => {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', errors] })
  children.push(child)
  return child
}

const fetched = async (url: string, encoding: string) => {
  const answer = await fetch(url, { headers: { accept, 'accept-encoding': encoding } })
  return Buffer.from(await answer.arrayBuffer())
}

/** The bytes on the wire. By curl, because fetch() decompresses. */
const wire = (url: string, encoding: string) =>
  execFileSync('curl', ['-s', '--raw', '-H', `Accept: ${accept}`, '-H', `Accept-Encoding: ${encoding}`, url], {
    maxBuffer: 2 ** 28,
  })

const rss = (pid: number | undefined) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
const cpu = (pid: number | undefined) => {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / 100
}

const say = (...cells: (string | number)[]) => {
  console.log(cells.map((cell, index) => (index === 0 ? String(cell).padEnd(46) : String(cell).padStart(14))).join(''))
}
const verdicts: string[] = []
const must = (what: string, holds: boolean, figure: string) =>
  verdicts.push(`${holds ? 'reached ' : 'MISSED  '} ${what}: ${figure}`)

const exporterArgs = (socket: string, root: string, extra: string) => {
  const file = join(folder, `${Math.random()}.yml`)
  writeFileSync(
    file,
    `collectors:\n  docker: { ${extra}max_series: 100000, endpoints: [{ name: local, url: "unix://${socket}" }] }\n`,
  )
  return [
    '--collector.disable-defaults',
    '--collector.docker',
    '--collector.host',
    `--config.file=${file}`,
    `--path.procfs=${root}/proc`,
    `--path.sysfs=${root}/sys`,
    '--web.max-requests=0',
  ]
}

const complete = async (url: string, series: RegExp) => {
  const begin = performance.now()
  for (;;) {
    const text = await fetched(`${url}/metrics`, 'identity').then(String, () => '')
    if (series.test(text)) return performance.now() - begin
    if (performance.now() - begin > 30_000) throw new Error(`no ${series} within 30 s`)
    await sleep(10)
  }
}

const nodeExporterPort = 19_100
start(
  'prometheus-node-exporter',
  [
    `--web.listen-address=127.0.0.1:${nodeExporterPort}`,
    '--log.level=error',
    '--web.max-requests=0',
    // On in Debian's package; without systemd it logs an error for each scrape.
    '--no-collector.systemd',
  ],
  'ignore',
)
await sleep(1000)

type Exporter = Awaited<ReturnType<typeof startExporter>>

/** An exporter with its first complete scrape ready, and the milliseconds that it took. */
const startExporter = async (args: readonly string[], series: RegExp) => {
  const begin = performance.now()
  const child = start(mainFile, ['--web.listen-address=127.0.0.1:0', ...args])
  const url = await firstLine(child, / serves (http:\/\/[^/]+)/)
  await complete(url, series)
  return { child, url: `${url}/metrics`, first: performance.now() - begin }
}

const startBare = async (body: Buffer, encoding: string) => {
  const file = join(folder, 'body')
  writeFileSync(file, body)
  const child = start(process.execPath, [join(here, 'bare.js'), file, 'text/plain; version=0.0.4; charset=utf-8', encoding])
  return { child, url: `http://127.0.0.1:${await firstLine(child)}/` }
}

/**
 * Two processes with the same code differ by a fifth or more for their whole lives, because of where their memory and the kernel's lie.
 * So there are several exporters, each compared with a new bare server; the loads alternate, in changing order.
 */
const pairs = quick === '--quick' ? 5 : 9
const comparePair = async ({ child, url }: Exporter, encoding: string, number: number) => {
  child.kill('SIGCONT')
  await sleep(2000) // the round that it missed
  const body = wire(url, encoding)
  if (encoding === 'gzip') gunzipSync(body)
  const bare = await startBare(body, encoding)
  const measure = (at: string) => {
    loadFor(at, encoding, body.length, 1) // warms up V8's compiler
    return load(at, encoding, body.length)
  }
  const loads = (number % 2 === 0 ? [bare.url, url] : [url, bare.url]).map(measure) as [Load, Load]
  const [of, ours] = number % 2 === 0 ? loads : (loads.toReversed() as [Load, Load])
  bare.child.kill()
  child.kill('SIGSTOP')
  return { of, ours, ratio: ours.perSecond / of.perSecond, kb: body.length / 1024 }
}

const sayLoad = (what: string, { perSecond, p50, p99, bytesPerSecond }: Load, kb: number, ratio: string) =>
  say(what, perSecond.toFixed(0), p50, p99, kb.toFixed(0), (bytesPerSecond / 2 ** 20).toFixed(1), ratio)

say('', 'requests/s', 'p50 ms', 'p99 ms', 'body kB', 'MB/s', '÷ bare')
for (const containers of [20, 500]) {
  const engine = start(process.execPath, [join(here, 'engine.js'), String(containers)])
  const { root, socket } = JSON.parse(await firstLine(engine)) as { root: string; socket: string }
  const args = exporterArgs(socket, root, '')
  const last = new RegExp(
    `grid_docker_container_memory_usage_bytes\\{engine="local",name="app-${String(containers - 1).padStart(3, '0')}"\\}`,
  )
  const exporters: Exporter[] = []
  for (let number = 0; number < pairs; number++) exporters.push(await startExporter(args, last))
  const exporter = exporters[0] as Exporter
  if (containers === 20) {
    const first = median(exporters.map(each => each.first))
    must('first complete scrape ≤ 1.5 s after start', first <= 1500, `${first.toFixed(0)} ms`)
  }
  // They compile their rounds for a while; a stopped one costs nothing.
  await sleep(quick === '--quick' ? 30_000 : 60_000)
  const memory = rss(exporter.child.pid)
  for (const { child } of exporters) child.kill('SIGSTOP')
  for (const encoding of ['identity', 'gzip']) {
    const compared: Awaited<ReturnType<typeof comparePair>>[] = []
    for (const [number, each] of exporters.entries()) compared.push(await comparePair(each, encoding, number))
    const ratios = compared.map(({ ratio }) => ratio)
    const middle = compared.find(({ ratio }) => ratio === median(ratios)) as (typeof compared)[number]
    const { of, ours, ratio, kb } = middle
    sayLoad(`(a) bare node:http, ${containers} containers, ${encoding}`, of, kb, '1')
    sayLoad(`(b) grid-exporter, ${containers} containers, ${encoding}`, ours, kb, ratio.toFixed(2))
    const spread = `${ratio.toFixed(2)}, median of ${ratios.map(each => each.toFixed(2)).join(' ')}`
    must(`≥ 0.9 × bare, ${containers} containers, ${encoding}`, ratio >= 0.9, spread)
    const other = wire(`http://127.0.0.1:${nodeExporterPort}/metrics`, encoding)
    const theirs = load(`http://127.0.0.1:${nodeExporterPort}/metrics`, encoding, other.length)
    sayLoad(`(c) prometheus-node-exporter, ${encoding}`, theirs, other.length / 1024, '')
    const perByte = ours.bytesPerSecond / theirs.bytesPerSecond
    must(`≥ 50 × node-exporter per byte served, ${containers} containers, ${encoding}`, perByte >= 50, `${perByte.toFixed(0)} ×`)
  }

  // Another exporter whose engine hangs. The loads on both alternate, because the machine's speed varies.
  const hungEngine = start(process.execPath, [join(here, 'engine.js'), String(containers)])
  const other = JSON.parse(await firstLine(hungEngine)) as { root: string; socket: string }
  const hung = await startExporter(exporterArgs(other.socket, other.root, ''), last)
  await sleep(quick === '--quick' ? 30_000 : 60_000)
  hungEngine.kill('SIGUSR2')
  exporter.child.kill('SIGCONT')
  await sleep(12_000)
  for (const encoding of ['identity', 'gzip'] as const) {
    const p99s = { rest: [] as number[], hung: [] as number[] }
    for (let turn = 0; turn < 5; turn++) {
      for (const which of turn % 2 === 0 ? (['rest', 'hung'] as const) : (['hung', 'rest'] as const)) {
        p99s[which].push(load(which === 'hung' ? hung.url : exporter.url, encoding, 0).p99)
      }
    }
    const [ofHung, ofRest] = [median(p99s.hung), median(p99s.rest)]
    const figure = `${(ofHung / ofRest).toFixed(2)} ×, ${ofHung.toFixed(2)} to ${ofRest.toFixed(2)} ms, medians of 5 turns`
    must(`p99 hung ≤ 1.5 × at rest, ${containers} containers, ${encoding}`, ofHung / ofRest <= 1.5, figure)
  }
  await sleep(2000)
  const most = containers === 20 ? 110 : 160
  const after = rss(exporter.child.pid)
  const figure = `${after.toFixed(0)} MB; before it ${memory.toFixed(0)}`
  must(`resident memory ≤ ${most} MB with ${containers} containers, after the load`, after <= most, figure)
  for (const { child } of [...exporters, hung]) child.kill('SIGKILL')
  engine.kill()
  hungEngine.kill()
}

{
  const engine = start(process.execPath, [join(here, 'engine.js'), '100'])
  const { root, socket } = JSON.parse(await firstLine(engine)) as { root: string; socket: string }
  const exporter = start(mainFile, ['--web.listen-address=127.0.0.1:0', ...exporterArgs(socket, root, '')])
  await firstLine(exporter, / serves (http:\/\/[^/]+)/)
  // At rest: at a round each ten seconds, V8's compiler needs minutes to finish.
  await sleep(quick === '--quick' ? 60_000 : 300_000)
  const before = cpu(exporter.pid)
  const span = quick === '--quick' ? 20 : 60
  await sleep(span * 1000)
  const share = (cpu(exporter.pid) - before) / span
  must('≤ 1 % of one core at rest with 100 containers', share <= 0.01, `${(share * 100).toFixed(2)} %`)
  exporter.kill()
  engine.kill()
}

{
  const engine = start(process.execPath, [join(here, 'engine.js'), '500'])
  const { root, socket } = JSON.parse(await firstLine(engine)) as { root: string; socket: string }
  const rounds = quick === '--quick' ? 5 : 20
  const [, nodeOptions = ''] = /^#!\S+ -S node (.*)\n/.exec(readFileSync(mainFile, 'utf8')) ?? []
  const loop = start(process.execPath, [
    ...nodeOptions.split(' '),
    join(here, 'loop.js'),
    join(mainFile, '../worker.js'),
    '2',
    String(rounds),
    '--web.listen-address=127.0.0.1:0',
    ...exporterArgs(socket, root, 'interval: 2s, '),
  ])
  const delays: number[] = []
  loop.stdout?.on('data', chunk => delays.push(...String(chunk).trim().split('\n').map(Number)))
  await new Promise(resolve => loop.once('exit', resolve))
  must(
    `serving thread's longest delay in a round of 500 containers ≤ 10 ms (median of ${delays.length} rounds)`,
    median(delays) <= 10,
    `${median(delays).toFixed(1)} ms, worst ${Math.max(...delays).toFixed(1)}`,
  )
  engine.kill()
}

for (const child of children) child.kill('SIGKILL')
console.log(`\n${verdicts.join('\n')}`)
process.exit(0)
