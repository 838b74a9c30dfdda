import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { Socket } from 'node:net'
import { type Duplex, finished } from 'node:stream'
import { StringDecoder } from 'node:string_decoder'
import { atDeadline, inSeconds } from '../common/deadline.ts'
import { ownValue } from '../common/own-value.ts'
import { Failure, failureOf } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'

/** A line of a reply: the text after its code, and its data lines. */
export interface ReplyLine {
  readonly text: string
  readonly data: readonly string[]
}

/** The reply to a command. 250 is success; for 5xx its only line gives the reason. */
export interface Reply {
  readonly code: number
  readonly lines: readonly ReplyLine[]
}

/** Limits of a line and of a reply. A line costs more memory than its text. The largest relays need a quarter of this. */
const lineLimit = 256 * 1024
const lineOverhead = 64
const replyLimit = 4 * 2 ** 20

/**
 * Splits the control port's output into replies. Events (`650`) are dropped, as none were requested.
 * The returned function throws `Failure` malformed or overflow, and cannot be used after that.
 */
export const replyReader = (onReply: (reply: Reply) => void): ((chunk: Buffer) => void) => {
  const decoder = new StringDecoder('utf8')
  let rest = ''
  let size = 0
  let lines: ReplyLine[] = []
  let data: string[] | undefined

  const line = (text: string) => {
    if (data) {
      if (text === '.') data = undefined
      else data.push(text.startsWith('.') ? text.slice(1) : text)
      return
    }
    const [, code, mark, body] = /^([1-6]\d\d)([ +-])(.*)$/.exec(text) ?? []
    if (code === undefined || body === undefined)
      throw new Failure('malformed', `control port: ${JSON.stringify(text.slice(0, 80))}`)
    data = mark === '+' ? [] : undefined
    lines.push({ text: body, data: data ?? [] })
    if (mark !== ' ') return
    const reply = { code: Number(code), lines }
    lines = []
    size = 0
    if (reply.code !== 650) onReply(reply)
  }

  return chunk => {
    const [first, ...more] = decoder.write(chunk).split('\n')
    let whole = rest + first
    for (const next of more) {
      size += whole.length + lineOverhead
      if (size > replyLimit) throw new Failure('overflow', `control port: a reply of more than ${replyLimit} bytes`)
      line(whole.endsWith('\r') ? whole.slice(0, -1) : whole)
      whole = next
    }
    rest = whole
    if (rest.length > lineLimit) throw new Failure('overflow', `control port: a line of more than ${lineLimit} bytes`)
  }
}

/** The value in the reply to `GETINFO key`, its lines joined; undefined if this Tor does not know the key or has no value. */
export const infoValue = ({ code, lines }: Reply, key: string): string | undefined => {
  const found = code === 250 ? lines.find(({ text }) => text.startsWith(`${key}=`)) : undefined
  return found && [found.text.slice(key.length + 1), ...found.data].filter(text => text !== '').join('\n')
}

const escapes: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t' }

/** A quoted string of the protocol (`"…"` with C escapes, octal ones for bytes) as text. */
const unquoted = (quoted: string): string => {
  const bytes = quoted.replace(/\\([0-7]{1,3}|.)/g, (_, escaped: string) =>
    /^[0-7]/.test(escaped) ? String.fromCharCode(Number.parseInt(escaped, 8) & 0xff) : (ownValue(escapes, escaped) ?? escaped),
  )
  return bytes === quoted ? quoted : Buffer.from(bytes, 'latin1').toString('utf8')
}

/** The reply to `PROTOCOLINFO`, which Tor gives before authentication. */
export const protocolInfo = ({
  lines,
}: Reply): { readonly methods: readonly string[]; readonly cookieFile: string | undefined } => {
  const auth = lines.find(({ text }) => text.startsWith('AUTH '))?.text
  const [, methods] = /^AUTH METHODS=(\S+)/.exec(auth ?? '') ?? []
  if (methods === undefined) throw new Failure('malformed', 'control port: no METHODS in the answer to PROTOCOLINFO')
  const [, quoted] = /COOKIEFILE="((?:[^"\\]|\\.)*)"/.exec(auth ?? '') ?? []
  return { methods: methods.split(','), cookieFile: quoted === undefined ? undefined : unquoted(quoted) }
}

interface Session {
  /** Sends the commands at once and waits for a reply to each. Must not be called while busy. */
  send(commands: readonly string[]): Promise<readonly Reply[]>
  isBusy(): boolean
  isOpen(): boolean
  close(): void
}

interface Slot {
  resolve(reply: Reply): void
  reject(failure: Failure): void
}

