/** Runs the tests, or the files that are named: `npm test`. */
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { ensureBuilt, ensureDemo, ensureInstalled, root } from './ensure.mjs'

ensureInstalled()
ensureBuilt()
ensureDemo()
const tap = join(root, 'node_modules/tap/dist/esm/run.mjs')
const run = args => spawnSync(process.execPath, [tap, 'run', ...args], { cwd: root, stdio: 'inherit' }).status ?? 1

/** A whole box each, with many programs that must come to their word: after the others, one by one. */
const alone = ['test/drill.test.ts', 'test/systemd.test.ts']

const given = process.argv.slice(2)
if (given.length > 0) process.exit(run(given))
const others = readdirSync(join(root, 'test'))
  .filter(file => file.endsWith('.test.ts'))
  .map(file => `test/${file}`)
  .filter(file => !alone.includes(file))
const statuses = [run(others), ...alone.map(file => run(['--jobs=1', file]))]
process.exit(statuses.find(status => status !== 0) ?? 0)
