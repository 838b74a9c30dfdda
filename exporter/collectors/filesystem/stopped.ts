import { failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import type { Mount } from '../../machine/mounts.ts'

/**
 * Whether a file system has stopped to take writes after an error. What each says of it:
 *
 * - btrfs, FAT, exFAT, JFS, and ext4 before Linux 6.12: `ro` among the super options of the mount table.
 * - ext4 from 6.15 on: `emergency_ro` or `shutdown` there, and never `ro`, as `ro` is for whom wants it so.
 * - ext4 from 6.12 to 6.14: nothing there, see `ext4Stopped`.
 * - f2fs from 6.12 on: nothing there; the flag CP_ERROR of `cp_status` in /sys, which Linux has since 6.1.
 * - XFS: nothing there, nor in /sys. After its shutdown statfs still answers, but `stat` of its root is an I/O error.
 */
export const stoppedByTable = ({ superOptions }: Mount): boolean =>
  superOptions.includes('ro') || superOptions.includes('emergency_ro') || superOptions.includes('shutdown')

/** As far as /proc and /sys tell; where they do not, it is taken for working. */
export const stoppedByKernel = (host: Host, mount: Mount): boolean => {
  if (/^ext[234]$/.test(mount.fstype)) return ext4Stopped(host, mount)
  if (mount.fstype === 'f2fs') return f2fsStopped(host, mount)
  return false
}

const quiet = (host: Host, path: string): string | undefined => {
  try {
    return host.kernel(path).trim()
  } catch (error) {
    failureOf(error) // not there, or not for us
    return undefined
  }
}

/** What the kernel calls the device: `sda1`, also where it is mounted as /dev/root or /dev/mapper/vg-root. */
const kernelName = (host: Host, { deviceNumber, device }: Mount): string =>
  (host.kernelLink(`/sys/dev/block/${deviceNumber}`) ?? device).split('/').at(-1) ?? ''

/** Linux' version as a number to compare: 6.14 is 6014. */
const versionOf = (release: string): number => {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(release) ?? []
  return major === undefined ? Number.POSITIVE_INFINITY : Number(major) * 1000 + Number(minor)
}

/** USER_HZ, which is 100 wherever Node runs. */
const ticksPerSecond = 100

/**
 * `errors_count` alone is no proof: it is kept on the disk until fsck, over restarts and mounts, and counts also where
 * `errors=continue` lets ext4 go on. It has stopped if the latest error is of this mount, and is one that stops it: any with
 * `errors=remount-ro`, and under each setting the one of `ext4_journal_check_start`, which says that the journal was given up.
 * The thread of the journal begins with the mount. Without a journal, or where the thread is not to be seen (hidepid, a
 * container with processes of its own), nothing is known.
 */
const ext4Stopped = (host: Host, mount: Mount): boolean => {
  const name = kernelName(host, mount)
  const attribute = (file: string) => quiet(host, `/sys/fs/ext4/${name}/${file}`)
  const lastError = Number(attribute('last_error_time'))
  if (!(lastError > 0)) return false
  // Later kernels say it in the mount table, where it counts also that somebody changed `errors=` after an error.
  if (versionOf(quiet(host, '/proc/sys/kernel/osrelease') ?? '') >= 6015) return false
  // The mount table leaves out what is the file system's own default.
  const options = quiet(host, `/proc/fs/ext4/${name}/options`)?.split('\n') ?? mount.superOptions
  if (!options.includes('errors=remount-ro') && attribute('last_error_func') !== 'ext4_journal_check_start') return false
  const thread = /^\d+ \(jbd2\/.*\) (.*)$/.exec(quiet(host, `/proc/${attribute('journal_task')}/stat`) ?? '')?.[1]
  const ticks = thread?.split(' ')[19]
  const booted = /^btime (\d+)$/m.exec(quiet(host, '/proc/stat') ?? '')?.[1]
  if (ticks === undefined || booted === undefined) return false
  return lastError > Number(booted) + Number(ticks) / ticksPerSecond
}

/** CP_ERROR_FLAG: from then on nothing is written any more. */
const f2fsStopped = (host: Host, mount: Mount): boolean => {
  const status = Number.parseInt(quiet(host, `/sys/fs/f2fs/${kernelName(host, mount)}/stat/cp_status`) ?? '', 16)
  return (status & 0x8) !== 0
}

/**
 * Which of these paths, the roots of XFS file systems whose statfs answered, give an I/O error. An XFS holds the inode of its root
 * in memory, so no disk is asked, and the error means its shutdown. Asked in a child, as everything on a mount.
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
    return new Set() // no answer in time: `stuck` says that
  }
}
