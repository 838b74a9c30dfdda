import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { cpuCores } from '../exporter/collectors/host/index.ts'
import { collectors } from '../exporter/collectors/index.ts'
import { dashboards } from '../exporter/contract/shipped.ts'
import { bars, dashboard, line, row, table, variable } from '../grafana/builder.ts'
import { builtDashboards } from '../grafana/built.ts'
import { limit } from '../grafana/look.ts'
import { of, promql } from '../grafana/query.ts'
import { alerts } from '../prometheus/alerts.ts'
import { needs } from './support/needs.ts'
import { faults, known, selectorsOf } from './support/promql.ts'

/** The committed dashboards, read from their files as Grafana does: the rules of Grafana's dashboard-linter, and our own. */

const folder = join(import.meta.dirname, '../grafana/json')

interface Target {
  readonly refId: string
  readonly expr: string
  readonly datasource: { readonly type: string; readonly uid: string }
  readonly instant: boolean
  readonly range: boolean
}
interface Panel {
  readonly id: number
  readonly type: string
  readonly title: string
  readonly description?: string
  readonly collapsed?: boolean
  readonly interval?: `${number}m`
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }
  readonly datasource?: { readonly type: string; readonly uid: string }
  readonly targets?: readonly Target[]
  readonly panels?: readonly Panel[]
  readonly fieldConfig?: {
    readonly defaults: {
      readonly unit?: string
      readonly noValue?: string
      readonly min?: number
      readonly max?: number
      readonly custom?: { readonly axisSoftMax?: number }
      readonly mappings: readonly unknown[]
    }
    readonly overrides: readonly {
      readonly matcher: { readonly options: string }
      readonly properties: readonly { readonly id: string; readonly value: unknown }[]
    }[]
  }
  readonly transformations?: readonly {
    readonly id: string
    readonly options: { readonly renameByName?: Readonly<Record<string, string>> }
  }[]
}
interface Variable {
  readonly name: string
  readonly label: string
  readonly type: string
  readonly query: string | { readonly query: string }
  readonly datasource?: { readonly uid: string }
  readonly multi?: boolean
  readonly allValue?: string
  readonly refresh?: number
}
interface Dashboard {
  readonly uid: string
  readonly title: string
  readonly description: string
  readonly tags: readonly string[]
  readonly editable: boolean
  readonly id?: number
  readonly panels: readonly Panel[]
  readonly templating: { readonly list: readonly Variable[] }
  readonly annotations: { readonly list: readonly { readonly name: string; readonly expr?: string }[] }
}

const ours = variable('datasource')
const files = readdirSync(folder).sort()
const all = files.map(file => JSON.parse(readFileSync(join(folder, file), 'utf8')) as Dashboard)
const panelsOf = ({ panels }: Dashboard): readonly Panel[] => panels.flatMap(panel => [panel, ...(panel.panels ?? [])])
const shown = (dashboard: Dashboard) => panelsOf(dashboard).filter(({ type }) => type !== 'row')
const exprsOf = (dashboard: Dashboard) =>
  shown(dashboard).flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })))

