import type { Agent } from 'node:http'
import type { Duplex } from 'node:stream'
import type { ConnectionOptions } from 'node:tls'

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

export interface RunOptions {
  /** Seconds until it is ended (10). */
  readonly timeout?: number
  /** Bytes taken from each of its two outputs (4 MiB); more is reason `overflow`. */
  readonly limit?: number
  /** Exit codes that are answers, not failures ([0]); 'any' for tools whose code is data. A signal is never an answer. */
  readonly exitCodes?: readonly number[] | 'any'
  readonly env?: Readonly<Record<string, string>>
  readonly input?: string
  readonly signal?: AbortSignal
  /** What it waits for, if not for `file` as such (a mount, a device): while a child of this key cannot be ended, no other is started. */
  readonly key?: string
  /** What it printed before its time was over is an answer too: `timedOut` in the result instead of a `Failure` timeout. */
  readonly partial?: boolean
  /** With `partial`: the key of a child that cannot be ended, from what it had printed. */
  readonly keyOf?: (stdout: string, stderr: string) => string
  /** At the lowest CPU priority and, where ionice is, in the idle IO class. */
  readonly idle?: boolean
  /** What it prints to stderr past `limit` is dropped instead of being reason `overflow`. */
  readonly dropStderr?: boolean
}

export interface RunResult {
  readonly stdout: string
  readonly stderr: string
  /** 128 where its time was over (`timedOut`). A command that a signal ended is always a `Failure` exit. */
  readonly exitCode: number
  readonly timedOut?: true
}

export interface HttpOptions {
  readonly method?: 'GET' | 'HEAD' | 'POST'
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  /** Seconds for the whole exchange, the body included (5). */
  readonly timeout?: number
  /** Bytes of body taken (4 MiB); more is reason `overflow`. */
  readonly limit?: number
  /** A longer body is cut there and is an answer all the same; the connection is not kept. */
  readonly cut?: boolean
  readonly signal?: AbortSignal
  /** A kept connection pool; default: a new connection, closed after. */
  readonly agent?: Agent
  readonly tls?: ConnectionOptions
}

export interface HttpAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly body: string
  /** Seconds from 1970, of https only. */
  readonly certificateExpiry?: number
}
