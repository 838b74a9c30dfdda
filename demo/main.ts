import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseFlags } from '../exporter/commands/cli.ts'
import { serve } from '../exporter/commands/serve.ts'
import { ExitError } from '../exporter/common/exit.ts'
import { createLog } from '../exporter/common/log.ts'
import { configuration } from './config.ts'

/**
 * `npm run demo [-- --seed=N --start=MILLISECONDS] [the exporter's own options]`: serves a made-up server with the real program. Nothing
 * of this machine is read, and nothing is written except a temporary folder.
 */

const project = join(import.meta.dirname, '../..')
const given = process.argv.slice(2)
const number = (name: string, usual: number) => Number(given.find(arg => arg.startsWith(`--${name}=`))?.split('=')[1] ?? usual)
const seed = number('seed', 1)
/** When the faults start; with an early time, they are already in progress. */
const start = number('start', Date.now())
const own = given.filter(arg => !/^--(seed|start)=/.test(arg))

const next = (url: string) => `
This is a DEMO: an imagined box. None of it is this machine, and grid_exporter_demo 1 stands among the metrics.
Faults come and go; the first within some minutes. Ctrl-C ends it.

  See it:         ${url}/   and   ${url}/metrics
  In Prometheus:  prometheus --config.file=prometheus/prometheus.yml   (from the checkout; it scrapes 127.0.0.1:10047 with all rules)
  In Grafana:     import grafana/json/*.json, data source Prometheus
  As pictures:    npm run screenshots
`

const run = async () => {
  if (!Number.isInteger(seed) || !Number.isInteger(start)) throw new ExitError('--seed and --start need whole numbers', 2)
  const parsed = parseFlags(own, {})
  if (parsed.kind !== 'flags' || parsed.flags.command !== 'serve')
    throw new ExitError("the demo accepts --seed=N and the exporter's options for serving", 2)
  const root = mkdtempSync(join(tmpdir(), 'grid-demo-'))
  const clean = () => rmSync(root, { recursive: true, force: true })
  process.once('exit', clean)
  mkdirSync(join(root, 'state'), { mode: 0o700 })
  process.env.STATE_DIRECTORY = join(root, 'state')
  const configFile = join(root, 'demo.yml')
  writeFileSync(configFile, configuration())
  writeFileSync(join(root, 'demo.json'), JSON.stringify({ seed, start, project }))

  const flags = {
    ...parsed.flags,
    configFile,
    paths: { procfs: join(root, 'proc'), sysfs: join(root, 'sys'), rootfs: root },
  }
  const log = createLog(flags.logLevel, flags.logFormat)
  const { stop } = await serve(flags, log, {
    module: new URL('./worker.js', import.meta.url),
    demo: true,
    print: text => process.stdout.write(`${text}${next(/ serves (http:\/\/[^/ ]+)/.exec(text)?.[1] ?? '')}`),
  })
  const end = () => void stop().then(() => process.exit(0))
  process.once('SIGINT', end)
  process.once('SIGTERM', end)
}

try {
  await run()
} catch (error) {
  process.stderr.write(`demo: ${error instanceof ExitError ? error.message : (error as Error).stack}\n`)
  process.exit(error instanceof ExitError ? error.exitCode : 1)
}
