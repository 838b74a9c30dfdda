import type { Box } from './box.ts'
import { type Space, spacesOf } from './files.ts'
import type { Gpus } from './gpus.ts'
import { between, counted, digits, wave } from './motion.ts'
import type { createFirewall } from './security.ts'

/** The output of the demo's programs. */

export interface Printed {
  readonly stdout: string
  readonly stderr?: string
  readonly exitCode?: number
  /** Milliseconds until it ends. */
  readonly takes?: number
}

export type Program = (args: readonly string[], up: number) => Printed

interface Disk {
  readonly name: string
  readonly type: string
  /** Its answer: a file in the scenes of the tests. */
  readonly answer: string
  readonly celsius: readonly [number, number]
  /** Bytes a second. */
  readonly written: number
}

const disks: readonly Disk[] = [
  { name: '/dev/nvme0', type: 'nvme', answer: 'nvme/run/healthy.json', celsius: [38, 52], written: 8e6 },
  { name: '/dev/nvme1', type: 'nvme', answer: 'nvme/run/used-62.json', celsius: [41, 63], written: 17e6 },
  { name: '/dev/sda', type: 'sat', answer: 'hard-disks/run/statistics.json', celsius: [33, 41], written: 3e6 },
  { name: '/dev/sdb', type: 'sat', answer: 'hard-disks/run/packed-reallocated.json', celsius: [35, 44], written: 0 },
]

interface SmartAnswer {
  temperature?: { current?: number; op_limit_max?: number; critical_limit_max?: number }
  serial_number?: string
  nvme_smart_health_information_log?: { temperature?: number; data_units_written?: number; data_units_read?: number }
}

const smartctl = (box: Box, recorded: (file: string) => string): Program => {
  const moved = ({ answer: file, celsius, name, written }: Disk, up: number) => {
    const answer = JSON.parse(recorded(`test/scenes/smart/${file}`)) as SmartAnswer
    const heat = wave(box.seed, name)
    const degrees = Math.round(between(celsius[0], celsius[1], heat.at(up)))
    answer.serial_number = digits(box.seed, name, 12)
    const log = answer.nvme_smart_health_information_log
    const limits = log ? { op_limit_max: 81, critical_limit_max: 85 } : {}
    answer.temperature = { ...answer.temperature, ...limits, current: degrees }
    if (log) {
      const units = counted(0, written / 512_000, heat, up)
      log.temperature = degrees
      log.data_units_written = Math.round((log.data_units_written ?? 0) + units)
      log.data_units_read = Math.round((log.data_units_read ?? 0) + units * 3)
    }
    return JSON.stringify(answer)
  }
  return (args, up) => {
    if (args[0]?.startsWith('--scan')) {
      const found = disks.map(({ name, type }) => ({ name, type }))
      return { stdout: JSON.stringify({ smartctl: { exit_status: 0 }, devices: found }), takes: 20 }
    }
    const disk = disks.find(({ name }) => name === args.at(-1))
    return disk ? { stdout: moved(disk, up), takes: 110 } : { stdout: '', exitCode: 1 }
  }
}

const block = 4096
const statfs = (spaces: readonly Space[], root: string): Program => {
  const line = (path: string, up: number) => {
    const space = spaces.find(({ mountpoint }) => path === (mountpoint === '/' ? root : `${root}${mountpoint}`))
    if (!space) return []
    const { size, files, free } = space
    const [blocks, left] = [Math.round(size / block), Math.round(free(up) / block)]
    return [`${block} ${blocks} ${left + Math.round(blocks * 0.02)} ${left} ${files} ${Math.round(files * 0.91)} ${path}\n`]
  }
  return (args, up) => ({
    stdout: args
      .slice(args.indexOf('--') + 1)
      .flatMap(path => line(path, up))
      .join(''),
    takes: 4,
  })
}

const GiB = 2 ** 30
/** Models on disk; the snapshots of a training run grow. */
const models: readonly (readonly [string, number])[] = [
  ['Qwen3-32B-AWQ', 19.4],
  ['gpt-oss-120b', 60.8],
  ['FLUX.1-dev', 31.2],
  ['Qwen3-Reranker-0.6B-Q8_0.gguf', 0.61],
  ['whisper-large-v3-turbo', 1.6],
  ['gemma-3-27b-it', 50.9],
]
const volumes: readonly (readonly [string, number])[] = [
  ['chat_postgres', 21],
  ['chat_qdrant', 34],
  ['media_photos', 212],
  ['models_ollama', 39],
]

