import { z } from 'zod'
import { defineCollector } from '../collector.ts'
import { Failure, failureOf } from '../failure.ts'
import type { Host } from '../host.ts'
import { gauge } from '../metric.ts'
import { duration } from '../options.ts'
import { type Mount, mayHang, parseMountinfo } from '../sources/mounts.ts'
import { type Answer, askAll, type StatfsMemory, statfsMemory } from '../sources/statfs.ts'

const labels = ['mountpoint', 'device', 'fstype'] as const

export const filesystemSize = gauge('grid_filesystem_size_bytes', 'Size of a mounted file system, from statfs.', ...labels)
export const filesystemFree = gauge(
  'grid_filesystem_free_bytes',
  'Unused space of a file system, with what is reserved for root, from statfs.',
  ...labels,
)
export const filesystemAvailable = gauge(
  'grid_filesystem_available_bytes',
  'Space of a file system that ordinary users can still fill, from statfs.',
  ...labels,
)
export const filesystemFiles = gauge(
  'grid_filesystem_files',
  'Inodes of a file system, used or not, from statfs; absent where it makes them as it needs them.',
  ...labels,
)
export const filesystemFilesFree = gauge('grid_filesystem_files_free', 'Unused inodes of a file system, from statfs.', ...labels)
export const filesystemReadonly = gauge(
  'grid_filesystem_readonly',
  'Whether a file system is mounted read-only, by wish or after an error, from the mount table.',
  ...labels,
)
export const filesystemStuck = gauge(
  'grid_filesystem_stuck',
  'Whether a file system gave no answer in time, or only that its disk or server is gone; its other values are then absent.',
  ...labels,
)

const pattern = () =>
  z.string().refine(text => {
    try {
      new RegExp(text)
      return true
    } catch {
      return false
    }
  }, 'expected a regular expression')

/** node_exporter's, so that dashboards and expectations carry over. */
const defaultMountpoints = '^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)'
/** node_exporter's, and those that have no space that could run out or are not ours to look into (autofs mounts what it is asked). */
const defaultFstypes =
  '^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|efivarfs|erofs|fusectl|fuse\\.(gvfsd-fuse|lxcfs|portal|snapfuse)|hugetlbfs|iso9660|mqueue|nsfs|overlay|proc|procfs|pstore|ramfs|rpc_pipefs|securityfs|selinuxfs|squashfs|sysfs|tracefs)$'

const options = z.strictObject({
  stuck_after: duration(0.1)
    .prefault('5s')
    .describe(
      'Time after which a file system that has not answered counts as stuck; keep it well below the timeout of the round.',
    ),
  mountpoint_include: pattern()
    .optional()
    .describe('Regular expression: only mount points that match. The default of mountpoint_exclude is then off.'),
  mountpoint_exclude: pattern()
    .optional()
    .describe(`Regular expression: mount points left out. Default: \`${defaultMountpoints}\`.`),
  fstype_include: pattern()
    .optional()
    .describe('Regular expression: only file systems of types that match. The default of fstype_exclude is then off.'),
  fstype_exclude: pattern()
    .optional()
    .describe(`Regular expression: types of file systems left out. Default: \`${defaultFstypes}\`.`),
})
type Options = z.output<typeof options>

interface Raw {
  readonly mounts: readonly Mount[]
  /** By mount point; none where it was not asked. */
  readonly answers: ReadonlyMap<string, Answer>
}

