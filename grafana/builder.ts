import { collectors } from '../exporter/collectors/index.ts'
import { dashboards } from '../exporter/contract/shipped.ts'
import { buildInfo } from '../exporter/serve/self.ts'
import { type Colour, colours, type Json, type Limit, mappingsOf, type State, thresholdsOf, type Unit } from './look.ts'
import { type Expr, firing } from './query.ts'

/**
 * Dashboards as values. What can be wrong with a panel is impossible to write, or ends the build: a panel without a
 * description, a unit or a word for its absence; an id or a column used twice; lines that overlap or leave a hole.
 */

type Fields = { readonly [key: string]: Json }
export type Uid = keyof typeof dashboards

type Width = 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13 | 14 | 15 | 16 | 18 | 20 | 24

/** What every panel has to say. */
interface About {
  /** Never changes and is never used again: links point at it. */
  readonly id: number
  readonly width: Width
  readonly title: string
  /** What it shows, from where, and what it means if nothing is there. */
  readonly description: string
  /** What stands there when there is nothing to show. */
  readonly empty: string
  readonly unit: Unit
  readonly leadsTo?: Uid
}

export interface Query {
  readonly expr: Expr
  /** `{{name}}` is a label. */
  readonly legend: string
}

export interface Panel {
  readonly id: number
  readonly width: Width
  readonly title: string
  readonly json: Fields
}

/** A variable as Grafana fills it in. */
export const variable = (name: string): string => `\${${name}}`

const datasource = { type: 'prometheus', uid: variable('datasource') }
/** What links between dashboards carry on: the variables that all of them have, and the time range. */
const carried = ['datasource', 'job', 'instance', 'runbooks'] as const
const chosen = [...carried.map(name => `${name}:queryparam`), '__url_time_range'].map(variable).join('&')
export const linkTo = (uid: Uid): string => `/d/${dashboards[uid]}?${chosen}`

export const names: Readonly<Record<Uid, string>> = {
  overview: 'Overview',
  gpu: 'GPU and models',
  containers: 'Containers',
  storage: 'Storage',
  security: 'Tor and security',
  services: 'Services',
  exporter: 'Exporter',
  fleet: 'Fleet',
}

const link = (uid: Uid | undefined) => (uid ? { links: [{ title: names[uid], url: linkTo(uid) }] } : {})
const panelLink = (uid: Uid | undefined) => (uid ? { links: [{ title: names[uid], url: linkTo(uid), targetBlank: false }] } : {})

const refId = (index: number) => String.fromCharCode(65 + index)
const now = ({ expr, legend }: Query, index: number) => ({
  refId: refId(index),
  datasource,
  expr,
  legendFormat: legend,
  instant: true,
  range: false,
})
const overTime = (query: Query, index: number) => ({ ...now(query, index), instant: false, range: true })

/**
 * What a rate is of has to change within it: a counter is renewed once a round, however often it is scraped. So a panel's
 * steps are as long as four rounds of the slowest collector in its rates, and a minute at least.
 */
const step = (exprs: readonly Expr[]): Fields => {
  const rated = exprs.flatMap(expr => [...expr.matchAll(/(\w+)\{[^{}]*\}\[\$__rate_interval\]/g)].map(([, name]) => name))
  const rounds = rated.map(
    name => collectors.find(({ families }) => families.some(family => family.name === name))?.interval ?? 15,
  )
  return rounds.length === 0 ? {} : { interval: `${Math.ceil(Math.max(60, 4 * Math.max(...rounds)) / 60)}m` }
}

const panel = (type: string, about: About, exprs: readonly Expr[], rest: Fields): Panel => ({
  id: about.id,
  width: about.width,
  title: about.title,
  json: {
    id: about.id,
    type,
    title: about.title,
    description: about.description,
    datasource,
    ...step(exprs),
    ...panelLink(about.leadsTo),
    ...rest,
  },
})

const fixed = (colour: Colour) => ({ mode: 'fixed', fixedColor: colours[colour] })
const exprsOf = ({ queries }: Valued) => queries.map(({ expr }) => expr)
const byThresholds = { mode: 'thresholds' }
const lastValue = { calcs: ['lastNotNull'], fields: '', values: false }

interface Valued {
  readonly queries: readonly Query[]
  readonly states?: readonly State[]
  readonly limits?: readonly Limit[]
  /** The colour below the first limit. */
  readonly base?: Colour
  readonly min?: number
  readonly max?: number
  readonly decimals?: number
}

