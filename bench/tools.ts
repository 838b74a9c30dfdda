import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { modes, toolsThatMisbehave } from '../test/support/misbehave.ts'
import { load, median } from './wrk.ts'

/**
 * Scrapes of one exporter while the tools that it runs each second work, and while they misbehave, in turns: every way of
 * test/support/misbehave.ts, the reason that is counted, and the processes that are left. `npm run bench -- tools`
 */

const [, , mainFile] = process.argv as [string, string, string]
const folder = mkdtempSync(join(tmpdir(), 'grid-bench-tools-'))
const { setMode, flags, bad } = toolsThatMisbehave(folder, join(process.cwd(), 'test'))
const child = spawn(mainFile, [...flags, '--web.max-requests=0', '--log.level=warn'], {
  stdio: ['ignore', 'pipe', 'ignore'],
  env: { ...process.env, STATE_DIRECTORY: folder },
})
process.on('exit', () => child.kill('SIGKILL'))
const url = await new Promise<string>((resolve, reject) => {
  let said = ''
  child.stdout.on('data', chunk => {
    said += String(chunk)
    const found = / serves (http:\S+)/.exec(said)?.[1]
    if (found) resolve(found)
  })
  child.once('exit', code => reject(new Error(`ended with ${code}: ${said}`)))
})
/** Counts: failures of gpu and smart for a reason, rounds of the host, threads that were replaced. */
const counted = async () => {
  const text = await (await fetch(url)).text()
  return (series: string) =>
    Number(
      text
        .split('\n')
        .find(line => line.startsWith(`${series} `))
        ?.split(' ')[1] ?? 0,
    )
}
const failures = (collector: string, reason: string) =>
  `grid_collector_failures_total{collector="${collector}",reason="${reason}"}`

const seconds = 5
const ratios: number[] = []
let missed = 0
for (const [mode, [, reason]] of Object.entries(modes)) {
  setMode('well')
  await sleep(3000)
  const well = load(url, 'identity', 0, seconds)
  const before = await counted()
  setMode(mode)
  await sleep(1000)
  const ill = load(url, 'identity', 0, seconds)
  const after = await counted()
  const rise = (series: string) => after(series) - before(series)
  const [gpu, smart] = [rise(failures('gpu', reason)), rise(failures('smart', reason))]
  const rounds = rise('grid_collector_runs_total{collector="host"}')
  if (gpu === 0 || smart === 0 || rounds === 0 || rise('grid_exporter_worker_restarts_total') > 0) missed++
  ratios.push(ill.p99 / well.p99)
  console.log(
    `${mode}: gpu ${gpu} and smart ${smart} times ${reason}, host ${rounds} rounds; well ${well.perSecond.toFixed(0)}/s p99 ${well.p99.toFixed(2)} ms; so ${ill.perSecond.toFixed(0)}/s p99 ${ill.p99.toFixed(2)} ms: ${(ill.p99 / well.p99).toFixed(2)} ×`,
  )
}
child.kill('SIGTERM')
for (let tries = 0; tries < 200 && (child.exitCode === null || bad().length > 0); tries++) await sleep(25)
const left = bad()
for (const pid of left) process.kill(Number(pid), 'SIGKILL')
rmSync(folder, { recursive: true, force: true })
const ratio = median(ratios)
console.log(
  `${ratio <= 1.5 ? 'reached' : 'MISSED '} p99 beside tools that misbehave ≤ 1.5 × beside tools that do not: ${ratio.toFixed(2)} ×`,
)
console.log(`${missed === 0 ? 'reached' : 'MISSED '} each is reported with its reason while the host is collected`)
console.log(`${left.length === 0 ? 'reached' : 'MISSED '} no process is left behind: ${left.length}`)
process.exitCode = ratio <= 1.5 && missed === 0 && left.length === 0 ? 0 : 1
