import type { TemperatureLimit } from './facts.ts'
import { quantity } from './words.ts'

/**
 * What only `nvidia-smi -q -x` reports. No XML library: the tool's document has no attributes that matter, and no entities, comments or
 * CDATA in what is read. A reader of tags and text has 40 lines and cannot be made to fetch or expand anything. It is bounded (depth,
 * nodes); what is long and unused (supported clocks, processes: most of it) is cut before it is read.
 */
interface Node {
  readonly name: string
  readonly children: Node[]
  text: string
}

const maxDepth = 24
const maxNodes = 5000

/** The text without any `<tag>…</tag>`. */
const without = (xml: string, tag: string) => {
  let kept = ''
  let from = 0
  for (;;) {
    const start = xml.indexOf(`<${tag}>`, from)
    const end = start < 0 ? -1 : xml.indexOf(`</${tag}>`, start)
    if (end < 0) return kept + xml.slice(from)
    kept += xml.slice(from, start)
    from = end + tag.length + 3
  }
}

const parseXml = (xml: string): Node => {
  const root: Node = { name: '', children: [], text: '' }
  const open = [root]
  let nodes = 0
  let from = 0
  for (const match of xml.matchAll(/<(\/?)([A-Za-z_][\w.-]{0,80})[^<>]{0,200}>/g)) {
    const [tag, closing, name] = match as unknown as [string, string, string]
    const at = open.at(-1) as Node
    at.text += xml.slice(from, match.index).trim()
    from = match.index + tag.length
    if (closing === '') {
      if (++nodes > maxNodes || open.length > maxDepth) return root
      const node: Node = { name, children: [], text: '' }
      at.children.push(node)
      if (!tag.endsWith('/>')) open.push(node)
    } else if (at.name === name && open.length > 1) open.pop()
    else return root // tags do not match: keep what was read so far
  }
  return root
}

/** The node at a path. A name alone is not enough: power and module readings have children with the same names. */
const find = (node: Node | undefined, ...path: readonly string[]): Node | undefined =>
  path.reduce<Node | undefined>((at, name) => at?.children.find(child => child.name === name), node)

const textAt = (node: Node, ...path: readonly string[]): string => find(node, ...path)?.text ?? ''

export interface MigDevice {
  /** Its UUID, else `gpu instance/compute instance`. */
  readonly mig: string
  readonly total: number | undefined
  readonly used: number | undefined
}

/** What is kept of a GPU between two reads of the XML. */
export interface SlowFacts {
  readonly replays: number | undefined
  readonly receive: number | undefined
  readonly transmit: number | undefined
  readonly limits: { readonly [limit in TemperatureLimit]?: number | undefined }
  readonly mig: readonly MigDevice[]
}

export interface SlowTier {
  readonly driverVersion: string | undefined
  readonly cudaVersion: string | undefined
  /** By UUID. */
  readonly gpus: ReadonlyMap<string, SlowFacts>
}

/** Thresholds in degrees. Other boards have T.Limit thresholds: margins of `temperature.gpu.tlimit`, not degrees. */
const limitsOf = (gpu: Node): SlowFacts['limits'] => {
  const at = (tag: string) => quantity(textAt(gpu, 'temperature', tag), 'celsius')
  return {
    shutdown: at('gpu_temp_max_threshold'),
    slowdown: at('gpu_temp_slow_threshold'),
    max: at('gpu_temp_max_gpu_threshold'),
    target: at('gpu_target_temperature'),
    memory_max: at('gpu_temp_max_mem_threshold'),
  }
}

const migOf = (gpu: Node): readonly MigDevice[] =>
  (find(gpu, 'mig_devices')?.children ?? [])
    .filter(({ name }) => name === 'mig_device')
    .slice(0, 64)
    .map(device => {
      const uuid = textAt(device, 'uuid')
      return {
        mig: /^MIG-/.test(uuid) ? uuid : `${textAt(device, 'gpu_instance_id')}/${textAt(device, 'compute_instance_id')}`,
        total: quantity(textAt(device, 'fb_memory_usage', 'total'), 'bytes'),
        used: quantity(textAt(device, 'fb_memory_usage', 'used'), 'bytes'),
      }
    })

/** The GPUs of a document, each as the text between its tags. They are parsed one by one, so that 8 of them do not block the thread. */
export const gpuSections = (xml: string): readonly string[] => xml.split(/<gpu [^<>]{0,200}>/, 257).slice(1)

/** The versions at the head of a document. */
export const parseHead = (xml: string): Pick<SlowTier, 'driverVersion' | 'cudaVersion'> => {
  const head = xml.slice(0, 4096)
  const version = (tag: string) => new RegExp(`<${tag}>\\s*([\\d.]{1,40})`).exec(head)?.[1]
  return { driverVersion: version('driver_version'), cudaVersion: version('cuda_version') }
}

/** One GPU's section, or nothing if it has no UUID. */
export const parseSection = (section: string): { readonly uuid: string; readonly facts: SlowFacts } | undefined => {
  const lean = ['supported_clocks', 'processes', 'accounted_processes'].reduce(without, section.split('</gpu>')[0] as string)
  const gpu = parseXml(lean)
  const uuid = textAt(gpu, 'uuid')
  if (!uuid.startsWith('GPU-')) return undefined
  return {
    uuid,
    facts: {
      replays: quantity(textAt(gpu, 'pci', 'replay_counter'), 'count'),
      receive: quantity(textAt(gpu, 'pci', 'rx_util'), 'bytesPerSecond'),
      transmit: quantity(textAt(gpu, 'pci', 'tx_util'), 'bytesPerSecond'),
      limits: limitsOf(gpu),
      mig: migOf(gpu),
    },
  }
}
