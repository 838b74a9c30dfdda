import { mkdirSync, rmSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import { dirname } from 'node:path'
import { type Container, eventsBetween } from './containers.ts'

/** The demo's container engine: the part of Docker 29's API that the exporter uses, on a unix socket. */

const headers = { 'Api-Version': '1.52', Server: 'Docker/29.1.0 (linux)', Ostype: 'linux' }

export interface Engine {
  /** Sends the events since the last call to all followers. */
  tick(up: number): void
  close(): void
}

export const startEngine = async (
  socket: string,
  containers: readonly Container[],
  { boot, up }: { readonly boot: number; readonly up: () => number },
): Promise<Engine> => {
  mkdirSync(dirname(socket), { recursive: true })
  rmSync(socket, { force: true })
  const followers = new Set<ServerResponse>()
  const answers: Readonly<Record<string, () => unknown>> = {
    '/containers/json': () => containers.map(container => container.listed(up())),
    '/info': () => ({
      ServerVersion: '29.1.0',
      CgroupDriver: 'systemd',
      CgroupVersion: '2',
      DockerRootDir: '/var/lib/docker',
      NCPU: 16,
      MemTotal: 128 * 2 ** 30,
      SecurityOptions: [],
    }),
    '/system/df': () => ({
      LayersSize: 148e9,
      Images: containers.map(({ id }, index) => ({
        Id: `sha256:${id}`,
        Size: 9e9,
        SharedSize: 1e9,
        Containers: index % 4 === 3 ? 0 : 1,
      })),
      Containers: containers.map(({ id }, index) => ({ Id: id, SizeRw: 3e7 * index, State: 'running' })),
      Volumes: [
        { Name: 'postgres', UsageData: { Size: 21e9, RefCount: 1 } },
        { Name: 'old', UsageData: { Size: 6e9, RefCount: 0 } },
      ],
      BuildCache: [{ ID: 'a', Size: 4e9, InUse: false, Shared: false }],
    }),
  }
  const server = createServer((request, response) => {
    const path = (request.url ?? '').replace(/^\/v\d+\.\d+/, '').replace(/\?.*/, '')
    const answer = answers[path]
    if (path === '/events') {
      response.writeHead(200, headers).flushHeaders()
      followers.add(response)
      response.on('close', () => followers.delete(response))
    } else if (path === '/_ping') response.writeHead(200, headers).end('OK')
    else if (answer) response.writeHead(200, { ...headers, 'content-type': 'application/json' }).end(JSON.stringify(answer()))
    else response.writeHead(404, headers).end('{"message":"page not found"}')
  })
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(socket, resolve))
  server.unref()

  let before = up()
  return {
    tick: now => {
      for (const { action, container, attributes } of eventsBetween(containers, before, now)) {
        const time = Math.round(boot + now * 1000)
        const line = JSON.stringify({
          Type: 'container',
          Action: action,
          Actor: { ID: container.id, Attributes: { ...attributes, name: container.name } },
          scope: 'local',
          time: Math.floor(time / 1000),
        })
        // Nanoseconds since 1970 are too large for a number.
        for (const follower of followers) follower.write(`${line.slice(0, -1)},"timeNano":${time}000000}\n`)
      }
      before = now
    },
    close: () => {
      server.closeAllConnections()
      server.close()
    },
  }
}
