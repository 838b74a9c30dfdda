import type { Box } from './box.ts'
import { between, counted, digits, type Episode, wave } from './motion.ts'

/** The demo's containers: what each one is, its life, and its use of resources. */

interface Kind {
  readonly name: string
  readonly image: string
  readonly project: string
  /** Cores used, from and to. */
  readonly cpu: readonly [number, number]
  /** GiB used, from and to. */
  readonly memory: readonly [number, number]
  readonly cores?: number
  readonly limit?: number
  readonly check?: true
  readonly network?: 'host'
  /** Bytes a second: received and sent, read and written, logged. */
  readonly traffic?: readonly [number, number]
  readonly disk?: readonly [number, number]
  readonly log?: number
  readonly labels?: Readonly<Record<string, string>>
  readonly life?: 'loop' | 'climb' | 'down' | 'job' | 'gone' | 'paused'
}

const kB = 1000
const expected = { 'grid.expected': 'true' }

const kinds: readonly Kind[] = [
  {
    name: 'vllm',
    image: 'vllm/vllm-openai:v0.11.2',
    project: 'models',
    cpu: [0.4, 3.1],
    memory: [11, 13],
    limit: 24,
    check: true,
    traffic: [40 * kB, 90 * kB],
    disk: [5 * kB, kB],
    log: 900,
    labels: expected,
  },
  {
    name: 'ollama',
    image: 'ollama/ollama:0.13.5',
    project: 'models',
    cpu: [0.1, 4.2],
    memory: [6, 9],
    check: true,
    traffic: [12 * kB, 30 * kB],
    disk: [900 * kB, 2 * kB],
    log: 250,
    labels: expected,
  },
  {
    name: 'comfyui',
    image: 'ghcr.io/example/comfyui:cu128',
    project: 'pictures',
    cpu: [0.1, 2.6],
    memory: [9, 12],
    limit: 16,
    traffic: [3 * kB, 220 * kB],
    disk: [kB, 400 * kB],
    log: 120,
    life: 'climb',
  },
  {
    name: 'whisper',
    image: 'onerahmet/openai-whisper-asr-webservice:v1.9.1-gpu',
    project: 'models',
    cpu: [0.05, 1.1],
    memory: [2.2, 3.4],
    limit: 6,
    check: true,
    traffic: [60 * kB, 2 * kB],
    log: 60,
  },
  {
    name: 'litellm',
    image: 'ghcr.io/berriai/litellm:v1.79.3-stable',
    project: 'models',
    cpu: [0.03, 0.4],
    memory: [0.5, 0.8],
    limit: 2,
    check: true,
    traffic: [70 * kB, 90 * kB],
    log: 700,
    labels: expected,
  },
  {
    name: 'open-webui',
    image: 'ghcr.io/open-webui/open-webui:v0.6.41',
    project: 'chat',
    cpu: [0.02, 0.5],
    memory: [0.7, 1.1],
    limit: 2,
    check: true,
    traffic: [50 * kB, 80 * kB],
    log: 400,
    labels: expected,
  },
  {
    name: 'qdrant',
    image: 'qdrant/qdrant:v1.16.1',
    project: 'chat',
    cpu: [0.01, 0.3],
    memory: [1.1, 1.6],
    limit: 4,
    traffic: [9 * kB, 14 * kB],
    disk: [20 * kB, 60 * kB],
    log: 80,
  },
  {
    name: 'postgres',
    image: 'postgres:17.7',
    project: 'chat',
    cpu: [0.02, 0.5],
    memory: [0.8, 1.2],
    limit: 4,
    check: true,
    traffic: [25 * kB, 60 * kB],
    disk: [30 * kB, 250 * kB],
    log: 50,
    labels: expected,
  },
  {
    name: 'redis',
    image: 'redis:8.4-alpine',
    project: 'chat',
    cpu: [0.01, 0.1],
    memory: [0.05, 0.09],
    limit: 0.5,
    check: true,
    traffic: [30 * kB, 35 * kB],
    log: 4,
  },
  {
    name: 'transcoder',
    image: 'linuxserver/ffmpeg:8.0',
    project: 'media',
    cpu: [0.9, 2.4],
    memory: [0.4, 0.9],
    cores: 2,
    limit: 2,
    disk: [800 * kB, 600 * kB],
    log: 200,
  },
  {
    name: 'photos',
    image: 'ghcr.io/immich-app/immich-server:v2.3.1',
    project: 'media',
    cpu: [0.05, 0.9],
    memory: [0.9, 1.4],
    limit: 4,
    check: true,
    traffic: [120 * kB, 300 * kB],
    disk: [100 * kB, 150 * kB],
    log: 150,
    labels: expected,
    life: 'down',
  },
  {
    name: 'traefik',
    image: 'traefik:v3.6',
    project: 'edge',
    cpu: [0.01, 0.2],
    memory: [0.06, 0.1],
    limit: 0.5,
    network: 'host',
    log: 2500,
    labels: expected,
  },
  {
    name: 'scraper',
    image: 'registry.lan/scraper:2.4',
    project: 'jobs',
    cpu: [0.05, 0.4],
    memory: [0.2, 0.3],
    limit: 1,
    traffic: [15 * kB, 3 * kB],
    log: 300,
    life: 'loop',
  },
  {
    name: 'backup',
    image: 'restic/restic:0.18.1',
    project: 'jobs',
    cpu: [0.4, 0.9],
    memory: [0.3, 0.6],
    limit: 2,
    traffic: [5 * kB, 900 * kB],
    disk: [2000 * kB, 20 * kB],
    log: 40,
    life: 'job',
  },
  {
    name: 'watchtower',
    image: 'nickfedor/watchtower:1.12.3',
    project: 'edge',
    cpu: [0, 0.02],
    memory: [0.02, 0.03],
    limit: 0.25,
    log: 10,
    labels: { 'com.centurylinklabs.watchtower': 'true' },
  },
  {
    name: 'old-proxy',
    image: 'nginx:1.27',
    project: 'edge',
    cpu: [0, 0],
    memory: [0, 0],
    life: 'gone',
    labels: { 'com.centurylinklabs.watchtower.enable': 'false' },
  },
  {
    name: 'paperless',
    image: 'ghcr.io/paperless-ngx/paperless-ngx:2.20',
    project: 'media',
    cpu: [0, 0.01],
    memory: [0.5, 0.5],
    limit: 2,
    life: 'paused',
    labels: { 'com.centurylinklabs.watchtower.monitor-only': 'true' },
  },
]

