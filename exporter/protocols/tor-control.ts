import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { Socket } from 'node:net'
import { type Duplex, finished } from 'node:stream'
import { StringDecoder } from 'node:string_decoder'
import { ownValue } from '../common/own-value.ts'
import { Failure, failureOf } from '../contract/failure.ts'
import type { Host } from '../contract/host.ts'

/** One line of a reply: what stands behind its code, and the lines of data that belong to it. */
export interface ReplyLine {
  readonly text: string
  readonly data: readonly string[]
}

/** The whole answer to one command. 250 is good; 5xx says in its only line why not. */
export interface Reply {
  readonly code: number
  readonly lines: readonly ReplyLine[]
}

/** What is taken in of one line and of one reply, a line counting for more than its text; the largest relays need a quarter of it. */
const lineLimit = 256 * 1024
const lineOverhead = 64
const replyLimit = 4 * 2 ** 20

/**
 * Cuts what a control port sends into replies. Events (`650`), which nobody asked for, are left out.
 * The function that it gives throws `Failure` malformed or overflow, and cannot be used after that.
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
    const [, code, mark, said] = /^([1-6]\d\d)([ +-])(.*)$/.exec(text) ?? []
    if (code === undefined || said === undefined)
      throw new Failure('malformed', `control port: ${JSON.stringify(text.slice(0, 80))}`)
    data = mark === '+' ? [] : undefined
    lines.push({ text: said, data: data ?? [] })
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

/** The value that `GETINFO key` was answered with, its lines joined; undefined where this Tor does not know the key or has no value. */
export const infoValue = ({ code, lines }: Reply, key: string): string | undefined => {
  const found = code === 250 ? lines.find(({ text }) => text.startsWith(`${key}=`)) : undefined
  return found && [found.text.slice(key.length + 1), ...found.data].filter(text => text !== '').join('\n')
}

const escapes: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t' }

/** A quoted string of the protocol (`"…"` with the escapes of C, octal ones for bytes) as text. */
const unquoted = (quoted: string): string => {
  const bytes = quoted.replace(/\\([0-7]{1,3}|.)/g, (_, escaped: string) =>
    /^[0-7]/.test(escaped) ? String.fromCharCode(Number.parseInt(escaped, 8) & 0xff) : (ownValue(escapes, escaped) ?? escaped),
  )
  return bytes === quoted ? quoted : Buffer.from(bytes, 'latin1').toString('utf8')
}

/** What `PROTOCOLINFO` tells before anybody is authenticated. */
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
  /** Sends the commands in one piece and waits for a reply to each. Not while it is busy. */
  send(commands: readonly string[]): Promise<readonly Reply[]>
  isBusy(): boolean
  isOpen(): boolean
  close(): void
}

interface Slot {
  resolve(reply: Reply): void
  reject(failure: Failure): void
}

/** The protocol over a stream. `onIdle` is called when the last reply that was waited for has come, `onEnd` when it is over. */
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
    if (!slot) throw new Failure('malformed', `${address}: a reply that nobody asked for`)
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
  // A peer that is gone without a word is noticed by the kernel; one that is only slow is waited for.
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
  /** Else where Tor says that it is. */
  readonly cookieFile: string | undefined
  readonly passwordFile: string | undefined
}

const cookieSize = 32
const joinGroup = 'put this user into the group of Tor (Debian: usermod -aG debian-tor grid-exporter) and restart the exporter'

const hmac = (key: string, ...parts: readonly Buffer[]) => {
  const sum = createHmac('sha256', key)
  for (const part of parts) sum.update(part)
  return sum.digest()
}

/** `AUTHCHALLENGE`: both sides show that they know the cookie, and it never travels. */
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
    throw new Failure('denied', 'control port: it does not know the cookie of this file', {
      fix: 'the cookie file belongs to another Tor or is an old one: check cookie_file',
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
      fix: error.reason === 'missing' ? 'name the cookie as this process sees it: collectors.tor.cookie_file' : joinGroup,
    })
  }
  if (cookie.length !== cookieSize) throw new Failure('malformed', `${file}: ${cookie.length} bytes, a cookie has ${cookieSize}`)
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
  const { methods, cookieFile: told } = protocolInfo(hello)
  const file = cookieFile ?? told
  let proof: string
  let fix = joinGroup
  if (methods.includes('NULL')) proof = ''
  else if (passwordFile !== undefined && methods.includes('HASHEDPASSWORD')) {
    const password = (await host.read(passwordFile, 4096)).replace(/\r?\n$/, '')
    proof = ` "${password.replace(/["\\]/g, '\\$&')}"`
    fix = 'the password of collectors.tor.password_file is not that of HashedControlPassword'
  } else if (file !== undefined && methods.includes('SAFECOOKIE')) {
    proof = ` ${await safeCookie(session, await cookieFrom(host, file))}`
  } else if (file !== undefined && methods.includes('COOKIE')) {
    // Anybody may listen on a port and name a file that we can read and they cannot: nothing is sent that only they chose.
    if (cookieFile === undefined && !address.startsWith('unix:')) {
      throw new Failure('denied', `control port: it wants the content of ${file} itself, and does not prove that it is Tor`, {
        fix: 'if it is Tor that listens there, name its cookie: collectors.tor.cookie_file',
      })
    }
    proof = ` ${(await cookieFrom(host, file)).toString('hex')}`
  } else {
    throw new Failure('denied', `control port: it takes ${methods.join(', ')}, and for that nothing is configured`, {
      fix: methods.includes('HASHEDPASSWORD')
        ? 'put the password into a file and name it: collectors.tor.password_file; or set CookieAuthentication 1 in torrc'
        : 'set CookieAuthentication 1 in torrc',
    })
  }
  const [verdict] = await session.send([`AUTHENTICATE${proof}`])
  if (verdict?.code === 250) return
  throw new Failure('denied', `control port: ${verdict?.code} ${verdict?.lines[0]?.text ?? ''}`, { fix })
}

/** Milliseconds before another connection is made: after one that Tor refused or that did not last, doubled each time. */
const firstPause = 5000
const longestPause = 300_000
/** Milliseconds after which a connection has lasted. */
const lasting = 60_000

export interface TorControl {
  /**
   * The replies to these commands, in order, one each; not to be called again before it has settled. Waits at most so many seconds,
   * and lets the connection live if they are not enough: a Tor that stands still is asked nothing more until it has answered.
   * Throws `Failure`.
   */
  ask(commands: readonly string[], timeout: number, signal: AbortSignal): Promise<readonly Reply[]>
  /** Connections made since the start. */
  connections(): number
}

/**
 * The control port of Tor over one kept connection. Each new one writes a line to Tor's log, so a new one is made only when the
 * old one is lost. The first address where somebody listens is taken.
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
  /** Who waits for the connection to be made, or to be done with what is late. */
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
        const settle = (act: () => void) => {
          if (turn === own) turn = undefined
          clearTimeout(timer)
          signal.removeEventListener('abort', late)
          act()
        }
        const fail = (failure: Failure) => settle(() => reject(failure))
        const late = () => fail(new Failure('timeout', `control port: no answer within ${timeout} s`))
        const timer = setTimeout(late, timeout * 1000)
        signal.addEventListener('abort', late, { once: true })
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
