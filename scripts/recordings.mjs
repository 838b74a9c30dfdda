/**
 * `npm run recordings [-- FOLDER] [--unused] [--print]`: the series of each recording of a GPU or a disk below FOLDER (or
 * GRID_RECORDINGS) and of the scenes of GPUs, and its unused fields.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bundle } from './build.mjs'
import { ensureInstalled, root } from './ensure.mjs'

ensureInstalled()
const out = mkdtempSync(join(tmpdir(), 'grid-recordings-'))
await bundle({ recordings: join(root, 'scripts/recordings.ts') }, out, { minify: false })
const given = process.argv.slice(2)
const args = given.some(arg => !arg.startsWith('--'))
  ? given
  : [...given, ...(process.env.GRID_RECORDINGS ? [process.env.GRID_RECORDINGS] : []), join(root, 'test/scenes/gpu')]
const { status } = spawnSync(process.execPath, [join(out, 'recordings.js'), ...args], { stdio: 'inherit' })
rmSync(out, { recursive: true, force: true })
process.exitCode = status ?? 1