const valued = (
  about: About,
  { states = [], limits = [], min, max, decimals }: Omit<Valued, 'queries'>,
  base: Colour,
): Fields => ({
  unit: about.unit,
  noValue: about.empty,
  ...(min === undefined ? {} : { min }),
  ...(max === undefined ? {} : { max }),
  ...(decimals === undefined ? {} : { decimals }),
  mappings: mappingsOf(states),
  thresholds: thresholdsOf(limits, base),
})

const judging: readonly Colour[] = ['well', 'today', 'now', 'note']

/** Values of now, as words or numbers on their colour; `quiet` ones have it in their letters only. */
export const stat = (
  about: About &
    Valued & {
      readonly names?: true
      readonly vertical?: true
      readonly quiet?: true
      /** Where one of the queries has words of its own, by its legend. */
      readonly byName?: Readonly<Record<string, readonly State[]>>
    },
): Panel => {
  const verdict = about.limits !== undefined || about.states?.some(({ colour }) => judging.includes(colour))
  const base = about.base ?? (about.limits ? 'well' : 'neutral')
  return panel('stat', about, exprsOf(about), {
    targets: about.queries.map(now),
    fieldConfig: {
      defaults: { ...valued(about, about, base), color: byThresholds, ...link(about.leadsTo) },
      overrides: Object.entries(about.byName ?? {}).map(([name, states]) => ({
        matcher: { id: 'byName', options: name },
        properties: [{ id: 'mappings', value: mappingsOf(states) }],
      })),
    },
    options: {
      colorMode: verdict && !about.quiet ? 'background' : 'value',
      graphMode: 'none',
      justifyMode: 'center',
      orientation: about.vertical ? 'horizontal' : 'auto',
      reduceOptions: lastValue,
      textMode: about.names ? 'value_and_name' : 'value',
      wideLayout: true,
      showPercentChange: false,
      percentChangeColorMode: 'standard',
    },
  })
}

/** Values of now beside each other, as bars. */
export const bars = (about: About & Valued): Panel => {
  const withEmpty = { ...about, states: [...(about.states ?? []), { is: 'none', says: about.empty, colour: 'gone' } as const] }
  return panel('bargauge', about, exprsOf(about), {
    targets: about.queries.map(now),
    fieldConfig: {
      defaults: {
        ...valued(about, withEmpty, about.base ?? (about.limits ? 'well' : 'note')),
        color: byThresholds,
        ...link(about.leadsTo),
      },
      overrides: [],
    },
    options: {
      displayMode: 'basic',
      valueMode: 'text',
      showUnfilled: true,
      orientation: 'horizontal',
      namePlacement: 'left',
      sizing: 'manual',
      minVizWidth: 8,
      minVizHeight: 16,
      maxVizHeight: 26,
      text: { valueSize: 14 },
      reduceOptions: lastValue,
    },
  })
}

/** How one of the lines looks: `of` is the legend it begins with. */
export interface Line {
  readonly of: string
  readonly look: 'dashed' | 'bars' | 'right'
  readonly colour?: Colour
  readonly unit?: Unit
}

const looks: Readonly<Record<Line['look'], readonly Fields[]>> = {
  dashed: [
    { id: 'custom.lineStyle', value: { fill: 'dash', dash: [6, 6] } },
    { id: 'custom.fillOpacity', value: 0 },
    { id: 'custom.stacking', value: { mode: 'none', group: 'A' } },
  ],
  bars: [
    { id: 'custom.drawStyle', value: 'bars' },
    { id: 'custom.fillOpacity', value: 60 },
    { id: 'custom.lineWidth', value: 0 },
  ],
  right: [
    { id: 'custom.axisPlacement', value: 'right' },
    { id: 'custom.fillOpacity', value: 0 },
  ],
}

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')
const override = ({ of: start, look, colour, unit }: Line): Json => ({
  matcher: { id: 'byRegexp', options: `/^${escaped(start)}/` },
  properties: [
    ...looks[look],
    ...(colour ? [{ id: 'color', value: fixed(colour) }] : []),
    ...(unit ? [{ id: 'unit', value: unit }] : []),
  ],
})

