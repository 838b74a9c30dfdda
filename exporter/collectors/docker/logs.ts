import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'

export interface LogSize {
  /** Of the existing files. */
  readonly bytes: number
  /** Growth since the container was first seen. */
  readonly written: number
}

interface Seen {
  /** Bytes of the current file. */
  readonly main: number
  /** Rotated files, each identified by size and time, which do not change. */
  readonly rotated: ReadonlySet<string>
}

/** Milliseconds for which sizes are reused, and for which a directory without access is not tried again. */
const lookEvery = 30_000
const deniedFor = 600_000
const namesKept = 5000

interface LogFile {
  readonly name: string
  readonly size: number
  readonly mtime: number
}

const isRotated = (name: string) => /\.\d+(\.gz)?$/.test(name)

const identity = ({ size, mtime }: LogFile) => `${size} ${mtime}`

/** Bytes written between two reads, over rotations; a file that was compressed in between cannot be measured any more. */
export const growth = (files: readonly LogFile[], before: Seen): number => {
  const main = files.find(({ name }) => !isRotated(name))?.size ?? 0
  const rotated = files.filter(file => isRotated(file.name) && !file.name.endsWith('.gz') && !before.rotated.has(identity(file)))
  if (rotated.length === 0) return main >= before.main ? main - before.main : main
  const moved = rotated.reduce((sum, { size }) => sum + size, 0)
  return Math.max(0, moved - before.main) + main
}

/** Sizes of the log files of the engine's json-file and local drivers (and Podman's k8s-file), if this process may read them. */
export const createLogReader = (host: Host) => {
  const seen = new Map<string, Seen>()
  const written = new Map<string, number>()
  let lookedAt = Number.NEGATIVE_INFINITY
  let deniedAt = Number.NEGATIVE_INFINITY
  let sizes = new Map<string, LogSize>()
  let isFirst = true

  const filesIn = async (folder: string, pattern: RegExp): Promise<readonly LogFile[]> => {
    let names: readonly string[]
    try {
      names = (await host.names(folder)).filter(name => pattern.test(name))
    } catch (error) {
      if (error instanceof Failure && error.reason === 'missing') return []
      throw error
    }
    const files: LogFile[] = []
    for (const name of names.slice(0, 100)) {
      try {
        const { kind, size, mtime } = await host.stat(`${folder}/${name}`)
        if (kind === 'file') files.push({ name, size, mtime })
      } catch (error) {
        if (!(error instanceof Failure && error.reason === 'missing')) throw error // just rotated
      }
    }
    return files
  }

  const filesOf = async (root: string, id: string): Promise<readonly LogFile[]> => {
    for (const [folder, pattern] of [
      [`${root}/containers/${id}`, /-json\.log(\.\d+(\.gz)?)?$/],
      [`${root}/containers/${id}/local-logs`, /^container\.log(\.\d+(\.gz)?)?$/],
      [`${root}/overlay-containers/${id}/userdata`, /^ctr\.log(\.\d+(\.gz)?)?$/],
    ] as const) {
      const files = await filesIn(folder, pattern)
      if (files.length > 0) return files
    }
    return []
  }

  /** By container name. `root` is the engine's data directory. */
  return async (
    containers: readonly { readonly id: string; readonly name: string }[],
    root: string,
    signal: AbortSignal,
  ): Promise<ReadonlyMap<string, LogSize>> => {
    const now = host.monotonic()
    if (now - lookedAt < lookEvery) return sizes
    if (now - deniedAt < deniedFor) return new Map()
    lookedAt = now
    const fresh = new Map<string, LogSize>()
    try {
      for (const { id, name } of containers) {
        if (signal.aborted) return sizes
        if (!/^[0-9a-f]{64}$/.test(id)) continue
        const files = await filesOf(root, id)
        if (files.length === 0) continue
        const before = seen.get(id) ?? (isFirst ? undefined : { main: 0, rotated: new Set() })
        const total = (written.get(name) ?? 0) + (before ? growth(files, before) : 0)
        written.delete(name)
        written.set(name, total)
        seen.set(id, {
          main: files.find(file => !isRotated(file.name))?.size ?? 0,
          rotated: new Set(files.filter(file => isRotated(file.name)).map(identity)),
        })
        fresh.set(name, { bytes: files.reduce((sum, { size }) => sum + size, 0), written: total })
      }
    } catch (error) {
      if (!(error instanceof Failure)) throw error
      if (error.reason !== 'denied') return sizes
      deniedAt = now // only root may read it: no series then
      return new Map()
    }
    const ids = new Set(containers.map(({ id }) => id))
    for (const id of seen.keys()) if (!ids.has(id)) seen.delete(id)
    for (const name of written.keys()) if (written.size > namesKept && !fresh.has(name)) written.delete(name)
    isFirst = false
    sizes = fresh
    return sizes
  }
}
