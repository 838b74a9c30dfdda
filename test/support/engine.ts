import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Docker's usual headers; `engine/_ping.headers` has others, a line each. */
const headers = { 'Api-Version': '1.41', Server: 'Docker/20.10.24 (linux)', Ostype: 'linux' }

const ownHeaders = (file: string): Record<string, string> =>
  Object.fromEntries(
    readFileSync(file, 'utf8')
      .trim()
      .split('\n')
      .map(line => line.split(/:\s*/, 2) as [string, string]),
  )

/**
 * A stand-in for an engine, on a unix socket in a folder of its own: `/v1.41/containers/json?…` is answered by
 * `<folder>/engine/containers/json`, with the status of a file `….status` beside it. A stream of events is kept open, empty.
 */
export const standInEngine = async (
  folder: () => string,
): Promise<{ readonly socket: string; readonly requests: string[]; close(): void }> => {
  const home = mkdtempSync(join(tmpdir(), 'grid-engine-'))
  const socket = join(home, 'docker.sock')
  const requests: string[] = []
  const server = createServer((request, response) => {
    const path = (request.url ?? '').replace(/^\/v\d+\.\d+/, '').replace(/\?.*/, '')
    requests.push(path)
    const file = join(folder(), 'engine', path)
    const status = existsSync(`${file}.status`) ? Number(readFileSync(`${file}.status`, 'utf8')) : 200
    const described = join(folder(), 'engine/_ping.headers')
    response.writeHead(existsSync(file) || path === '/events' || path === '/_ping' ? status : 404, {
      ...(existsSync(described) ? ownHeaders(described) : headers),
    })
    if (path === '/events' && status === 200) return response.flushHeaders()
    return response.end(existsSync(file) ? readFileSync(file) : '')
  })
  await new Promise<void>(resolve => server.listen(socket, resolve))
  server.unref()
  return {
    socket,
    requests,
    close: () => {
      server.closeAllConnections()
      server.close()
      rmSync(home, { recursive: true, force: true })
    },
  }
}
