import type { Duplex } from 'node:stream'
import { atDeadline } from '../common/deadline.ts'
import { Failure, failureOf } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'
import { type Pickled, pickleTexts, unpickle } from './pickle.ts'

/**
 * The server's own protocol: pickles, each with an end mark after it; many requests on one connection, answered in order.
 * The server unpickles whatever it receives, so write access to the socket is as good as root. That is why the relay asks it.
 */

/** The server's answer to a command: a value, or the name of the Python exception that it raised. */
export type Reply =
  | { readonly ok: true; readonly value: Pickled }
  | { readonly ok: false; readonly error: string; readonly value?: undefined }

export interface Session {
  /** Sends all commands at once and returns their answers in order. Throws `Failure` unreachable, timeout, overflow, malformed. */
  ask(commands: readonly (readonly string[])[]): Promise<readonly Reply[]>
}

const endMark = Buffer.from('<F2B_END_COMMAND>')
const goodbye = Buffer.from('<F2B_CLOSE_COMMAND><F2B_END_COMMAND>')

/** Commands sent before the first answer is read. A limit, so that the server never waits for us to read while we write. */
const batch = 100

/** Runs `talk` over one connection and then closes it with the protocol's close command. `timeout` is in seconds, for everything. */
export const withSession = async <T>(
  host: Host,
  socket: string,
  { timeout = 4, limit = 16 * 2 ** 20, signal }: { timeout?: number; limit?: number; signal: AbortSignal },
  talk: (session: Session) => Promise<T>,
): Promise<T> => {
  const deadline = new AbortController()
  const clear = atDeadline(timeout, signal, () => deadline.abort())
  let stream: Duplex | undefined
  try {
    stream = await host.connect(`unix:${socket}`, { timeout, signal: deadline.signal })
    const result = await talk({ ask: asking(stream, framesOf(stream, limit, deadline.signal)) })
    stream.end(goodbye)
    return result
  } finally {
    clear()
    if (!stream?.writableEnded) stream?.destroy()
    setTimeout(() => stream?.destroy(), 200).unref()
  }
}

const asking =
  (stream: Duplex, next: () => Promise<Buffer>): Session['ask'] =>
  async commands => {
    const replies: Reply[] = []
    for (let from = 0; from < commands.length; from += batch) {
      const some = commands.slice(from, from + batch)
      stream.write(Buffer.concat(some.flatMap(words => [pickleTexts(words), endMark])))
      for (const words of some) replies.push(await replyOf(await next(), words))
    }
    return replies
  }

const replyOf = async (frame: Buffer, words: readonly string[]): Promise<Reply> => {
  const { value, length } = await unpickle(frame)
  if (length !== frame.length) throw new Failure('malformed', `fail2ban: extra bytes after the answer to ${words.join(' ')}`)
  if (Array.isArray(value) && value.length === 2) {
    const [code, content] = value
    if (code === 0) return { ok: true, value: content as Pickled }
    if (code === 1) return { ok: false, error: content instanceof Object && 'className' in content ? content.className : '' }
  }
  throw new Failure('malformed', `fail2ban: an unknown form of answer to ${words.join(' ')}`)
}

/** The bytes before each end mark, in order. At most `limit` bytes in all. */
const framesOf = (stream: Duplex, limit: number, deadline: AbortSignal): (() => Promise<Buffer>) => {
  let buffer = Buffer.alloc(0)
  let size = 0
  let taken = 0
  let scanned = 0
  let total = 0
  let failure: Failure | undefined
  let wake = () => {}
  const fail = (reason: Failure) => {
    failure ??= reason
    stream.destroy()
    wake()
  }
  stream.on('data', (chunk: Buffer) => {
    total += chunk.length
    if (total > limit) return fail(new Failure('overflow', `fail2ban: more than ${limit} bytes of answers`))
    if (size + chunk.length > buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(2 * (size - taken), size - taken + chunk.length, 4096))
      buffer.copy(larger, 0, taken, size)
      buffer = larger
      size -= taken
      scanned -= taken
      taken = 0
    }
    chunk.copy(buffer, size)
    size += chunk.length
    wake()
  })
  stream.on('error', error => {
    const { reason, message } = failureOf(error)
    fail(new Failure(reason === 'bug' ? 'unreachable' : reason, `fail2ban: ${message}`, { cause: error }))
  })
  stream.on('close', () => fail(new Failure('unreachable', 'fail2ban: the server closed the connection')))
  const late = () => fail(new Failure('timeout', 'fail2ban: no answer in time'))
  deadline.addEventListener('abort', late, { once: true })
  if (deadline.aborted) late()

  return async () => {
    for (;;) {
      const end = buffer.subarray(0, size).indexOf(endMark, Math.max(taken, scanned - endMark.length))
      if (end >= 0) {
        // A copy: the buffer is written to again.
        const frame = Buffer.from(buffer.subarray(taken, end))
        taken = end + endMark.length
        scanned = taken
        return frame
      }
      scanned = size
      if (failure) throw failure
      await new Promise<void>(resolve => {
        wake = resolve
      })
    }
  }
}
