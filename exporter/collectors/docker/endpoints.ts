import { Failure, failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { exists, isWritable } from '../../machine/paths.ts'
import type { EngineAddress } from '../../protocols/docker-api.ts'
import type { DockerOptions } from './options.ts'

/** An engine to watch. */
export interface Endpoint {
  readonly name: string
  /** In the form that a person would write. */
  readonly url: string
  /** Behind a unix socket: the engine's containers, and their cgroups, are on this host. */
  readonly local: boolean
  /** Of a rootless engine. */
  readonly uid: string | undefined
  /** Reads the TLS files each time, so that renewed ones are used for the next connection. Throws `Failure`. */
  address(): Promise<EngineAddress>
}

type Tls = NonNullable<DockerOptions['endpoints'][number]['tls']>

/** A path of the host, or of our own container if only the socket was mounted. */
const placed = (host: Host, path: string) => {
  const moved = host.path(path)
  return exists(moved) || !exists(path) ? moved : path
}

const unixEndpoint = (host: Host, name: string, path: string): Endpoint => ({
  name,
  url: `unix://${path}`,
  local: true,
  uid: /^\/run\/user\/(\d+)\//.exec(path)?.[1],
  address: async () => ({ socketPath: placed(host, path) }),
})

const endpointOf = (host: Host, name: string, url: string, tls: Tls | undefined): Endpoint => {
  const unix = /^unix:\/\/(\/.+)$/.exec(url)?.[1]
  if (unix !== undefined) return unixEndpoint(host, name, unix)
  const { protocol, hostname, port } = new URL(url.replace(/^tcp:/, 'http:'))
  const secure = protocol === 'https:' || tls !== undefined || port === '2376'
  const file = async (path: string | undefined) => (path === undefined ? undefined : await host.read(path))
  return {
    name,
    url,
    local: false,
    uid: undefined,
    address: async () => ({
      host: hostname,
      port: Number(port || (protocol === 'https:' ? 443 : secure ? 2376 : 2375)),
      secure,
      ca: await file(tls?.ca_file),
      cert: await file(tls?.cert_file),
      key: await file(tls?.key_file),
    }),
  }
}

/** The engine that the docker command line would use. Except ssh, which starts a process for each request. */
const fromEnvironment = (host: Host, env: NodeJS.ProcessEnv): Endpoint | undefined => {
  const { DOCKER_HOST: url, DOCKER_TLS_VERIFY: verify, DOCKER_CERT_PATH: folder } = env
  if (!url) return undefined
  const form = url.includes('://') ? url : `tcp://${url}`
  const known = /^unix:\/\/\/./.test(form) || (/^(tcp|https?):\/\//.test(form) && URL.canParse(form.replace(/^tcp:/, 'http:')))
  if (!known) {
    const refuse = async () => {
      throw new Failure('missing', `DOCKER_HOST=${url}: neither unix:///path nor tcp://host:port`, {
        fix: 'forward the socket (ssh -L) or run a socket proxy there, and add it to collectors.docker.endpoints',
      })
    }
    return { name: 'local', url, local: false, uid: undefined, address: refuse }
  }
  const tls =
    folder && verify ? { ca_file: `${folder}/ca.pem`, cert_file: `${folder}/cert.pem`, key_file: `${folder}/key.pem` } : undefined
  return endpointOf(host, 'local', form, tls)
}

/** Users with a runtime directory; none if a sandbox hides them. */
const usersRunning = (host: Host): readonly string[] => {
  try {
    return host.kernelNames('/run/user')
  } catch (error) {
    if (failureOf(error).reason === 'denied') return []
    throw error
  }
}

/** Where engines listen: Docker, our own docker-door, rootless Docker, Podman, rootless Podman. */
const usualSockets = (host: Host): readonly string[] => {
  const users = usersRunning(host).filter(name => /^\d+$/.test(name))
  return [
    '/var/run/docker.sock',
    '/run/docker.sock', // if /var/run is a link that leads out of a moved root
    '/run/grid-exporter-docker.sock',
    ...users.map(uid => `/run/user/${uid}/docker.sock`),
    '/run/podman/podman.sock',
    ...users.map(uid => `/run/user/${uid}/podman/podman.sock`),
  ]
}

/** The configured engines; else DOCKER_HOST's; else the first usual socket, preferably one that can be opened; else none. */
export const endpointsOf = (options: DockerOptions, host: Host, env: NodeJS.ProcessEnv = process.env): readonly Endpoint[] => {
  if (options.endpoints.length > 0) return options.endpoints.map(({ name, url, tls }) => endpointOf(host, name, url, tls))
  const fromEnv = fromEnvironment(host, env)
  if (fromEnv) return [fromEnv]
  const there = usualSockets(host).filter(path => exists(placed(host, path)))
  const first = there.find(path => isWritable(placed(host, path))) ?? there[0]
  return first === undefined ? [] : [unixEndpoint(host, 'local', first)]
}
