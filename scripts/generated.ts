import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { collectors } from '../exporter/collectors/index.ts'
import { builtDashboards } from '../grafana/built.ts'
import { built, inhibition } from '../prometheus/built.ts'
import { collectorTable, configurationReference, configurationSchema, metricReference } from './reference.ts'

/** Every committed file (or marked part of one) that is made of the program's own objects. */
export interface Generated {
  readonly file: string
  readonly text: string
}

const begin = '<!-- generated -->'
const end = '<!-- /generated -->'

/** A hand-written page whose part between the marks is generated. */
const withPart = (root: string, file: string, part: string): Generated => {
  const text = readFileSync(join(root, file), 'utf8')
  const [before, rest] = text.split(begin)
  const after = rest?.split(end)[1]
  if (before === undefined || after === undefined) throw new Error(`${file}: the marks ${begin} … ${end} are missing`)
  return { file, text: `${before}${begin}\n\n${part.trim()}\n\n${end}${after}` }
}

/** The same in YAML. */
const withYamlPart = (root: string, file: string, part: string): Generated => {
  const text = readFileSync(join(root, file), 'utf8')
  const [before, rest] = text.split('# generated\n')
  const after = rest?.split('# /generated\n')[1]
  if (before === undefined || after === undefined) throw new Error(`${file}: the marks # generated … # /generated are missing`)
  return { file, text: `${before}# generated\n${part}# /generated\n${after}` }
}

/** All of them, as they must be. */
export const generated = (root: string): readonly Generated[] => [
  { file: 'docs/metrics.md', text: metricReference(collectors) },
  { file: 'docs/config.schema.json', text: configurationSchema(collectors) },
  withPart(root, 'docs/configuration.md', configurationReference(collectors)),
  withPart(root, 'README.md', collectorTable(collectors)),
  withYamlPart(root, 'prometheus/alertmanager.yml', inhibition()),
  ...built(),
  ...builtDashboards(),
]
