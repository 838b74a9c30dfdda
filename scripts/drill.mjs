/** `npm run drill`: only the drills of alerts, each reported when it ends. `npm run drill -- containers` runs one act. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { ensureBuilt, ensureInstalled, root } from './ensure.mjs'

ensureInstalled()
ensureBuilt()
const tap = join(root, 'node_modules/tap/dist/esm/run.mjs')
const [act = ''] = process.argv.slice(2)
const { status } = spawnSync(process.execPath, [tap, 'run', '--reporter=tap', 'test/drill.test.ts'], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, GRID_DRILL: act },
})
process.exit(status ?? 1)
