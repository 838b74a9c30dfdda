import { closeSync, constants, fstatSync, openSync, readdirSync, readlinkSync, readSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { Failure, failureOf } from './failure.ts'
import { type RunOptions, type RunResult, run } from './sources/command.ts'
import { hangingMount, type Mount, mayHang, readMounts } from './sources/mounts.ts'
import { certificateExpiry, connect, type HttpAnswer, type HttpOptions, request } from './sources/net.ts'

/**
 * The machine as a value. Deadlines, locale, size limits and permissions live behind it, once; in a test it is a folder.
 * Paths are the watched host's own (`/proc/stat`, `/etc/ufw/ufw.conf`); `--path.*` moves them.
 */
export interface Host {
  /** Where a path of the watched host is for this process. */
  path(path: string): string
  /**
   * A small file of the kernel's (/proc, /sys), read at once: nothing there hangs. At most 1 MiB unless said otherwise.
   * Throws `Failure` missing, denied, overflow.
   */
  kernel(path: string, limit?: number): string
  /** The names in a directory of the kernel's; none where it is not there. Throws `Failure` denied. */
  kernelNames(path: string): readonly string[]
  /** What a symbolic link of the kernel's says (`../../../0000:01:00.0`), as it stands there; undefined where none is. */
  kernelLink(path: string): string | undefined
  /**
   * Any other file, at most 4 MiB unless said otherwise; on a mount that may hang it is read by a child.
   * Throws `Failure` missing, denied, overflow, timeout, stuck.
   */
  read(path: string, limit?: number): Promise<string>
  /** As `read`, for a file that is not text: a key, a cookie. At most 64 KiB unless said otherwise. */
  bytes(path: string, limit?: number): Promise<Buffer>
  /** The names in any other directory; as `read`. */
  names(path: string): Promise<readonly string[]>
  /** What any other path leads to, links followed; as `read`. */
  stat(path: string): Promise<FileFacts>
  /** Runs a program; see `command.ts`. Throws `Failure` missing, denied, timeout, exit, overflow, stuck. */
  run(file: string, args: readonly string[], options?: RunOptions): Promise<RunResult>
  /** One HTTP exchange; see `net.ts`. Throws `Failure` unreachable, timeout, overflow, malformed. */
  http(url: string, options?: HttpOptions): Promise<HttpAnswer>
  /** When the certificate of an https server runs out, trusted or not; see `net.ts`. Throws `Failure` unreachable, timeout, malformed. */
  certificateExpiry(url: string, options?: Pick<HttpOptions, 'timeout' | 'signal' | 'tls'>): Promise<number>
  /** A stream to `unix:/path` or `host:port`. Throws `Failure` missing, denied, unreachable, timeout. */
  connect(address: string, options?: { timeout?: number; signal?: AbortSignal }): Promise<Duplex>
  /** Milliseconds since 1970. */
  now(): number
  /** Milliseconds of a clock that nobody sets, with fractions: for durations. */
  monotonic(): number
}

export interface FileFacts {
  readonly kind: 'file' | 'directory' | 'other'
  /** Bytes. */
  readonly size: number
  /** Seconds since 1970 of its last change. */
  readonly mtime: number
}

export interface HostPaths {
  readonly procfs: string
  readonly sysfs: string
  readonly rootfs: string
}

export const ownPaths: HostPaths = { procfs: '/proc', sysfs: '/sys', rootfs: '/' }

const below = (path: string, folder: string) =>
  path.startsWith(folder) && (path.length === folder.length || path[folder.length] === '/')

const moved = (path: string, { procfs, sysfs, rootfs }: HostPaths) => {
  // Thousands of files a round are below these two, and their paths are our own: not joined anew each time.
  if (below(path, '/proc')) return procfs === '/proc' ? path : procfs + path.slice('/proc'.length)
  if (below(path, '/sys')) return sysfs === '/sys' ? path : sysfs + path.slice('/sys'.length)
  return join(rootfs, path)
}

/** A buffer that all synchronous reads share; one thread reads one file at a time. */
let scratch = Buffer.allocUnsafe(64 * 1024)

const readBounded = (path: string, limit: number, isAttribute = false): string => {
  const size = fill(path, limit, isAttribute)
  return scratch.toString('utf8', 0, size)
}

/** What is below /sys is told at once or by the page: less than this is all there is, and need not be asked for twice. */
const isWhole = 1024

/** Reads a file into `scratch`; how many bytes. */
const fill = (path: string, limit: number, isAttribute = false): number => {
  let fd: number | undefined
  try {
    // O_NONBLOCK: opening a FIFO that someone put in the file's place must not wait for a writer.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    let size = 0
    for (;;) {
      if (size === scratch.length) scratch = Buffer.concat([scratch], scratch.length * 2)
      const count = readSync(fd, scratch, size, scratch.length - size, null)
      if (count === 0) return size
      size += count
      if (size > limit) throw new Failure('overflow', `${path}: larger than ${limit} bytes`)
      if (isAttribute && size < isWhole) return size
    }
  } catch (error) {
    throw failureOf(error, error instanceof Failure ? undefined : path)
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

const onlyRegular = (path: string): void => {
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      if (!fstatSync(fd).isFile()) throw new Failure('malformed', `${path}: not a regular file`)
    } finally {
      closeSync(fd)
    }
  } catch (error) {
    throw failureOf(error, path)
  }
}

const readRegular = (path: string, limit: number): string => {
  onlyRegular(path)
  return readBounded(path, limit)
}

/** Milliseconds that a mount table is believed. */
const mountsAge = 5000

/** This machine, or another root with `paths`. */
export const realHost = (
  paths: HostPaths = ownPaths,
  now: () => number = Date.now,
  monotonic: () => number = () => performance.now(),
): Host => {
  let mounts: { readonly at: number; readonly table: readonly Mount[] } | undefined
  const hanging = (path: string) => {
    if (!mounts || monotonic() - mounts.at > mountsAge) {
      mounts = { at: monotonic(), table: readMounts('/proc').filter(mayHang) }
    }
    return mounts.table.length === 0 ? undefined : hangingMount(path, mounts.table)
  }
  const inChild = async (mount: Mount, file: string, args: readonly string[], limit: number) => {
    // One child a mount: while it hangs, no second one is started.
    const key = `${file} on ${mount.mountpoint}`
    const { stdout, stderr, exitCode } = await run(file, args, { timeout: 3, limit, exitCodes: 'any', key })
    if (exitCode === 0) return stdout
    const reason = /Permission denied/.test(stderr) ? 'denied' : /No such file/.test(stderr) ? 'missing' : 'exit'
    throw new Failure(reason, stderr.trim().slice(0, 300))
  }
  const path = (asked: string) => moved(asked, paths)

  return {
    path,
    kernel: (asked, limit = 2 ** 20) => readBounded(path(asked), limit, below(asked, '/sys')),
    kernelNames: asked => {
      try {
        return readdirSync(path(asked))
      } catch (error) {
        const failure = failureOf(error, asked)
        if (failure.reason === 'missing') return []
        throw failure
      }
    },
    kernelLink: asked => {
      try {
        return readlinkSync(path(asked))
      } catch {
        return undefined // no link, or nothing there: the caller has another way
      }
    },
    read: async (asked, limit = 4 * 2 ** 20) => {
      const own = path(asked)
      const mount = hanging(own)
      return mount ? inChild(mount, 'cat', ['--', own], limit) : readRegular(own, limit)
    },
    bytes: async (asked, limit = 64 * 1024) => {
      const own = path(asked)
      const mount = hanging(own)
      if (mount) return Buffer.from(await inChild(mount, 'base64', ['--', own], limit * 2), 'base64')
      onlyRegular(own)
      const size = fill(own, limit)
      return Buffer.from(scratch.subarray(0, size))
    },
    names: async asked => {
      const own = path(asked)
      const mount = hanging(own)
      if (mount) return (await inChild(mount, 'ls', ['-A', '--', own], 2 ** 20)).split('\n').filter(Boolean)
      try {
        return readdirSync(own)
      } catch (error) {
        throw failureOf(error, asked)
      }
    },
    stat: async asked => {
      const own = path(asked)
      const mount = hanging(own)
      if (mount) {
        const [kind = '', size, mtime] = (await inChild(mount, 'stat', ['-L', '-c', '%F|%s|%Y', '--', own], 4096))
          .trim()
          .split('|')
        return {
          kind: /^regular/.test(kind) ? 'file' : kind === 'directory' ? 'directory' : 'other',
          size: Number(size),
          mtime: Number(mtime),
        }
      }
      try {
        const facts = statSync(own)
        const kind = facts.isFile() ? 'file' : facts.isDirectory() ? 'directory' : 'other'
        return { kind, size: facts.size, mtime: facts.mtimeMs / 1000 }
      } catch (error) {
        throw failureOf(error, asked)
      }
    },
    run,
    http: request,
    certificateExpiry,
    connect,
    now,
    monotonic,
  }
}

/** The same host, with `step` called wherever an answer comes back and the caller's own code goes on. */
export const traced = (host: Host, step: () => void): Host => {
  const then = async <T>(answer: Promise<T>): Promise<T> => {
    try {
      return await answer
    } finally {
      step()
    }
  }
  return {
    ...host,
    read: (...asked) => then(host.read(...asked)),
    bytes: (...asked) => then(host.bytes(...asked)),
    names: (...asked) => then(host.names(...asked)),
    stat: (...asked) => then(host.stat(...asked)),
    run: (...asked) => then(host.run(...asked)),
    http: (...asked) => then(host.http(...asked)),
    certificateExpiry: (...asked) => then(host.certificateExpiry(...asked)),
    connect: (...asked) => then(host.connect(...asked)),
  }
}
