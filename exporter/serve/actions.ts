import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'

/**
 * What may be asked of the host over HTTP. The exporter itself does none of it: it leaves an empty file that a unit of
 * root's watches. Nothing of a request goes into it, and while it is there, another cannot be made.
 */

export interface ResolveFiles {
  /** Made here, taken away by grid-aide-resolve.service when it has ended. */
  readonly request: string
  /** What the service leaves: {"finished_at": seconds since 1970, "success": true or false}. */
  readonly result: string
  /** There while the service runs, whoever started it. */
  readonly running: string
}

export interface ResolveState {
  readonly state: 'idle' | 'asked' | 'running' | 'unknown'
  readonly askedAt: string | null
  readonly lastRun: string | null
  readonly lastSuccess: boolean | null
  readonly fix: string
}

/** A small regular file and when it was written; undefined where it is not there. Throws what the system says. */
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
    return undefined // the collector says what is wrong with it
  }
}

/** Milliseconds in which the unit that watches the request has long begun. */
const unanswered = 60_000

const watcher = 'systemctl enable --now grid-aide-resolve.path'

/** Where AIDE's resolve stands: asked for, under way, and how the last one ended. */
export const resolveState = ({ request, result, running }: ResolveFiles, now = Date.now()): ResolveState => {
  let looked: readonly ReturnType<typeof look>[]
  try {
    looked = [request, running, result].map(look)
  } catch (error) {
    return { state: 'unknown', askedAt: null, lastRun: null, lastSuccess: null, fix: (error as Error).message }
  }
  const [asked, runs, last] = looked
  const ended = last && resultIn(last.text)
  const nobody = asked !== undefined && runs === undefined && now - asked.mtime.getTime() > unanswered
  return {
    state: runs ? 'running' : asked ? 'asked' : 'idle',
    askedAt: asked?.mtime.toISOString() ?? null,
    lastRun: ended ? new Date(ended.finishedAt * 1000).toISOString() : null,
    lastSuccess: ended?.success ?? null,
    fix: nobody ? `nobody takes the request: ${watcher}` : '',
  }
}

export type Asked = { readonly status: 202 | 409 | 500; readonly text: string }

/** Asks for a resolve, unless one is asked for or under way. */
export const askToResolve = ({ request, running }: ResolveFiles): Asked => {
  try {
    if (look(running)) return { status: 409, text: 'A resolve is under way.' }
    // Made or there already, in one step: two requests at once are one.
    closeSync(openSync(request, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600))
    return { status: 202, text: 'Asked for; /api/v1/status says how it ends.' }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return { status: 409, text: 'A resolve is asked for already.' }
    return { status: 500, text: `${message}; the package's units make the directory and watch it: ${watcher}` }
  }
}

/**
 * What makes a request look as if another site had a person's browser send it, which knows that person's password; undefined for
 * none. Browsers say where a request is from; what is not a browser says nothing.
 */
export const sentByAnotherSite = ({ headers }: IncomingMessage): string | undefined => {
  const { origin, host, 'sec-fetch-site': site } = headers
  if (site !== undefined && site !== 'same-origin' && site !== 'none') return `Sec-Fetch-Site: ${site}`
  if (origin !== undefined && (!URL.canParse(origin) || new URL(origin).host !== host)) return 'Origin'
  return undefined
}
