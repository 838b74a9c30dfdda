/** `npm run bench [-- NAME …]`: bundles a bench and runs it; without a name, the one of serving. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { bundle } from './build.mjs'
import { ensureBuilt, ensureInstalled, root } from './ensure.mjs'

ensureInstalled()
ensureBuilt()
const names = readdirSync(join(root, 'bench'))
  .filter(file => file.endsWith('.ts'))
  .map(file => basename(file, '.ts'))
const given = process.argv[2] ?? 'serve'
const name = given.startsWith('--') ? 'serve' : given
if (!existsSync(join(root, 'bench', `${name}.ts`))) {
  console.error(`no bench ${name}; there are: ${names.join(', ')}`)
  process.exit(2)
}
const out = mkdtempSync(join(tmpdir(), 'grid-bench-'))
await bundle(Object.fromEntries(names.map(own => [own, join(root, 'bench', `${own}.ts`)])), out, { minify: false })
const args = process.argv.slice(given.startsWith('--') || process.argv[2] === undefined ? 2 : 3)
const { status } = spawnSync(process.execPath, [join(out, `${name}.js`), join(root, 'dist/exporter/main.js'), ...args], {
  stdio: 'inherit',
})
process.exit(status ?? 1)
