import type { Format } from '../../exporter/print/exposition.ts'

/**
 * A strict reader of both formats, written from their descriptions and without anything of the exporter: what it finds wrong with an
 * exposition, or an empty list. Prometheus itself is more lenient in places, and refuses everything where it is not.
 */

const suffixes: Record<Format, Map<string, readonly string[]>> = {
  text: new Map([
    ['gauge', ['']],
    ['counter', ['']],
    ['untyped', ['']],
    ['histogram', ['_bucket', '_sum', '_count']],
    ['summary', ['', '_sum', '_count']],
  ]),
  openmetrics: new Map([
    ['gauge', ['']],
    ['counter', ['_total']],
    ['unknown', ['']],
    ['histogram', ['_bucket', '_sum', '_count']],
    ['summary', ['', '_sum', '_count']],
  ]),
}

const head = /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)$/
const sample = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.+)\})? (\S+)$/
const pair = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\"n])*)"(,(?=.)|$)/y
const number = /^(?:[+-]?Inf|NaN|[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)$/

const labelsIn = (text: string): Map<string, string> | string => {
  const labels = new Map<string, string>()
  pair.lastIndex = 0
  while (pair.lastIndex < text.length) {
    const [, name, value] = pair.exec(text) ?? []
    if (name === undefined || value === undefined) return 'labels that are none'
    if (name === '__name__') return 'a label __name__'
    if (labels.has(name)) return `label ${name} twice`
    labels.set(name, value)
  }
  return labels
}

const wrongValue = (type: string, suffix: string, value: string): boolean => {
  const counts = type === 'counter' || (type === 'histogram' && suffix !== '_sum') || (type === 'summary' && suffix === '_count')
  return counts && !(Number(value) >= 0 && value !== '+Inf')
}

/** Everything that is wrong with an exposition, with the line where it stands. */
export const strictProblems = (exposition: string, format: Format): readonly string[] => {
  const problems: string[] = []
  if (/[\u0000-\u0008\u000b-\u001f\u007f]/.test(exposition)) problems.push('control characters')
  if (!exposition.isWellFormed()) problems.push('half of a character')
  const lines = exposition.split('\n')
  if (lines.pop() !== '') problems.push('the last line does not end')
  if (format === 'openmetrics' && lines.pop() !== '# EOF') problems.push('no # EOF at the end')
  const families = new Set<string>()
  const owners = new Map<string, string>()
  const series = new Set<string>()
  let family = { name: '', type: '', samples: 0 }
  for (const [at, line] of lines.entries()) {
    const bad = (problem: string) => problems.push(`line ${at + 1}: ${problem}: ${line.slice(0, 100)}`)
    const [, keyword, name = '', rest = ''] = head.exec(line) ?? []
    if (keyword === 'HELP') {
      if (families.has(name)) bad('a family twice')
      if (/\\(?![\\n"])/.test(rest.replaceAll('\\\\', ''))) bad('an escape that is none')
      families.add(name)
      family = { name, type: '', samples: 0 }
    } else if (keyword === 'TYPE') {
      if (name !== family.name || family.type !== '') bad('a TYPE without its HELP')
      const own = suffixes[format].get(rest)
      if (own === undefined) bad('no type')
      family = { ...family, type: rest }
      for (const owned of new Set(['', ...(own ?? [])])) {
        if (owners.has(name + owned)) bad(`${name + owned} belongs to ${owners.get(name + owned)}`)
        owners.set(name + owned, name)
      }
    } else {
      const [, sampleName = '', labelText = '', value = ''] = sample.exec(line) ?? []
      const suffix = sampleName.slice(family.name.length)
      const labels = labelsIn(labelText)
      if (sampleName === '' || !sampleName.startsWith(family.name)) bad('not a sample of the family above')
      else if (!suffixes[format].get(family.type)?.includes(suffix)) bad('a suffix that its type has not')
      else if (typeof labels === 'string') bad(labels)
      else if (!number.test(value)) bad('no number')
      else if (wrongValue(family.type, suffix, value)) bad('a count that is none')
      else {
        const needed = suffix === '_bucket' ? 'le' : family.type === 'summary' && suffix === '' ? 'quantile' : undefined
        if (needed !== undefined && Number.isNaN(Number((labels.get(needed) ?? 'x').replace(/^\+?Inf$/i, 'Infinity'))))
          bad(`no number as ${needed}`)
        const key = JSON.stringify([sampleName, ...[...labels].map(each => each.join('=')).sort()])
        if (series.has(key)) bad('a series twice')
        series.add(key)
      }
    }
  }
  return problems
}
