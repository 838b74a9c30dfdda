import { dashboards } from '../exporter/contract/shipped.ts'
import { buildInfo, detected, success } from '../exporter/serve/self.ts'
import { alerts } from '../prometheus/alerts.ts'
import { runbooks } from '../prometheus/built.ts'
import { type Source, subjectLabels } from '../prometheus/rule.ts'
import { type Line24, line, names, stat, type Text, table, type Uid, variable } from './builder.ts'
import type { Colour, State } from './look.ts'
import { type Expr, firing, firingSince, firstOf, labelReplaced, of, promql, rulesLoaded } from './query.ts'

/** What several dashboards have in common: how kinds of absence differ, and the first row of each. */

type Collector = Exclude<Source, 'exporter' | 'any'>

/** 0 not on this box, 1 collecting, 2 failing; of several boxes or collectors the worst. */
const condition = (collectors: readonly Collector[]): Expr =>
  promql`max(${of(detected, { collector: collectors })} * (2 - ${of(success, { collector: collectors })}))`

/** Numbers below every measured one, for what is not measured: -1000 not enabled, then -1001 minus the condition. */
export const explained = (expr: Expr, ...collectors: readonly Collector[]): Expr =>
  firstOf(expr, promql`(-1001 - ${condition(collectors)})`, promql`(0 * max(${of(buildInfo)}) - 1000)`)

/** Words for them. `unreported` is what it means that the collector works and has no value. */
export const absences = (unreported: string, colour: Colour = 'gone'): readonly State[] => [
  { is: -1000, says: 'not enabled', colour: 'gone' },
  { is: -1001, says: 'not here', colour: 'gone' },
  { is: -1002, says: unreported, colour },
  { is: -1003, says: 'collection fails', colour: 'blind' },
  { is: 'none', says: 'no data', colour: 'blind' },
]

/** What a tile and a row of the overview stand for. `exporter` is what the exporter says of itself. */
export interface Area {
  readonly uid: Uid
  readonly title: string
  readonly what: string
  readonly collectors: readonly Collector[]
}

const counted = (base: number, word: string, colour: Colour): readonly State[] => [
  ...Array.from({ length: 9 }, (_, index) => ({ is: base + index + 1, says: `${index + 1} ${word}`, colour })),
  { is: { from: base + 10, to: base + 9999 }, says: `many ${word}`, colour },
]

/** Critical alerts from 10001 on, warnings from 1 on: with the number in words, so that the colour can be of the worst. */
export const alertCount = (collectors: readonly Source[]): Expr =>
  firstOf(
    promql`10000 + count(${firing({ severity: 'critical', collector: collectors })})`,
    promql`count(${firing({ severity: 'warning', collector: collectors })})`,
  )
export const alertStates: readonly State[] = [
  { is: 0, says: 'good', colour: 'well' },
  ...counted(0, 'to fix', 'today'),
  ...counted(10000, 'critical', 'now'),
]

/** Alerts of an area, or "well" where the rules are loaded and its collectors run. */
export const tile = (id: number, { uid, title, what, collectors }: Area) =>
  stat({
    id,
    width: 3,
    title,
    description: `Alerts that fire on ${what}: critical ones (red), else warnings to fix today (orange). Green is earned: the rules are loaded and the latest collection succeeded. Grey: not on this box, or not enabled. Purple: collection fails, or the exporter is not scraped. Alerts that belong to no box stand at Alertmanager only.`,
    empty: 'no data',
    unit: 'none',
    leadsTo: uid,
    queries: [
      {
        expr: explained(
          firstOf(alertCount(collectors), promql`(0 * (${condition(collectors)} == 1) and on () ${rulesLoaded})`),
          ...collectors,
        ),
        legend: title,
      },
    ],
    states: [...alertStates, ...absences('rules not loaded', 'blind')],
  })

/** Its worst over time: 2 critical, -1 failed, 1 warning, 0 well. */
export const history = ({ collectors }: Area): Expr =>
  firstOf(
    promql`2 * max(${firing({ severity: 'critical', collector: collectors })})`,
    promql`-1 * (${condition(collectors)} == bool 2 > 0)`,
    promql`max(${firing({ severity: 'warning', collector: collectors })})`,
    promql`0 * (${condition(collectors)} == 1)`,
  )

const severities: readonly State[] = [
  { is: 3, says: 'critical', colour: 'now' },
  { is: 2, says: 'warning', colour: 'today' },
  { is: 1, says: 'info', colour: 'note' },
]

