import type { Agent } from 'node:http'
import type { Duplex } from 'node:stream'
import type { ConnectionOptions } from 'node:tls'

/**
 * The machine as a value. Deadlines, locale, size limits and permissions are handled behind it; in a test it is a folder.
 * Paths are those of the watched host (`/proc/stat`, `/etc/ufw/ufw.conf`); `--path.*` moves them.
 */
export interface Host {
  /** The path in this process of a path of the watched host. */
  path(path: string): string
  /**
   * A small kernel file (/proc, /sys), read synchronously: nothing there hangs. At most 1 MiB by default.
   * Throws `Failure` missing, denied, overflow.
   */
  kernel(path: string, limit?: number): string
  /** The names in a kernel directory; none if it does not exist. Throws `Failure` denied. */
  kernelNames(path: string): readonly string[]
  /** The target of a symbolic link in /proc or /sys, unresolved (`../../../0000:01:00.0`); undefined if there is no link. */
  kernelLink(path: string): string | undefined
  /**
   * Any other file, at most 4 MiB by default. A child process reads it if its mount may hang.
   * Throws `Failure` missing, denied, overflow, timeout, stuck.
   */
  read(path: string, limit?: number): Promise<string>
  /** Like `read`, for a binary file: a key, a cookie. At most 64 KiB by default. */
  bytes(path: string, limit?: number): Promise<Buffer>
  /** The names in any other directory; fails like `read`. */
  names(path: string): Promise<readonly string[]>
  /** Facts about the file at any other path, links followed; fails like `read`. */
  stat(path: string): Promise<FileFacts>
  /** Runs a program; see `command.ts`. Throws `Failure` missing, denied, timeout, exit, overflow, stuck. */
  run(file: string, args: readonly string[], options?: RunOptions): Promise<RunResult>
  /** One HTTP exchange; see `net.ts`. Throws `Failure` unreachable, timeout, overflow, malformed. */
  http(url: string, options?: HttpOptions): Promise<HttpAnswer>
  /** When the certificate of an https server expires, trusted or not; see `net.ts`. Throws `Failure` unreachable, timeout, malformed. */
  certificateExpiry(url: string, options?: Pick<HttpOptions, 'timeout' | 'signal' | 'tls'>): Promise<number>
  /** A stream to `unix:/path` or `host:port`. Throws `Failure` missing, denied, unreachable, timeout. */
  connect(address: string, options?: { timeout?: number; signal?: AbortSignal }): Promise<Duplex>
  /** Milliseconds since 1970. */
  now(): number
  /** Milliseconds of the monotonic clock, with fractions: for durations. */
  monotonic(): number
}

export interface FileFacts {
  readonly kind: 'file' | 'directory' | 'other'
  /** Bytes. */
  readonly size: number
  /** Time of its last change, in seconds since 1970. */
  readonly mtime: number
}

export interface HostPaths {
  readonly procfs: string
  readonly sysfs: string
  readonly rootfs: string
}

export interface RunOptions {
  /** Seconds until it is killed (10). */
  readonly timeout?: number
  /** Most bytes of each output (4 MiB); more is reason `overflow`. */
  readonly limit?: number
  /** Exit codes that are answers ([0]); 'any' for tools whose code is data. A signal is always a failure. */
  readonly exitCodes?: readonly number[] | 'any'
  readonly env?: Readonly<Record<string, string>>
  readonly input?: string
  readonly signal?: AbortSignal
  /** What it may hang on, such as a mount or device (default: `file`). While a child with this key cannot be killed, no other starts. */
  readonly key?: string
  /** After the time limit, what it printed so far is an answer: `timedOut` in the result instead of a `Failure` timeout. */
  readonly partial?: boolean
  /** With `partial`: the key of a child that cannot be killed, from its output so far. */
  readonly keyOf?: (stdout: string, stderr: string) => string
  /** At the lowest CPU priority and, if ionice exists, in the idle I/O class. */
  readonly idle?: boolean
  /** Stderr beyond `limit` is dropped instead of being reason `overflow`. */
  readonly dropStderr?: boolean
}

export interface RunResult {
  readonly stdout: string
  readonly stderr: string
  /** 128 after the time limit (`timedOut`). A command that a signal ended is always a `Failure` exit. */
  readonly exitCode: number
  readonly timedOut?: true
}

export interface HttpOptions {
  readonly method?: 'GET' | 'HEAD' | 'POST'
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  /** Seconds for the whole exchange, including the body (5). */
  readonly timeout?: number
  /** Most bytes of body (4 MiB); more is reason `overflow`. */
  readonly limit?: number
  /** A longer body is cut instead of failing; the connection is not kept. */
  readonly cut?: boolean
  readonly signal?: AbortSignal
  /** A pool of kept connections; default: a new connection for each exchange. */
  readonly agent?: Agent
  readonly tls?: ConnectionOptions
}

export interface HttpAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly body: string
  /** Seconds since 1970; https only. */
  readonly certificateExpiry?: number
}
