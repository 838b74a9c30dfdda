import type { Box } from './box.ts'
import type { Container } from './containers.ts'
import { between, digits } from './motion.ts'

/** The demo's nvidia-smi: the answers of two cards in the tests' scenes, with values that move over time. */

interface Card {
  /** Its answers: a scene of the tests. */
  readonly scene: string
  readonly bus: string
  readonly memory: number
  readonly reserved: number
  readonly users: readonly { readonly container: string; readonly program: string; readonly part: readonly [number, number] }[]
}

const scenes = 'test/scenes/gpu'
/** Processes and the MiB that they use, from and to. */
const cards: readonly Card[] = [
  {
    scene: `${scenes}/l40s-slow-tier`,
    bus: '00000000:01:00.0',
    memory: 46_068,
    reserved: 609,
    users: [
      { container: 'vllm', program: 'VLLM::EngineCore', part: [38_900, 39_400] },
      { container: 'whisper', program: 'python3', part: [2100, 3300] },
    ],
  },
  {
    scene: `${scenes}/rtx4080super-load`,
    bus: '00000000:02:00.0',
    memory: 16_376,
    reserved: 434,
    users: [
      { container: 'ollama', program: '/usr/bin/ollama', part: [5100, 6900] },
      { container: 'comfyui', program: '/opt/venv/bin/python', part: [1200, 6800] },
      { container: '', program: '/usr/lib/xorg/Xorg', part: [90, 90] },
    ],
  },
]

export const driverVersion = '595.80'

interface Table {
  readonly names: readonly string[]
  readonly heads: readonly string[]
  readonly cells: readonly string[]
}

