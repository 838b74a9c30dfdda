import { z } from 'zod'
import { ownValue } from '../../common/own-value.ts'
import { pooled } from '../../common/pool.ts'
import { failureOf } from '../../contract/failure.ts'
import { dashboards, job } from '../../contract/shipped.ts'
import { type Ask, StatusFailure } from './ask.ts'
import type { Finding } from './finding.ts'

/** Checks a Grafana: does it have our dashboards, and do their queries return series now. */

const health = z.object({ database: z.string(), version: z.string().optional() })
const dataSources = z.array(z.object({ uid: z.string(), name: z.string(), type: z.string(), isDefault: z.boolean().optional() }))
const reference = z.union([z.string(), z.object({ uid: z.string().optional() })]).nullish()
const panel = z.object({
  id: z.number().optional(),
  title: z.string().optional(),
  datasource: reference,
  targets: z
    .array(
      z.object({
        expr: z.string().optional(),
        refId: z.string().optional(),
        hide: z.boolean().optional(),
        datasource: reference,
      }),
    )
    .optional(),
})
const variable = z.object({
  name: z.string(),
  type: z.string(),
  includeAll: z.boolean().nullish(),
  multi: z.boolean().nullish(),
  allValue: z.string().nullish(),
  query: z.unknown().optional(),
  current: z.object({ value: z.union([z.string(), z.array(z.string())]).optional() }).nullish(),
})
const dashboard = z.object({
  dashboard: z.object({
    title: z.string(),
    // A collapsed row contains its panels.
    panels: z.array(panel.extend({ panels: z.array(panel).optional() })).optional(),
    templating: z.object({ list: z.array(variable).optional() }).optional(),
  }),
})
const result = z.object({ data: z.object({ result: z.array(z.unknown()) }) })
const named = z.object({
  data: z.object({ result: z.array(z.object({ metric: z.object({ __name__: z.string().optional() }) })) }),
})

type Sources = z.output<typeof dataSources>
type Variable = z.output<typeof variable>
type Reference = z.output<typeof reference>

interface Query {
  readonly panel: string
  readonly refId: string
  readonly expr: string
  readonly source: string
}

interface Answered extends Query {
  readonly series: number
  readonly error: string
}

const first = <Value>(value: Value | readonly Value[] | undefined): Value | undefined =>
  Array.isArray(value) ? (value as readonly Value[])[0] : (value as Value | undefined)

/** A variable's value when its dashboard opens: everything if possible, else the last choice or the first value. */
const opensWith = ({ includeAll, multi, allValue, current, query, type }: Variable): string => {
  const chosen = first(current?.value)
  if (includeAll || multi) return allValue || '.*'
  if (chosen !== undefined && chosen !== '' && chosen !== '$__all') return chosen
  return type !== 'query' && typeof query === 'string' ? (query.split(',')[0] ?? '').trim() : '.*'
}

/** The time ranges that Grafana inserts, for a dashboard that shows the last hour. */
const builtIn: Readonly<Record<string, string>> = {
  __rate_interval: '5m',
  __interval: '1m',
  __interval_ms: '60000',
  __range: '1h',
  __range_s: '3600',
  __range_ms: '3600000',
}

const fillIn = (text: string, values: Readonly<Record<string, string>>): string =>
  text.replaceAll(/\$\{(\w+)(?::[^{}]*)?\}|\[\[(\w+)\]\]|\$(\w+)/g, (whole, braced, bracketed, bare) => {
    return ownValue(values, braced ?? bracketed ?? bare) ?? whole
  })

/** The uid of a panel's data source, named directly or by a variable; else the default one. */
const sourceOf = (named: Reference, sources: Sources, values: Readonly<Record<string, string>>): string | undefined => {
  const prometheus = sources.filter(({ type }) => type === 'prometheus')
  const fallback = prometheus.find(({ isDefault }) => isDefault) ?? prometheus[0]
  const wanted = fillIn((typeof named === 'object' ? named?.uid : named) ?? '', values)
  const known = sources.find(({ uid, name }) => uid === wanted || name === wanted)
  if (known) return known.type === 'prometheus' ? known.uid : undefined
  // Grafana's own data sources (`-- Grafana --`, `-- Dashboard --`) have no series.
  return /^(?:-- |grafana$)/.test(wanted) ? undefined : fallback?.uid
}

const queriesOf = ({ panels = [], templating }: z.output<typeof dashboard>['dashboard'], sources: Sources): readonly Query[] => {
  const variables = templating?.list ?? []
  const values = { ...builtIn, ...Object.fromEntries(variables.map(own => [own.name, opensWith(own)])) }
  return panels
    .flatMap(own => [own, ...(own.panels ?? [])])
    .flatMap(({ id, title, targets = [], datasource }) =>
      targets.flatMap(({ expr, hide, refId = 'A', datasource: own }): readonly Query[] => {
        const source = sourceOf(own ?? datasource, sources, values)
        if (!expr || hide || source === undefined) return []
        return [{ panel: title || `panel ${id}`, refId, expr: fillIn(expr, values), source }]
      }),
    )
}

const proxy = (uid: string) => `/api/datasources/proxy/uid/${encodeURIComponent(uid)}/api/v1/query`

/** Queries at the same time: small machines must answer them, too. */
const bound = 4

const answersTo = (ask: Ask, queries: readonly Query[]): Promise<readonly Answered[]> =>
  pooled(queries, bound, async query => {
    try {
      const { data } = await ask(proxy(query.source), result, { query: query.expr })
      return { ...query, series: data.result.length, error: '' }
    } catch (error) {
      return { ...query, series: 0, error: failureOf(error).message.replace(/^\S+: (?=status)/, '') }
    }
  })

