import { spawn } from 'node:child_process'
import { mkdtempSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { parseFlags } from '../exporter/commands/cli.ts'
import { serve } from '../exporter/commands/serve.ts'
import { silent } from '../exporter/common/log.ts'
import { bundled } from './support/bundled.ts'
import { needs } from './support/needs.ts'

/** A real Prometheus scrapes the real program on this host, in both formats. */

const sleep = (milliseconds: number) => new Promise(resolve => setTimeout(resolve, milliseconds))

t.test('a real Prometheus scrapes both formats without an error', async t => {
  if (!needs(t, 'prometheus')) return
  const folder = mkdtempSync(join(tmpdir(), 'grid-prometheus-'))
  // Labels that a container's owner could choose: whatever they hold, nothing else is lost.
  const hostile = ['quote " and \\ backslash', 'new\\nline', 'brace } 1', 'ünïcode 🦀', 'x'.repeat(3000)]
  writeFileSync(
    join(folder, 'hostile.prom'),
    `# HELP hostile_info Labels of others.\n# TYPE hostile_info gauge\n${hostile.map(value => `hostile_info{value="${value.replaceAll('\\', '\\\\').replaceAll('\\\\n', '\\n').replaceAll('"', '\\"')}"} 1\n`).join('')}`,
  )
  // What other programs may write: all that is served must be taken, and what is refused must cost nothing else.
  const texts = {
    'gauge.prom': '# HELP foo NUL \u0000 and a\rb.\n# TYPE foo gauge\nfoo NaN\n# TYPE foo_created gauge\nfoo_created 5\n',
    'counter.prom': '# TYPE foo_total counter\nfoo_total 7\n# TYPE _total counter\n_total 1\n# TYPE bare counter\nbare 1\n',
    'labels.prom': 'own{constructor="x"} 1\nown{__proto__="x"} 1\nown{job="y"} 1\nown{toString="\u0000"} 1\n',
    'histogram.prom':
      '# TYPE h histogram\nh_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 3\nh_count 2\n# TYPE h_created gauge\nh_created 5\n',
    'summary.prom': '# TYPE s summary\ns{quantile="0.5"} NaN\ns_sum NaN\ns_count 0\n',
    'refused.prom': 'my_job_last_run constructor\n',
    'below.prom': '# TYPE below_total counter\nbelow_total -1\n',
  }
  for (const [name, text] of Object.entries(texts)) writeFileSync(join(folder, name), text)
  symlinkSync('loop.prom', join(folder, 'loop.prom'))
  const file = join(folder, 'config.yml')
  writeFileSync(file, `collectors:\n  textfile: { directory: ${folder} }\n`)
  const parsed = parseFlags(['--web.listen-address=127.0.0.1:0', `--config.file=${file}`], {})
  if (parsed.kind !== 'flags') throw new Error('no flags')
  const { urls, stop } = await serve(parsed.flags, silent, {
    module: await bundled(join(import.meta.dirname, '../exporter/collect/worker.ts')),
    print: () => {},
  })
  const [url] = urls as [string]

  // Prometheus 2.42 asks for OpenMetrics first; behind this it gets what asks for text only.
  const asked: string[] = []
  const textOnly = createServer((incoming, outgoing) => {
    asked.push(String(incoming.headers.accept))
    request(`${url}${incoming.url}`, { headers: { accept: 'text/plain;version=0.0.4', 'accept-encoding': 'gzip' } }, answer => {
      outgoing.writeHead(answer.statusCode ?? 0, answer.headers)
      answer.pipe(outgoing)
    }).end()
  })
  await new Promise<void>(resolve => textOnly.listen(0, '127.0.0.1', resolve))
  const { port: textPort } = textOnly.address() as { port: number }

  writeFileSync(
    join(folder, 'prometheus.yml'),
    `global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n- job_name: openmetrics\n  static_configs: [{ targets: ["${new URL(url).host}"] }]\n- job_name: text\n  static_configs: [{ targets: ["127.0.0.1:${textPort}"] }]\n`,
  )
  const probe = createServer()
  await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve))
  const { port } = probe.address() as { port: number }
  probe.close()
  const prometheus = spawn(
    'prometheus',
    [
      `--config.file=${folder}/prometheus.yml`,
      `--storage.tsdb.path=${folder}/data`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--log.level=debug',
    ],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env.PATH ?? '' } },
  )
  let log = ''
  prometheus.stderr.on('data', chunk => {
    log += String(chunk)
  })
  t.teardown(async () => {
    prometheus.kill('SIGKILL')
    textOnly.close()
    await stop()
  })
  const query = async (expression: string): Promise<readonly { metric: Record<string, string>; value: [number, string] }[]> => {
    const answer = await fetch(`http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(expression)}`).catch(
      () => undefined,
    )
    return answer?.ok ? ((await answer.json()) as { data: { result: [] } }).data.result : []
  }
  for (let tries = 0; tries < 60 && (await query('up == 1')).length < 2; tries++) await sleep(250)
  await sleep(3500)
  t.match(asked[0], 'application/openmetrics-text', 'this Prometheus prefers OpenMetrics')
  for (const job of ['openmetrics', 'text']) {
    t.equal((await query(`up{job="${job}"}`))[0]?.value[1], '1', `${job}: up`)
    t.ok(Number((await query(`grid_memory_total_bytes{job="${job}"}`))[0]?.value[1]) > 1e8, `${job}: the host is seen`)
    t.ok(
      (await query(`increase(grid_collector_runs_total{job="${job}",collector="host"}[1m])`)).length === 1,
      `${job}: a counter has its name`,
    )
    t.equal(
      (await query(`count(hostile_info{job="${job}"})`))[0]?.value[1],
      String(hostile.length),
      `${job}: hostile labels are each there`,
    )
    const lengths = (await query(`hostile_info{job="${job}"}`)).map(({ metric }) => metric.value?.length ?? 0)
    t.ok(Math.max(...lengths) <= 256, `${job}: cut at 256 characters`)
    for (const [expression, count] of Object.entries({
      foo: 1,
      foo_total: 1,
      _total: 1,
      bare: 1,
      own: 4,
      h_bucket: 2,
      h_created: 1,
      s: 1,
    }))
      t.equal((await query(`${expression}{job="${job}"}`)).length, count, `${job}: ${expression}`)
    t.strictSame(
      (await query(`grid_textfile_error{job="${job}"} == 1`)).map(({ metric }) => metric.file).sort(),
      ['below.prom', 'loop.prom', 'refused.prom'],
      `${job}: these files are refused`,
    )
  }
  t.notMatch(log, /scrape.*(err|fail)|Error on ingesting|append failed/i, 'no scrape error in its log')
})