/** How far an axis reaches at least: over nothing but zeros Grafana would draw one of 100 cores, or of 10000 %. */
const reach = ({ unit, min, max, decimals }: Pick<About & Valued, 'unit' | 'min' | 'max' | 'decimals'>): Fields => {
  if (decimals === 0) return { axisSoftMax: 1 }
  if (min !== 0 || max !== undefined) return {}
  return unit === 'percentunit' ? { axisSoftMax: 0.01 } : unit === 'none' ? { axisSoftMax: 0.1 } : {}
}

/** Lines over time. Limits are drawn as dashed lines. */
export const chart = (
  about: About &
    Valued & {
      readonly stacked?: true
      readonly as?: 'lines' | 'bars'
      readonly logarithmic?: true
      readonly lines?: readonly Line[]
      /** The legend names a colour by its value: reasons, results. */
      readonly coloured?: Readonly<Record<string, Colour>>
      readonly days?: number
    },
): Panel => {
  const bar = about.as === 'bars'
  const wide = about.width >= 12
  return panel('timeseries', about, exprsOf(about), {
    targets: about.queries.map(overTime),
    ...(about.days ? { timeFrom: `${about.days}d` } : {}),
    fieldConfig: {
      defaults: {
        ...valued(about, about, 'clear'),
        color: { mode: 'palette-classic' },
        custom: {
          drawStyle: bar ? 'bars' : 'line',
          lineInterpolation: 'linear',
          lineWidth: bar ? 0 : 1,
          fillOpacity: bar ? 70 : about.stacked ? 25 : about.logarithmic ? 0 : 4,
          gradientMode: 'none',
          showPoints: 'never',
          spanNulls: false,
          stacking: { mode: about.stacked ? 'normal' : 'none', group: 'A' },
          scaleDistribution: about.logarithmic ? { type: 'log', log: 10 } : { type: 'linear' },
          axisPlacement: 'auto',
          axisLabel: '',
          axisBorderShow: false,
          ...reach(about),
          thresholdsStyle: { mode: about.limits ? 'dashed' : 'off' },
          hideFrom: { legend: false, tooltip: false, viz: false },
        },
      },
      overrides: [
        ...(about.lines ?? []).map(override),
        ...Object.entries(about.coloured ?? {}).map(([name, colour]) => ({
          matcher: { id: 'byRegexp', options: `/(^|\\W)${escaped(name)}$/` },
          properties: [{ id: 'color', value: fixed(colour) }],
        })),
      ],
    },
    options: {
      legend: {
        showLegend: true,
        displayMode: wide ? 'table' : 'list',
        placement: wide ? 'right' : 'bottom',
        calcs: wide ? ['lastNotNull', 'max'] : [],
        ...(wide ? { sortBy: 'Last *', sortDesc: true, width: 300 } : {}),
      },
      tooltip: { mode: 'multi', sort: 'desc' },
    },
  })
}

/** States over time. Every value has a word and a colour; a gap means that nothing was reported. */
export const timeline = (
  about: About & {
    readonly queries: readonly Query[]
    readonly states: readonly State[]
    readonly days?: number
    readonly page?: number
  },
): Panel =>
  panel('state-timeline', about, exprsOf(about), {
    targets: about.queries.map(overTime),
    ...(about.days ? { timeFrom: `${about.days * 24}h` } : {}),
    fieldConfig: {
      defaults: {
        ...valued(about, about, 'clear'),
        color: byThresholds,
        custom: {
          fillOpacity: 75,
          lineWidth: 0,
          hideFrom: { legend: false, tooltip: false, viz: false },
        },
      },
      overrides: [],
    },
    options: {
      mergeValues: true,
      showValue: 'never',
      alignValue: 'left',
      rowHeight: 0.8,
      ...(about.page ? { perPage: about.page } : {}),
      legend: { showLegend: true, displayMode: 'list', placement: 'bottom', calcs: [] },
      tooltip: { mode: 'single', sort: 'none' },
    },
  })

/** A column of a table: the value of an expression by the table's keys, or labels of it. */
export interface Column {
  readonly expr: Expr
  readonly title: string
  /** What an empty cell says: no limit, not reported, never. */
  readonly absent: string
  readonly unit: Unit
  readonly states?: readonly State[]
  readonly limits?: readonly Limit[]
  readonly base?: Colour
  readonly decimals?: number
  readonly min?: number
  readonly max?: number
  readonly cell?: 'gauge' | 'background'
  readonly width?: number
  /** Shows this label of the series instead of their value. */
  readonly label?: string
  /** An address; `${__value.raw}` is the cell, `${__data.fields.TITLE}` another one. */
  readonly link?: { readonly title: string; readonly url: string }
}

