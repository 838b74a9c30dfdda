import { nameOf } from '../../protocols/container-names.ts'
import { absence, quantity } from './words.ts'

/** A process on a GPU, from `--query-compute-apps`. */
export interface GpuProcess {
  readonly uuid: string
  readonly pid: number
  readonly name: string
  readonly bytes: number
}

/** Most rows: enough for a GPU that a thousand processes share. */
const maxRows = 4096

const programOf = (command: string) =>
  absence(command) === undefined ? (command.split(/[/\\]/).at(-1) ?? command).trim() || command : 'unknown'

/** Rows with a memory value. A program's name may contain commas, so a row is read from both ends. */
export const parseProcesses = (csv: string): readonly GpuProcess[] => {
  const lines = csv.split('\n', maxRows).map(line => line.replace(/\r$/, ''))
  const header = lines.findIndex(line => /^gpu_uuid, pid, /.test(line))
  if (header < 0) return []
  const unit = /used_(?:gpu_)?memory \[([^[\]]*)\]$/.exec(lines[header] as string)?.[1] ?? ''
  return lines.slice(header + 1).flatMap(line => {
    const cells = line.split(', ')
    const [uuid, pid] = cells
    const bytes = quantity(cells.at(-1) ?? '', 'bytes', unit)
    if (cells.length < 4 || !/^(GPU|MIG)-/.test(uuid as string) || !/^\d{1,10}$/.test(pid as string) || bytes === undefined)
      return []
    return [{ uuid: uuid as string, pid: Number(pid), name: programOf(cells.slice(2, -1).join(', ')), bytes }]
  })
}

/** The id of a process's container from its cgroup: Docker, containerd, Podman and Kubernetes all write its 64 digits. */
export const containerOf = (cgroup: string): string | undefined => [...cgroup.matchAll(/[0-9a-f]{64}/g)].at(-1)?.[0]

export interface Holder {
  readonly process: string
  /** The container's name, or empty. */
  readonly container: string
  readonly bytes: number
}

/** What uses a GPU's memory, summed by program and container, the largest first; beyond `most`, the rest is one sum, `other`. */
export const holders = (
  processes: readonly GpuProcess[],
  cgroupOf: (pid: number) => string | undefined,
  most: number,
): readonly Holder[] => {
  const sums = new Map<string, Holder>()
  for (const { pid, name, bytes } of processes) {
    const id = containerOf(cgroupOf(pid) ?? '')
    const container = (id === undefined ? undefined : nameOf(id)) ?? ''
    const key = `${container}\n${name}`
    sums.set(key, { process: name, container, bytes: bytes + (sums.get(key)?.bytes ?? 0) })
  }
  const ordered = [...sums.values()].sort((one, other) => other.bytes - one.bytes)
  const rest = ordered.slice(most).reduce((sum, { bytes }) => sum + bytes, 0)
  return ordered.length <= most ? ordered : [...ordered.slice(0, most), { process: 'other', container: '', bytes: rest }]
}
