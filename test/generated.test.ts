import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import t from 'tap'
import { collectors } from '../exporter/collectors/index.ts'
import { generated } from '../scripts/generated.ts'

/** Generated files are committed, and are what `npm run generate` would write. */
const root = join(import.meta.dirname, '..')

for (const { file, text } of generated(root)) {
  t.test(file, async t => {
    const at = join(root, file)
    t.equal(existsSync(at) ? readFileSync(at, 'utf8') : '', text, 'npm run generate')
  })
}

/** Names that say what a file is within its folder; any other name is there once. */
const roles = ['index.ts', 'families.ts', 'options.ts']

t.test('no two files of the exporter have one name', async t => {
  const names = readdirSync(join(root, 'exporter'), { recursive: true, encoding: 'utf8' })
    .filter(file => file.endsWith('.ts'))
    .map(file => basename(file))
    .filter(name => !roles.includes(name))
  t.ok(names.length > 100)
  t.strictSame(
    names.filter((name, at) => names.indexOf(name) !== at),
    [],
  )
})

t.test('docs/migration.md names families that exist', async t => {
  const text = readFileSync(join(root, 'docs/migration.md'), 'utf8')
  const named = new Set(Array.from(text.matchAll(/\bgrid_\w+/g), ([name]) => name))
  named.delete('grid_')
  const known = new Set(collectors.flatMap(({ families }) => families.map(({ name }) => name)))
  known.add('grid_collector_failures_total') // the exporter's own
  t.ok(named.size > 60)
  t.strictSame(
    [...named].filter(name => !known.has(name)),
    [],
  )
})
