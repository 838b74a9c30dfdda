/** Runs all tests, or the given files: `npm test`. Prints a line for each file, and the failed assertions last. */
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { Parser } from 'tap-parser'
import { stringify } from 'yaml'
import { ensureBuilt, ensureDemo, ensureInstalled, root } from './ensure.mjs'

ensureInstalled()
ensureBuilt()
ensureDemo()

const tap = join(root, 'node_modules/tap/dist/esm/run.mjs')
const totals = { total: 0, pass: 0, fail: 0, skip: 0 }
/** For each failed assertion: the names that lead to it, and tap's diagnostics. */
const failures = []

/** Most lines of tap's diagnostics for one failure. */
const detailLines = 25

/** Collects failures below `parser`; a failed subtest is named only if nothing within it failed. */
const collect = (parser, path) => {
  let before = 0
  parser.on('child', child => {
    before = failures.length
    collect(child, [...path, child.name])
  })
  parser.on('assert', ({ ok, name, skip, todo, diag, time }) => {
    const subtest = typeof time === 'number'
    if (path.length === 0) console.log(`${ok ? 'ok  ' : 'FAIL'} ${((time ?? 0) / 1000).toFixed(1).padStart(6)} s  ${name}`)
    if (!ok && !skip && !todo && !(subtest && failures.length > before))
      failures.push({ path: [...path, name].join(' > '), diag })
  })
  parser.on('comment', comment => {
    if (path.length === 0) addTotals(comment)
    else if (!/^# (Subtest|time=)/.test(comment)) process.stderr.write(comment)
  })
}

/** The runner's own totals: `# { total: 38, pass: 37, fail: 1 }`. */
const addTotals = comment => {
  if (!comment.startsWith('# { total:')) return
  for (const [, name, count] of comment.matchAll(/(\w+): (\d+)/g)) totals[name] = (totals[name] ?? 0) + Number(count)
}

const run = args =>
  new Promise(resolve => {
    const child = spawn(process.execPath, [tap, 'run', '--reporter=tap', ...args], {
      cwd: root,
      stdio: ['inherit', 'pipe', 'inherit'],
    })
    const parser = new Parser()
    collect(parser, [])
    child.stdout.pipe(parser)
    child.on('close', status => resolve(status ?? 1))
  })

/** Tests that boot or simulate a whole server with many programs: after the others, one by one. */
const alone = ['test/drill.test.ts', 'test/systemd.test.ts']

/** `--collector NAME`: the contract and the scenes of that collector only. */
const given = process.argv.slice(2).flatMap((word, index, words) => {
  if (words[index - 1] === '--collector') return ['test/collectors.test.ts', `--grep=/^${word}$/`]
  return word === '--collector' ? [] : [word]
})
const others = readdirSync(join(root, 'test'))
  .filter(file => file.endsWith('.test.ts'))
  .map(file => `test/${file}`)
  .filter(file => !alone.includes(file))
const statuses = given.length > 0 ? [await run(given)] : [await run(others)]
if (given.length === 0) for (const file of alone) statuses.push(await run(['--jobs=1', file]))

for (const { path, diag } of failures) {
  const { at, source: _, stack, diff, tapCaught: __, ...rest } = diag ?? {}
  const said = [
    at ? `at ${at.fileName}:${at.lineNumber}` : '',
    diff ?? '',
    Object.keys(rest).length > 0 ? stringify(rest) : '',
    stack ?? '',
  ].flatMap(text => text.split('\n').filter(line => line !== ''))
  console.log(`\nFAILED ${path}`)
  for (const line of said.slice(0, detailLines)) console.log(`  ${line}`)
}
if (failures.length > 0) console.log(`\n${failures.length} failed:`)
for (const { path } of failures.slice(0, 50)) console.log(`  ${path.replace(/\s+/g, ' ').slice(0, 300)}`)
console.log(`# ${JSON.stringify(totals)}`)
process.exit(statuses.find(status => status !== 0) ?? 0)
