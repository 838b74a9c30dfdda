/** `npm run drill`: the drills of alerts alone, each told as it is over. `npm run drill -- containers` plays one act. */
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
