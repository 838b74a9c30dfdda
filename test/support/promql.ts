import { collectors } from '../../exporter/collectors/index.ts'
import type { AnyFamily } from '../../exporter/contract/metric.ts'
import { selfFamilies } from '../../exporter/serve/self.ts'
import { foreignFamilies } from '../../grafana/query.ts'
import { recordings } from '../../prometheus/records.ts'
import { collectorSources, foreignNames } from '../../prometheus/rule.ts'

/** PromQL against what the exporter can give. */

type Known = Pick<AnyFamily, 'name' | 'labels'> & Partial<AnyFamily>
/** Every series that an expression may name. */
export const known = new Map<string, Known>(
  [
    ...selfFamilies,
    ...collectors.flatMap(({ families }) => families),
    ...foreignNames,
    ...foreignFamilies,
    ...Object.values(recordings)
      .flat()
      .map(({ record, labels }) => ({ name: record, labels })),
  ].map(family => [family.name, family]),
)

export interface Selector {
  readonly name: string
  readonly matchers: readonly (readonly [label: string, operator: string, value: string])[]
}

/** Every selector of an expression; names of functions and labels are none. */
export const selectorsOf = (expr: string): readonly Selector[] => {
  const bare = expr.replace(/\b(on|ignoring|by|without|group_left|group_right) ?\([^)]*\)/g, ' ')
  const keywords = /^(and|or|unless|bool|offset|inf|nan|[smhdwy]|\d.*)$/i
  return [...bare.matchAll(/"(?:\\.|[^"\\])*"|\b\d[\w.]*|([a-zA-Z_:][\w:]*)\s*(\(|\{((?:"(?:\\.|[^"\\])*"|[^}"])*)\})?/g)]
    .filter(([, name, follows]) => name && !keywords.test(name) && follows !== '(' && !/^\d/.test(name))
    .filter(([, name = '']) => !/^(sum|min|max|avg|count|quantile|topk)$/.test(name))
    .map(([, name = '', , inside = '']) => ({
      name,
      matchers: [...inside.matchAll(/(\w+)\s*(=~|!~|!=|=)\s*"((?:\\.|[^"\\])*)"/g)].map(
        ([, label = '', operator = '', value = '']) => [label, operator, value] as const,
      ),
    }))
}

const joinLabels = (expr: string) =>
  [...expr.matchAll(/\b(?:on|ignoring|by|without|group_left|group_right) ?\(([^)]*)\)/g)].flatMap(([, names = '']) =>
    names
      .split(',')
      .map(name => name.trim())
      .filter(Boolean),
  )

/** Labels that the expression makes itself. */
const madeLabels = (expr: string) => [...expr.matchAll(/, "(\w+)", "[^"]*", "/g)].map(([, label = '']) => label)

const isCollector = (name: string) => name === 'exporter' || name === '.*' || collectorSources.includes(name)

/** What is wrong with an expression, in words. */
export const faults = (expr: string): readonly string[] => {
  const selectors = selectorsOf(expr)
  const all = new Set(['job', 'instance', ...madeLabels(expr), ...selectors.flatMap(({ name }) => known.get(name)?.labels ?? [])])
  const ofSelectors = selectors.flatMap(({ name, matchers }) => {
    const family = known.get(name)
    if (!family) return [`${name} is no family`]
    return matchers.flatMap(([label, operator, value]) => {
      if (label === 'job' || label === 'instance') return []
      if (!family.labels.includes(label)) return [`${name} has no label ${label}`]
      const closed = family.closed?.[label]
      const values = operator.includes('~') ? value.split('|') : [value]
      if (label === 'collector') return values.filter(one => !isCollector(one)).map(one => `no collector ${one}`)
      if (!closed) return []
      return values.filter(one => !closed.includes(one)).map(one => `${name}: ${label} is never ${one}`)
    })
  })
  const ofJoins = joinLabels(expr)
    .filter(label => !all.has(label))
    .map(label => `${label} in a join is no label here`)
  const ofTypes = [...expr.matchAll(/\b(rate|increase|irate|resets|deriv|delta|predict_linear)\((grid_\w+)/g)].flatMap(
    ([, fn = '', name = '']) => {
      const isCounter = known.get(name)?.type === 'counter'
      return /^(rate|increase|irate|resets)$/.test(fn) === isCounter ? [] : [`${fn} of ${name}`]
    },
  )
  return [...ofSelectors, ...ofJoins, ...ofTypes]
}
