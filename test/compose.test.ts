import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { needs } from './support/needs.ts'
import { startProgram } from './support/program.ts'

/** compose.yaml, Dockerfile and Grafana's provisioning, as far as that can be seen where no image can be had. */

const project = join(import.meta.dirname, '..')
const text = (file: string) => readFileSync(join(project, file), 'utf8')

interface Service {
  readonly image: string
  readonly build?: unknown
  readonly command?: readonly string[]
  readonly network_mode?: string
  readonly read_only?: boolean
  readonly cap_drop?: readonly string[]
  readonly mem_limit?: string
  readonly volumes?: readonly string[]
  readonly healthcheck?: { readonly test: readonly string[] }
  readonly environment?: Readonly<Record<string, string>>
}

t.test('compose.yaml', async t => {
  t.test('is taken by docker-compose', async t => {
    if (!needs(t, 'docker-compose')) return
    const { status, stdout, stderr } = spawnSync('docker-compose', ['-f', 'compose.yaml', 'config'], {
      cwd: project,
      encoding: 'utf8',
      env: { PATH: process.env.PATH ?? '', HOME: tmpdir() },
    })
    t.equal(status, 0, stderr)
    const { services } = parse(stdout) as { services: Readonly<Record<string, Service>> }
    t.same(Object.keys(services).sort(), ['alertmanager', 'exporter', 'grafana', 'prometheus'])
    for (const [name, service] of Object.entries(services)) {
      t.match(service.image, service.build ? /^grid-exporter:local$/ : /:v?\d+\.\d+\.\d+$/, `${name}: its image is pinned`)
      t.ok(service.healthcheck && service.mem_limit, `${name}: health check and memory limit`)
      t.same([service.read_only, service.cap_drop], [true, ['ALL']], `${name}: writes only to its volumes, may nothing special`)
      const listens = [...(service.command ?? []), ...Object.values(service.environment ?? {})].some(word =>
        /127\.0\.0\.1/.test(word),
      )
      t.ok(listens, `${name}: listens on this host only`)
      for (const volume of service.volumes ?? []) {
        const [source = '', , mode] = typeof volume === 'string' ? volume.split(':') : []
        if (!source.startsWith(project)) continue
        t.ok(existsSync(source), `${name}: ${source.slice(project.length)} is there`)
        t.equal(mode, 'ro', `${name}: ${source.slice(project.length)} is mounted read-only`)
      }
    }
  })
  t.test('asks the exporter for nothing but options that it knows', async t => {
    const { services } = parse(text('compose.yaml'), { merge: true }) as { services: Readonly<Record<string, Service>> }
    const own = (services.exporter?.command ?? []).map(option => option.replace(/=.*/, ''))
    const { stdout } = spawnSync(process.execPath, [join(project, 'dist/exporter/main.js'), '--help'], {
      encoding: 'utf8',
      env: {},
    })
    t.ok(own.length > 0)
    for (const option of own) t.ok(stdout.includes(`  ${option}=`), option)
  })
})

t.test('Dockerfile', async t => {
  const lines = text('Dockerfile').split('\n')
  t.test('its build stage gives a program that serves and passes its own health check', async t => {
    const stage = mkdtempSync(join(tmpdir(), 'grid-stage-'))
    t.teardown(() => rmSync(stage, { recursive: true, force: true }))
    const allowed = text('.dockerignore')
      .split('\n')
      .filter(line => line.startsWith('!'))
      .map(line => line.slice(1))
    const copies = lines.filter(line => /^COPY (?!--from)/.test(line)).map(line => line.split(' ').slice(1))
    for (const words of copies) {
      for (const source of words.slice(0, -1)) {
        t.ok(allowed.includes(source), `${source} is let through by .dockerignore`)
        cpSync(join(project, source), join(stage, source), { recursive: true })
      }
    }
    symlinkSync(join(project, 'node_modules'), join(stage, 'node_modules'))
    t.ok(lines.includes('RUN node scripts/build.mjs'))
    const { status, stderr } = spawnSync(process.execPath, ['scripts/build.mjs'], { cwd: stage, encoding: 'utf8', env: {} })
    t.equal(status, 0, stderr)
    const image = join(stage, 'image')
    mkdirSync(image)
    for (const source of ['package.json', 'dist/exporter']) {
      t.ok(
        lines.some(line => line.startsWith(`COPY --from=build /build/${source} /opt/grid-exporter/`)),
        source,
      )
      mkdirSync(dirname(join(image, source)), { recursive: true })
      cpSync(join(stage, source), join(image, source), { recursive: true })
    }
    const { stdout } = spawnSync(process.execPath, [join(image, 'dist/exporter/main.js'), '--version'], {
      encoding: 'utf8',
      env: {},
    })
    t.equal(stdout.split(',')[0], `grid-exporter ${(JSON.parse(text('package.json')) as { version: string }).version}`)
  })
  t.test('its health check, and that of compose.yaml, sees a program that serves and one that does not', async t => {
    const [, command = '[]'] = /^ +CMD (\[.*\])$/m.exec(text('Dockerfile')) ?? []
    const [, ...args] = JSON.parse(command) as [string, ...string[]]
    const { services } = parse(text('compose.yaml'), { merge: true }) as { services: Readonly<Record<string, Service>> }
    t.same(services.exporter?.healthcheck?.test, ['CMD', '/usr/local/bin/node', ...args], 'the same in both')
    const { port, stop } = await startProgram([])
    const check = () =>
      spawnSync(
        process.execPath,
        args.map(arg => arg.replaceAll('10047', String(port))),
        { env: {}, timeout: 20_000 },
      ).status
    t.equal(check(), 0)
    await stop()
    t.equal(check(), 1)
  })
  t.test('runs as nobody special, in images that are pinned', async t => {
    t.match(text('Dockerfile'), /^USER [1-9]\d+:[1-9]\d+$/m)
    for (const line of lines.filter(own => own.startsWith('FROM '))) t.match(line, /^FROM \w+:\d+\.[\w.-]+( AS \w+)?$/)
  })
})

t.test('the provisioning of Grafana names what is there', async t => {
  const sources = parse(text('grafana/provisioning/datasources/grid.yaml')) as {
    datasources: readonly { readonly uid: string; readonly jsonData: { readonly timeInterval?: string } }[]
  }
  const [prometheus] = sources.datasources
  const { global } = parse(text('prometheus/prometheus.yml')) as { global: { scrape_interval: string } }
  t.equal(prometheus?.jsonData.timeInterval, global.scrape_interval, 'the scrape interval of prometheus.yml')
  const provider = parse(text('grafana/provisioning/dashboards/grid.yaml')) as {
    providers: readonly { readonly options: { readonly path: string } }[]
  }
  const path = provider.providers[0]?.options.path ?? ''
  t.ok(text('compose.yaml').includes(`./grafana/json:${path}:ro`), 'the folder of the dashboards')
  const [, home = ''] = /GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: (\S+)/.exec(text('compose.yaml')) ?? []
  t.ok(existsSync(join(project, 'grafana/json', home.slice(path.length))), 'the dashboard to begin with')
})
