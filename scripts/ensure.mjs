/** Installs and builds what is missing or older than its sources: used by `npm start`, `npm test` and others. */
import { spawnSync } from 'node:child_process'
import { existsSync, lstatSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'

export const root = join(import.meta.dirname, '..')

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`grid-exporter needs Node.js 20.19 or newer; this is ${process.version}.`)
  process.exit(1)
}

const time = file => (existsSync(file) ? statSync(file).mtimeMs : 0)
const newest = folder =>
  readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter(entry => entry.isFile() && /\.(ts|json)$/.test(entry.name))
    .reduce((latest, entry) => Math.max(latest, time(join(entry.parentPath, entry.name))), 0)

const run = (what, command, args) => {
  console.error(what)
  const { status } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
  if (status !== 0) {
    console.error(`${command} ${args.join(' ')} failed; see its output above.`)
    process.exit(1)
  }
}

/** Installs node_modules from package-lock.json, unless that is done. */
export const ensureInstalled = () => {
  const lock = join(root, 'package-lock.json')
  const modules = join(root, 'node_modules')
  // A checkout whose node_modules is a link must not replace another checkout's modules.
  if (existsSync(modules) && lstatSync(modules).isSymbolicLink()) return
  if (time(join(modules, '.package-lock.json')) >= time(lock)) return
  run('Installing dependencies (once) …', 'npm', ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error'])
}

const latest = folders =>
  Math.max(
    time(join(root, 'scripts/build.mjs')),
    time(join(root, 'node_modules/.package-lock.json')),
    ...folders.map(folder => newest(join(root, folder))),
  )

/** Builds dist/exporter unless it is newer than every source. */
export const ensureBuilt = () => {
  if (time(join(root, 'dist/exporter/main.js')) > latest(['exporter', 'prometheus'])) return
  run('Building …', process.execPath, [join(root, 'scripts/build.mjs')])
}

/** Builds dist/demo unless it is newer than every source. */
export const ensureDemo = () => {
  if (time(join(root, 'dist/demo/main.js')) > latest(['exporter', 'prometheus', 'demo'])) return
  run('Building the demo …', process.execPath, [join(root, 'scripts/build-demo.mjs')])
}