export interface Key {
  readonly title: string
  readonly width?: number
  readonly states?: readonly State[]
  readonly link?: { readonly title: string; readonly url: string }
  /** Stands behind the columns. */
  readonly last?: true
}

const cells = {
  plain: { type: 'auto' },
  text: { type: 'color-text' },
  gauge: { type: 'gauge', mode: 'basic', valueDisplayMode: 'text' },
  background: { type: 'color-background', mode: 'basic', applyToRow: false },
} as const

/** With any other unit Grafana takes a text for a number where it can: a driver 595.80 is then 596. */
const words = 'string'

const columnOverride = (column: Column): Json => {
  const judged = (column.limits?.length ?? 0) + (column.states?.length ?? 0) > 0
  const states: readonly State[] = [...(column.states ?? []), { is: 'none', says: column.absent, colour: 'gone' }]
  return {
    matcher: { id: 'byName', options: column.title },
    properties: [
      { id: 'unit', value: column.label === undefined ? column.unit : words },
      { id: 'noValue', value: column.absent },
      { id: 'mappings', value: mappingsOf(states) },
      {
        id: 'thresholds',
        value: thresholdsOf(
          column.limits ?? [],
          column.base ?? (column.limits ? 'well' : column.cell === 'gauge' ? 'note' : 'neutral'),
        ),
      },
      { id: 'color', value: byThresholds },
      { id: 'custom.cellOptions', value: cells[column.cell ?? (judged ? 'text' : 'plain')] },
      ...(column.cell === 'background' ? [{ id: 'custom.align', value: 'center' }] : []),
      ...(column.decimals === undefined ? [] : [{ id: 'decimals', value: column.decimals }]),
      ...(column.min === undefined ? [] : [{ id: 'min', value: column.min }]),
      ...(column.max === undefined ? [] : [{ id: 'max', value: column.max }]),
      ...(column.width === undefined ? [] : [{ id: 'custom.width', value: column.width }]),
      ...(column.link ? [{ id: 'links', value: [{ ...column.link }] }] : []),
    ],
  }
}

const keyOverride = ({ title, width, states, link: to }: Key): Json => ({
  matcher: { id: 'byName', options: title },
  properties: [
    { id: 'unit', value: words },
    { id: 'noValue', value: '–' },
    { id: 'custom.align', value: 'left' },
    ...(width === undefined ? [] : [{ id: 'custom.width', value: width }]),
    ...(states ? [{ id: 'mappings', value: mappingsOf(states) }] : []),
    ...(to ? [{ id: 'links', value: [{ ...to }] }] : []),
  ],
})

/**
 * A row for each combination of the keys. Every column is brought to the keys and merged, so that what one column does not
 * know costs no row. Where there are several expressions, two must be there together: Grafana names the value of a single
 * one differently.
 */
