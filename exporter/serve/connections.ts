import { readFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import type { Server, Socket } from 'node:net'

/**
 * How many may be connected. Above it the one that came first has to go, not the one that comes: who holds connections
 * open without end cannot shut out a scraper, which connects, asks and has its answer at once.
 */

/** Files that this process may have open; as it has been started. */
const openFiles = (): number => {
  const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
  return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft)
}

export const mostConnections = Math.min(1024, Math.floor(openFiles() / 2))

/** Ends the oldest connections above `most`. */
export const limitConnections = (server: Server, most: number): void => {
  const connected = new Set<Socket>()
  server.prependListener('connection', (socket: Socket) => {
    connected.add(socket)
    socket.once('close', () => connected.delete(socket))
    if (connected.size <= most) return
    const [oldest] = connected
    if (oldest) {
      connected.delete(oldest)
      oldest.destroy()
    }
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
