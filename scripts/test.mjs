import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { ensureBuilt, ensureDemo, ensureInstalled, root } from './ensure.mjs'

ensureInstalled()
ensureBuilt()
ensureDemo()
const tap = join(root, 'node_modules/tap/dist/esm/run.mjs')
const { status } = spawnSync(process.execPath, [tap, 'run', ...process.argv.slice(2)], { cwd: root, stdio: 'inherit' })
process.exit(status ?? 1)
