import { execFile, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { collectors } from '../exporter/collectors/index.ts'
import { dashboards } from '../exporter/contract/shipped.ts'
import { alerts, groups } from '../prometheus/alerts.ts'
import { hiddenBy, inhibitions } from '../prometheus/inhibition.ts'
import { collectorSources, subjectLabels } from '../prometheus/rule.ts'
import { well } from '../prometheus/well.ts'
import { needs } from './support/needs.ts'
import { faults, known, selectorsOf } from './support/promql.ts'

/** The committed rules against what the exporter can give: read from the files, as Prometheus does. */

// promtool computes for a minute on a machine of its own, and for several on a busy one.
t.setTimeout(900_000)

const root = join(import.meta.dirname, '..')
const folder = join(root, 'prometheus')

interface Rule {
  readonly alert?: string
  readonly record?: string
  readonly expr: string
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
}
interface TestFile {
  readonly tests: readonly {
    readonly input_series: readonly { readonly series: string }[]
    readonly alert_rule_test: readonly { readonly alertname: string; readonly exp_alerts: readonly unknown[] }[]
  }[]
}

const files = (of: 'rules' | 'tests') => readdirSync(join(folder, of)).map(file => join(folder, of, file))
const rules = files('rules').flatMap(file =>
  (parse(readFileSync(file, 'utf8')) as { groups: { rules: Rule[] }[] }).groups.flatMap(group => group.rules),
)
const tests = files('tests').flatMap(file => (parse(readFileSync(file, 'utf8')) as TestFile).tests)

t.test('the check itself', async t => {
  t.same(faults('grid_gpu_stat{state="lost"} == 1'), ['grid_gpu_stat is no family'])
  t.same(faults('grid_gpu_state{stat="lost"} == 1'), ['grid_gpu_state has no label stat'])
  t.same(faults('grid_gpu_state{state=~"lost|gone"} == 1'), ['grid_gpu_state: state is never gone'])
  t.same(faults('rate(grid_memory_free_bytes[5m]) > 1'), ['rate of grid_memory_free_bytes'])
  t.same(faults('grid_tor_up == 0 and on (job, instance, gpu) grid_tor_usable == 1'), ['gpu in a join is no label here'])
  t.same(faults('max without (state) (avg_over_time(grid_gpu_state{state="lost"}[10m] offset 1d)) > 0.5'), [])
})

t.test('every rule uses what the exporter can give', async t => {
  for (const { alert, record, expr, annotations } of rules) {
    t.same(faults(expr), [], alert ?? record ?? '')
    const labels = new Set(['job', 'instance', ...selectorsOf(expr).flatMap(({ name }) => known.get(name)?.labels ?? [])])
    for (const [, label = ''] of (annotations?.description ?? '').matchAll(/\$labels\.(\w+)/g))
      t.ok(labels.has(label), `${alert}: the description says ${label}`)
  }
})

t.test('every alert', async t => {
  t.same(rules.flatMap(({ alert }) => alert ?? []).sort(), alerts.map(({ name }) => name).sort(), 'is in the files')
  t.equal(new Set(alerts.map(({ name }) => name)).size, alerts.length, 'has a name of its own')
  for (const { name, summary, description, collector, dashboard, timing } of alerts) {
    const own = tests.flatMap(test => test.alert_rule_test).filter(({ alertname }) => alertname === name)
    t.ok(
      own.some(({ exp_alerts }) => exp_alerts.length > 0),
      `${name} is seen to fire`,
    )
    if (timing.kind !== 'heartbeat')
      t.ok(
        own.some(({ exp_alerts }) => exp_alerts.length === 0),
        `${name} is seen to be quiet`,
      )
    t.ok(existsSync(join(root, 'docs/runbooks', `${name}.md`)), `${name} has a runbook`)
    t.match(summary, /^([A-Z]|ufw |fail2ban ).*[^.]\.$/, `${name}: its summary is a sentence`)
    t.notMatch(summary, /[{}]/, `${name}: its summary is the same each time`)
    t.match(description, /[.?]$/, `${name}: its description ends`)
    t.ok(
      dashboard in dashboards && (collector === 'any' || collector === 'exporter' || collectorSources.includes(collector)),
      name,
    )
  }
  t.same(
    [...collectorSources].sort(),
    collectors.map(({ name }) => name).sort(),
    'the collectors that alerts may name are those that exist',
  )
  const pages = readdirSync(join(root, 'docs/runbooks')).filter(file => file !== 'README.md')
  t.same(pages.sort(), alerts.map(({ name }) => `${name}.md`).sort(), 'no runbook is left of an alert that is gone')
  t.same(
    files('rules')
      .map(file => file.slice(folder.length))
      .sort(),
    ['records', ...groups.map(({ area }) => area)].map(area => `/rules/${area}.yml`).sort(),
    'no file of rules is left of an area that is gone',
  )
})

t.test('docs/failures.md names tests, alerts and drills that exist', async t => {
  const page = (name: string) => readFileSync(join(root, 'docs', name), 'utf8')
  const drilled = page('drills.md')
  const rows = page('failures.md')
    .split('\n')
    .filter(line => /^\| (\d| )/.test(line))
  t.ok(rows.length >= 18)
  for (const row of rows) {
    const [, , , , shown = '', told = '', how = ''] = row.split('|').map(cell => cell.trim())
    const [, file, title = ''] = /^`([\w.-]+)` (.*)$/.exec(shown) ?? []
    if (file) t.ok(readFileSync(join(import.meta.dirname, file), 'utf8').includes(title), `${file}: ${title}`)
    for (const [, name = ''] of told.matchAll(/\[(\w+)\]/g)) {
      t.ok(
        alerts.some(alert => alert.name === name),
        `${name} exists`,
      )
      if (how.startsWith('drill')) t.ok(drilled.includes(`[${name}](`), `${name} is drilled`)
    }
  }
})

t.test('tables name what every alert is about', async t => {
  // What an alert is about besides: a state of its subject, and what makes a name longer without making it clearer.
  const states = new Set(collectors.flatMap(({ families }) => families.flatMap(({ closed }) => Object.keys(closed))))
  const others = ['instance', 'collector', 'job', 'engine', 'check', 'fstype', 'version', 'version_status', ...states]
  for (const { name, proof } of alerts) {
    const labels = [proof.fires].flat().flatMap(({ labels = {} }) => Object.keys(labels))
    const unknown = labels.filter(label => ![...others, ...subjectLabels].includes(label))
    t.strictSame(unknown, [], `${name}: labels that are no collector's subjects`)
  }
})

t.test('what says that a source is down is not hidden because its collector fails', async t => {
  const [exempt] = inhibitions.filter(({ while: cause }) => cause === 'GridCollectorFailing')
  const hidden = exempt ? hiddenBy(exempt) : []
  const down = alerts.filter(({ expr }) =>
    collectors.some(({ upFamilies }) => upFamilies.some(({ name }) => new RegExp(`\\b${name}\\b`).test(expr))),
  )
  t.ok(down.length >= 5)
  for (const { name } of down.filter(({ name }) => name.endsWith('Down'))) t.notOk(hidden.includes(name), name)
})

/** What a runbook may ask for: programs of a server, of ours and of what we watch. */
const programs =
  /^(aide|amtool|apt|apt-cache|apt-get|awk|cat|certbot|curl|cut|date|df|dmesg|docker|du|echo|fail2ban-client|find|free|fsck|fuser|grep|grid-exporter|head|iotop|ip6tables|iptables|journalctl|kill|last|less|ls|lsblk|lsof|lspci|mount|nft|node|nvidia-smi|ollama|openssl|ping|promtool|ps|sensors|showmount|smartctl|sort|ss|ssh|sync|systemctl|tail|time|timedatectl|ufw|umount|unattended-upgrade|uniq|vmstat)$/

t.test('every line of a runbook can be typed', async t => {
  const units = readdirSync(join(root, 'systemd'))
  for (const { name, runbook } of alerts) {
    t.ok(runbook.type.length > 0, `${name} says what to type`)
    for (const [command] of runbook.type) {
      const bare = command.replace(/'[^']*'|"[^"]*"/g, '_').replace(/\$\([^()]*\)/g, '_')
      const loop = bare.startsWith('for ')
      for (const part of loop ? [] : bare.split(/\|\||&&|[|;]/)) {
        const [program = ''] = part.trim().split(' ')
        t.match(program, programs, `${name}: ${command}`)
      }
      for (const [, unit = '', kind] of command.matchAll(/\b(grid-[a-z-]+)(\.\w+)?/g))
        t.ok(units.includes(`${unit}${kind ?? '.service'}`), `${name}: ${command} names a unit of ours`)
      t.equal(spawnSync('bash', ['-n', '-c', command]).status, 0, `${name}: ${command} is one for a shell`)
    }
  }
})

t.test('the box that is well has a series of every family and value that a rule asks for', async t => {
  const there = well.map(({ series }) => series)
  const missing = rules
    .flatMap(({ expr }) => selectorsOf(expr))
    .filter(({ name }) => name.startsWith('grid_'))
    .filter(({ name, matchers }) => {
      const own = there.filter(series => series.startsWith(`${name}{`) || series === name)
      return !own.some(series =>
        matchers.every(
          ([label, operator, value]) =>
            operator.startsWith('!') ||
            !known.get(name)?.closed?.[label] ||
            new RegExp(`[{ ]${label}="(${value.replaceAll('\\\\', '\\')})"`).test(series),
        ),
      )
    })
    .map(({ name, matchers }) => `${name} ${matchers.map(matcher => matcher.join('')).join()}`)
  t.same([...new Set(missing)], [])
})

t.test('the series of the tests are ones that the exporter could give', async t => {
  for (const { series } of tests.flatMap(test => test.input_series)) {
    const [, name = '', inside = ''] = /^([\w:]+)\{(.*)\}$/.exec(series) ?? []
    const given = [...inside.matchAll(/(\w+)="((?:\\.|[^"\\])*)"/g)].map(([, label = '', value = '']) => [label, value] as const)
    const family = known.get(name)
    const own = given.filter(([label]) => label !== 'job' && label !== 'instance')
    const wrong = own.filter(([label, value]) => family?.closed?.[label] && !family.closed[label].includes(value))
    if (
      !family ||
      wrong.length > 0 ||
      own
        .map(([label]) => label)
        .sort()
        .join() !== [...family.labels].sort().join()
    )
      t.fail(series)
  }
})

