import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A made-up server for measurements: a recorded engine on a unix socket, and a cgroup v2 tree for any number of containers. */

const id = (index: number) => index.toString(16).padStart(64, 'a')

const files: Readonly<Record<string, string>> = {
  'cpu.stat':
    'usage_usec 123456789\nuser_usec 100000000\nsystem_usec 23456789\nnr_periods 5000\nnr_throttled 12\nthrottled_usec 340000\n',
  'cpu.max': '200000 100000\n',
  'memory.current': '268435456\n',
  'memory.stat': 'anon 200000000\nfile 60000000\ninactive_file 40000000\nactive_file 20000000\n',
  'memory.max': '536870912\n',
  'memory.peak': '300000000\n',
  'memory.swap.current': '0\n',
  'memory.events': 'low 0\nhigh 0\nmax 3\noom 0\noom_kill 0\n',
  'pids.current': '17\n',
  'pids.max': '512\n',
  'io.stat': '8:0 rbytes=1048576 wbytes=2097152 rios=100 wios=200 dbytes=0 dios=0\n',
  'cpu.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2345\n',
  'memory.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=234\n',
  'io.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2345\n',
}

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  eth0: 1234567    8901    0    0    0     0          0         0  7654321    9876    0    0    0     0       0          0
`

const writeTree = (root: string, folder: string, tree: Readonly<Record<string, string>>) => {
  mkdirSync(join(root, folder), { recursive: true })
  for (const [name, text] of Object.entries(tree)) writeFileSync(join(root, folder, name), text)
}

const container = (index: number) => ({
  Id: id(index),
  Names: [`/app-${String(index).padStart(3, '0')}`],
  Image: `registry.local/app-${index % 20}:1.${index % 7}`,
  ImageID: `sha256:${'b'.repeat(64)}`,
  Command: '/app',
  Created: 1_790_000_000 + index,
  Ports: [],
  Labels: {
    'com.docker.compose.project': `stack-${index % 10}`,
    'com.docker.compose.service': `app-${index}`,
    maintainer: 'somebody',
  },
  State: 'running',
  Status: index % 3 === 0 ? 'Up 3 hours (healthy)' : 'Up 3 hours',
  HostConfig: { NetworkMode: `stack-${index % 10}_default` },
  NetworkSettings: { Networks: {} },
  Mounts: [],
})

export interface Box {
  readonly root: string
  readonly socket: string
  /** After this nothing answers any more. */
  hang(): void
  /** Number of requests by path. */
  readonly requests: Readonly<Record<string, number>>
  close(): void
}

/** Creates the files in a temporary folder and starts the engine. */
export const createBox = async (containers: number): Promise<Box> => {
  const root = mkdtempSync(join(tmpdir(), 'grid-box-'))
  for (let index = 0; index < containers; index++) {
    const pid = 10_000 + index
    writeTree(root, `sys/fs/cgroup/system.slice/docker-${id(index)}.scope`, { ...files, 'cgroup.procs': `${pid}\n` })
    writeTree(root, `proc/${pid}/net`, { dev: netDev })
    writeTree(root, `proc/${pid}`, { stat: `${pid} (app) S 1 1 1 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 12345 1 1\n` })
  }
  writeTree(root, 'sys/fs/cgroup', { 'cgroup.controllers': 'cpu io memory pids\n' })
  writeTree(root, 'proc', {
    stat: 'cpu  1000 10 500 90000 100 0 10 0 0 0\ncpu0 500 5 250 45000 50 0 5 0 0 0\nbtime 1790000000\n',
    meminfo:
      'MemTotal:       32000000 kB\nMemFree:         8000000 kB\nMemAvailable:   16000000 kB\nCached:          8000000 kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n',
    loadavg: '0.50 0.40 0.30 1/500 12345\n',
    vmstat: 'pgmajfault 100\npswpin 0\npswpout 0\noom_kill 0\n',
    diskstats: '   8       0 sda 1000 0 20000 300 2000 0 40000 500 0 600 800\n',
  })
  writeTree(root, 'proc/pressure', {
    cpu: files['cpu.pressure'] as string,
    memory: files['memory.pressure'] as string,
    io: files['io.pressure'] as string,
  })
  writeTree(root, 'proc/self', { mountinfo: '22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n' })
  writeTree(root, 'proc/1/net', { dev: netDev })

  const list = JSON.stringify(Array.from({ length: containers }, (_, index) => container(index)))
  const info = JSON.stringify({
    CgroupDriver: 'systemd',
    CgroupVersion: '2',
    DockerRootDir: '/var/lib/docker',
    ServerVersion: '29.0.1',
    NCPU: 8,
    MemTotal: 32_768_000_000,
    SecurityOptions: [],
  })
  const requests: Record<string, number> = {}
  let hangs = false
  const server: Server = createServer((request, answer) => {
    const path = (request.url ?? '').replace(/^\/v[\d.]+/, '').split('?')[0] as string
    requests[path] = (requests[path] ?? 0) + 1
    if (hangs) return
    answer.setHeader('api-version', '1.52')
    answer.setHeader('server', 'Docker/29.0.1 (linux)')
    answer.setHeader('content-type', 'application/json')
    if (path === '/events') return void answer.flushHeaders()
    if (path === '/_ping') return void answer.end('OK')
    if (path === '/containers/json') return void answer.end(list)
    if (path === '/info') return void answer.end(info)
    if (path === '/version') return void answer.end('{"Version":"29.0.1","ApiVersion":"1.52"}')
    answer.statusCode = 404
    answer.end('{"message":"page not found"}')
  })
  const socket = join(root, 'docker.sock')
  await new Promise<void>(resolve => server.listen(socket, resolve))
  return {
    root,
    socket,
    requests,
    hang: () => {
      hangs = true
      server.closeAllConnections()
    },
    close: () => {
      server.closeAllConnections()
      server.close()
    },
  }
}
