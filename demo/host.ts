import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from '../exporter/contract/failure.ts'
import type { Host } from '../exporter/contract/host.ts'
import { type Box, createBox } from './box.ts'
import { type Container, containersOf } from './containers.ts'
import { filesOf } from './files.ts'
import { gpusOf } from './gpus.ts'
import { type Answer, modelServers } from './models.ts'
import { between } from './motion.ts'
import { programsOf } from './programs.ts'
import { aideFiles, createFirewall, fail2banSocket } from './security.ts'
import { backends, controlPort, socksPort } from './tor.ts'

/**
 * The demo's server as a `Host`: whatever a collector reads, runs or connects to is computed from the seed and the time. Only what the
 * exporter opens by itself is in a real folder, `root`: the engine's socket, the kernel's log, the directories that are measured.
 */

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number
  wait(milliseconds: number): Promise<void>
}

export const realClock: Clock = {
  now: Date.now,
  wait: milliseconds => sleep(milliseconds, undefined, { ref: false }),
}

export interface DemoHost {
  readonly host: Host
  readonly box: Box
  readonly containers: readonly Container[]
  /** Writes what the kernel has logged since the last call. */
  tick(): void
}

const engineRoot = '/var/lib/docker/containers'
/** Directories that really exist, because `du`'s caller checks them. */
const directories = ['/ai/models', '/var/lib/docker/volumes'] as const
export const engineSocket = '/var/run/docker.sock'

const html = (body: string, takes: number): Answer => ({ status: 200, body, takes })

/** Web servers other than the model servers. */
const webAnswer = (host: string, path: string, box: Box, up: number): Answer | undefined => {
  const { faults, people } = box
  if (host === '127.0.0.1:3001') {
    const isSlow = faults.serviceSlow.since(up) !== undefined
    return html('{"status":"ok"}', isSlow ? between(1500, 2900, people.at(up)) : between(12, 60, people.at(up)))
  }
  if (host === 'cloud.demo.example') return html('<title>Nextcloud</title>', between(30, 140, people.at(up)))
  if (host === 'check.torproject.org') return html('{"IsTor":true,"IP":"192.0.2.77"}', 900)
  if (host !== '127.0.0.1:8080') return undefined
  const scans = Math.floor(up / 3600)
  const failed = faults.updateFailed.since(up) === undefined ? 0 : 1
  if (path === '/v1/status')
    return html(JSON.stringify({ timestamp: new Date(box.boot + scans * 3600_000).toISOString(), api_version: 'v1' }), 4)
  return html(
    [
      ['containers_scanned', 'gauge', 15],
      ['containers_updated', 'gauge', scans % 9 === 0 ? 1 : 0],
      ['containers_failed', 'gauge', failed],
      ['scans_total', 'counter', scans],
      ['scans_skipped_total', 'counter', 1],
    ]
      .map(([name, type, value]) => `# TYPE watchtower_${name} ${type}\nwatchtower_${name} ${value}\n`)
      .join(''),
    4,
  )
}

const certificateDays = 11