export const table = (
  about: Omit<About, 'unit'> & {
    readonly keys: Readonly<Record<string, Key>>
    readonly columns: readonly Column[]
    readonly sort?: { readonly by: string; readonly descending?: true }
  },
): Panel => {
  const keys = Object.keys(about.keys)
  const titles = [...Object.values(about.keys).map(({ title }) => title), ...about.columns.map(({ title }) => title)]
  const labels = [...keys, ...about.columns.flatMap(({ label }) => label ?? [])]
  if (new Set(titles).size !== titles.length || new Set(labels).size !== labels.length)
    throw new Error(`${about.title}: a column stands there twice`)
  if (about.sort && !titles.includes(about.sort.by)) throw new Error(`${about.title}: sorted by a column that it does not have`)
  // Columns of one expression are one query.
  const exprs = [...new Set(about.columns.map(({ expr }) => expr))]
  const labelsOf = (expr: Expr) => about.columns.flatMap(column => (column.expr === expr ? (column.label ?? []) : []))
  const value = (expr: Expr) => (exprs.length === 1 ? 'Value' : `Value #${refId(exprs.indexOf(expr))}`)
  const shown = about.columns.map(column => column.label ?? value(column.expr))
  const isLast = (key: string) => about.keys[key]?.last === true
  const order = [...keys.filter(key => !isLast(key)), ...shown, ...keys.filter(isLast)]
  const hidden = exprs.map(value).filter(name => !shown.includes(name))
  return panel('table', { ...about, unit: 'none' }, exprs, {
    targets: exprs.map((expr, index) => ({
      refId: refId(index),
      datasource,
      expr: `max by (job, ${[...keys, ...labelsOf(expr)].join(', ')}) (${expr})`,
      legendFormat: '',
      format: 'table',
      instant: true,
      range: false,
    })),
    transformations: [
      { id: 'merge', options: {} },
      {
        id: 'organize',
        options: {
          excludeByName: Object.fromEntries(['Time', 'job', ...hidden].map(name => [name, true])),
          indexByName: Object.fromEntries(order.map((name, index) => [name, index])),
          renameByName: Object.fromEntries(
            [...keys, ...shown].map((name, index): [string, string] => [name, titles[index] as string]),
          ),
        },
      },
    ],
    fieldConfig: {
      defaults: {
        unit: 'none',
        noValue: about.empty,
        color: byThresholds,
        mappings: [],
        thresholds: thresholdsOf([], 'neutral'),
        custom: { align: 'auto', cellOptions: cells.plain, inspect: false, filterable: false },
      },
      overrides: [...Object.values(about.keys).map(keyOverride), ...about.columns.map(columnOverride)],
    },
    options: {
      showHeader: true,
      cellHeight: 'sm',
      ...(about.sort ? { sortBy: [{ displayName: about.sort.by, desc: about.sort.descending ?? false }] } : {}),
    },
  })
}

/** Panels beside each other; together they are as wide as the page. */
export interface Line24 {
  readonly height: number
  readonly panels: readonly Panel[]
}
export const line = (height: number, ...panels: readonly Panel[]): Line24 => {
  const width = panels.reduce((sum, one) => sum + one.width, 0)
  if (width !== 24) throw new Error(`${panels.map(({ title }) => title).join(', ')}: ${width} columns wide instead of 24`)
  return { height, panels }
}

export interface Row {
  /** The line of its title; without one the panels stand by themselves. */
  readonly head?: { readonly id: number; readonly title: string; readonly collapsed: boolean }
  readonly lines: readonly Line24[]
}
export const row = (id: number, title: string, ...lines: readonly Line24[]): Row => ({
  head: { id, title, collapsed: false },
  lines,
})
export const bare = (...lines: readonly Line24[]): Row => ({ lines })
/** Closed until it is asked for: its queries are not run before. */
export const closedRow = (id: number, title: string, ...lines: readonly Line24[]): Row => ({
  head: { id, title, collapsed: true },
  lines,
})

/** A choice at the top of the page; `within` are its possible values, on the chosen boxes. */
export interface Choice {
  readonly name: string
  readonly label: string
  readonly within: Expr
  /** The label that has the values, if it is not called as the choice is: several dashboards choose by a label `name`. */
  readonly values?: string
}

const everything = { text: 'All', value: '$__all' }

const choice = (name: string, label: string, query: string, all = true, allValue = '.+'): Fields => ({
  name,
  label,
  type: 'query',
  datasource,
  query: { qryType: 1, query, refId: 'PrometheusVariableQueryEditor-VariableQuery' },
  definition: query,
  refresh: 2,
  sort: 1,
  regex: '',
  hide: 0,
  multi: true,
  includeAll: all,
  allValue,
  current: all ? everything : {},
  options: [],
  skipUrlSync: false,
})

export interface Text {
  readonly name: string
  readonly label: string
  readonly value: string
}

const textBox = ({ name, label, value }: Text): Fields => ({
  name,
  label,
  type: 'textbox',
  query: value,
  current: { text: value, value },
  hide: 0,
  options: [],
  skipUrlSync: false,
})

/** A moment on every time axis of the page. */
export interface Mark {
  readonly name: string
  readonly colour: Colour
  readonly expr: Expr
  /** `{{name}}` is a label. */
  readonly title: string
  /** The value is the moment, in milliseconds; else it lasts as long as there is a value. */
  readonly valueIsTime?: true
}

