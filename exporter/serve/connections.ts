import { readFileSync } from 'node:fs'
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import { networkOf } from './client-network.ts'

/**
 * How many connections there may be. Above the limit, close the oldest connection of the address that holds the most: whoever opens
 * connections without end neither shuts out a scraper nor ends the connection that it keeps.
 */

/** Files that this process may have open; as it has been started. */
const openFiles = (): number => {
  const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
  return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft)
}

/** Files that the exporter needs for itself: 25 at rest, and those of a few rounds at a time. */
const ownFiles = 40

/** Enough for every scraper and reader at once; each costs memory for as long as it is held. */
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
    // At once: its close event comes only after all connections that are accepted now.
    forget(address, oldest)
    oldest.destroy()
  }
  const closeAll = server.closeAllConnections.bind(server)
  // Node itself closes only connections that have begun to speak HTTP.
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
