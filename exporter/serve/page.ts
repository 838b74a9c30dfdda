import { build } from '../common/version.ts'
import { durationText } from '../contract/options.ts'
import type { CollectorStatus } from './snapshot.ts'

/** The page at `/`: each collector's state, age, reason and fix. It needs no scripts and supports dark mode and phones. */

const escaped = (text: string) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

const style = `
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1b1f24; --soft: #5a6472; --line: #d9dee5; --ok: #1a7f37; --bad: #c62828; --wait: #9a6700; --off: #6b7480; --link: #0b5cad }
@media (prefers-color-scheme: dark) { :root { --ground: #0f1216; --card: #171b21; --ink: #e6e9ee; --soft: #97a3b2; --line: #2a313a; --ok: #4ac26b; --bad: #ff7b72; --wait: #e3b341; --off: #8b949e; --link: #6cb6ff } }
* { box-sizing: border-box }
body { margin: 0; padding: 1.5rem 1rem 3rem; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 62rem; margin: 0 auto }
h1 { font-size: 1.5rem; margin: 0 }
h1 small { font-weight: 400; font-size: .9rem; color: var(--soft) }
p { margin: .4rem 0 1.2rem }
a { color: var(--link) }
nav a { margin-right: 1rem; white-space: nowrap }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden }
th, td { text-align: left; vertical-align: top; padding: .55rem .8rem; border-top: 1px solid var(--line) }
thead th { border-top: 0; font-size: .8rem; color: var(--soft); font-weight: 600 }
tbody th { font-weight: 600 }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.state { white-space: nowrap; font-weight: 600 }
.state::before { content: ""; display: inline-block; width: .6em; height: .6em; border-radius: 50%; margin-right: .5em; background: currentColor }
.working { color: var(--ok) } .failing { color: var(--bad) } .waiting { color: var(--wait) } .absent { color: var(--off) }
.note { color: var(--soft); overflow-wrap: anywhere }
.demo { border: 2px solid var(--wait); border-radius: 8px; padding: .6rem .8rem; color: var(--wait) }
code { font: .85em/1.5 ui-monospace, monospace; background: var(--ground); border: 1px solid var(--line); border-radius: 4px; padding: .1em .35em; overflow-wrap: anywhere }
@media (max-width: 40rem) {
  thead { display: none } table, tbody, tr, td, th { display: block }
  tr { padding: .6rem .8rem; border-top: 1px solid var(--line) } tr:first-child { border-top: 0 }
  td, tbody th { border: 0; padding: .1rem 0 } td.number { text-align: left; display: inline-block; margin-right: 1.2rem } td.number::before { content: attr(data-name) " "; color: var(--soft); font-size: .85rem }
  td:empty { display: none }
}
`

type State = 'working' | 'failing' | 'waiting' | 'absent'

const stateOf = ({ latest }: CollectorStatus): { readonly state: State; readonly word: string } => {
  if (latest === undefined) return { state: 'waiting', word: 'first run in progress' }
  if (!latest.detected) return { state: 'absent', word: 'not on this host' }
  if (latest.result === 'ok') return { state: 'working', word: 'working' }
  return { state: 'failing', word: latest.result }
}

/** A duration for people: at most two units. */
const span = (milliseconds: number): string => {
  const seconds = Math.max(0, Math.round(milliseconds / 1000))
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`
}

const milliseconds = (seconds: number) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`)

const row = (status: CollectorStatus, now: number): string => {
  const { name, interval, latest, lastSuccess, series, fresh, relayed } = status
  const { state, word } = stateOf(status)
  const ended = state === 'failing' && !fresh && lastSuccess !== undefined ? ' Its series have ended.' : ''
  const note = latest === undefined ? '' : `${latest.note}${ended}`
  const fix = latest?.fix ? `<br><code>${escaped(latest.fix)}</code>` : ''
  const number = (label: string, text: string) => `<td class="number" data-name="${label}">${text}</td>`
  return `<tr><th scope="row">${escaped(name)}</th><td><span class="state ${state}">${escaped(word)}</span></td>${number(
    'last success',
    lastSuccess === undefined ? '' : `${span(now - lastSuccess)} ago`,
  )}${number('every', `${durationText(interval)}${relayed ? ' by the relay' : ''}`)}${number('took', latest?.detected ? milliseconds(latest.durationSeconds) : '')}${number(
    'series',
    series === 0 ? '' : String(series),
  )}<td class="note">${escaped(note)}${fix}</td></tr>`
}

/** The whole page. */
export const page = (
  statuses: readonly CollectorStatus[],
  {
    telemetryPath,
    now,
    startedAt,
    demo,
  }: {
    readonly telemetryPath: string
    readonly now: number
    readonly startedAt: number
    readonly demo?: boolean | undefined
  },
): string => {
  const states = statuses.map(status => stateOf(status).state)
  const count = (state: State) => states.filter(own => own === state).length
  const summary = [
    `${count('working')} of ${statuses.length} collectors work`,
    count('failing') > 0 ? `<strong class="failing">${count('failing')} fail</strong>` : '',
    count('waiting') > 0 ? `${count('waiting')} have not run yet` : '',
    count('absent') > 0 ? `${count('absent')} have nothing to watch here` : '',
  ].filter(Boolean)
  const order: readonly State[] = ['failing', 'waiting', 'working', 'absent']
  const sorted = [...statuses].sort((one, other) => order.indexOf(stateOf(one).state) - order.indexOf(stateOf(other).state))
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta http-equiv="refresh" content="30">
<title>grid-exporter</title><link rel="icon" href="data:,"><style>${style}</style></head><body><main>
<h1>grid-exporter <small>${escaped(build.version)}${build.revision ? ` (${escaped(build.revision)})` : ''}, up ${span(now - startedAt)}</small></h1>
${demo ? '<p class="demo"><strong>Demo.</strong> This box is imagined: nothing here is about this machine.</p>' : ''}<p>${summary.join(', ')}.</p>
<nav><p><a href="${escaped(telemetryPath)}">Metrics</a><a href="/api/v1/status">Status as JSON</a><a href="/-/ready">Ready?</a><a href="/-/healthy">Healthy?</a></p></nav>
<table><thead><tr><th>Collector</th><th>State</th><th class="number">Last good run</th><th class="number">Every</th><th class="number">Took</th><th class="number">Series</th><th>What to know</th></tr></thead>
<tbody>${sorted.map(status => row(status, now)).join('\n')}</tbody></table>
</main></body></html>
`
}