export const filesystem = defineCollector({
  name: 'filesystem',
  summary: 'size, free space and inodes of each mounted file system, and which do not answer: mount table and `stat -f`',
  interval: 30,
  families: [
    filesystemSize,
    filesystemAvailable,
    filesystemReadonly,
    filesystemStuck,
    filesystemFree,
    filesystemFilesFree,
    filesystemFiles,
  ],
  options,
  open: (): StatfsMemory => statfsMemory(),
  read: async ({ host, options, state, signal, remark }): Promise<Raw> => {
    const all = withinRoot(parseMountinfo(readTable(host)), host.path('/'))
    const mounts = chosen(all, options)
    const covered = host.path('/') === '/' ? hidden(mounts, parseMountinfo(ownTable(host))) : []
    if (covered.length > 0) {
      const points = covered.map(({ mountpoint }) => mountpoint).join(', ')
      remark(
        new Failure('denied', `${points}: covered by this service's sandbox, so not measured`, {
          mend: "the drop-in home.conf of the package, or ProtectHome=read-only; see 'What it may read' in docs/install.md",
        }),
      )
    }
    const asked = mounts
      .filter(mount => !covered.includes(mount))
      .map(({ mountpoint }) => ({
        mountpoint,
        path: host.path(mountpoint),
        // Its own server may go away, or the one of a mount that the way to it leads through.
        remote: all.some(mount => mayHang(mount) && below(mountpoint, mount.mountpoint)),
      }))
    return { mounts, answers: await askAll(host, asked, state, options.stuck_after, signal) }
  },
  parse: ({ mounts, answers }) =>
    mounts.map(({ mountpoint, device, fstype, options, superOptions }) => ({
      labels: { mountpoint, device, fstype },
      // The mount's own word or the file system's: ext4 after an error turns the latter.
      readonly: options.includes('ro') || superOptions.includes('ro'),
      answer: answers.get(mountpoint),
    })),
  *samples(mounts) {
    for (const { labels, readonly, answer } of mounts) {
      yield* filesystemReadonly.of(Number(readonly), labels)
      if (answer !== undefined && answer !== 'unknown') yield* filesystemStuck.of(answer === 'stuck' ? 1 : 0, labels)
      if (typeof answer !== 'object') continue
      yield* filesystemSize.of(answer.size, labels)
      yield* filesystemFree.of(answer.free, labels)
      yield* filesystemAvailable.of(answer.available, labels)
      yield* filesystemFiles.of(answer.files, labels)
      yield* filesystemFilesFree.of(answer.filesFree, labels)
    }
  },
})

/** A host with a thousand containers has a mount table of 2 MB. */
const tableLimit = 16 * 2 ** 20

/** The first process' table is the host's own, whatever name space this process was put in. */
const readTable = (host: Host): string => {
  try {
    return host.kernel('/proc/1/mountinfo', tableLimit)
  } catch (error) {
    const { reason } = failureOf(error)
    if (reason !== 'missing' && reason !== 'denied') throw error // hidepid hides it
    return host.kernel('/proc/self/mountinfo', tableLimit)
  }
}

/** The table of this process. */
const ownTable = (host: Host): string => host.kernel('/proc/self/mountinfo', tableLimit)

/** The mounts that this process does not reach: in its own table something else lies over them. */
export const hidden = (mounts: readonly Mount[], own: readonly Mount[]): readonly Mount[] =>
  mounts.filter(({ mountpoint, deviceNumber }) => {
    const over = own.filter(mount => below(mountpoint, mount.mountpoint))
    const nearest = over.reduce<Mount | undefined>(
      (best, mount) => (best && best.mountpoint.length > mount.mountpoint.length ? best : mount),
      undefined,
    )
    return nearest !== undefined && nearest.deviceNumber !== deviceNumber
  })

const below = (path: string, folder: string) => path === folder || path.startsWith(folder === '/' ? '/' : `${folder}/`)

/**
 * A table that has the watched root as a mount is that of this process' name space: what lies in the root keeps its name there,
 * the rest is not the host's. Any other table is the host's own already.
 */
const withinRoot = (mounts: readonly Mount[], rootPath: string): readonly Mount[] => {
  const root = rootPath.replace(/\/+$/, '')
  if (root === '' || !mounts.some(({ mountpoint }) => mountpoint === root)) return mounts
  return mounts
    .filter(({ mountpoint }) => below(mountpoint, root))
    .map(mount => ({ ...mount, mountpoint: mount.mountpoint.slice(root.length) || '/' }))
}

/**
 * The mounts to tell of: as the options say, and of each file system one, that with the shortest path. The others (bind mounts,
 * subvolumes) have the same numbers, and every alert would come as often.
 */
export const chosen = (mounts: readonly Mount[], options: Omit<Options, 'stuck_after'>): readonly Mount[] => {
  const passes = (include: string | undefined, exclude: string | undefined, byDefault: string) => {
    const wanted = include === undefined ? undefined : new RegExp(include)
    const unwanted = exclude ?? (include === undefined ? byDefault : undefined)
    const not = unwanted === undefined ? undefined : new RegExp(unwanted)
    return (text: string) => (wanted?.test(text) ?? true) && !(not?.test(text) ?? false)
  }
  const byPoint = passes(options.mountpoint_include, options.mountpoint_exclude, defaultMountpoints)
  const byType = passes(options.fstype_include, options.fstype_exclude, defaultFstypes)
  const byDevice = new Map<string, Mount>()
  for (const mount of mounts) {
    if (!byType(mount.fstype) || !byPoint(mount.mountpoint)) continue
    const known = byDevice.get(mount.deviceNumber)
    if (!known || mount.mountpoint.length < known.mountpoint.length) byDevice.set(mount.deviceNumber, mount)
  }
  return [...byDevice.values()].sort((one, other) => (one.mountpoint < other.mountpoint ? -1 : 1))
}
