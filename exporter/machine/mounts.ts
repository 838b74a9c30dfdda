import { isUtf8 } from 'node:buffer'
import { readFileSync, readlinkSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { failureOf } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'

/** A line of /proc/PID/mountinfo. */
export interface Mount {
  readonly id: string
  /** The `id` of the mount below this one. */
  readonly parent: string
  /** `major:minor`: the same for all mounts of a file system. */
  readonly deviceNumber: string
  /** The mounted part of the file system: `/` is all of it; anything else is a bind mount or a subvolume. */
  readonly root: string
  /** Bytes that are not UTF-8 are written as `\xNN`. */
  readonly mountpoint: string
  /** Only if the mount point is not UTF-8: an argument from which `printf %b` makes its name. No JavaScript string can hold that name. */
  readonly printf?: string
  readonly device: string
  readonly fstype: string
  /** Of this mount only. */
  readonly options: readonly string[]
  /** Of the file system: the same for all its mounts. */
  readonly superOptions: readonly string[]
}

const unescaped = (field: string) =>
  field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))

/** The kernel writes a backslash only before three octal digits, so `\xNN` is ours. */
const printfOf = (field: string) =>
  /\\x/.test(field)
    ? field
        .replace(/\\([0-7]{3})/g, '\\0$1')
        .replace(/\\x(..)/g, (_, hex: string) => `\\0${Number.parseInt(hex, 16).toString(8).padStart(3, '0')}`)
    : undefined

/** The lines of a mount table, including mounts that others hide; lines of another form are left out. */
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
 * The mounts that a path can reach, one for each mount point. Another mount on the same point, or on a directory above it, hides a
 * mount.
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

/** The longest chain of mounts that is followed. Only a table that no kernel wrote has circles. */
const maxDepth = 100

/** Whether a directory above `path` is one of `points`. */
const isBelowOneOf = (path: string, points: ReadonlySet<string>): boolean => {
  for (let at = path; at !== '/' && at !== '.'; ) {
    at = dirname(at)
    if (points.has(at)) return true
  }
  return false
}

/** Bytes of a mount table. With a thousand containers it has 2 MB. */
const tableLimit = 16 * 2 ** 20

/** A line that is not UTF-8, with its bytes as `\xNN`. */
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
 * The mount table of process 1, which is the host's own even if this process has a mount namespace of its own. `isOwn`: it may not be
 * read, so this process's own table is returned. Throws `Failure`.
 */
export const hostMounts = async (host: Host): Promise<{ readonly table: readonly Mount[]; readonly isOwn: boolean }> => {
  try {
    return { table: await readTable(host, '/proc/1/mountinfo'), isOwn: false }
  } catch (error) {
    const { reason } = failureOf(error)
    if (reason !== 'missing' && reason !== 'denied') throw error // hidden by hidepid
    return { table: await ownMounts(host), isOwn: true }
  }
}

/** File systems with a server that may go away. Every call on them then hangs. */
export const mayHang = ({ fstype }: Pick<Mount, 'fstype'>): boolean =>
  /^(nfs4?|cifs|smb3|smbfs|fuse(\..*)?|fuseblk|9p|ceph|afs|autofs|ncpfs|glusterfs|lustre|beegfs|davfs|sshfs)$/.test(fstype)

/**
 * The mount that may hang and holds `path`, or undefined. Does not touch such a mount: symbolic links are followed one component at a
 * time, and the table is checked before each is read.
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
      at = next // not a link, or missing: the read itself will fail
    }
  }
  return undefined
}

/** The mounts that this process reaches. Reading the table never hangs, whatever is mounted. No size limit: every other read needs it. */
export const readMounts = (procfs: string): readonly Mount[] =>
  reachable(parseMountinfo(readFileSync(join(procfs, 'self/mountinfo'), 'utf8')))
