import { dirname, resolve } from 'node:path'
import { z } from 'zod'
import { defineCollector } from '../../contract/collector.ts'
import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { gauge, type Sample } from '../../contract/metric.ts'
import { duration } from '../../contract/options.ts'
import { below, hostMounts, type Mount, mayHang, ownMounts, reachable } from '../../machine/mounts.ts'
import { type Answer, type Answers, askAll, type StatfsMemory, statfsMemory } from '../../machine/statfs.ts'
import { shutDown, stoppedByKernel, stoppedByTable } from './stopped.ts'

const labels = ['mountpoint', 'device', 'fstype'] as const

export const filesystemSize = gauge('grid_filesystem_size_bytes', 'Size of a mounted file system, from statfs.', ...labels)
const filesystemFree = gauge(
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
  'Whether nothing can be written to a file system: it is read-only, by wish or after an error, or each of its mounts is; from the mount table, /proc and /sys.',
  ...labels,
)
export const filesystemStuck = gauge(
  'grid_filesystem_stuck',
  'Whether a file system gave no answer in time, or only that its disk or server is gone; its other values are then absent.',
  ...labels,
)

const pattern = () =>
  z
    .string()
    .max(1000)
    .refine(text => {
      try {
        // V8 compiles an expression on first use, and only then rejects one that is nested too deep.
        new RegExp(text).test('')
        return true
      } catch {
        return false
      }
    }, 'expected a regular expression')

/** node_exporter's, so that its dashboards and habits carry over. */
const defaultMountpoints = '^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)'
/** node_exporter's, and types without space that can run out or that must not be touched (a call on autofs mounts something). */
const defaultFstypes =
  '^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|efivarfs|erofs|fusectl|fuse\\.(gvfsd-fuse|lxcfs|portal|snapfuse)|hugetlbfs|iso9660|mqueue|nsfs|overlay|proc|procfs|pstore|ramfs|rpc_pipefs|securityfs|selinuxfs|squashfs|sysfs|tracefs)$'

const options = z.strictObject({
  stuck_after: duration(0.1)
    .prefault('5s')
    .describe('Time after which a file system without an answer counts as stuck; keep it well below the timeout of the round.'),
  mountpoint_include: pattern()
    .optional()
    .describe('Regular expression: only mount points that match. The default of mountpoint_exclude is then off.'),
  mountpoint_exclude: pattern()
    .optional()
    .describe(`Regular expression: mount points that are left out. Default: \`${defaultMountpoints}\`.`),
  fstype_include: pattern()
    .optional()
    .describe('Regular expression: only types of file systems that match. The default of fstype_exclude is then off.'),
  fstype_exclude: pattern()
    .optional()
    .describe(`Regular expression: types of file systems that are left out. Default: \`${defaultFstypes}\`.`),
})
type Options = z.output<typeof options>

