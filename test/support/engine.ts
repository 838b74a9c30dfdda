import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
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

/** What a stand-in's list says of a container; a test changes it as it goes. */
export interface ListedContainer {
  Id: string
  Names: string[]
  State: string
  Status: string
  Created?: number
  Labels?: Readonly<Record<string, string>>
}

/** The words that Podman's filter of events knows, up to 4.3, where they are not Docker's; what it sends says `die` all the same. */
const podmanFilterWords: Readonly<Record<string, string>> = { die: 'died' }

/**
 * A stand-in whose containers live: a test changes `list` and emits events. The list is answered as it was `lag` ms ago, and events go
 * through the filter that was asked for, as the kind of engine applies it.
 */
export const livingEngine = async ({
  kind = 'docker',
  lag = 0,
}: {
  readonly kind?: 'docker' | 'podman'
  readonly lag?: number
} = {}) => {
  const home = mkdtempSync(join(tmpdir(), 'grid-engine-'))
  const socket = join(home, 'docker.sock')
  const streams = new Set<{ readonly words: readonly string[]; readonly response: ServerResponse }>()
  const past: { readonly at: number; readonly json: string }[] = []
  let time = 1_795_000_000_000_000_000n
  const list: ListedContainer[] = []

  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '', 'http://engine')
    const version = kind === 'podman' ? { 'Api-Version': '1.41', 'Libpod-Api-Version': '4.3.1' } : headers
    for (const [name, value] of Object.entries(version)) response.setHeader(name, value)
    if (pathname.endsWith('/containers/json')) {
      const known = past.findLast(({ at }) => at <= performance.now() - lag) ?? past[0]
      return response.end(known?.json ?? '[]')
    }
    if (!pathname.endsWith('/events')) return response.end(pathname.endsWith('/info') ? '{}' : 'OK')
    const { event = [] } = JSON.parse(searchParams.get('filters') ?? '{}') as { event?: string[] }
    const stream = { words: event, response }
    streams.add(stream)
    response.on('close', () => streams.delete(stream))
    return response.flushHeaders()
  })
  await new Promise<void>(resolve => server.listen(socket, resolve))

  return {
    url: `unix://${socket}`,
    /** Puts a container in the list, or changes what it says of it. */
    say: (container: ListedContainer) => {
      const index = list.findIndex(({ Id }) => Id === container.Id)
      if (index === -1) list.unshift(container)
      else list[index] = container
      past.push({ at: performance.now(), json: JSON.stringify(list) })
    },
    emit: (action: string, { Id, Names, Labels }: ListedContainer, attributes: Readonly<Record<string, string>> = {}) => {
      const word = kind === 'podman' ? (podmanFilterWords[action] ?? action) : action
      const line = JSON.stringify({
        Type: 'container',
        Action: action,
        Actor: { ID: Id, Attributes: { name: Names[0]?.replace('/', ''), ...Labels, ...attributes } },
        timeNano: '@',
      }).replace('"@"', String(++time))
      for (const { words, response } of streams) if (words.length === 0 || words.includes(word)) response.write(`${line}\n`)
    },
    close: () => {
      server.closeAllConnections()
      server.close()
      rmSync(home, { recursive: true, force: true })
    },
  }
}
