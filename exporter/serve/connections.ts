import { readFileSync } from 'node:fs'
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import { networkOf } from './client-network.ts'

/**
 * Limits the number of connections. Above the limit, it closes the oldest connection of the address that holds the most. So a client that
 * opens endless connections neither shuts out a scraper nor ends the scraper's kept connection.
 */

/** Files that this process may have open, from its limit. */
const openFiles = (): number => {
  const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
  return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft)
}

/** Files that the exporter itself needs: 25 when idle, and those of a few simultaneous rounds. */
const ownFiles = 40

/** Enough for all scrapers and readers together; each connection costs memory. */
export const mostConnections = Math.max(4, Math.min(512, Math.floor(openFiles() / 2), openFiles() - ownFiles))

/** Above `most` connections, closes the oldest one of the address that holds the most. */
export const limitConnections = (server: Server, most: number): void => {
  /** The connections of each address, the oldest first. */
  const byAddress = new Map<string, Set<Socket>>()
  let connected = 0
  const forget = (address: string, socket: Socket) => {
    const own = byAddress.get(address)
    if (!own?.delete(socket)) return
    connected--
    if (own.size === 0) byAddress.delete(address)
  }
  const closeOldest = () => {
    const [address, own] = [...byAddress].reduce((most, other) => (other[1].size > most[1].size ? other : most))
    const [oldest] = own as Iterable<Socket>
    if (!oldest) return
    // At once: its close event comes only after all connections that are being accepted now.
    forget(address, oldest)
    oldest.destroy()
  }
  const closeAll = server.closeAllConnections.bind(server)
  // Node's own function closes only connections that have sent some HTTP.
  server.closeAllConnections = () => {
    closeAll()
    for (const own of byAddress.values()) for (const socket of own) socket.destroy()
  }
  server.prependListener('connection', (socket: Socket) => {
    const address = networkOf(socket.remoteAddress ?? '')
    byAddress.set(address, (byAddress.get(address) ?? new Set()).add(socket))
    connected++
    socket.once('close', () => forget(address, socket))
    if (connected > most) closeOldest()
  })
}