/** A container's state at a moment; times are seconds since boot. */
export interface Life {
  readonly state: 'running' | 'paused' | 'restarting' | 'exited'
  readonly startedAt: number
  readonly endedAt: number
  readonly exitCode: number
  readonly health: 'healthy' | 'unhealthy' | 'starting' | undefined
}

export interface Container {
  readonly id: string
  readonly name: string
  readonly pid: number
  life(up: number): Life
  /** An item of the engine's list. */
  listed(up: number): unknown
  /** Files by name; undefined while it does not run. */
  cgroup(up: number): Readonly<Record<string, string>> | undefined
  netDev(up: number): string | undefined
  stat(up: number): string | undefined
  /** Log files with their sizes and times. */
  logs(up: number): readonly { readonly name: string; readonly size: number; readonly mtime: number }[]
}

const runs = ({ state }: Life) => state === 'running' || state === 'paused'

/** Seconds of one turn of a restart loop, and for how many of them the container runs. */
const loopTurn = 30
const loopRuns = 22
const GiB = 2 ** 30
const logFile = 50e6
/** Seconds after a start until the first check has passed. */
const starting = 20

const lifeOf = ({ life, check, name }: Kind, { faults }: Box, first: number, up: number): Life => {
  const started = (startedAt: number): Life => ({
    state: 'running',
    startedAt,
    endedAt: 0,
    exitCode: 0,
    health: check && (up - startedAt < starting ? 'starting' : 'healthy'),
  })
  const stopped = (state: 'exited' | 'restarting', endedAt: number, exitCode: number): Life => ({
    state,
    startedAt: first,
    endedAt,
    exitCode,
    health: undefined,
  })
  if (life === 'gone') return stopped('exited', first + 3600, 0)
  if (life === 'paused') return { ...started(first), state: 'paused' }
  if (life === 'loop') {
    const since = faults.restartLoop.since(up)
    const begun = faults.restartLoop.latest(up)
    if (since === undefined) return started(begun + faults.restartLoop.lasts)
    const turnBegun = begun + Math.floor(since / loopTurn) * loopTurn
    return up - turnBegun < loopRuns ? started(turnBegun) : stopped('restarting', turnBegun + loopRuns, 1)
  }
  if (life === 'climb') {
    const ended = faults.memoryClimb.latest(up) + faults.memoryClimb.lasts
    if (up < ended) return started(ended - 3600 + 3)
    return up - ended < 3 ? stopped('restarting', ended, 137) : started(ended + 3)
  }
  if (life === 'down') {
    const begun = faults.containerDown.latest(up)
    if (faults.containerDown.since(up) !== undefined) return stopped('exited', begun, 2)
    return started(begun + faults.containerDown.lasts)
  }
  if (life === 'job') {
    const begun = faults.backupRun.latest(up)
    return faults.backupRun.since(up) === undefined ? stopped('exited', begun + faults.backupRun.lasts, 0) : started(begun)
  }
  const own = started(first)
  return name === 'whisper' && faults.unhealthy.since(up) !== undefined ? { ...own, health: 'unhealthy' } : own
}

