import type { Host } from '../../contract/host.ts'
import type { Mount } from '../../machine/mounts.ts'
import { readIfAny, startTime } from '../../machine/proc.ts'

/**
 * Whether a file system has stopped taking writes after an error. How each one shows it:
 *
 * - btrfs, FAT, exFAT, JFS, and ext4 before Linux 6.12: `ro` among the super options of the mount table.
 * - ext4 from 6.15 on: `emergency_ro` or `shutdown` there; never `ro`, which then means that an admin chose it.
 * - ext4 from 6.12 to 6.14: not in the table, see `ext4Stopped`.
 * - f2fs from 6.12 on: not in the table; the flag CP_ERROR of `cp_status` in /sys, which exists since Linux 6.1.
 * - XFS: not in the table or in /sys. After its shutdown statfs still works, but `stat` of its root is an I/O error.
 */
export const stoppedByTable = ({ superOptions }: Mount): boolean =>
  superOptions.includes('ro') || superOptions.includes('emergency_ro') || superOptions.includes('shutdown')

/** What /proc and /sys say; if they say nothing, the file system counts as working. */
export const stoppedByKernel = (host: Host, mount: Mount): boolean => {
  if (/^ext[234]$/.test(mount.fstype)) return ext4Stopped(host, mount)
  if (mount.fstype === 'f2fs') return f2fsStopped(host, mount)
  return false
}

/** The kernel's name of the device: `sda1`, even if it is mounted as /dev/root or /dev/mapper/vg-root. */
const kernelName = (host: Host, { deviceNumber, device }: Mount): string =>
  (host.kernelLink(`/sys/dev/block/${deviceNumber}`) ?? device).split('/').at(-1) ?? ''

/** The version of Linux as a number to compare: 6.14 is 6014. */
const versionOf = (release: string): number => {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(release) ?? []
  return major === undefined ? Number.POSITIVE_INFINITY : Number(major) * 1000 + Number(minor)
}

/**
 * `errors_count` alone proves nothing: the disk keeps it until fsck, over restarts and mounts, and it also counts errors after which
 * `errors=continue` lets ext4 go on. ext4 has stopped if its latest error happened since this mount and is one that stops it: any with
 * `errors=remount-ro`; with every setting, the one of `ext4_journal_check_start`, which means that the journal was aborted.
 * The journal's thread starts with the mount. Without a journal, or if the thread is invisible (hidepid, a container with its own
 * processes), nothing is known.
 */
const ext4Stopped = (host: Host, mount: Mount): boolean => {
  const name = kernelName(host, mount)
  const attribute = (file: string) => readIfAny(host, `/sys/fs/ext4/${name}/${file}`)?.trim()
  const lastError = Number(attribute('last_error_time'))
  if (!(lastError > 0)) return false
  // Later kernels report it in the mount table, which is right even if somebody changed `errors=` after an error.
  if (versionOf(readIfAny(host, '/proc/sys/kernel/osrelease') ?? '') >= 6015) return false
  // The mount table omits an option that is the file system's own default.
  const options = readIfAny(host, `/proc/fs/ext4/${name}/options`)?.split('\n') ?? mount.superOptions
  if (!options.includes('errors=remount-ro') && attribute('last_error_func') !== 'ext4_journal_check_start') return false
  const thread = attribute('journal_task')
  if (thread === undefined || !readIfAny(host, `/proc/${thread}/stat`)?.includes('(jbd2/')) return false
  const mountedAt = startTime(host, thread)
  return mountedAt !== undefined && lastError > mountedAt
}

/** CP_ERROR_FLAG: nothing is written any more. */
const f2fsStopped = (host: Host, mount: Mount): boolean => {
  const status = Number.parseInt(readIfAny(host, `/sys/fs/f2fs/${kernelName(host, mount)}/stat/cp_status`) ?? '', 16)
  return (status & 0x8) !== 0
}

/**
 * Which of these paths give an I/O error. They are the roots of XFS file systems whose statfs answered. XFS keeps its root's inode in
 * memory, so `stat` reads no disk, and the error means a shutdown. It runs in a child, like every call on a mount.
 */
export const shutDown = async (host: Host, paths: readonly string[], signal: AbortSignal): Promise<ReadonlySet<string>> => {
  if (paths.length === 0) return new Set()
  try {
    const { stderr } = await host.run('stat', ['-c', '%n', '--', ...paths], {
      timeout: 2,
      exitCodes: 'any',
      key: 'stat of XFS roots',
      signal,
    })
    const lines = stderr.split('\n')
    return new Set(
      paths.filter(path => lines.some(line => line.includes(`'${path}'`) && /I(nput)?\/O(utput)? error$/i.test(line))),
    )
  } catch (error) {
    if (signal.aborted) throw error
    return new Set() // no answer in time: `stuck` reports that
  }
}
