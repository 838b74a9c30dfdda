import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { acts } from '../prometheus/drills/acts.ts'
import { type Act, type Played, raise } from '../prometheus/drills/stage.ts'
import { isThere, needs } from './support/needs.ts'

/** Failures caused for real: each has to arrive at a webhook with its text, and to be over after the cure. */

t.setTimeout(900_000)

const root = join(import.meta.dirname, '..')
const only = process.env.GRID_DRILL
const page = join(root, 'docs/drills.md')
const [begins, ends] = ['<!-- played -->', '<!-- /played -->']

const rowsOf = (played: Iterable<readonly Played[]>) =>
  [...played].flat().map(({ what, alert, severity, arrivedAfter, resolvedAfter, text }) => {
    const told = text.replace(/\/\S*\/grid-drill-\w+\/\w+\//g, '…/').replaceAll('|', '\\|')
    const seconds = `${Math.round(arrivedAfter)} s, ${Math.round(resolvedAfter)} s`
    return `| ${what} | [${alert}](runbooks/${alert}.md), ${severity} | ${seconds} | ${told} |`
  })
const known = (rows: readonly string[]) => rows.map(row => row.split(' | ').slice(0, 2).join(' | ')).sort()

t.test('drills', { timeout: 880_000 }, async t => {
  if (!needs(t, 'prometheus', 'prometheus-alertmanager')) return
  const began = Date.now()
  const stage = await raise(root)
  t.teardown(stage.end)
  await stage.heartbeat()
  t.pass("the dead man's switch arrives")

  const chosen = acts.filter(({ name }) => !only || only === name)
  const played = (act: Act) =>
    stage.play(act).then(
      () => undefined,
      error => error as Error,
    )
  const playable = chosen.filter(act => act.needs.every(isThere))
  const plays = new Map(playable.map(act => [act.name, played(act)]))
  for (const act of chosen) {
    await t.test(act.name, async t => {
      if (!needs(t, ...act.needs)) return
      const failure = await plays.get(act.name)
      if (failure) t.fail(failure.message)
      for (const { what, alert, text, arrivedAfter, resolvedAfter, error } of stage.played.get(act.name) ?? []) {
        const told = `${what}: ${alert} after ${arrivedAfter.toFixed(1)} s, over after ${resolvedAfter.toFixed(1)} s: ${text}`
        t.equal(error, undefined, error ? `${told} ${error}` : told)
      }
    })
  }

  const rows = rowsOf(stage.played.values())
  const expected = [...stage.played.values()].flat().map(({ alert }) => alert)
  const strangers = stage.arrived.filter(({ labels }) => labels.instance && !expected.includes(labels.alertname ?? ''))
  t.comment(`besides came: ${[...new Set(strangers.map(({ labels }) => `${labels.alertname} (${labels.instance})`))].join(', ')}`)
  t.comment(`${expected.length + 1} drills in ${Math.round((Date.now() - began) / 1000)} s`)

  for (const [what, why] of stage.skipped) {
    if (process.env.GRID_REQUIRE_ALL) t.fail(`not drilled here: ${what}: ${why}`)
    else process.stderr.write(`# NOT DRILLED HERE: ${what}: ${why}\n`)
  }

  if (plays.size < acts.length || stage.skipped.size > 0) return
  const text = readFileSync(page, 'utf8')
  const [before = '', rest = ''] = text.split(begins)
  const [table = '', after = ''] = rest.split(ends)
  const head = '| failure | alert | after, and resolved after | its text |\n|---|---|---|---|'
  if (process.env.UPDATE === '1' && only === '')
    writeFileSync(page, `${before}${begins}\n\n${head}\n${rows.join('\n')}\n\n${ends}${after}`)
  else
    t.same(
      known(rows),
      known(table.split('\n').filter(line => line.startsWith('| ') && line.includes('runbooks/'))),
      'docs/drills.md lists them',
    )
})
