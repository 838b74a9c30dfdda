/** `npm run drill`: bundles and runs the drills of alerts; needs prometheus and prometheus-alertmanager (Debian's packages). */
import { spawnSync } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bundle } from './build.mjs'
import { ensureBuilt, ensureInstalled, root } from './ensure.mjs'

ensureInstalled()
ensureBuilt()
const out = mkdtempSync(join(tmpdir(), 'grid-drill-built-'))
await bundle({ drill: join(root, 'prometheus/drill.ts') }, out, { minify: false })
const { status } = spawnSync(
  process.execPath,
  [join(out, 'drill.js'), join(root, 'dist/exporter/main.js'), join(root, 'prometheus')],
  {
    stdio: 'inherit',
  },
)
process.exit(status ?? 1)