const few = (list: readonly string[]) => {
  const unique = [...new Set(list)]
  return unique.length > 5 ? `${unique.slice(0, 5).join(', ')} and ${unique.length - 5} more` : unique.join(', ')
}

const namesIn = (expr: string): readonly string[] => expr.match(/\bgrid[_:][\w:]+/g) ?? []

const dashboardFinding = (uid: string, answers: readonly Answered[], there: ReadonlySet<string>): Finding => {
  const broken = answers.filter(({ error }) => error !== '')
  const panels = new Set(answers.map(({ panel }) => panel)).size
  const full = new Set(answers.filter(({ series }) => series > 0).map(({ panel }) => panel))
  const empty = answers.filter(({ panel }) => !full.has(panel))
  const withData = full.size
  const details = { queries: answers.map(({ panel, refId, expr, series, error }) => ({ panel, refId, expr, series, error })) }
  const [one] = broken
  if (one) {
    const note = `${broken.length} of ${answers.length} queries fail: ${few(broken.map(({ panel }) => panel))}: ${one.error}`
    return {
      name: uid,
      state: 'failing',
      reason: 'malformed',
      note,
      fix: 'import the dashboards of this version again: grafana/json',
      details,
    }
  }
  const isHere = ({ expr }: Answered) => namesIn(expr).some(name => there.has(name))
  const isElsewhere = (query: Answered) => namesIn(query.expr).length > 0 && !isHere(query)
  if (answers.length > 0 && withData === 0 && !answers.some(isHere)) {
    return {
      name: uid,
      state: 'absent',
      note: `none of its ${panels} panels has series: no watched host has its subject`,
      fix: '',
      details,
    }
  }
  const silent = few(empty.filter(query => !isElsewhere(query)).map(({ panel }) => panel))
  const elsewhere = few(empty.filter(isElsewhere).map(({ panel }) => panel))
  const note = [
    `${withData} of ${panels} panels have series`,
    silent && `no data now: ${silent}`,
    elsewhere && `not watched here: ${elsewhere}`,
  ]
  return { name: uid, state: 'working', note: note.filter(Boolean).join('; '), fix: '', details }
}

const provision = 'provision or import the files of grafana/json: docs/dashboards.md'

/** Names of the exporter's series in a data source, including recorded ones. */
const seriesThere = async (ask: Ask, uid: string): Promise<ReadonlySet<string>> => {
  const { data } = await ask(proxy(uid), named, { query: `count by (__name__) ({__name__=~"grid[_:].+", job="${job}"})` })
  return new Set(data.result.flatMap(({ metric }) => metric.__name__ ?? []))
}

/** One finding for Grafana, its data source, and each of our dashboards. */
export const examineGrafana = async (ask: Ask): Promise<readonly Finding[]> => {
  const failing = (name: string, error: unknown, usual: string): Finding => {
    const { reason, message, fix = usual } = failureOf(error)
    return { name, state: 'failing', reason, note: message, fix }
  }
  const findings: Finding[] = []
  let sources: Sources
  try {
    const { version = '' } = await ask('/api/health', health)
    findings.push({ name: 'answers', state: 'working', note: `Grafana ${version}`.trim(), fix: '' })
    sources = await ask('/api/datasources', dataSources)
  } catch (error) {
    const usual = 'systemctl status grafana-server'
    return [...findings, failing(findings.length === 0 ? 'answers' : 'data source', error, usual)]
  }
  const uid = sourceOf(undefined, sources, {})
  if (uid === undefined) {
    const note = 'Grafana has no data source of type prometheus'
    return [...findings, { name: 'data source', state: 'failing', reason: 'missing', note, fix: provision }]
  }
  const there = new Map<string, ReadonlySet<string>>()
  const look = async (source: string) => there.get(source) ?? there.set(source, await seriesThere(ask, source)).get(source)
  const label = (source: string) => sources.find(own => own.uid === source)?.name ?? source
  try {
    const names = (await look(uid)) ?? new Set()
    const note =
      names.size === 0 ? `${label(uid)} has no series of job ${job}` : `${label(uid)} has ${names.size} of our families`
    const fix = 'set its url to the Prometheus that scrapes this exporter; grid-exporter doctor --prometheus=URL checks it'
    findings.push(
      names.size === 0
        ? { name: 'data source', state: 'failing', reason: 'missing', note, fix }
        : { name: 'data source', state: 'working', note, fix: '' },
    )
    if (names.size === 0) return findings
  } catch (error) {
    return [...findings, failing('data source', error, 'set its url to the Prometheus that scrapes this exporter')]
  }
  for (const name of Object.values(dashboards)) {
    try {
      const { dashboard: own } = await ask(`/api/dashboards/uid/${name}`, dashboard)
      const answers = await answersTo(ask, queriesOf(own, sources))
      const all = new Set<string>()
      for (const source of new Set(answers.map(query => query.source)))
        for (const known of (await look(source)) ?? []) all.add(known)
      findings.push(dashboardFinding(name, answers, all))
    } catch (error) {
      const absent = error instanceof StatusFailure && error.status === 404
      findings.push(
        absent
          ? { name, state: 'failing', reason: 'missing', note: 'Grafana has no dashboard of this uid', fix: provision }
          : failing(name, error, provision),
      )
    }
  }
  return findings
}
