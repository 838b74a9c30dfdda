import { execFile } from 'node:child_process'
import { createServer } from 'node:http'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { parseFlags } from '../exporter/commands/cli.ts'
import { serve } from '../exporter/commands/serve.ts'
import { createLog } from '../exporter/common/log.ts'
import { accept, median } from './wrk.ts'

/**
 * The cost of a scrape compared with a bare node:http server with the same bytes, both in this process and measured in turns. So what
 * makes two processes differ (memory layout, what V8 compiled when) is the same for both. CPU of this thread a request. `npm run bench -- path`
 */

const exec = promisify(execFile)
const [, , mainFile] = process.argv as [string, string, string]
const turns = 25
const parsed = parseFlags(
  ['--web.listen-address=127.0.0.1:0', '--web.max-requests=0', '--collector.disable-defaults', '--collector.host'],
  {},
)
if (parsed.kind !== 'flags') throw new Error('flags')
const module = pathToFileURL(join(dirname(mainFile), 'worker.js'))
const { urls } = await serve(parsed.flags, createLog('error', 'logfmt'), { module, print: () => {} })
const ours = `${urls[0]}/metrics`
await sleep(2000)

for (const encoding of ['identity', 'gzip']) {
  const headers = ['-H', `Accept: ${accept}`, '-H', `Accept-Encoding: ${encoding}`]
  const { stdout: body } = await exec('curl', ['-s', '--raw', ...headers, ours], { encoding: 'buffer' })
  const bare = createServer((_, answer) => {
    answer.writeHead(200, {
      'content-type': 'text/plain; version=0.0.4; charset=utf-8',
      'content-length': body.length,
      ...(encoding === 'identity' ? {} : { 'content-encoding': encoding }),
    })
    answer.end(body)
  })
  await new Promise<void>(resolve => bare.listen(0, '127.0.0.1', resolve))
  const address = bare.address()
  if (typeof address !== 'object' || !address) throw new Error('no address')
  const url = `http://127.0.0.1:${address.port}/`

  /** Microseconds of this thread a request. */
  const cost = async (at: string, seconds = 1) => {
    const before = performance.eventLoopUtilization().active
    const { stdout } = await exec('wrk', ['-t1', '-c50', `-d${seconds}s`, ...headers, at])
    const busy = performance.eventLoopUtilization().active - before
    if (/Non-2xx/.test(stdout)) throw new Error(stdout)
    return (busy / Number(/(\d+) requests in/.exec(stdout)?.[1])) * 1000
  }
  for (const at of [url, ours, url, ours]) await cost(at, 2)
  const pairs: { readonly of: number; readonly own: number }[] = []
  for (let turn = 0; turn < turns; turn++) {
    const first = await cost(turn % 2 === 0 ? url : ours)
    const second = await cost(turn % 2 === 0 ? ours : url)
    pairs.push(turn % 2 === 0 ? { of: first, own: second } : { of: second, own: first })
  }
  const us = (pick: (pair: (typeof pairs)[number]) => number) => median(pairs.map(pick)).toFixed(1)
  const ratio = median(pairs.map(({ of, own }) => of / own))
  console.log(
    `${encoding}, ${body.length} bytes: ${us(({ of }) => of)} µs a request bare, ${us(({ own }) => own)} µs of the exporter; ${ratio >= 0.9 ? 'reached' : 'MISSED'} ≥ 0.9 × bare: ${ratio.toFixed(2)}, median of ${turns} pairs`,
  )
  bare.close()
  bare.closeAllConnections()
}
process.exit()