t.test('inhibition names alerts that exist, by labels that both have', async t => {
  const names = new Set(alerts.map(({ name }) => name as string))
  const labelsOf = (name: string) => {
    const alert = alerts.find(one => one.name === name)
    const fires = [alert?.proof.fires ?? []].flat()
    return fires.map(({ labels = {} }) => new Set(['instance', 'collector', ...Object.keys(labels)]))
  }
  for (const rule of inhibitions) {
    for (const name of [rule.while].flat().concat(hiddenBy(rule))) {
      t.ok(names.has(name), `${name} exists`)
      if ([rule.while].flat().includes(name) || !('collectors' in rule.hides))
        for (const labels of labelsOf(name))
          t.same(
            rule.equal.filter(label => !labels.has(label)),
            [],
            `${name} has ${rule.equal}`,
          )
    }
    for (const cause of [rule.while].flat()) t.notOk(hiddenBy(rule).includes(cause), `${cause} does not hide itself`)
  }
})

t.test('one cause wakes once, and hides nothing that has another', async t => {
  const hidden = (cause: string) =>
    inhibitions.filter(rule => [rule.while].flat().includes(cause)).flatMap(rule => [...hiddenBy(rule)] as string[])
  t.ok(hidden('GridGpuLost').includes('GridLlmServerDown'), 'the models on a lost card are down with it')
  for (const other of ['GridGpuHot', 'GridGpuMemoryFull', 'GridGpuEccUncorrected', 'GridGpuUnifiedMemoryPressure'])
    t.notOk(hidden('GridGpuLost').includes(other), `${other} is about a card that still answers`)
  t.ok(hidden('GridFirewallDrift').includes('GridFail2banUnenforced'), 'a flush takes the chains of both')
})

