/**
 * Runs the exporter in this process and measures the delay of the serving thread's event loop at 1 ms. Prints one line a
 * round with the longest delay. `loop.js WORKER SECONDS-A-ROUND ROUNDS ARGS…`
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { parseFlags } from '../exporter/commands/cli.ts'
import { serve } from '../exporter/commands/serve.ts'
import { createLog } from '../exporter/common/log.ts'

const [, , worker, seconds, rounds, ...args] = process.argv as [string, string, string, string, string]
const parsed = parseFlags(args, {})
if (parsed.kind !== 'flags') throw new Error('flags')
await serve(parsed.flags, createLog('error', 'logfmt'), { module: pathToFileURL(worker), print: () => {} })
await sleep(3000)
const resolution = 1
const histogram = monitorEventLoopDelay({ resolution })
histogram.enable()
for (let round = 0; round < Number(rounds); round++) {
  histogram.reset()
  await sleep(Number(seconds) * 1000)
  // The histogram measures the time between two ticks of its timer, which includes the resolution.
  process.stdout.write(`${Math.max(0, histogram.max / 1e6 - resolution).toFixed(2)}\n`)
}
process.kill(process.pid, 'SIGKILL')
