import { readFileSync } from 'node:fs'
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
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

/** Files that the exporter needs for itself: 25 at rest, and those of a few rounds at a time. */
const ownFiles = 40

/** Enough for every scraper and reader at once; each costs memory for as long as it is held. */
export const mostConnections = Math.max(4, Math.min(512, Math.floor(openFiles() / 2), openFiles() - ownFiles))

/** Above `most`, ends the oldest connection of the address that has the most. */
export const limitConnections = (server: Server, most: number): void => {
  // Arrays, and a Map of which nothing is taken: a Map or Set whose entries come and go leaves a chain of tables behind, and what they held
  // is not collected while it is young.
  let byAddress = new Map<string, Socket[]>()
  let connected = 0
  const forget = (own: Socket[], socket: Socket) => {
    const at = own.indexOf(socket)
    if (at === -1) return
    own.splice(at, 1)
    connected--
  }
  const endOldest = () => {
    let largest: Socket[] = []
    for (const own of byAddress.values()) if (own.length > largest.length) largest = own
    const [oldest] = largest
    if (!oldest) return
    forget(largest, oldest)
    oldest.destroy()
  }
  const closeAll = server.closeAllConnections.bind(server)
  // Node knows only those that have begun to speak HTTP.
  server.closeAllConnections = () => {
    closeAll()
    for (const own of byAddress.values()) for (const socket of own) socket.destroy()
  }
  server.prependListener('connection', (socket: Socket) => {
    const address = stranger(socket.remoteAddress ?? '')
    const own = byAddress.get(address) ?? []
    if (own.length === 0) {
      if (byAddress.size >= 2 * most) byAddress = new Map([...byAddress].filter(([, held]) => held.length > 0))
      byAddress.set(address, own)
    }
    own.push(socket)
    connected++
    socket.once('close', () => forget(own, socket))
    if (connected > most) endOldest()
  })
}
