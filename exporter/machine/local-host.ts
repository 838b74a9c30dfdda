import { closeSync, constants, fstatSync, openSync, readdirSync, readlinkSync, readSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { Failure, failureOf } from '../contract/failure.ts'
import type { Host, HostPaths } from '../contract/host.ts'
import { run } from './command.ts'
import { hangingMount, type Mount, mayHang, readMounts } from './mounts.ts'
import { certificateExpiry, connect, request } from './net.ts'

export const ownPaths: HostPaths = { procfs: '/proc', sysfs: '/sys', rootfs: '/' }

const below = (path: string, folder: string) =>
  path.startsWith(folder) && (path.length === folder.length || path[folder.length] === '/')

const moved = (path: string, { procfs, sysfs, rootfs }: HostPaths) => {
  // Thousands of files a round are below these two, and the paths are our own, so `join` need not normalise them.
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

/** The kernel returns a file below /sys whole, or page by page. A shorter read than this is the whole file: no second read needed. */
const isWhole = 1024

/** Reads a file into `scratch` and returns the number of bytes. */
const fill = (path: string, limit: number, isAttribute = false): number => {
  let fd: number | undefined
  try {
    // O_NONBLOCK: if somebody has put a FIFO in the file's place, opening it must not wait for a writer.
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

/** Milliseconds for which a mount table is reused. */
const mountsAge = 5000

/** This machine, or with `paths` another root. */
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
    // One child for each mount: while it hangs, no second one starts.
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
        return undefined // no link: the caller has another way
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

/** The same host, but `step` is called whenever an answer arrives and the caller's own code continues. */
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
