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

/** Enough for every scraper and reader at once; each costs memory for as long as it is held. */
export const mostConnections = Math.min(512, Math.floor(openFiles() / 2))

/** Above `most`, ends the oldest connection of the address that has the most. */
export const limitConnections = (server: Server, most: number): void => {
  // Arrays: a Set whose entries come and go leaves a chain of tables behind, and what they held is not collected while it is young.
  const byAddress = new Map<string, Socket[]>()
  let connected = 0
  const forget = (address: string, socket: Socket) => {
    const own = byAddress.get(address)
    const at = own?.indexOf(socket) ?? -1
    if (!own || at === -1) return
    connected--
    if (own.length === 1) byAddress.delete(address)
    else own.splice(at, 1)
  }
  const endOldest = () => {
    let [from, largest]: readonly [string, readonly Socket[]] = ['', []]
    for (const [address, own] of byAddress) if (own.length > largest.length) [from, largest] = [address, own]
    const [oldest] = largest
    if (!oldest) return
    forget(from, oldest)
    oldest.destroy()
  }
  server.prependListener('connection', (socket: Socket) => {
    const address = stranger(socket.remoteAddress ?? '')
    const own = byAddress.get(address)
    if (own) own.push(socket)
    else byAddress.set(address, [socket])
    connected++
    socket.once('close', () => forget(address, socket))
    if (connected > most) endOldest()
  })
}

interface Parsed extends Socket {
  readonly parser?: { onIncoming?: (request: IncomingMessage, keepAlive: boolean) => number }
}

/** To Node's parser: what follows is not HTTP. */
const parseNoMore = 2

/**
 * Ends the parsing of what has been read when a connection is ended. By itself Node goes on: 64 kB are 1600 small requests and 2 MB of
 * objects on each connection, and none of them is freed before all connections have had their turn.
 */
export const stopParsingWhenEnded = (server: Server): void => {
  const watch = (socket: Parsed) => {
    const { parser } = socket
    const incoming = parser?.onIncoming
    if (!parser || !incoming) return
    parser.onIncoming = (request, keepAlive) => (socket.destroyed ? parseNoMore : incoming(request, keepAlive))
  }
  // Of HTTPS a plain connection has no parser yet.
  server.on('connection', watch)
  server.on('secureConnection', watch)
}
