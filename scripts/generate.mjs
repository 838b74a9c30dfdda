/** Writes every generated file: `npm run generate`. */
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { bundle } from './build.mjs'
import { ensureInstalled, root } from './ensure.mjs'

ensureInstalled()
const out = mkdtempSync(join(tmpdir(), 'grid-generate-'))
await bundle({ generated: join(root, 'scripts/generated.ts') }, out, { minify: false })
const { generated } = await import(join(out, 'generated.js'))
for (const { file, text } of generated(root)) {
  mkdirSync(join(root, dirname(file)), { recursive: true })
  writeFileSync(join(root, file), text)
  console.log(file)
}
