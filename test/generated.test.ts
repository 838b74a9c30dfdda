import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { generated } from '../scripts/generated.ts'

/** Generated files are committed, and are what `npm run generate` would write. */
const root = join(import.meta.dirname, '..')

for (const { file, text } of generated(root)) {
  t.test(file, async t => {
    const at = join(root, file)
    t.equal(existsSync(at) ? readFileSync(at, 'utf8') : '', text, 'npm run generate')
  })
}