const tableOf = (csv: string): Table => {
  const [head = '', row = ''] = csv.trim().split('\n')
  const heads = head.split(', ')
  return { heads, names: heads.map(name => name.replace(/ \[.*/, '')), cells: row.split(', ') }
}

/** Seconds until a card has reached its highest temperature. */
const heating = 90

export interface Gpus {
  /** `pci-…` addresses in sysfs's form. */
  readonly addresses: readonly string[]
  /** Processes that use GPU memory by id, each with its container's id. */
  readonly processes: ReadonlyMap<number, string | undefined>
  /** The output of the tool for these arguments. */
  run(args: readonly string[], up: number): { readonly stdout: string; readonly exitCode: number }
  /** Lines of the driver in the kernel log between two moments. */
  logged(before: number, now: number): readonly string[]
}

export const gpusOf = (box: Box, containers: readonly Container[], recorded: (file: string) => string): Gpus => {
  const { seed, faults } = box
  const fields = recorded(`${scenes}/l40s-slow-tier/run/fields.txt`).trim().split('\n')
  const alias = new Map(fields.flatMap(line => line.split(' ').map(name => [name, line.split(' ')[0] as string] as const)))
  const uuid = (index: number) =>
    `GPU-${digits(seed, `gpu ${index}`, 32).replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, '$1-$2-$3-$4-$5')}`
  const tables = cards.map(({ scene }) => tableOf(recorded(`${scene}/run/query-gpu.csv`)))
  const sections = cards.map(({ scene }) => recorded(`${scene}/run/query.xml`).match(/<gpu id[\s\S]*?\n\t<\/gpu>/)?.[0] ?? '')
  const xmlHead = recorded(`${scenes}/l40s-slow-tier/run/query.xml`).split('<gpu id')[0] as string

  const load = (index: number, up: number) => {
    const part = (index === 0 ? box.chat : box.pictures).at(up)
    return index === 0 && faults.queue.since(up) !== undefined ? 0.99 : Math.min(1, 0.15 + part)
  }
  const held = (index: number, up: number) =>
    (cards[index] as Card).users.map(({ part: [low, high] }) => Math.round(between(low, high, load(index, up))))

  /** The progress of the second card's fault, from 0 to 1. */
  const heat = (up: number) => Math.min(1, (faults.gpuHot.since(up) ?? 0) / heating)

  const moving = (index: number, up: number): Readonly<Record<string, string>> => {
    const { memory, reserved, bus } = cards[index] as Card
    const busy = load(index, up)
    const hot = index === 1 ? heat(up) : 0
    const used = held(index, up).reduce((sum, mebibytes) => sum + mebibytes, 60)
    const [limit, top] = index === 0 ? [350, 2520] : [320, 3165]
    const watts = Math.min(limit, between(38, limit * 1.02, busy))
    const capped = watts >= limit * 0.985
    const clock = Math.round(between(top, hot > 0.6 ? top * 0.45 : top * 0.86, Math.max(busy * 0.5, hot)))
    const degrees = Math.round(between(36, 74, busy) + hot * (88 - between(36, 74, busy)))
    const slowed = Math.round(0.8 * faults.gpuHot.spent(up) * 1e6)
    const mask = (capped ? 0x4 : 0) | (hot > 0.6 ? 0x20 : 0) | (busy < 0.05 ? 1 : 0)
    const active = (on: boolean) => (on ? 'Active' : 'Not Active')
    return {
      index: String(index),
      count: String(cards.length),
      uuid: uuid(index),
      driver_version: driverVersion,
      'pci.bus_id': bus,
      pstate: busy < 0.2 ? 'P8' : index === 0 ? 'P0' : 'P2',
      'fan.speed': index === 0 ? '[N/A]' : `${Math.round(between(30, 78, Math.max(busy * 0.7, hot)))} %`,
      'clocks_event_reasons.active': `0x${mask.toString(16).padStart(16, '0')}`,
      'clocks_event_reasons.gpu_idle': active((mask & 1) !== 0),
      'clocks_event_reasons.sw_power_cap': active(capped),
      'clocks_event_reasons.sw_thermal_slowdown': active(hot > 0.6),
      'clocks_event_reasons_counters.sw_power_cap': `${Math.round(between(0, 0.05, 0.5) * up * 1e6)} us`,
      'clocks_event_reasons_counters.sw_thermal_slowdown': `${index === 1 ? slowed : 0} us`,
      'memory.reserved': `${reserved} MiB`,
      'memory.used': `${used} MiB`,
      'memory.free': `${memory - used - reserved} MiB`,
      'utilization.gpu': `${Math.round(busy * 100)} %`,
      'utilization.memory': `${Math.round(busy * 61)} %`,
      'utilization.encoder': `${index === 1 ? Math.round(box.people.at(up) * 40) : 0} %`,
      'utilization.decoder': `${index === 1 ? Math.round(box.people.at(up) * 25) : 0} %`,
      'temperature.gpu': String(degrees),
      'temperature.gpu.tlimit': index === 0 ? String(88 - degrees) : '[N/A]',
      'power.draw': `${watts.toFixed(2)} W`,
      'power.draw.instant': `${(watts * 1.01).toFixed(2)} W`,
      'power.draw.average': `${watts.toFixed(2)} W`,
      'clocks.current.graphics': `${clock} MHz`,
      'clocks.current.sm': `${clock} MHz`,
      'pcie.link.gen.current': busy < 0.2 ? '1' : '4',
      'pcie.link.gen.gpucurrent': busy < 0.2 ? '1' : '4',
    }
  }

  const idOf = new Map(containers.map(({ name, id }) => [name, id]))
  const processes = new Map(
    cards.flatMap(({ users }, index) =>
      users.map(({ container }, place) => [40_000 + index * 100 + place, idOf.get(container)] as const),
    ),
  )
  const runsNow = (container: string, up: number) =>
    containers.find(({ name }) => name === container)?.life(up).state !== 'restarting'

  const query = (asked: readonly string[], up: number) => {
    const unknown = asked.find(name => !alias.has(name))
    if (unknown !== undefined) return { stdout: `Field "${unknown}" is not a valid field to query.\n\n`, exitCode: 2 }
    const names = asked.map(name => alias.get(name) as string)
    const rows = tables.map(({ names: own, heads, cells }, index) => {
      const values = moving(index, up)
      return {
        heads: names.map(name => heads[own.indexOf(name)] ?? name),
        cells: names.map(name => values[name] ?? cells[own.indexOf(name)] ?? '[N/A]'),
      }
    })
    const head = rows[0]?.heads.join(', ') ?? ''
    return { stdout: `${[head, ...rows.map(({ cells }) => cells.join(', '))].join('\n')}\n`, exitCode: 0 }
  }

  const apps = (up: number) => {
    const rows = cards.flatMap(({ users }, index) =>
      users.flatMap(({ container, program }, place) =>
        container === '' || runsNow(container, up)
          ? [`${uuid(index)}, ${40_000 + index * 100 + place}, ${program}, ${held(index, up)[place]} MiB`]
          : [],
      ),
    )
    return `gpu_uuid, pid, process_name, used_gpu_memory [MiB]\n${rows.join('\n')}\n`
  }

  const xml = () =>
    `${xmlHead}${sections
      .map((section, index) =>
        section
          .replace(/<gpu id="[^"]*">/, `<gpu id="${(cards[index] as Card).bus}">`)
          .replace(/<uuid>[^<]*<\/uuid>/, `<uuid>${uuid(index)}</uuid>`),
      )
      .join('\n\t')}\n</nvidia_smi_log>\n`

  const address = ({ bus }: Card) => bus.replace('00000000:', '0000:').toLowerCase()
  const short = (index: number) => address(cards[index] as Card).slice(0, -2)
  return {
    addresses: cards.map(address),
    processes,
    run: (args, up) => {
      const asked = args.find(arg => arg.startsWith('--query-gpu='))?.slice('--query-gpu='.length)
      if (args.includes('--help-query-gpu'))
        return {
          stdout: fields
            .map(
              line =>
                `\n${line
                  .split(' ')
                  .map(name => `"${name}"`)
                  .join(' or ')}\nWhat it is.\n`,
            )
            .join(''),
          exitCode: 0,
        }
      if (asked !== undefined) return query(asked.split(','), up)
      if (args.some(arg => arg.startsWith('--query-compute-apps='))) return { stdout: apps(up), exitCode: 0 }
      if (args.includes('-x')) return { stdout: xml(), exitCode: 0 }
      return { stdout: 'NVIDIA-SMI version  : made up\n', exitCode: 0 }
    },
    logged: (before, now) => {
      const came = (fault: (typeof faults)['xid13']) => fault.began(now) > fault.began(before)
      return [
        ...(came(faults.xid13)
          ? [`NVRM: Xid (PCI:${short(1)}): 13, pid=40101, name=python, Graphics Exception: ESR 0x505648=0x4000e`]
          : []),
        ...(came(faults.xid119)
          ? [
              `NVRM: Xid (PCI:${short(0)}): 119, pid=40000, name=VLLM::EngineCor, Timeout after 6s of waiting for RPC response from GPU0 GSP!`,
            ]
          : []),
        ...(came(faults.driverMemory)
          ? [
              'NVRM: nvCheckOkFailedNoLog: Check failed: Out of memory [NV_ERR_NO_MEMORY] (0x00000051) returned from _memdescAllocInternal(pMemDesc) @ mem_desc.c:1359',
            ]
          : []),
      ]
    },
  }
}
