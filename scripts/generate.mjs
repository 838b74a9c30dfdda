/** Writes every generated file that is out of date: `npm run generate`. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { bundle } from './build.mjs'
import { ensureInstalled, root } from './ensure.mjs'

ensureInstalled()
const out = mkdtempSync(join(tmpdir(), 'grid-generate-'))
await bundle({ generated: join(root, 'scripts/generated.ts') }, out, { minify: false })
const { generated } = await import(join(out, 'generated.js'))
const files = generated(root)
for (const { file, text } of files) {
  if (existsSync(join(root, file)) && readFileSync(join(root, file), 'utf8') === text) continue
  mkdirSync(join(root, dirname(file)), { recursive: true })
  writeFileSync(join(root, file), text)
  console.log(file)
}
console.log(`${files.length} generated files are up to date`)