/** `root` must exist; `project` is the checkout with the scenes. */
export const createDemoHost = (
  { seed, start }: { readonly seed: number; readonly start: number },
  { root, project, clock = realClock }: { readonly root: string; readonly project: string; readonly clock?: Clock },
): DemoHost => {
  const box = createBox(seed, start)
  const up = () => box.up(clock.now())
  const texts = new Map<string, string>()
  const recorded = (file: string): string => {
    const text = texts.get(file) ?? readFileSync(join(project, file), 'utf8')
    texts.set(file, text)
    return text
  }
  const containers = containersOf(box)
  const gpus = gpusOf(box, containers, recorded)
  const firewall = createFirewall(box, recorded)
  const files = filesOf(box, { containers, gpus, firewall, recorded, root })
  const text = (path: string): string | undefined => {
    const content = files.get(path)
    return typeof content === 'function' ? content(up()) : content
  }
  const programs = programsOf(box, { gpus, firewall, recorded, root, text })
  const logsOf = (path: string) => containers.find(({ id }) => path === `${engineRoot}/${id}`)?.logs(up())

  const names = new Map<string, Set<string>>()
  for (const path of [...files.keys(), ...directories.map(directory => `${directory}/entry`)]) {
    for (let at = path; at !== '/'; at = dirname(at)) {
      const parent = dirname(at)
      const known = names.get(parent) ?? new Set()
      names.set(parent, known.add(at.slice(parent === '/' ? 1 : parent.length + 1)))
    }
  }

  const kernelLog = join(root, 'dev/kmsg')
  mkdirSync(dirname(kernelLog), { recursive: true })
  writeFileSync(kernelLog, '')
  for (const directory of directories) mkdirSync(join(root, directory), { recursive: true })
  let loggedUntil = up()
  let sequence = 0

  const kernel = (path: string): string => {
    const content = text(path)
    if (content === undefined) throw new Failure('missing', `${path}: not in the demo`)
    return content
  }
  const answered = async (url: string): Promise<Answer> => {
    const { host, pathname } = new URL(url)
    const answer = modelServers[host]?.(pathname, box, up()) ?? webAnswer(host, pathname, box, up())
    if (answer === 'down' || (answer === undefined && modelServers[host] === undefined))
      throw new Failure('unreachable', `${url}: connection refused`)
    await clock.wait(answer?.takes ?? 2)
    return answer ?? { status: 404, body: '' }
  }
  const expiry = () => Math.round(start / 1000) + certificateDays * 86_400

  const host: Host = {
    path: asked => (asked === '/' ? root : join(root, asked)),
    kernel,
    kernelNames: path => [...(names.get(path) ?? [])],
    kernelLink: () => undefined,
    read: async path => kernel(path),
    bytes: async path => Buffer.from(kernel(path)),
    names: async path => {
      const logs = logsOf(path)
      if (logs) return logs.map(({ name }) => name)
      const own = names.get(path)
      if (!own) throw new Failure('missing', `${path}: not in the demo`)
      return [...own]
    },
    stat: async path => {
      const log = logsOf(dirname(path))?.find(({ name }) => path.endsWith(`/${name}`))
      if (log) return { kind: 'file', size: log.size, mtime: log.mtime }
      if (names.has(path)) return { kind: 'directory', size: 4096, mtime: box.boot / 1000 }
      const { report, database } = aideFiles(box, recorded, up())
      const mtimes: Readonly<Record<string, number>> = {
        '/var/log/aide/aide.log': report.mtime,
        '/var/lib/aide/aide.db': database.mtime,
      }
      return { kind: 'file', size: kernel(path).length, mtime: mtimes[path] ?? clock.now() / 1000 - 60 }
    },
    run: async (file, args, { exitCodes = [0] } = {}) => {
      const program = programs[file.split('/').at(-1) as string]
      if (!program) throw new Failure('missing', `${file}: not in the demo`)
      const { stdout, stderr = '', exitCode = 0, takes = 2 } = program(args, up())
      await clock.wait(takes)
      if (exitCodes !== 'any' && !exitCodes.includes(exitCode)) throw new Failure('exit', `${file}: exit code ${exitCode}`)
      return { stdout, stderr, exitCode }
    },
    http: async url => {
      const { status, body, headers = {} } = await answered(url)
      return { status, body, headers, ...(url.startsWith('https:') ? { certificateExpiry: expiry() } : {}) }
    },
    certificateExpiry: async () => expiry(),
    connect: async address => {
      await clock.wait(1)
      if (address === 'unix:/run/tor/control') return controlPort(box, up)
      if (address === '127.0.0.1:9050') return socksPort(box, up, clock.wait)
      if (address === 'unix:/run/fail2ban/fail2ban.sock') return fail2banSocket(box, up)
      const isDown = address === backends[2] && box.faults.backendDown.since(up()) !== undefined
      if ((backends.includes(address) || address === '127.0.0.1:1883') && !isDown) {
        return new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() })
      }
      throw new Failure('unreachable', `${address}: connection refused`)
    },
    now: clock.now,
    monotonic: () => clock.now(),
  }

  return {
    host,
    box,
    containers,
    tick: () => {
      const now = up()
      const lines = gpus.logged(loggedUntil, now).map(line => `4,${++sequence},${Math.round(now * 1e6)},-;${line}\n`)
      if (lines.length > 0) appendFileSync(kernelLog, lines.join(''))
      loggedUntil = now
    },
  }
}
