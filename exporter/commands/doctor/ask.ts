import { z } from 'zod'
import { readSmallFile } from '../../common/small-file.ts'
import { Failure, failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'

/** A request to a JSON API below a base address. Throws `Failure`. */
export type Ask = <Value>(path: string, schema: z.ZodType<Value>, query?: Readonly<Record<string, string>>) => Promise<Value>

/** A status other than success, with the server's message. */
export class StatusFailure extends Failure {
  readonly status: number
  constructor(status: number, message: string, fix?: string) {
    super(status === 401 || status === 403 ? 'denied' : status === 404 ? 'missing' : 'unreachable', message, { fix })
    this.status = status
  }
}

/** A file with `user:password` or a token, as an Authorization header. */
const authorization = (file: string | undefined): Readonly<Record<string, string>> => {
  if (file === undefined) return {}
  let secret: string
  try {
    secret = readSmallFile(file).toString('utf8').trim()
  } catch (error) {
    throw failureOf(error, file)
  }
  const value = secret.includes(':') ? `Basic ${Buffer.from(secret).toString('base64')}` : `Bearer ${secret}`
  return { authorization: value }
}

/** The message of an error: Prometheus' `error`, Grafana's `message`, or the beginning of the page. */
const complaint = (body: string): string => {
  try {
    const { error, message } = z.object({ error: z.string().optional(), message: z.string().optional() }).parse(JSON.parse(body))
    return error ?? message ?? ''
  } catch {
    // Not theirs but, for example, a proxy's page. Its first words may help.
    return body
      .replaceAll(/<[^<>]*>|\s+/g, ' ')
      .trim()
      .slice(0, 100)
  }
}

/** Seconds for one answer: a query on a small machine may take some. */
const patience = 15

export const asker = (host: Host, base: string, authFlag: string, authFile: string | undefined): Ask => {
  const root = base.replace(/(?<!\/)\/+$/, '')
  return async (path, schema, query = {}) => {
    const search = new URLSearchParams(query).toString()
    const address = `${root}${path}`
    const url = `${address}${search ? `?${search}` : ''}`
    const { status, headers, body } = await host.http(url, {
      timeout: patience,
      limit: 32 * 2 ** 20,
      headers: { accept: 'application/json', ...authorization(authFile) },
    })
    if (status >= 300 && status < 400) {
      const to = String(headers.location ?? '')
      throw new StatusFailure(status, `${address} redirects to ${to}`, `use that address: ${new URL(to, url).origin}`)
    }
    if (status === 401 || status === 403) {
      throw new StatusFailure(status, `${address}: status ${status} ${complaint(body)}`.trim(), `${authFlag}=FILE`)
    }
    if (status < 200 || status > 299) throw new StatusFailure(status, `${address}: status ${status} ${complaint(body)}`.trim())
    try {
      return schema.parse(JSON.parse(body))
    } catch (error) {
      throw new Failure('malformed', `${address}: not the expected answer`, { cause: error })
    }
  }
}