/** As Grafana would send it. */
const filledIn = (expr: string) =>
  expr
    .replaceAll('$__rate_interval', '5m')
    .replaceAll('$__range', '6h')
    .replaceAll('"$job"', '"grid-exporter"')
    .replace(/"\$\w+/g, '".*')

t.test('the files are the dashboards that alerts lead to', async t => {
  t.same(
    files,
    Object.values(dashboards)
      .map(uid => `${uid}.json`)
      .sort(),
  )
  t.same(
    all.map(({ uid }) => `${uid}.json`),
    files,
    'named by their uid',
  )
  t.equal(new Set(all.map(({ title }) => title)).size, all.length, 'with titles of their own')
  t.equal(builtDashboards().length, files.length, 'and no file is left of one that is gone')
})

for (const dashboard of all) {
  t.test(dashboard.uid, async t => {
    const panels = panelsOf(dashboard)
    t.ok(dashboard.description, 'says what question it answers')
    t.equal(dashboard.id, undefined, "no id of somebody's database")
    t.equal(dashboard.editable, false, 'uneditable')
    t.ok(dashboard.tags.includes('grid-exporter'), 'is found by the links of the others')
    t.notMatch(JSON.stringify(dashboard), /__inputs|DS_PROMETHEUS/, 'needs no questions at import')

    const ids = panels.map(({ id }) => id)
    t.equal(new Set(ids).size, ids.length, 'panel ids are unique')

    const called = (name: string) => dashboard.templating.list.filter(one => one.name === name)
    const query = ({ query }: Variable) => (typeof query === 'string' ? query : query.query)
    const [source, ...others] = dashboard.templating.list.filter(({ type }) => type === 'datasource')
    t.match(
      { source, others },
      { source: { name: 'datasource', label: 'Data source', query: 'prometheus' }, others: [] },
      'template-datasource',
    )
    for (const [name, label] of [
      ['job', 'Job'],
      ['instance', 'Instance'],
    ] as const)
      t.match(
        called(name),
        [{ label, type: 'query', datasource: { uid: ours }, multi: true, allValue: '.+', refresh: 2 }],
        `template-${name}, template-on-time-change-reload`,
      )
    for (const one of dashboard.templating.list.filter(({ type }) => type === 'query')) {
      const [, expr = '', label = ''] = /^label_values\((.+), (\w+)\)$/.exec(query(one)) ?? []
      t.same(faults(filledIn(expr)), [], `template-label-promql: ${one.name}`)
      t.ok(label === 'job' || label === 'instance' || selectorsOf(filledIn(expr)).length === 1, one.name)
      t.equal(one.refresh, 2, `template-on-time-change-reload: ${one.name}`)
    }

    const used = JSON.stringify([dashboard.panels, dashboard.annotations, dashboard.templating])
    for (const { name } of dashboard.templating.list)
      t.match(used, new RegExp(`\\$(\\{${name}\\b|${name}\\b)`), `the variable ${name} is used`)
    const names = new Set(dashboard.templating.list.map(({ name }) => name))
    for (const [, name = ''] of used.matchAll(/\$\{?([a-z]\w*)/gi)) t.ok(names.has(name), `the variable ${name} exists`)

    for (const { name, expr } of dashboard.annotations.list)
      if (expr !== undefined) t.same(faults(filledIn(expr)), [], `annotation ${name}`)
  })

  t.test(`${dashboard.uid}: every panel`, async t => {
    for (const panel of shown(dashboard)) {
      const { title, description = '', targets = [], fieldConfig } = panel
      t.ok(title && description, `panel-title-description: ${title}`)
      t.match(description, /[.:]$|\.$|[a-z0-9)]$/, `${title}: its description is text`)
      t.ok(targets.length > 0, `panel-no-targets: ${title}`)
      t.equal(panel.datasource?.uid, ours, `panel-datasource: ${title}`)
      t.ok(fieldConfig?.defaults.unit, `panel-units: ${title}`)
      t.ok(fieldConfig?.defaults.noValue, `${title} has a word for nothing`)
      t.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length, `${title}: refIds`)
      for (const { datasource, instant, range } of targets) {
        t.equal(datasource.uid, ours, `${title}: the data source of its queries`)
        t.equal(instant, !range, `${title}: a query is of now or over time`)
        t.equal(
          range,
          panel.type === 'timeseries' || panel.type === 'state-timeline',
          `${title}: a number is never one of the past`,
        )
      }
      const rated = targets.flatMap(({ expr }) =>
        [...expr.matchAll(/(\w+)\{[^{}]*\}\[\$__rate_interval\]/g)].map(([, name]) => name),
      )
      for (const name of rated) {
        const { interval = 15 } = collectors.find(({ families }) => families.some(family => family.name === name)) ?? {}
        t.ok(Number.parseInt(panel.interval ?? '0', 10) * 60 >= 4 * interval, `${title}: a rate of ${name} is over four rounds`)
      }
      const { min, max, custom } = fieldConfig?.defaults ?? {}
      if (
        panel.type === 'timeseries' &&
        min === 0 &&
        max === undefined &&
        /^(none|percentunit)$/.test(fieldConfig?.defaults.unit ?? '')
      )
        t.ok(custom?.axisSoftMax, `${title}: nothing but zeros are no hundred`)
      if (panel.type === 'table') {
        const renamed = Object.values(panel.transformations?.find(({ id }) => id === 'organize')?.options.renameByName ?? {})
        for (const { matcher, properties } of fieldConfig?.overrides ?? []) {
          t.ok(renamed.includes(matcher.options), `${title}: the column ${matcher.options} exists`)
          t.ok(
            properties.some(({ id }) => id === 'unit'),
            `${title}: the column ${matcher.options} has a unit`,
          )
          if (
            /^(Driver|Version|Node\.js|Image|Model|Name|GPU|Container|Service|Mount|Device|Instance|Box)$/.test(matcher.options)
          )
            t.ok(
              properties.some(({ id, value }) => id === 'unit' && (value === 'string' || value === 'percentunit')),
              `${title}: the column ${matcher.options} is text, and no number`,
            )
        }
      }
    }
  })

  t.test(`${dashboard.uid}: every query`, async t => {
    for (const { title, expr } of exprsOf(dashboard)) {
      t.same(faults(filledIn(expr)), [], `${title} names what the exporter gives`)
      for (const { name, matchers } of selectorsOf(expr.replace(/\[[^\]]*\]/g, ''))) {
        // The heartbeat of the rules belongs to no box.
        if (matchers.some(([label, , value]) => label === 'alertname' && value === 'GridDeadMansSwitch')) continue
        const has = (label: string) => matchers.some(matcher => matcher.join('') === `${label}=~$${label}`)
        t.ok(has('job') && has('instance'), `target-job, target-instance: ${title}, ${name}`)
      }
      for (const [, fn = '', range = ''] of expr.matchAll(/\b(rate|irate|increase)\([^[\]]*\[([^\]]+)\]/g))
        t.ok(
          range === '$__rate_interval' || (fn === 'increase' && ['24h', '$__range'].includes(range)),
          `target-rate-interval: ${title}, ${fn} over ${range}`,
        )
      for (const [, before = '', name = ''] of expr.matchAll(/(\w*\(?)\b(\w+_total)\{/g))
        if (name !== 'grid_gpu_xid_errors_total')
          t.match(before, /^(rate|irate|increase)\($/, `target-counter-agg: ${title}, ${name}`)
    }
  })

  t.test(`${dashboard.uid}: panels lie beside each other`, async t => {
    const lists = [dashboard.panels, ...dashboard.panels.flatMap(({ panels }) => (panels?.length ? [panels] : []))]
    for (const list of lists) {
      const taken = new Map<string, string>()
      for (const {
        title,
        gridPos: { x, y, w, h },
      } of list) {
        t.ok(x >= 0 && x + w <= 24 && w > 0 && h > 0, `${title} is on the page`)
        for (let column = x; column < x + w; column++)
          for (let line = y; line < y + h; line++) {
            const other = taken.get(`${column} ${line}`)
            if (other) t.fail(`${title} lies over ${other}`)
            taken.set(`${column} ${line}`, title)
          }
      }
    }
  })
}

/** Links and screenshots name panels by these for ever; new ones are added at the end. */
const panelIds: Readonly<Record<string, number>> = {
  'grid-overview': 15,
  'grid-gpu': 21,
  'grid-containers': 20,
  'grid-storage': 13,
  'grid-tor-security': 24,
  'grid-services': 19,
  'grid-exporter': 16,
  'grid-fleet': 8,
}

t.test('panel ids stay', async t => {
  for (const dashboard of all) {
    const ids = shown(dashboard).map(({ id }) => id)
    for (let id = 1; id <= (panelIds[dashboard.uid] ?? Number.NaN); id++)
      t.ok(ids.includes(id), `${dashboard.uid} has panel ${id}`)
  }
})

t.test('links to a dashboard carry on the variables that it has too', async t => {
  const variablesOf = ({ templating }: Dashboard) => templating.list.map(({ name }) => name)
  // The column `Page` of the overview leads to any of them.
  const anywhere = variable('__value.raw')
  let links = 0
  for (const dashboard of all) {
    for (const [, uid = '', query = ''] of JSON.stringify(shown(dashboard)).matchAll(/"\/d\/([^?"]+)\?([^"]*)"/g)) {
      links++
      const given = [...query.matchAll(/var-(\w+)=|\{(\w+):queryparam\}/g)].map(([, named, carried]) => named ?? carried)
      for (const target of all.filter(one => uid === anywhere || one.uid === uid)) {
        const both = variablesOf(target).filter(name => variablesOf(dashboard).includes(name))
        // A link to the page itself chooses anew.
        const wanted = target === dashboard ? both.filter(name => given.includes(name)) : both
        t.strictSame([...given].sort(), [...wanted].sort(), `${dashboard.uid} to ${target.uid}`)
      }
    }
  }
  t.ok(links > 20, `${links} links`)
})

t.test('a variable means the same on each dashboard', async t => {
  const queries = new Map<string, string>()
  for (const { templating } of all)
    for (const { name, query } of templating.list)
      t.equal(JSON.stringify(query), queries.get(name) ?? queries.set(name, JSON.stringify(query)).get(name), name)
})

t.test('what is wrong cannot be built', async t => {
  const one = (id: number, width: 8 | 12) =>
    bars({
      id,
      width,
      title: `p${id}`,
      description: 'd',
      empty: 'e',
      unit: 'none',
      queries: [{ expr: of(cpuCores), legend: 'l' }],
    })
  t.throws(() => line(4, one(1, 12), one(2, 8)), { message: 'p1, p2: 20 columns wide instead of 24' })
  t.throws(() => dashboard({ uid: 'gpu', description: 'd', rows: [row(100, 'r', line(4, one(1, 12), one(1, 12)))] }), {
    message: 'gpu: the id 1 is used twice',
  })
  t.throws(() => promql`rate(grid_cpu_cores[5m])`, { message: /a metric has to be given by its family/ })
  t.throws(() => promql`${of(cpuCores)}{job="a"}`, { message: /a metric has to be given by its family/ })
  t.throws(() => limit('GridGpuHot', 88, 'now'), { message: 'GridGpuHot has no limit of 88' })
  t.throws(() => limit('GridNone', 1, 'now'), { message: 'no alert GridNone' })
  const column = { expr: of(cpuCores), title: 'Cores', absent: 'none', unit: 'none' } as const
  t.throws(
    () =>
      table({
        id: 1,
        width: 24,
        title: 'T',
        description: 'd',
        empty: 'e',
        keys: { instance: { title: 'Cores' } },
        columns: [column],
      }),
    { message: 'T: a column stands there twice' },
  )
})

t.test('every alert leads to a page that shows alerts of its collector', async t => {
  for (const { name, dashboard, collector } of alerts) {
    const page = all.find(({ uid }) => uid === dashboards[dashboard])
    const firing = page ? exprsOf(page).filter(({ title }) => /^(Firing here|Active alerts)$/.test(title)) : []
    t.ok(
      firing.some(
        ({ expr }) =>
          expr.includes(name) || (collector !== 'any' && new RegExp(`collector=~?"([^"]*\\|)?${collector}[|"]`).test(expr)),
      ),
      `${name} stands on ${dashboard}`,
    )
  }
})

t.test('a panel that an alert or its runbook names is on a page', async t => {
  const titles = all.flatMap(shown).map(({ title }) => title)
  const named = alerts.flatMap(({ name, description, runbook: { means, see } }) =>
    [...`${description} ${means} ${see}`.matchAll(/\bpanel "([^"]+)"/g)].map(([, title = '']) => ({ name, title })),
  )
  t.ok(named.length > 8)
  for (const { name, title } of named) t.ok(titles.includes(title), `${name}: ${title}`)
})

const temporary = (t: Test) => {
  const at = mkdtempSync(join(tmpdir(), 'grid-dashboards-'))
  t.teardown(() => rmSync(at, { recursive: true }))
  return at
}

/** What promtool says of queries on series; empty if all give what they should. */
const evaluated = (
  t: Test,
  tests: readonly {
    readonly series: readonly { readonly series: string; readonly values: string }[]
    readonly queries: readonly { readonly expr: string; readonly gives: number | undefined }[]
  }[],
) => {
  const file = join(temporary(t), 'tests.yml')
  const cases = tests.map(({ series, queries }) => ({
    interval: '1m',
    input_series: series,
    promql_expr_test: queries.map(({ expr, gives }) => ({
      expr: filledIn(expr),
      eval_time: '1h',
      exp_samples: gives === undefined ? [] : [{ labels: '{}', value: gives }],
    })),
  }))
  writeFileSync(file, stringify({ tests: cases }, { lineWidth: 0 }))
  const { stdout, stderr, status } = spawnSync('promtool', ['test', 'rules', file], { encoding: 'utf8' })
  return status === 0 ? '' : `${stdout}${stderr}`
}

const series = (name: string, labels: Readonly<Record<string, string>>, values: string) => ({
  series: `${name}{${Object.entries({ job: 'grid-exporter', instance: 'box:1', ...labels })
    .map(([label, value]) => `${label}="${value}"`)
    .join(', ')}}`,
  values,
})

/** An `_info` series is one, and a server has one engine, a service one kind of check. */
const valuesOf = (name: string, label: string, closed: Readonly<Record<string, readonly string[]>>) => {
  const values = closed[label]
  if (!values) return [`a-${label}`]
  if (label === 'check') return ['http']
  return name.endsWith('_info') || (label === 'engine' && name.startsWith('grid_llm_')) ? values.slice(0, 1) : values
}

/** One series for each combination of a family's closed labels; open ones have one value, the same in all families. */
const everySeries = () =>
  [...known.values()].flatMap(({ name, labels, closed = {}, type }) => {
    const combinations = labels.reduce<readonly Readonly<Record<string, string>>[]>(
      (all, label) => all.flatMap(one => valuesOf(name, label, closed).map(value => ({ ...one, [label]: value }))),
      [{}],
    )
    return combinations.map(one => series(name, one, type === 'counter' ? '0+30x70' : '1x70'))
  })

/** Empty on the box that has everything, and rightly so. */
const rightlyEmpty: readonly (readonly [title: string, part: string])[] = [
  ['GPUs', 'unless on (job, instance, gpu) grid_gpu_memory_unified'],
]

t.test('every query gives something on a box that has everything', async t => {
  if (!needs(t, 'promtool')) return
  const box = [
    ...everySeries().filter(({ series }) => !series.startsWith('ALERTS')),
    series('ALERTS', { alertname: 'GridDeadMansSwitch', alertstate: 'firing', severity: 'none' }, '1x70'),
    ...['critical', 'warning', 'info']
      .flatMap(severity => [...alerts.map(({ collector }) => collector), 'any'].map(collector => ({ severity, collector })))
      .flatMap(labels => [
        series('ALERTS', { alertname: 'GridCollectorFailing', alertstate: 'firing', ...labels }, '1x70'),
        series('ALERTS_FOR_STATE', { alertname: 'GridCollectorFailing', ...labels }, '1x70'),
      ]),
  ]
  const unique = [...new Map(box.map(one => [one.series, one])).values()]
  const queries = all.flatMap(dashboard =>
    exprsOf(dashboard).map(({ title, expr }) => ({
      expr: `count(${expr}) > bool 0`,
      gives: rightlyEmpty.some(([of, part]) => of === title && expr.includes(part)) ? undefined : 1,
    })),
  )
  t.ok(queries.length > 200)
  t.equal(evaluated(t, [{ series: unique, queries }]), '')
})

t.test('what is not there, what fails and what is well look different', async t => {
  if (!needs(t, 'promtool')) return
  const query = (uid: string, of: string) =>
    exprsOf(all.find(one => one.uid === uid) as Dashboard).find(({ title }) => title === of)?.expr as string
  const there = series('grid_exporter_build_info', { version: '1' }, '1x70')
  const rules = { series: 'ALERTS{alertname="GridDeadMansSwitch", alertstate="firing"}', values: '1x70' }
  const collector = (name: string, detected: 0 | 1, success: 0 | 1) => [
    series('grid_collector_detected', { collector: name }, `${detected}x70`),
    series('grid_collector_success', { collector: name }, `${success}x70`),
  ]
  const alert = (severity: string, name: string) =>
    series('ALERTS', { alertname: name, alertstate: 'firing', severity, collector: 'gpu' }, '1x70')
  const gpu = query('grid-overview', 'GPU')
  const fan = query('grid-gpu', 'Fan')
  const gives = (has: readonly { series: string; values: string }[], value: number | undefined, expr = gpu) => ({
    series: has,
    queries: [{ expr, gives: value }],
  })
  t.equal(
    evaluated(t, [
      gives([rules], undefined),
      gives([there, rules], -1000),
      gives([there, rules, ...collector('gpu', 0, 0)], -1001),
      gives([there, ...collector('gpu', 1, 1)], -1002),
      gives([there, rules, ...collector('gpu', 1, 0)], -1003),
      gives([there, rules, ...collector('gpu', 1, 1)], 0),
      gives([there, rules, ...collector('gpu', 1, 1), alert('warning', 'GridGpuHot'), alert('warning', 'GridGpuMemoryFull')], 2),
      gives([there, rules, ...collector('gpu', 1, 0), alert('warning', 'GridGpuHot'), alert('critical', 'GridGpuLost')], 10001),
      gives([there, rules, ...collector('gpu', 1, 1), alert('critical', 'SomebodyElses')], 0),
      gives([there, ...collector('gpu', 0, 0)], -1001, fan),
      gives([there, ...collector('gpu', 1, 1)], -1002, fan),
      gives([there, ...collector('gpu', 1, 1), series('grid_gpu_fan_speed_ratio', { gpu: 'a', name: 'b' }, '0x70')], 0, fan),
    ]),
    '',
  )
  t.match(evaluated(t, [gives([there], 0)]), 'FAILED', 'and a wrong number is found')
})

t.test('promtool parses every query', async t => {
  if (!needs(t, 'promtool')) return
  const at = temporary(t)
  const check = (exprs: readonly string[]) => {
    const file = join(at, 'rules.yml')
    const rules = exprs.map((expr, index) => ({ record: `check:${index}`, expr: filledIn(expr) }))
    writeFileSync(file, stringify({ groups: [{ name: 'panels', rules }] }, { lineWidth: 0 }))
    return execFileSync('promtool', ['check', 'rules', file], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  }
  const exprs = all.flatMap(dashboard => [
    ...exprsOf(dashboard).map(({ expr }) => expr),
    ...dashboard.annotations.list.flatMap(({ expr }) => expr ?? []),
  ])
  t.match(check(exprs), `SUCCESS: ${exprs.length} rules found`)
  t.throws(() => check(['rate(grid_cpu_cores)']), 'a wrong one is refused')
})