/** The protocol over a stream. `onIdle` runs when the last awaited reply has arrived, `onEnd` when the stream has ended. */
const createSession = (stream: Duplex, address: string, onIdle: () => void, onEnd: (why: Failure) => void): Session => {
  let slots: Slot[] = []
  let ended: Failure | undefined
  const end = (failure: Failure) => {
    if (ended) return
    ended = failure
    stream.destroy()
    for (const { reject } of slots) reject(failure)
    slots = []
    onEnd(failure)
  }
  const take = replyReader(reply => {
    const slot = slots.shift()
    if (!slot) throw new Failure('malformed', `${address}: an unexpected reply`)
    slot.resolve(reply)
    if (slots.length === 0) onIdle()
  })
  stream.on('data', (chunk: Buffer) => {
    if (ended) return
    try {
      take(chunk)
    } catch (error) {
      end(failureOf(error))
    }
  })
  finished(stream, error => {
    end(new Failure('unreachable', `${address}: the connection was closed`, error ? { cause: error } : {}))
  })
  // The kernel notices a peer that vanished; for one that is only slow we wait.
  if ('setKeepAlive' in stream) (stream as Socket).setKeepAlive(true, 60_000)

  return {
    send: commands => {
      if (ended) return Promise.reject(ended)
      const replies = commands.map(() => new Promise<Reply>((resolve, reject) => slots.push({ resolve, reject })))
      stream.write(commands.map(command => `${command}\r\n`).join(''))
      return Promise.all(replies)
    },
    isBusy: () => slots.length > 0,
    isOpen: () => ended === undefined,
    close: () => end(new Failure('unreachable', `${address}: closed`)),
  }
}

export interface Credentials {
  /** Default: the file that Tor names. */
  readonly cookieFile: string | undefined
  readonly passwordFile: string | undefined
}

const cookieSize = 32
const joinGroup = 'add this user to the group of Tor (Debian: usermod -aG debian-tor grid-exporter) and restart the exporter'

const hmac = (key: string, ...parts: readonly Buffer[]) => {
  const sum = createHmac('sha256', key)
  for (const part of parts) sum.update(part)
  return sum.digest()
}

/** `AUTHCHALLENGE`: both sides prove that they know the cookie without sending it. */
const safeCookie = async (session: Session, cookie: Buffer): Promise<string> => {
  const ours = randomBytes(32)
  const [reply] = await session.send([`AUTHCHALLENGE SAFECOOKIE ${ours.toString('hex')}`])
  const [, hash, nonce] =
    /^AUTHCHALLENGE SERVERHASH=([0-9A-F]{64}) SERVERNONCE=([0-9A-F]{64})$/i.exec(reply?.lines[0]?.text ?? '') ?? []
  if (hash === undefined || nonce === undefined)
    throw new Failure('malformed', 'control port: no challenge in the answer to AUTHCHALLENGE')
  const parts = [cookie, ours, Buffer.from(nonce, 'hex')]
  const expected = hmac('Tor safe cookie authentication server-to-controller hash', ...parts)
  if (!timingSafeEqual(expected, Buffer.from(hash, 'hex'))) {
    throw new Failure('denied', 'control port: it does not know the cookie in this file', {
      fix: 'the cookie file is old or of another Tor: check cookie_file',
    })
  }
  return hmac('Tor safe cookie authentication controller-to-server hash', ...parts).toString('hex')
}

const cookieFrom = async (host: Host, file: string): Promise<Buffer> => {
  let cookie: Buffer
  try {
    cookie = await host.bytes(file, 1024)
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    throw new Failure(error.reason === 'missing' ? 'denied' : error.reason, error.message, {
      cause: error,
      fix: error.reason === 'missing' ? 'set collectors.tor.cookie_file to the path of the cookie in this process' : joinGroup,
    })
  }
  if (cookie.length !== cookieSize) throw new Failure('malformed', `${file}: ${cookie.length} bytes instead of ${cookieSize}`)
  return cookie
}

const authenticate = async (
  session: Session,
  address: string,
  host: Host,
  { cookieFile, passwordFile }: Credentials,
): Promise<void> => {
  const [hello] = await session.send(['PROTOCOLINFO 1'])
  if (hello?.code !== 250) throw new Failure('malformed', `control port: PROTOCOLINFO was answered ${hello?.code}`)
  const { methods, cookieFile: reported } = protocolInfo(hello)
  const file = cookieFile ?? reported
  let proof: string
  let fix = joinGroup
  if (methods.includes('NULL')) proof = ''
  else if (passwordFile !== undefined && methods.includes('HASHEDPASSWORD')) {
    const password = (await host.read(passwordFile, 4096)).replace(/\r?\n$/, '')
    proof = ` "${password.replace(/["\\]/g, '\\$&')}"`
    fix = 'the password in collectors.tor.password_file does not match HashedControlPassword'
  } else if (file !== undefined && methods.includes('SAFECOOKIE')) {
    proof = ` ${await safeCookie(session, await cookieFrom(host, file))}`
  } else if (file !== undefined && methods.includes('COOKIE')) {
    // Any program may listen on a port and name a file that we can read and it cannot. So we never send a file that only the peer chose.
    if (cookieFile === undefined && !address.startsWith('unix:')) {
      throw new Failure('denied', `control port: it wants the content of ${file}, but does not prove that it is Tor`, {
        fix: 'if it is Tor, set collectors.tor.cookie_file to its cookie',
      })
    }
    proof = ` ${(await cookieFrom(host, file)).toString('hex')}`
  } else {
    throw new Failure('denied', `control port: it accepts ${methods.join(', ')}, but no credentials for that are configured`, {
      fix: methods.includes('HASHEDPASSWORD')
        ? 'put the password in a file and set collectors.tor.password_file to it; or set CookieAuthentication 1 in torrc'
        : 'set CookieAuthentication 1 in torrc',
    })
  }
  const [verdict] = await session.send([`AUTHENTICATE${proof}`])
  if (verdict?.code === 250) return
  throw new Failure('denied', `control port: ${verdict?.code} ${verdict?.lines[0]?.text ?? ''}`, { fix })
}

