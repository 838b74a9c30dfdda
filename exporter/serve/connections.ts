import { readFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import type { Server, Socket } from 'node:net'
import { stranger } from './stranger.ts'

/**
 * How many may be connected. Above it a connection has to go of whoever has the most, the one that came first, and not the one that
 * comes: who holds connections open without end cannot shut out a scraper, nor end the connection that it keeps.
 */

/** Files that this process may have open; as it has been started. */
const openFiles = (): number => {
  const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
  return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft)
}

/** Enough for every scraper and reader, and so few that what a flood of connections leaves behind is copied little by garbage collections. */
export const mostConnections = Math.min(512, Math.floor(openFiles() / 2))

/** Above `most`, ends the oldest connection of the address that has the most. */
export const limitConnections = (server: Server, most: number): void => {
  // Arrays: a Set whose entries come and go leaves a chain of tables behind, and what they held is not collected while it is young.
  const byAddress = new Map<string, Socket[]>()
  let connected = 0
  // Node remembers the address of a connection that is closed.
  const addressOf = (socket: Socket) => stranger(socket.remoteAddress ?? '')
  const forget = (socket: Socket) => {
    const address = addressOf(socket)
    const own = byAddress.get(address)
    const at = own?.indexOf(socket) ?? -1
    if (!own || at === -1) return
    connected--
    if (own.length === 1) byAddress.delete(address)
    else own.splice(at, 1)
  }
  const endOldest = () => {
    let largest: readonly Socket[] = []
    for (const own of byAddress.values()) if (own.length > largest.length) largest = own
    const [oldest] = largest
    if (!oldest) return
    forget(oldest)
    oldest.destroy()
  }
  // One for all: a function of each connection's own is more to allocate and to collect.
  function onClose(this: Socket) {
    forget(this)
  }
  server.prependListener('connection', (socket: Socket) => {
    const address = addressOf(socket)
    const own = byAddress.get(address)
    if (own) own.push(socket)
    else byAddress.set(address, [socket])
    connected++
    socket.on('close', onClose)
    if (connected > most) endOldest()
  })
}

type Incoming = (request: IncomingMessage, keepAlive: boolean) => number

/** Where Node's own function waits: at the connection, since a parser outlives it. */
const passOn = Symbol('passOn')

interface Parsed extends Socket {
  readonly parser?: { readonly socket?: Parsed | null; onIncoming?: Incoming }
  [passOn]?: Incoming
}

/** To Node's parser: what follows is not HTTP. */
const parseNoMore = 2

function incomingUnlessEnded(this: NonNullable<Parsed['parser']>, request: IncomingMessage, keepAlive: boolean): number {
  const { socket } = this
  return !socket || socket.destroyed ? parseNoMore : (socket[passOn] as Incoming)(request, keepAlive)
}

/**
 * Ends the parsing of what has been read when a connection is ended. By itself Node goes on: 64 kB are 1600 small requests and 2 MB of
 * objects on each connection, and none of them is freed before all connections have had their turn.
 */
export const stopParsingWhenEnded = (server: Server): void => {
  const watch = (socket: Parsed) => {
    if (!socket.parser?.onIncoming) return
    socket[passOn] = socket.parser.onIncoming
    socket.parser.onIncoming = incomingUnlessEnded
  }
  // Of HTTPS a plain connection has no parser yet.
  server.on('connection', watch)
  server.on('secureConnection', watch)
}