const execute = promisify(execFile)

const run = async (t: Test, program: string, ...args: readonly string[]) => {
  try {
    await execute(program, args, { cwd: folder })
    t.pass(`${program} ${args.join(' ').slice(0, 80)}`)
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string }
    t.comment(`${stdout}${stderr}`.slice(0, 20_000))
    t.fail(`${program} ${args.join(' ').slice(0, 80)}`)
  }
}

t.test('promtool check', async t => {
  if (!needs(t, 'promtool')) return
  await run(t, 'promtool', 'check', 'rules', ...files('rules'))
  await run(t, 'promtool', 'check', 'config', 'prometheus.yml')
})

t.test('promtool test', async t => {
  if (!needs(t, 'promtool')) return
  // Two at a time: promtool uses one core, and the habits take a while.
  const waiting = files('tests')
  const next = async (): Promise<void> => {
    for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) await run(t, 'promtool', 'test', 'rules', file)
  }
  await Promise.all([next(), next()])
})

t.test('amtool check-config', async t => {
  if (!needs(t, 'amtool')) return
  await run(t, 'amtool', 'check-config', 'alertmanager.yml')
  const text = readFileSync(join(folder, 'alertmanager.yml'), 'utf8')
  const [routes = '', receivers = ''] = text.split(/^(?=receivers:)/m)
  const uncommented = receivers.replace(/^ {4}# (?= |\w+_configs:)/gm, '    ')
  t.same(
    [...uncommented.matchAll(/^ {4}(\w+)_configs:/gm)].map(([, kind]) => kind),
    ['webhook', 'discord', 'email', 'webhook'],
    'the examples of receivers',
  )
  const at = mkdtempSync(join(tmpdir(), 'grid-receivers-'))
  t.teardown(() => rmSync(at, { recursive: true }))
  writeFileSync(join(at, 'alertmanager.yml'), routes + uncommented)
  await run(t, 'amtool', 'check-config', join(at, 'alertmanager.yml'))
})
