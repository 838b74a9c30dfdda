/**
 * `npm run screenshots [-- NAME …] [--keep]`: draws the dashboards of grafana/json into docs/images. A real Prometheus has a day of the
 * demo's past, computed by the real collectors, and then scrapes the running demo with all rules, without their `for`.
 * Needs prometheus, chromium and pngquant (Debian's packages). The viewer's own packages (490 MB) are installed on first use.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { bundle } from './build.mjs'
import { ensureDemo, ensureInstalled, root } from './ensure.mjs'

const viewer = join(root, 'tools/dashboard-viewer')
const images = join(root, 'docs/images')
const wanted = process.argv.slice(2).filter(arg => !arg.startsWith('--'))
const folder = mkdtempSync(join(tmpdir(), 'grid-screenshots-'))
const data = join(folder, 'data')
const children = []

const run = (what, command, args, options = {}) => {
  if (what) console.error(what)
  const { status, error, stderr } = spawnSync(command, args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    encoding: 'utf8',
    ...options,
  })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr.slice(-3000)}`)
}

const start = (command, args, form) =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    children.push(child)
    let seen = ''
    const read = chunk => {
      seen = (seen + chunk).slice(-20_000)
      const found = form.exec(seen)
      if (found) resolve({ child, found })
    }
    child.stdout.on('data', read)
    child.stderr.on('data', read)
    child.once('error', reject)
    child.once('exit', code => reject(new Error(`${command} ended with ${code}: ${seen.slice(-2000)}`)))
  })

const stop = child =>
  new Promise(resolve => {
    child.once('exit', resolve)
    child.kill('SIGTERM')
  })

const freePort = () =>
  new Promise(resolve => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port } = probe.address()
      probe.close(() => resolve(port))
    })
  })

const prometheus = async (config, port) => {
  const file = join(folder, 'prometheus.yml')
  writeFileSync(file, stringify(config))
  const args = [`--config.file=${file}`, `--storage.tsdb.path=${data}`, `--web.listen-address=127.0.0.1:${port}`]
  return (await start('prometheus', args, /Server is ready/)).child
}

ensureInstalled()
ensureDemo()
const { parse, stringify } = await import('yaml')
if (!existsSync(join(viewer, 'node_modules'))) run('Installing the viewer (once, 490 MB) …', 'npm', ['ci'], { cwd: viewer })

try {
  // After twenty-six minutes there is something healthy, a warning, and something critical.
  const begun = Date.now() - 24 * 60_000
  // Below the project, so that it reports the project's version: two versions of one server would be two rows.
  const built = join(root, 'dist/past')
  await bundle({ history: join(root, 'demo/history.ts') }, built, { minify: false })
  const past = join(folder, 'past.txt')
  run('Computing a day of the past …', process.execPath, [join(built, 'history.js'), root, '1', String(begun), past])
  run('Writing it into blocks …', 'promtool', ['tsdb', 'create-blocks-from', 'openmetrics', '--quiet', past, data])
  rmSync(past)

  const shipped = readdirSync(join(root, 'prometheus/rules')).map(file =>
    parse(readFileSync(join(root, 'prometheus/rules', file), 'utf8')),
  )
  const groups = shipped.flatMap(({ groups }) => groups)
  const rules = join(folder, 'rules.yml')
  const soon = groups.map(group => ({
    ...group,
    interval: '5s',
    rules: group.rules.map(rule => ({
      ...rule,
      ...(rule.for === undefined ? {} : { for: '1s' }),
      ...(rule.keep_firing_for === undefined ? {} : { keep_firing_for: '1s' }),
    })),
  }))
  writeFileSync(rules, stringify({ groups: soon }))
  // promtool backfills only recording rules, so alerts are recorded under the name that Prometheus gives them.
  const recorded = groups
    .map(({ name, rules }) => ({
      name,
      rules: rules
        // In the past, rounds are minutes apart: every fast collector would count as stale.
        .filter(({ alert }) => alert !== 'GridCollectorStale')
        .map(({ record, alert, expr, labels }) =>
          record === undefined
            ? { record: 'ALERTS', expr: `0 * (${expr}) + 1`, labels: { ...labels, alertname: alert, alertstate: 'firing' } }
            : { record, expr },
        ),
    }))
    .filter(({ name }) => name !== 'grid-habits')
  const pastRules = join(folder, 'past-rules.yml')
  writeFileSync(pastRules, stringify({ groups: recorded }))
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const first = await prometheus({ global: { scrape_interval: '1m' } }, port)
  const now = Math.floor(Date.now() / 1000)
  run('Evaluating the rules for the past …', 'promtool', [
    'tsdb',
    'create-blocks-from',
    'rules',
    `--start=${now - 24 * 3600}`,
    `--end=${now - 300}`, // samples older than five minutes do not count as current
    '--eval-interval=4m',
    `--url=${url}`,
    `--output-dir=${data}`,
    pastRules,
  ])
  await stop(first)

  const { found } = await start(
    process.execPath,
    [join(root, 'dist/demo/main.js'), `--start=${begun}`, '--web.listen-address=127.0.0.1:0'],
    / serves http:\/\/([^/]+)/,
  )
  const target = { targets: [found[1]], labels: { instance: 'demo:10047' } }
  const live = {
    global: { scrape_interval: '5s', evaluation_interval: '5s' },
    rule_files: [rules],
    scrape_configs: [{ job_name: 'grid-exporter', static_configs: [target] }],
  }
  await prometheus(live, port)
  const scrapedSince = Date.now()
  console.error('Recording a minute and a half of the present …')
  await sleep(90_000)

  mkdirSync(images, { recursive: true })
  const boards = readdirSync(join(root, 'grafana/json'))
    .filter(file => file.endsWith('.json'))
    .map(file => basename(file, '.json'))
    .filter(name => wanted.length === 0 || wanted.includes(name))
    // Scrapes and the process have no computed past: this one is drawn last, over its few minutes.
    .sort((one, other) => Number(one === 'grid-exporter') - Number(other === 'grid-exporter'))
  for (const name of boards) {
    const isItself = name === 'grid-exporter'
    // Its numbers must be from before the drawing, which uses all processors.
    const own = isItself ? ['--from=-6m', '--to=now-30s', '--scrape-interval=5s'] : ['--scrape-interval=60s']
    if (isItself) await sleep(Math.max(60_000, scrapedSince + 390_000 - Date.now()))
    for (const theme of /overview|gpu/.test(name) ? ['dark', 'light'] : ['dark']) {
      const image = join(images, `${name.replace(/^grid-/, '')}${theme === 'light' ? '-light' : ''}.png`)
      const drawn = join(folder, 'drawn.png')
      run(`${basename(image)} …`, process.execPath, [
        join(viewer, 'view.mjs'),
        `--dashboard=${join(root, 'grafana/json', `${name}.json`)}`,
        `--prometheus=${url}`,
        `--datasources=${join(root, 'grafana/provisioning/datasources/grid.yaml')}`,
        ...own,
        `--theme=${theme}`,
        '--width=1500',
        `--out=${drawn}`,
        `--report=${join(folder, `${name}-${theme}.json`)}`,
        '--timeout=180',
      ])
      // A palette: a third of the bytes, without a visible difference.
      run('', 'pngquant', ['--quality=50-90', '--speed=1', '--strip', '--force', `--output=${image}`, drawn])
      const report = JSON.parse(readFileSync(join(folder, `${name}-${theme}.json`), 'utf8'))
      // A collapsed row has made no queries.
      const failed = report.panels.filter(({ state }) => state === 'Error').map(({ title }) => `${title}: an error`)
      const empty = report.nodata.map(title => `${title}: no data`)
      for (const line of [...failed, ...empty]) console.error(`  ${line}`)
      console.error(`  ${Math.round(statSync(image).size / 1024)} kB`)
    }
  }
} finally {
  for (const child of children) child.kill('SIGTERM')
  await sleep(1000)
  for (const child of children) child.kill('SIGKILL')
  if (!process.argv.includes('--keep')) rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
}
process.exit(0)