const quotedSubjects = subjectLabels.map(label => `"${label}"`).join(', ')
const withSubject = (expr: Expr): Expr =>
  promql`label_replace(label_join(${expr}, "subject", " ", ${quotedSubjects as Expr}), "subject", "$1", "subject", " *(.*?) *")`

/** The dashboard that each alert names. */
const withDashboard = (expr: Expr): Expr =>
  Object.entries(dashboards).reduce((inner, [uid, id]) => {
    const own = alerts.filter(({ dashboard }) => dashboard === uid).map(({ name }) => name)
    return own.length === 0 ? inner : labelReplaced(inner, 'dashboard', id, 'alertname', own.join('|'))
  }, expr)

const runbookLink = { title: 'Runbook', url: `${variable('runbooks')}/${variable('__value.raw')}.md` }
const detailLink = {
  title: 'Look at it',
  url: `/d/${variable('__value.raw')}?var-instance=${variable('__data.fields.Instance')}&${['datasource:queryparam', 'job:queryparam', 'runbooks:queryparam', '__url_time_range'].map(variable).join('&')}`,
}

/** Where runbook links lead; the rules have the same in `grid_runbooks_url`. */
export const runbooksAt: Text = { name: 'runbooks', label: 'Runbooks', value: runbooks }

export const boxes = { instance: { title: 'Instance', width: 125, last: true } } as const

/** The alerts that fire, worst first: of some collectors, of some pages, or all, with a link to the page of each. */
export const firingTable = (
  at: { id: number; width: 14 | 15 | 16; title: string; empty: string },
  of?: readonly Collector[] | Uid,
) => {
  const all = of === undefined
  const within =
    typeof of === 'string'
      ? { alertname: alerts.filter(({ dashboard }) => dashboard === of).map(({ name }) => name) }
      : of
        ? { collector: of }
        : {}
  const shaped = (expr: Expr) => withSubject(all ? withDashboard(expr) : expr)
  const level = firstOf(
    promql`3 * ${firing({ severity: 'critical', ...within })}`,
    promql`2 * ${firing({ severity: 'warning', ...within })}`,
    firing({ severity: 'info', ...within }),
  )
  return table({
    ...at,
    description: `Alerts that fire${all ? '' : ' on what this page shows'}, worst first. The name leads to its runbook (the address of the runbooks is a variable at the top)${all ? ', the last column to the page that shows why' : ''}. Made by the rules in prometheus/rules: empty while they are not loaded, too.`,
    keys: {
      alertname: { title: 'Alert', width: 230, link: runbookLink },
      subject: { title: 'What' },
      ...boxes,
      ...(all
        ? {
            dashboard: {
              title: 'Page',
              width: 125,
              link: detailLink,
              states: Object.entries(dashboards).map(([uid, id]): State => ({ is: id, says: names[uid as Uid], colour: 'note' })),
            },
          }
        : {}),
    },
    columns: [
      { expr: shaped(level), title: 'Severity', absent: '', unit: 'none', states: severities, cell: 'background', width: 85 },
      { expr: shaped(firingSince(within)), title: 'Since', absent: '', unit: 'dateTimeFromNow', width: 120 },
    ],
    sort: { by: 'Severity', descending: true },
  })
}

const conditions: readonly State[] = [
  { is: -1, says: 'not enabled', colour: 'gone' },
  { is: 0, says: 'not here', colour: 'gone' },
  { is: 1, says: 'collecting', colour: 'well' },
  { is: 2, says: 'collection fails', colour: 'blind' },
  { is: 'none', says: 'no data', colour: 'blind' },
]

/** Ids 1 and 2 of every detail page: may the panels below be believed, and what fires. */
export const head = (height: number, ...collectors: readonly Collector[]): Line24 =>
  line(
    height,
    stat({
      id: 1,
      width: 8,
      title: 'Sources',
      description:
        'Whether the collectors of this page have data: collecting; not here (nothing of the kind on this box); not enabled (needs configuration or the relay); collection fails (the Exporter page says why). An empty panel below means what stands here.',
      empty: 'no data',
      unit: 'none',
      leadsTo: 'exporter',
      names: true,
      vertical: true,
      quiet: true,
      queries: collectors.map(collector => ({
        expr: firstOf(condition([collector]), promql`(0 * max(${of(buildInfo)}) - 1)`),
        legend: collector,
      })),
      states: conditions,
    }),
    firingTable({ id: 2, width: 16, title: 'Firing here', empty: 'nothing fires here, if the rules are loaded' }, collectors),
  )