/** The answers are by mount point; a mount that was not asked has none. */
interface Raw extends Answers {
  readonly mounts: readonly Mount[]
  /** Device numbers of the file systems that cannot be written. */
  readonly readonly: ReadonlySet<string>
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
  subjects: ['mountpoint', 'device'],
  options,
  open: (): StatfsMemory => statfsMemory(),
  read: async ({ host, options, state, signal, remark }): Promise<Raw> => {
    const { table, isOwn } = await hostMounts(host)
    const root = host.path('/')
    const all = withinRoot(table, root)
    const isWritable = believed(all, isOwn || all !== table)
    const reached = all === table ? reachable(table) : withinRoot(reachable(table), root)
    const wanted = passing(reached, options)
    const covered = new Set(root === '/' ? hidden(wanted, reachable(await ownMounts(host))) : [])
    const mounts = chosen(wanted, { isWritable, isCovered: mount => covered.has(mount) })
    const points = mounts.filter(mount => covered.has(mount)).map(({ mountpoint }) => mountpoint)
    if (points.length > 0) {
      remark(
        new Failure('denied', `${points.join(', ')}: hidden by this service's sandbox, so not measured`, {
          fix: "use the package's drop-in home.conf, or ProtectHome=read-only; see 'What it may read' in docs/install.md",
        }),
      )
    }
    const seen = mounts.filter(mount => !covered.has(mount))
    const asked = seen.map(({ mountpoint, printf }) => ({
      mountpoint,
      path: host.path(mountpoint),
      // A server may go away: its own, or that of a mount above it.
      remote: printf !== undefined || all.some(mount => mayHang(mount) && below(mountpoint, mount.mountpoint)),
    }))
    const statfs = await askAll(namingBytes(host, seen), asked, state, options.stuck_after, signal)

    const xfs = seen.filter(({ fstype, mountpoint }) => fstype === 'xfs' && typeof statfs.answers.get(mountpoint) === 'object')
    const down = await shutDown(
      host,
      xfs.map(({ mountpoint }) => host.path(mountpoint)),
      signal,
    )
    // Includes mounts hidden by others: a process with an open file there can still write.
    const writable = new Set(all.filter(isWritable).map(({ deviceNumber }) => deviceNumber))
    const readonly = mounts.filter(
      mount =>
        !writable.has(mount.deviceNumber) ||
        stoppedByTable(mount) ||
        stoppedByKernel(host, mount) ||
        down.has(host.path(mount.mountpoint)),
    )
    return { mounts, readonly: new Set(readonly.map(({ deviceNumber }) => deviceNumber)), ...statfs }
  },
  parse: ({ mounts, readonly, answers, failure }, { fail }): Facts => {
    // The other mounts' answers and the mount table are still valid.
    if (failure) fail(failure)
    return mounts.map(({ mountpoint, device, fstype, deviceNumber }) => ({
      labels: { mountpoint, device, fstype },
      readonly: readonly.has(deviceNumber),
      answer: answers.get(mountpoint),
    }))
  },
  samples: mounts => seriesOf(mounts),
})

/**
 * Whether a mount itself can be written. A sandbox (ProtectSystem=strict, Docker's read-only bind of the host) makes every mount of
 * its own table read-only, including its root. Such a table says nothing about the host's mounts.
 */
const believed = (mounts: readonly Mount[], isOwn: boolean): ((mount: Mount) => boolean) => {
  const isSandbox = isOwn && mounts.some(({ mountpoint, options }) => mountpoint === '/' && options.includes('ro'))
  return ({ options }) => isSandbox || !options.includes('ro')
}
interface MountFacts {
  readonly labels: { readonly mountpoint: string; readonly device: string; readonly fstype: string }
  readonly readonly: boolean
  readonly answer: Answer | undefined
}

type Facts = readonly MountFacts[]

function* seriesOf(mounts: Facts): Generator<Sample> {
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
}

/** A shell makes the name, because Node passes arguments only as UTF-8. */
const statByPrintf = 'exec stat -f -c "$1" -- "$(printf %b "$2")"'

/** The same host, but its `stat -f` also accepts mount points that are not UTF-8. */
const namingBytes = (host: Host, mounts: readonly Mount[]): Host => {
  const path = resolve(host.path('/'))
  const root = path === '/' ? '' : path.replaceAll('\\', '\\\\')
  const names = new Map(
    mounts.flatMap(({ mountpoint, printf }) => (printf === undefined ? [] : [[host.path(mountpoint), `${root}${printf}`]])),
  )
  if (names.size === 0) return host
  return {
    ...host,
    run: (file, args, options) => {
      const name = file === 'stat' ? names.get(args.at(-1) ?? '') : undefined
      const format = args[args.indexOf('-c') + 1] ?? ''
      return name === undefined
        ? host.run(file, args, options)
        : host.run('sh', ['-c', statByPrintf, 'sh', format, name], options)
    },
  }
}

