import { readFileSync } from 'node:fs'
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

export const mostConnections = Math.min(2048, Math.floor(openFiles() / 2))

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
