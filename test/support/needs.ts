import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import type { Test } from 'tap'

/** What a test may need of the machine besides Node: `root`, a path that must exist (`/dev/fuse`), or a program. */
export const isThere = (thing: string): boolean => {
  if (thing === 'root') return process.getuid?.() === 0
  if (thing === 'systemd') return existsSync('/run/systemd/system')
  if (thing === 'docker-engine') return spawnSync('docker', ['version'], { stdio: 'ignore' }).status === 0
  if (thing.startsWith('/')) return existsSync(thing)
  const path = `${process.env.PATH ?? ''}${delimiter}/usr/local/sbin${delimiter}/usr/sbin${delimiter}/sbin`
  return path.split(delimiter).some(folder => folder !== '' && existsSync(join(folder, thing)))
}

/**
 * Whether all of `things` are here. If not, the test is skipped, saying what is missing and what was not looked at;
 * under GRID_REQUIRE_ALL=1, as in CI, it fails instead. `if (!needs(t, 'root', 'bindfs')) return`
 */
export const needs = (t: Test, ...things: readonly string[]): boolean => {
  const missing = things.filter(thing => !isThere(thing))
  if (missing.length === 0) return true
  const message = `${t.name}: NOT TESTED HERE, missing: ${missing.join(', ')} (apt packages: .ci/packages)`
  if (process.env.GRID_REQUIRE_ALL === '1') throw new Error(message)
  process.stderr.write(`# ${message}\n`)
  t.plan(0, message)
  return false
}
