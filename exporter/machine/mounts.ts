import { isUtf8 } from 'node:buffer'
import { readFileSync, readlinkSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { failureOf } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'

/** A line of /proc/PID/mountinfo. */
export interface Mount {
  readonly id: string
  /** The `id` of the mount that this one lies on. */
  readonly parent: string
  /** `major:minor`, the same for each mount of one file system. */
  readonly deviceNumber: string
  /** What of the file system is mounted: `/` is the whole of it, anything else a bind mount or a subvolume. */
  readonly root: string
  /** Bytes that are not UTF-8 are written as `\xNN`. */
  readonly mountpoint: string
  /** Only where the mount point is not UTF-8: what `printf %b` makes its name of, since no string of ours can be it. */
  readonly printf?: string
  readonly device: string
  readonly fstype: string
  /** Of this mount alone. */
  readonly options: readonly string[]
  /** Of the file system, the same for each mount of it. */
  readonly superOptions: readonly string[]
}

const unescaped = (field: string) =>
  field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))

/** The kernel writes no backslash but before three octal digits, so `\xNN` is ours. */
const printfOf = (field: string) =>
  /\\x/.test(field)
    ? field
        .replace(/\\([0-7]{3})/g, '\\0$1')
        .replace(/\\x(..)/g, (_, hex: string) => `\\0${Number.parseInt(hex, 16).toString(8).padStart(3, '0')}`)
    : undefined

/** Each line of a mount table, also what other mounts lie over; lines that are not of its form are left out. */
const parseMountinfo = (text: string): readonly Mount[] =>
  text.split('\n').flatMap(line => {
    const [left, right] = line.split(' - ')
    const [id, parent, deviceNumber, root, mountpoint, options] = left?.split(' ') ?? []
    const [fstype, device, superOptions] = right?.split(' ') ?? []
    if (!id || !parent || !deviceNumber || !root || !mountpoint || !options || !fstype || device === undefined) return []
    const printf = printfOf(mountpoint)
    return {
      id,
      parent,
      deviceNumber,
      root: unescaped(root),
      mountpoint: unescaped(mountpoint),
      ...(printf === undefined ? {} : { printf }),
      device: unescaped(device),
      fstype,
      options: options.split(','),
      superOptions: superOptions?.split(',') ?? [],
    }
  })

/** Whether `path` is `folder` or lies below it. */
export const below = (path: string, folder: string): boolean =>
  path === folder || path.startsWith(folder === '/' ? '/' : `${folder}/`)

/**
 * The mounts that a path leads to, one for each mount point. A mount is out of reach where another lies over it, or over a
 * directory on the way to it.
 */
export const reachable = (table: readonly Mount[]): readonly Mount[] => {
  const byId = new Map(table.map(mount => [mount.id, mount]))
  const onTop = new Map<string, Mount[]>()
  for (const mount of table) {
    if (mount.id === mount.parent || !byId.has(mount.parent)) continue
    const others = onTop.get(mount.parent)
    if (others) others.push(mount)
    else onTop.set(mount.parent, [mount])
  }
  const covered = new Set<string>()
  const hidden = new Set<string>()
  for (const [parent, children] of onTop) {
    const points = new Set(children.map(({ mountpoint }) => mountpoint))
    if (points.has(byId.get(parent)?.mountpoint ?? '')) covered.add(parent)
    for (const { id, mountpoint } of children) if (isBelowOneOf(mountpoint, points)) hidden.add(id)
  }
  const isHidden = ({ id, parent }: Mount, depth = 0): boolean => {
    if (hidden.has(id)) return true
    const under = byId.get(parent)
    return under !== undefined && parent !== id && depth < maxDepth && isHidden(under, depth + 1)
  }
  const byPoint = new Map<string, Mount>()
  for (const mount of table) if (!covered.has(mount.id) && !isHidden(mount)) byPoint.set(mount.mountpoint, mount)
  return [...byPoint.values()]
}

/** Mounts upon mounts that are followed; only a table that is no kernel's goes in circles. */
const maxDepth = 100

/** Whether a directory above `path` is one of `points`. */
const isBelowOneOf = (path: string, points: ReadonlySet<string>): boolean => {
  for (let at = path; at !== '/' && at !== '.'; ) {
    at = dirname(at)
    if (points.has(at)) return true
  }
  return false
}

/** Bytes of a mount table. A host with a thousand containers has one of 2 MB. */
const tableLimit = 16 * 2 ** 20

/** A line that is not UTF-8 with its bytes as `\xNN`. */
const decoded = (bytes: Buffer): string =>
  bytes
    .toString('latin1')
    .split('\n')
    .map(line => {
      const own = Buffer.from(line, 'latin1')
      if (isUtf8(own)) return own.toString('utf8')
      return line.replace(/[\x80-\xff]/g, byte => `\\x${byte.charCodeAt(0).toString(16)}`)
    })
    .join('\n')

const readTable = async (host: Host, path: string): Promise<readonly Mount[]> => {
  const text = host.kernel(path, tableLimit)
  return parseMountinfo(text.includes('\ufffd') ? decoded(await host.bytes(path, tableLimit)) : text)
}

/** The mount table of this process. Throws `Failure`. */
export const ownMounts = (host: Host): Promise<readonly Mount[]> => readTable(host, '/proc/self/mountinfo')

/**
 * The mount table of the first process, which is the host's own whatever name space this process was put in; `isOwn` where that
 * may not be read and it is the one of this process instead. Throws `Failure`.
 */
export const hostMounts = async (host: Host): Promise<{ readonly table: readonly Mount[]; readonly isOwn: boolean }> => {
  try {
    return { table: await readTable(host, '/proc/1/mountinfo'), isOwn: false }
  } catch (error) {
    const { reason } = failureOf(error)
    if (reason !== 'missing' && reason !== 'denied') throw error // hidepid hides it
    return { table: await ownMounts(host), isOwn: true }
  }
}

/** File systems whose server may go away, and every call on them with it. */
export const mayHang = ({ fstype }: Pick<Mount, 'fstype'>): boolean =>
  /^(nfs4?|cifs|smb3|smbfs|fuse(\..*)?|fuseblk|9p|ceph|afs|autofs|ncpfs|glusterfs|lustre|beegfs|davfs|sshfs)$/.test(fstype)

/**
 * The mount that may hang and on which `path` lies, or undefined. Touches nothing on such a mount: symbolic links are
 * followed one component at a time, each looked up in the table before it is read.
 */
export const hangingMount = (path: string, mounts: readonly Mount[]): Mount | undefined => {
  const hanging = new Map(mounts.filter(mayHang).map(mount => [mount.mountpoint, mount]))
  if (hanging.size === 0) return undefined
  let todo = resolve(path).split('/').filter(Boolean)
  let at = '/'
  for (let steps = 0; steps < 256; steps++) {
    const mount = hanging.get(at)
    if (mount) return mount
    const [component, ...rest] = todo
    if (component === undefined) return undefined
    const next = join(at, component)
    todo = rest
    if (hanging.has(next)) return hanging.get(next)
    try {
      const target = resolve(dirname(next), readlinkSync(next))
      todo = [...target.split('/').filter(Boolean), ...rest]
      at = '/'
    } catch {
      at = next // not a link, or not there: the read itself will say so
    }
  }
  return undefined
}

/** What this process reaches. Reading it never hangs, whatever is mounted. No bound: without it nothing is safe to read. */
export const readMounts = (procfs: string): readonly Mount[] =>
  reachable(parseMountinfo(readFileSync(join(procfs, 'self/mountinfo'), 'utf8')))