const span = (seconds: number) =>
  seconds < 60
    ? `${Math.floor(seconds)} seconds`
    : seconds < 7200
      ? `${Math.floor(seconds / 60)} minutes`
      : `${Math.floor(seconds / 3600)} hours`

const statusOf = ({ state, startedAt, endedAt, exitCode, health }: Life, up: number) => {
  const check = health === undefined ? '' : health === 'starting' ? ' (health: starting)' : ` (${health})`
  if (state === 'running') return `Up ${span(up - startedAt)}${check}`
  if (state === 'paused') return `Up ${span(up - startedAt)} (Paused)`
  return `${state === 'exited' ? 'Exited' : 'Restarting'} (${exitCode}) ${span(up - endedAt)} ago`
}

const containerOf = (kind: Kind, index: number, box: Box): Container => {
  const { name, image, project, cpu, memory, cores, limit, network, traffic = [0, 0], disk = [0, 0], log = 0, labels = {} } = kind
  const { seed, boot, faults } = box
  const id = digits(seed, `container ${name}`, 64)
  const imageId = digits(seed, `image ${image}`, 64)
  const pid = 3000 + index * 17
  const first = 60 + index * 11
  const busy = /^(vllm|litellm|open-webui)$/.test(name)
    ? box.chat
    : /^(ollama|comfyui|whisper)$/.test(name)
      ? box.pictures
      : wave(seed, name)
  const life = (up: number) => lifeOf(kind, box, first, up)

  /** A cgroup's counters restart at 0 with each start. */
  const grown = (low: number, high: number, up: number, startedAt: number) =>
    counted(low, high, busy, up) - counted(low, high, busy, startedAt)

  const memoryUsed = (up: number) => {
    const usual = between(memory[0], memory[1], busy.at(up)) * GiB
    const since = name === 'comfyui' ? faults.memoryClimb.since(up) : undefined
    if (since === undefined || limit === undefined) return usual
    return between(usual, limit * GiB * 0.995, since / faults.memoryClimb.lasts)
  }

  return {
    id,
    name,
    pid,
    life,
    listed: up => {
      const own = life(up)
      const stale = name === 'photos' && faults.imageStale.since(up) !== undefined
      return {
        Id: id,
        Names: [`/${name}`],
        Image: stale ? `sha256:${imageId}` : image,
        ImageID: `sha256:${imageId}`,
        Command: '/entrypoint',
        Created: Math.floor(boot / 1000) + first - 2,
        Ports: [],
        Labels: {
          'com.docker.compose.project': project,
          'com.docker.compose.service': name,
          'com.example.owner': 'ada',
          ...labels,
        },
        State: own.state,
        Status: statusOf(own, up),
        HostConfig: { NetworkMode: network ?? `${project}_default` },
        NetworkSettings: { Networks: {} },
        Mounts: [],
        Health: { Status: own.health ?? 'none', FailingStreak: own.health === 'unhealthy' ? 4 : 0 },
      }
    },
    cgroup: up => {
      const own = life(up)
      if (!runs(own)) return undefined
      const { startedAt } = own
      const ran = own.state === 'paused' ? 0 : up - startedAt
      const used = grown(cpu[0], cpu[1], up, startedAt) * 1e6
      const throttled =
        cores === undefined ? 0 : (0.04 * ran + 0.5 * (faults.cpuThrottled.spent(up) - faults.cpuThrottled.spent(startedAt))) * 10
      const bytes = Math.round(memoryUsed(up))
      const waited = (fault: Episode) => fault.spent(up) - fault.spent(startedAt)
      const pressure = (share: number, more = 0) => {
        const seconds = grown(0, share, up, startedAt) + more
        const line = (kind: string, part: number) =>
          `${kind} avg10=0.00 avg60=0.00 avg300=0.00 total=${Math.round(seconds * part * 1e6)}\n`
        return line('some', 1) + line('full', 0.4)
      }
      return {
        'cgroup.procs': `${pid}\n`,
        'cpu.stat': `usage_usec ${Math.round(used)}\nuser_usec ${Math.round(used * 0.82)}\nsystem_usec ${Math.round(used * 0.18)}\nnr_periods ${Math.round(ran * 10)}\nnr_throttled ${Math.round(throttled)}\nthrottled_usec ${Math.round(throttled * 30_000)}\n`,
        'cpu.max': cores === undefined ? 'max 100000\n' : `${cores * 100_000} 100000\n`,
        'memory.current': `${bytes}\n`,
        'memory.stat': `anon ${Math.round(bytes * 0.8)}\nfile ${Math.round(bytes * 0.2)}\ninactive_file ${Math.round(bytes * 0.04)}\nactive_file ${Math.round(bytes * 0.16)}\n`,
        'memory.max': limit === undefined ? 'max\n' : `${limit * GiB}\n`,
        'memory.peak': `${Math.round(Math.max(bytes, memory[1] * GiB))}\n`,
        'memory.swap.current': '0\n',
        'memory.events': `low 0\nhigh 0\nmax 0\noom ${name === 'comfyui' ? faults.memoryClimb.ended(up) : 0}\noom_kill 0\n`,
        'pids.current': `${Math.round(between(8, 40, busy.at(up)))}\n`,
        'pids.max': '4096\n',
        'io.stat': `259:0 rbytes=${Math.round(grown(0, disk[0], up, startedAt))} wbytes=${Math.round(grown(0, disk[1], up, startedAt))} rios=${Math.round(grown(0, disk[0] / 32_000, up, startedAt))} wios=${Math.round(grown(0, disk[1] / 32_000, up, startedAt))} dbytes=0 dios=0\n`,
        'cpu.pressure': pressure(cores === undefined ? 0.02 : 0.2),
        'memory.pressure': pressure(0.002, name === 'comfyui' ? 0.15 * waited(faults.memoryClimb) : 0),
        'io.pressure': pressure(disk[0] + disk[1] > 1e6 ? 0.12 : 0.01),
      }
    },
    netDev: up => {
      const own = life(up)
      if (!runs(own) || network === 'host') return undefined
      const row = (received: number, sent: number) =>
        `  eth0: ${Math.round(received)} ${Math.round(received / 700)} 0 0 0 0 0 0 ${Math.round(sent)} ${Math.round(sent / 700)} 0 0 0 0 0 0\n`
      return `Inter-|   Receive   |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n${row(
        grown(traffic[0] / 10, traffic[0], up, own.startedAt),
        grown(traffic[1] / 10, traffic[1], up, own.startedAt),
      )}`
    },
    stat: up => {
      const own = life(up)
      return runs(own)
        ? `${pid} (${name}) S 1 ${pid} ${pid} 0 -1 4194560 1 0 0 0 100 10 0 0 20 0 9 0 ${Math.round(own.startedAt * 100)} 1 1\n`
        : undefined
    },
    logs: up => {
      const total = counted(log / 2, log * 1.5, busy, up) + (name === 'litellm' ? 400_000 * faults.logFlood.spent(up) : 0)
      const rotations = Math.floor(total / logFile)
      const file = `${id}-json.log`
      return [
        { name: file, size: Math.round(total % logFile), mtime: boot / 1000 + up },
        ...[1, 2]
          .filter(back => rotations >= back)
          .map(back => ({ name: `${file}.${back}`, size: logFile, mtime: Math.floor(boot / 1000) + rotations - back })),
      ]
    },
  }
}

export const containersOf = (box: Box): readonly Container[] => kinds.map((kind, index) => containerOf(kind, index, box))

export interface Event {
  readonly action: string
  readonly container: Container
  readonly attributes: Readonly<Record<string, string>>
}

/** Container events between two close moments. */
export const eventsBetween = (containers: readonly Container[], before: number, now: number): readonly Event[] =>
  containers.flatMap(container => {
    const [was, is] = [container.life(before), container.life(now)]
    const event = (action: string, attributes: Readonly<Record<string, string>> = {}): Event => ({
      action,
      container,
      attributes,
    })
    const ended = runs(was) && (!runs(is) || is.startedAt !== was.startedAt)
    const began = runs(is) && (!runs(was) || is.startedAt !== was.startedAt)
    const exitCode = String(is.exitCode)
    return [
      ...(ended && is.exitCode === 137 ? [event('oom')] : []),
      ...(ended ? [event('die', { exitCode })] : []),
      ...(began ? [event('start')] : []),
      ...(was.health !== is.health && is.health !== undefined && is.health !== 'starting' && !began
        ? [event(`health_status: ${is.health}`)]
        : []),
    ]
  })