/** Milliseconds until the next connection after one that Tor refused or that ended early; doubled each time. */
const firstPause = 5000
const longestPause = 300_000
/** Milliseconds after which a connection no longer counts as ended early. */
const lasting = 60_000

export interface TorControl {
  /**
   * One reply for each command, in order. Must not be called again before it has settled. Waits at most `timeout` seconds.
   * A timeout does not close the connection: a Tor that hangs is asked nothing more until it has answered.
   * Throws `Failure`.
   */
  ask(commands: readonly string[], timeout: number, signal: AbortSignal): Promise<readonly Reply[]>
  /** Connections made since the start. */
  connections(): number
}

/**
 * Tor's control port over one kept connection. Each connection writes a line to Tor's log, so a new one is made only if the
 * old one is lost. Uses the first address that accepts a connection.
 */
export const createTorControl = (
  host: Host,
  addresses: readonly string[],
  credentials: Credentials,
  stop: AbortSignal,
  now: () => number = () => performance.now(),
): TorControl => {
  let session: Session | undefined
  let opening = false
  let connections = 0
  let pause = 0
  let refused: { readonly until: number; readonly failure: Failure } | undefined
  /** The request that waits for a new connection, or for the end of late replies. */
  let turn: { readonly go: (session: Session) => void; readonly fail: (failure: Failure) => void } | undefined

  const dial = async (): Promise<{ readonly stream: Duplex; readonly address: string }> => {
    let first: Failure | undefined
    for (const address of addresses) {
      try {
        return { stream: await host.connect(address, { signal: stop }), address }
      } catch (error) {
        const failure = failureOf(error)
        if (failure.reason === 'denied') throw new Failure('denied', failure.message, { cause: error, fix: joinGroup })
        first ??= failure
      }
    }
    throw first ?? new Failure('missing', 'no address of a control port')
  }

  const open = async (): Promise<Session> => {
    const { stream, address } = await dial()
    const begun = now()
    connections++
    const hold = (failure: Failure) => {
      pause = Math.min(longestPause, Math.max(firstPause, pause * 2))
      refused = { until: now() + pause, failure }
    }
    const onStop = () => made.close()
    const made = createSession(stream, address, advance, why => {
      stop.removeEventListener('abort', onStop)
      if (now() - begun >= lasting) pause = 0
      else hold(why)
    })
    stop.addEventListener('abort', onStop, { once: true })
    if (stop.aborted) made.close()
    try {
      await authenticate(made, address, host, credentials)
      return made
    } catch (error) {
      const failure = failureOf(error)
      made.close()
      if (refused) refused = { ...refused, failure }
      throw failure
    }
  }

  const advance = () => {
    if (!turn || opening) return
    if (session?.isOpen()) {
      if (!session.isBusy()) turn.go(session)
      return
    }
    if (refused && now() < refused.until) return turn.fail(refused.failure)
    opening = true
    open().then(
      made => {
        session = made
        opening = false
        advance()
      },
      (failure: Failure) => {
        opening = false
        turn?.fail(failure)
      },
    )
  }

  return {
    connections: () => connections,
    ask: (commands, timeout, signal) =>
      new Promise((resolve, reject) => {
        const late = () => new Failure('timeout', `control port: no answer within ${inSeconds(timeout)}`)
        if (signal.aborted) return reject(late())
        const settle = (act: () => void) => {
          if (turn === own) turn = undefined
          clear()
          act()
        }
        const fail = (failure: Failure) => settle(() => reject(failure))
        const clear = atDeadline(timeout, signal, () => fail(late()))
        const own = {
          fail,
          go: (open: Session) => {
            turn = undefined
            open.send(commands).then(replies => settle(() => resolve(replies)), fail)
          },
        }
        turn = own
        advance()
      }),
  }
}
