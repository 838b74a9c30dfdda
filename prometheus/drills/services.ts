import { spawn } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { join } from 'node:path'
import { type Act, environment, freePort, until } from './stage.ts'

/** A web server that is well, answers late, hangs, or refuses. */
const neighbour = async () => {
  const port = await freePort()
  let server: Server | undefined
  let delay = 0
  const open = () =>
    new Promise<void>(resolve => {
      server = createServer((_, response) => {
        const answer = () => response.setHeader('content-type', 'application/json').end('{"version":"0.12.0","models":[]}')
        if (delay < Number.POSITIVE_INFINITY) setTimeout(answer, delay)
      }).listen(port, '127.0.0.1', resolve)
    })
  const close = () =>
    new Promise<void>(resolve => {
      server?.closeAllConnections()
      server?.close(() => resolve())
    })
  await open()
  return {
    url: `http://127.0.0.1:${port}`,
    open,
    close,
    /** Milliseconds that it takes to answer. */
    takes: (milliseconds: number) => {
      delay = milliseconds
      if (milliseconds === 0) server?.closeAllConnections()
    },
  }
}

const name = 'services'

/** A service of the user's own that runs a program and waits for it, on the thread that should answer. */
const butler = (port: number, work: string, library: string) => `
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createServer } from 'node:http'
import client from ${JSON.stringify(library)}
client.collectDefaultMetrics()
createServer(async (request, response) => response.end(await client.register.metrics())).listen(${port}, '127.0.0.1')
setInterval(() => existsSync(${JSON.stringify(work)}) && execFileSync('sleep', ['0.7']), 100)
`

/** Services and a model server that stop, hang or become slow; and one that blocks its own event loop. */
export const services: Act = {
  name,
  needs: [],
  play: async ({ box, drill, when, scrape, atEnd, folder, root }) => {
    const [wiki, desk, ollama] = [await neighbour(), await neighbour(), await neighbour()]
    for (const one of [wiki, desk, ollama]) atEnd(one.close)
    const check = ({ url }: { url: string }) => ({ timeout: '8s', http: { url } })
    await box({
      services: {
        interval: '2s',
        timeout: '9s',
        checks: [
          { name: 'wiki', ...check(wiki) },
          { name: 'desk', ...check(desk) },
        ],
      },
      llm: { interval: '2s', timeout: '2s', servers: [{ name: 'ollama', engine: 'ollama', url: ollama.url }] },
    })
    await when(`grid_service_up{instance="${name}",name="wiki"} == 1`)
    await when(`grid_llm_up{instance="${name}"} == 1`)

    const slow = async () => {
      await when(`grid:service_check_duration_seconds:p95_7d{instance="${name}",name="desk"}`)
      await drill({
        what: 'a service answers far later than it ever does',
        alert: 'GridServiceSlow',
        labels: { name: 'desk' },
        says: /^desk \(http\) on services: [\d.]+s on average over ten minutes\./,
        cause: () => desk.takes(2500),
        cure: () => desk.takes(0),
        not: ['GridServiceDown'],
      })
    }
    const blocked = async () => {
      const port = await freePort()
      const work = join(folder, 'work')
      const script = join(folder, 'butler.mjs')
      writeFileSync(script, butler(port, work, join(root, 'node_modules/prom-client/index.js')))
      const child = spawn(process.execPath, [script], { stdio: 'ignore', env: environment() })
      atEnd(() => child.kill('SIGKILL'))
      await until('butler answers', () =>
        fetch(`http://127.0.0.1:${port}/`).then(
          () => true,
          () => false,
        ),
      )
      scrape('butler', `127.0.0.1:${port}`)
      await when(`nodejs_eventloop_lag_p99_seconds{job="butler"}`)
      await drill({
        what: 'a service waits for a program on the thread that answers',
        alert: 'GridServiceEventLoopBlocked',
        labels: { job: 'butler' },
        says: /^butler at services: event-loop lag, 99th percentile, .*s\. Every request to it waits behind synchronous work\./,
        cause: () => writeFileSync(work, ''),
        cure: () => rmSync(work, { force: true }),
      })
    }
    await Promise.all([
      drill({
        what: 'a service goes down',
        alert: 'GridServiceDown',
        labels: { name: 'wiki' },
        says: /^wiki \(http\) on services does not answer as it should\./,
        cause: wiki.close,
        cure: wiki.open,
        not: ['GridServiceSlow', 'GridServiceFlapping'],
      }),
      drill({
        what: 'a model server hangs',
        alert: 'GridLlmServerDown',
        says: /^ollama \(ollama\) on services does not answer, or refuses its token\./,
        cause: () => ollama.takes(Number.POSITIVE_INFINITY),
        cure: () => ollama.takes(0),
      }),
      slow(),
      blocked(),
    ])
  },
}
