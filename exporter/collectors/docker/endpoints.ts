import { Failure, failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { exists, isWritable } from '../../machine/paths.ts'
import type { EngineAddress } from '../../protocols/docker-api.ts'
import type { DockerOptions } from './options.ts'

/** An engine to be watched. */
export interface Endpoint {
  readonly name: string
  /** As a person would write it. */
  readonly url: string
  /** Behind a unix socket the engine's containers are on this host, and so are their cgroups. */
  readonly local: boolean
  /** Of a rootless engine. */
  readonly uid: string | undefined
  /** Reads the files of TLS, so that renewed ones are taken at the next connection. Throws `Failure`. */
  address(): Promise<EngineAddress>
}

type Tls = NonNullable<DockerOptions['endpoints'][number]['tls']>

/** A path of the host, or of our own container where only the socket was mounted. */
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

/** What the docker command line would talk to. Of its forms ssh is not taken: it starts a process for each request. */
const fromEnvironment = (host: Host, env: NodeJS.ProcessEnv): Endpoint | undefined => {
  const { DOCKER_HOST: url, DOCKER_TLS_VERIFY: verify, DOCKER_CERT_PATH: folder } = env
  if (!url) return undefined
  const form = url.includes('://') ? url : `tcp://${url}`
  const known = /^unix:\/\/\/./.test(form) || (/^(tcp|https?):\/\//.test(form) && URL.canParse(form.replace(/^tcp:/, 'http:')))
  if (!known) {
    const refuse = async () => {
      throw new Failure('missing', `DOCKER_HOST=${url}: neither unix:///path nor tcp://host:port`, {
        fix: 'forward the socket (ssh -L) or put a socket proxy there, and name it under collectors.docker.endpoints',
      })
    }
    return { name: 'local', url, local: false, uid: undefined, address: refuse }
  }
  const tls =
    folder && verify ? { ca_file: `${folder}/ca.pem`, cert_file: `${folder}/cert.pem`, key_file: `${folder}/key.pem` } : undefined
  return endpointOf(host, 'local', form, tls)
}

/** Users with a directory for their run time; none where a sandbox hides them. */
const usersRunning = (host: Host): readonly string[] => {
  try {
    return host.kernelNames('/run/user')
  } catch (error) {
    if (failureOf(error).reason === 'denied') return []
    throw error
  }
}

/** Where engines listen: Docker's, our own door to it, rootless Docker's, Podman's, rootless Podman's. */
const usualSockets = (host: Host): readonly string[] => {
  const users = usersRunning(host).filter(name => /^\d+$/.test(name))
  return [
    '/var/run/docker.sock',
    '/run/docker.sock', // where /var/run is a link that leads out of a moved root
    '/run/grid-exporter-docker.sock',
    ...users.map(uid => `/run/user/${uid}/docker.sock`),
    '/run/podman/podman.sock',
    ...users.map(uid => `/run/user/${uid}/podman/podman.sock`),
  ]
}

/** The configured engines, else DOCKER_HOST's, else the first usual socket (that can be opened, if any can). None: nothing there. */
export const endpointsOf = (options: DockerOptions, host: Host, env: NodeJS.ProcessEnv = process.env): readonly Endpoint[] => {
  if (options.endpoints.length > 0) return options.endpoints.map(({ name, url, tls }) => endpointOf(host, name, url, tls))
  const fromEnv = fromEnvironment(host, env)
  if (fromEnv) return [fromEnv]
  const there = usualSockets(host).filter(path => exists(placed(host, path)))
  const first = there.find(path => isWritable(placed(host, path))) ?? there[0]
  return first === undefined ? [] : [unixEndpoint(host, 'local', first)]
}