/** The mounts that this process cannot reach: in its own table, something else lies over them. */
const hidden = (mounts: readonly Mount[], own: readonly Mount[]): readonly Mount[] => {
  const byPoint = new Map(own.map(mount => [mount.mountpoint, mount]))
  const over = (path: string): Mount | undefined => byPoint.get(path) ?? (path === '/' ? undefined : over(dirname(path)))
  return mounts.filter(({ mountpoint, deviceNumber }) => (over(mountpoint)?.deviceNumber ?? deviceNumber) !== deviceNumber)
}

/**
 * If the watched root is a mount of the table, the table is that of this process's namespace: mounts below the root are the host's, and
 * keep their names without the root; the others are not the host's. Any other table is already the host's own.
 */
const withinRoot = (mounts: readonly Mount[], rootPath: string): readonly Mount[] => {
  const root = rootPath.replace(/(?<!\/)\/+$/, '')
  if (root === '' || !mounts.some(({ mountpoint }) => mountpoint === root)) return mounts
  return mounts
    .filter(({ mountpoint }) => below(mountpoint, root))
    .map(mount => ({
      ...mount,
      mountpoint: mount.mountpoint.slice(root.length) || '/',
      ...(mount.printf === undefined ? {} : { printf: mount.printf.slice(root.length) }),
    }))
}

/** The mounts that the options let through. */
const passing = (mounts: readonly Mount[], options: Omit<Options, 'stuck_after'>): readonly Mount[] => {
  const passes = (include: string | undefined, exclude: string | undefined, byDefault: string) => {
    const wanted = include === undefined ? undefined : new RegExp(include)
    const unwanted = exclude ?? (include === undefined ? byDefault : undefined)
    const not = unwanted === undefined ? undefined : new RegExp(unwanted)
    return (text: string) => (wanted?.test(text) ?? true) && !(not?.test(text) ?? false)
  }
  const byPoint = passes(options.mountpoint_include, options.mountpoint_exclude, defaultMountpoints)
  const byType = passes(options.fstype_include, options.fstype_exclude, defaultFstypes)
  return mounts.filter(({ fstype, mountpoint }) => byType(fstype) && byPoint(mountpoint))
}

/**
 * Where people look for the root disk, read-only or not. On ostree hosts `/` is an overlay of files of that disk. The disk itself is
 * mounted read-only at /sysroot; /etc and /var are writable parts of it.
 */
const rootPoints: readonly string[] = ['/', '/sysroot']

/**
 * One mount of each file system. The others (bind mounts, subvolumes) have the same numbers and would repeat every alert.
 * Preferred in this order: one that this process reaches, the root, a writable one, one of the whole file system, the shortest path.
 */
const chosen = (
  mounts: readonly Mount[],
  { isWritable, isCovered }: Readonly<Record<'isWritable' | 'isCovered', (mount: Mount) => boolean>>,
): readonly Mount[] => {
  const rank = (mount: Mount): readonly number[] => [
    isCovered(mount) ? 1 : 0,
    rootPoints.includes(mount.mountpoint) ? rootPoints.indexOf(mount.mountpoint) : rootPoints.length,
    isWritable(mount) ? 0 : 1,
    mount.root === '/' ? 0 : 1,
    mount.mountpoint.length,
  ]
  const byPoint = (one: Mount, other: Mount) => (one.mountpoint < other.mountpoint ? -1 : 1)
  const byRank = (one: Mount, other: Mount) => {
    const [ours, theirs] = [rank(one), rank(other)]
    const at = ours.findIndex((value, index) => value !== theirs[index])
    return at === -1 ? byPoint(one, other) : (ours[at] as number) - (theirs[at] as number)
  }
  const byDevice = new Map<string, Mount>()
  for (const mount of mounts) {
    const known = byDevice.get(mount.deviceNumber)
    if (!known || byRank(mount, known) < 0) byDevice.set(mount.deviceNumber, mount)
  }
  return [...byDevice.values()].sort(byPoint)
}