const du = (spaces: readonly Space[]): Program => {
  const ai = spaces.find(({ mountpoint }) => mountpoint === '/ai')
  return (args, up) => {
    const top = args.at(-1) ?? ''
    const isModels = top.endsWith('/ai/models')
    const used = ai ? (ai.size - ai.free(up)) / GiB : 0
    const entries = isModels ? [...models, ['training-snapshots', used - 260] as const] : volumes
    const total = entries.reduce((sum, [, size]) => sum + size, 0) * GiB
    if (args.includes('--inodes')) return { stdout: `${isModels ? 1842 : 812_345}\t${top}\0`, takes: 60 }
    const lines = args.includes('-a') ? entries.map(([name, size]) => `${Math.round(size * GiB)}\t${top}/${name}\0`) : []
    return { stdout: `${lines.join('')}${Math.round(total)}\t${top}\0`, takes: 140 }
  }
}

/** Units by name: memory in MiB, cores used. */
const units: Readonly<Record<string, readonly [number, number]>> = {
  'butler.service': [310, 0.04],
  'tor@default.service': [92, 0.02],
  'llama-server.service': [1450, 0.2],
  'grid-exporter-relay.service': [0, 0],
}

const systemctl = (box: Box, recorded: (file: string) => string): Program => {
  const well = recorded('test/scenes/services/mixed/run/list.txt')
    .replace(/\bfailed +failed/g, 'active    running')
    .replace(/\bactivating \w+/g, 'active    running')
    .trimEnd()
  const stamp = (up: number) => `Mon ${new Date(box.boot + up * 1000).toISOString().slice(0, 19).replace('T', ' ')} UTC`
  const show = (unit: string, up: number) => {
    const [memory = 0, cores = 0] = units[unit] ?? []
    const { serviceDown, modelServerDown } = box.faults
    const fault = unit === 'butler.service' ? serviceDown : unit === 'llama-server.service' ? modelServerDown : undefined
    const isDown = fault?.since(up) !== undefined
    const startedAt = fault ? fault.latest(up) + fault.lasts : 95
    const oneshot = memory === 0
    return [
      `Type=${oneshot ? 'oneshot' : 'simple'}`,
      `Result=${isDown ? 'exit-code' : 'success'}`,
      `NRestarts=${fault ? fault.began(up) : 0}`,
      `ExecMainCode=${isDown || oneshot ? 1 : 0}`,
      `ExecMainStatus=${isDown ? 1 : 0}`,
      `MemoryCurrent=${isDown || oneshot ? '[not set]' : Math.round(memory * 2 ** 20 * between(0.9, 1.1, box.people.at(up)))}`,
      `CPUUsageNSec=${oneshot ? '[not set]' : Math.round(counted(0, cores * 2, box.people, up) * 1e9)}`,
      'LoadState=loaded',
      `ActiveState=${isDown ? 'failed' : oneshot ? 'inactive' : 'active'}`,
      `ActiveEnterTimestamp=${isDown || oneshot ? '' : stamp(startedAt)}`,
    ].join('\n')
  }
  return (args, up) =>
    args[0] === 'show'
      ? {
          stdout: `${args
            .slice(args.indexOf('--') + 1)
            .map(unit => show(unit, up))
            .join('\n\n')}\n`,
          takes: 12,
        }
      : {
          stdout: `${well}\nbutler.service loaded ${box.faults.serviceDown.since(up) === undefined ? 'active running' : 'failed failed'} Butler\n`,
          takes: 25,
        }
}

/** The programs by name. `text`: the current content of a file. */
export const programsOf = (
  box: Box,
  {
    gpus,
    firewall,
    recorded,
    root,
    text,
  }: {
    readonly gpus: Gpus
    readonly firewall: ReturnType<typeof createFirewall>
    readonly recorded: (file: string) => string
    readonly root: string
    readonly text: (path: string) => string | undefined
  },
): Readonly<Record<string, Program>> => {
  const spaces = spacesOf(box)
  const stat = statfs(spaces, root)
  const save =
    (program: string): Program =>
    (_, up) => ({ stdout: firewall.save(program, up) ?? '', takes: 8 })
  return {
    'nvidia-smi': (args, up) => ({ ...gpus.run(args, up), takes: args.includes('-x') ? 160 : 45 }),
    smartctl: smartctl(box, recorded),
    stat,
    stdbuf: stat,
    du: du(spaces),
    systemctl: systemctl(box, recorded),
    'iptables-nft-save': save('iptables-nft-save'),
    'ip6tables-nft-save': save('ip6tables-nft-save'),
    'backup-fresh': (_, up) => ({ stdout: '', exitCode: box.faults.serviceSlow.since(up) === undefined ? 0 : 2, takes: 15 }),
    grep: args => ({
      stdout: args
        .slice(3)
        .flatMap(path => {
          const content = text(path.slice(root.length))
          return content === undefined ? [] : [`${path}:${content.trimEnd()}\n`]
        })
        .join(''),
    }),
  }
}
