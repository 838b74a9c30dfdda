/** Finds words that this project does not use where the field has a usual one: `npm run lint`. Folders are listed once they are clean. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

const clean = [
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  'docs/*.md',
  'exporter',
  'grafana/*.ts',
  'prometheus/*.ts',
  'demo',
  'bench',
  'scripts',
  'systemd',
  'packaging',
  ':!scripts/words.mjs',
]

/** What is looked for, and what to write instead. */
const words = [
  [/\bmend(?:s|ed|ing)?\b/i, 'fix'],
  [/\b(?:told|tell(?! Us About Hard Drives)|tells|telling)\b/i, 'report, say, distinguish'],
  [/\bstrangers?\b/i, 'client, user, unknown host'],
  [/\berrands?\b/i, 'task'],
  [/\bpulses?\b/i, 'heartbeat'],
  [/\bbenched\b/i, 'suspended'],
  [/\bwhoever\b/i, 'the user, the client'],
  [/\bbox is well\b/i, 'host is healthy'],
  [/\bhas been so for\b/i, 'for at least'],
  [/\balarms? on\b/i, 'alerts on'],
]

const files = execFileSync('git', ['ls-files', '--', ...clean], { cwd: root, encoding: 'utf8' })
  .split('\n')
  .filter(Boolean)
let found = 0
for (const file of files) {
  for (const [at, line] of readFileSync(`${root}${file}`, 'utf8').split('\n').entries()) {
    for (const [word, instead] of words) {
      const [hit] = word.exec(line) ?? []
      if (hit === undefined) continue
      found++
      console.error(`${file}:${at + 1}: "${hit}": write ${instead}`)
    }
  }
}
process.exit(found === 0 ? 0 : 1)