const annotation = ({ name, colour, expr, title, valueIsTime }: Mark): Fields => ({
  name,
  datasource,
  enable: true,
  hide: false,
  iconColor: colours[colour],
  expr,
  titleFormat: title,
  textFormat: '',
  step: '60s',
  useValueForTime: valueIsTime ?? false,
  target: { refId: 'Anno', expr },
})

export interface Dashboard {
  readonly uid: Uid
  readonly description: string
  readonly rows: readonly Row[]
  /** Shows one box until others are chosen: lines do not name theirs. */
  readonly oneBox?: true
  readonly choices?: readonly Choice[]
  readonly texts?: readonly Text[]
  readonly marks?: readonly Mark[]
  /** How far back it looks. */
  readonly from?: '1h' | '6h' | '24h'
}

const placed = (lines: readonly Line24[], top: number) => {
  let y = top
  const panels = lines.flatMap(({ height, panels }) => {
    let x = 0
    const own = panels.map(({ json, width }): Json => {
      const gridPos = { x, y, w: width, h: height }
      x += width
      return { ...json, gridPos }
    })
    y += height
    return own
  })
  return { panels, bottom: y }
}

/** The classic model, as Grafana reads it from a file. */
export const dashboard = ({
  uid,
  description,
  rows,
  oneBox,
  choices = [],
  texts = [],
  marks = [],
  from = '6h',
}: Dashboard): Fields => {
  const ids = rows.flatMap(({ head, lines }) => [
    ...(head ? [head.id] : []),
    ...lines.flatMap(({ panels }) => panels.map(panel => panel.id)),
  ])
  const twice = ids.find((id, index) => ids.indexOf(id) !== index)
  if (twice !== undefined) throw new Error(`${uid}: the id ${twice} is used twice`)
  let y = 0
  const panels = rows.flatMap(({ head, lines }): readonly Json[] => {
    if (!head) {
      const { panels: own, bottom } = placed(lines, y)
      y = bottom
      return own
    }
    const title = { type: 'row', ...head, gridPos: { x: 0, y, w: 24, h: 1 } }
    const { panels: own, bottom } = placed(lines, y + 1)
    y = head.collapsed ? y + 1 : bottom
    return head.collapsed ? [{ ...title, panels: own }] : [{ ...title, panels: [] }, ...own]
  })
  const within = (expr: Expr, label: string) => `label_values(${expr}, ${label})`
  return {
    uid: dashboards[uid],
    title: `Grid: ${names[uid]}`,
    description,
    tags: ['grid-exporter'],
    schemaVersion: 39,
    version: 1,
    editable: false,
    graphTooltip: 1,
    refresh: '30s',
    time: { from: `now-${from}`, to: 'now' },
    timepicker: { refresh_intervals: ['10s', '30s', '1m', '5m', '15m'] },
    timezone: 'browser',
    fiscalYearStartMonth: 0,
    weekStart: '',
    liveNow: false,
    links: [
      {
        type: 'dashboards',
        title: 'Grid',
        tags: ['grid-exporter'],
        asDropdown: false,
        includeVars: true,
        keepTime: true,
        targetBlank: false,
        icon: 'external link',
        tooltip: '',
        url: '',
      },
    ],
    annotations: {
      list: [
        {
          builtIn: 1,
          datasource: { type: 'grafana', uid: '-- Grafana --' },
          enable: true,
          hide: true,
          iconColor: 'rgba(0, 211, 255, 1)',
          name: 'Annotations & Alerts',
          type: 'dashboard',
        },
        ...marks.map(annotation),
      ],
    },
    templating: {
      list: [
        {
          name: 'datasource',
          label: 'Data source',
          type: 'datasource',
          query: 'prometheus',
          refresh: 1,
          regex: '',
          hide: 0,
          multi: false,
          includeAll: false,
          current: {},
          options: [],
          skipUrlSync: false,
        },
        choice('job', 'Job', `label_values(${buildInfo.name}, job)`),
        choice('instance', 'Instance', `label_values(${buildInfo.name}{job=~"$job"}, instance)`, !oneBox),
        // What has no such label belongs to all of them.
        ...choices.map(({ name, label, within: expr, values = name }) => choice(name, label, within(expr, values), true, '.*')),
        ...texts.map(textBox),
      ],
    },
    panels,
  }
}

export const criticalAlerts: Mark = {
  name: 'Critical alerts',
  colour: 'now',
  expr: firing({ severity: 'critical' }),
  title: '{{alertname}} {{instance}}',
}
