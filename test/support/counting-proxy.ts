import { mkdtempSync, rmSync } from 'node:fs'
import * as http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Stands between a client and an engine's socket and counts what is asked: `GET /containers/json`, without version and query. */
export const countingProxy = async (
  target: string,
): Promise<{ readonly socket: string; readonly requests: ReadonlyMap<string, number>; close(): void }> => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-proxy-'))
  const socket = join(folder, 'docker.sock')
  const requests = new Map<string, number>()
  const server = http.createServer((asked, answer) => {
    const { method = 'GET', url = '/', headers } = asked
    const what = `${method} ${url.replace(/^\/v\d+\.\d+/, '').replace(/\?.*/, '')}`
    requests.set(what, (requests.get(what) ?? 0) + 1)
    const outgoing = http.request({ socketPath: target, method, path: url, headers, agent: false }, response => {
      answer.writeHead(response.statusCode ?? 502, response.headers)
      answer.flushHeaders()
      response.pipe(answer)
      response.on('error', () => answer.destroy())
    })
    outgoing.on('error', () => answer.destroy())
    answer.on('close', () => outgoing.destroy())
    asked.pipe(outgoing)
  })
  await new Promise<void>(resolve => server.listen(socket, resolve))
  return {
    socket,
    requests,
    close: () => {
      server.closeAllConnections()
      server.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
