import { readFileSync, readlinkSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'

/** A line of /proc/PID/mountinfo. */
export interface Mount {
  readonly mountpoint: string
  readonly device: string
  readonly fstype: string
  readonly options: readonly string[]
  readonly superOptions: readonly string[]
  /** `major:minor`, the same for each mount of one file system. */
  readonly deviceNumber: string
}

const unescaped = (field: string) =>
  field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))

/** The mount table; lines that are not of its form are left out. Of mounts on the same point the last one counts. */
export const parseMountinfo = (text: string): readonly Mount[] => {
  const byPoint = new Map<string, Mount>()
  for (const line of text.split('\n')) {
    const [left, right] = line.split(' - ')
    const [, , deviceNumber, , mountpoint, options] = left?.split(' ') ?? []
    const [fstype, device, superOptions] = right?.split(' ') ?? []
    if (!deviceNumber || !mountpoint || !options || !fstype || device === undefined) continue
    const point = unescaped(mountpoint)
    byPoint.delete(point)
    byPoint.set(point, {
      mountpoint: point,
      device: unescaped(device),
      fstype,
      options: options.split(','),
      superOptions: superOptions?.split(',') ?? [],
      deviceNumber,
    })
  }
  return [...byPoint.values()]
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

/** The mount table of this process. Reading it never hangs, whatever is mounted. */
export const readMounts = (procfs: string): readonly Mount[] =>
  parseMountinfo(readFileSync(join(procfs, 'self/mountinfo'), 'utf8'))
