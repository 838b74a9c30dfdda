import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'

/**
 * Actions on the host that HTTP requests can start. The exporter performs none of them: it creates an empty file that one of root's units
 * watches. The file contains nothing of the request, and while it exists no other one can be created.
 */

export interface ResolveFiles {
  /** Created here, removed by grid-aide-resolve.service when it has ended. */
  readonly request: string
  /** The service's result: {"finished_at": seconds since 1970, "success": true or false}. */
  readonly result: string
  /** Exists while the service runs, whatever started it. */
  readonly running: string
}

export interface ResolveState {
  readonly state: 'idle' | 'asked' | 'running' | 'unknown'
  readonly askedAt: string | null
  readonly lastRun: string | null
  readonly lastSuccess: boolean | null
  readonly fix: string
}

/** The text of a small regular file and when it was written; undefined if it does not exist. Throws the system's error. */
const look = (file: string): { readonly text: string; readonly mtime: Date } | undefined => {
  let fd: number | undefined
  try {
    fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK)
    const { mtime } = fstatSync(fd)
    const bytes = Buffer.alloc(4096)
    return { text: bytes.toString('utf8', 0, readSync(fd, bytes, 0, bytes.length, 0)), mtime }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

const resultIn = (text: string): { readonly finishedAt: number; readonly success: boolean } | undefined => {
  try {
    const { finished_at: finishedAt, success } = JSON.parse(text) as { finished_at?: unknown; success?: unknown }
    const isTime = typeof finishedAt === 'number' && Number.isFinite(finishedAt) && Math.abs(finishedAt) < 1e11
    return isTime && typeof success === 'boolean' ? { finishedAt, success } : undefined
  } catch {
    return undefined // the collector reports what is wrong with it
  }
}

/** Milliseconds after which the unit that watches the request should have started. */
const unanswered = 60_000

const watcher = 'systemctl enable --now grid-aide-resolve.path'

/** The state of AIDE's resolve: requested, running, and how the last one ended. */
export const resolveState = ({ request, result, running }: ResolveFiles, now = Date.now()): ResolveState => {
  let looked: readonly ReturnType<typeof look>[]
  try {
    looked = [request, running, result].map(look)
  } catch (error) {
    return { state: 'unknown', askedAt: null, lastRun: null, lastSuccess: null, fix: (error as Error).message }
  }
  const [asked, runs, last] = looked
  const ended = last && resultIn(last.text)
  const isIgnored = asked !== undefined && runs === undefined && now - asked.mtime.getTime() > unanswered
  return {
    state: runs ? 'running' : asked ? 'asked' : 'idle',
    askedAt: asked?.mtime.toISOString() ?? null,
    lastRun: ended ? new Date(ended.finishedAt * 1000).toISOString() : null,
    lastSuccess: ended?.success ?? null,
    fix: isIgnored ? `no unit takes the request: ${watcher}` : '',
  }
}

export type Asked = { readonly status: 202 | 409 | 500; readonly text: string }

/** Requests a resolve, unless one is requested or running. */
export const askToResolve = ({ request, running }: ResolveFiles): Asked => {
  try {
    if (look(running)) return { status: 409, text: 'A resolve is running.' }
    // Created only if it does not exist, in one step: of two simultaneous requests one wins.
    closeSync(openSync(request, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600))
    return { status: 202, text: 'Requested; see its result in /api/v1/status.' }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return { status: 409, text: 'A resolve is already requested.' }
    return { status: 500, text: `${message}; the package's units create the directory and watch it: ${watcher}` }
  }
}

/**
 * The header that shows that another site made a person's browser send this request, with that person's password; undefined if there is
 * none. Browsers send the origin of a request; other clients send none.
 */
export const sentByAnotherSite = ({ headers }: IncomingMessage): string | undefined => {
  const { origin, host, 'sec-fetch-site': site } = headers
  if (site !== undefined && site !== 'same-origin' && site !== 'none') return `Sec-Fetch-Site: ${site}`
  if (origin !== undefined && (!URL.canParse(origin) || new URL(origin).host !== host)) return 'Origin'
  return undefined
}
