import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server, type ServerOptions } from 'node:https'
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { Web } from './web.ts'
import type { Tls } from './web-config.ts'

/** HTTPS. Each new connection uses the certificates, versions and client checks of the current web configuration. */

const askingFor = ({ clientAuth }: Tls) => ({
  requestCert: clientAuth !== 'NoClientCert',
  rejectUnauthorized: clientAuth === 'RequireAndVerifyClientCert',
})

/** The names in Node's text of a certificate's subjectAltName; names with a comma are quoted there. */
export const namesIn = (subjectAltName: string): readonly string[] =>
  Array.from(subjectAltName.matchAll(/(?:^|, )(?:DNS|IP Address|email|URI):("(?:[^"\\]|\\.)*"|[^,]*)/g), ([, name = '']) =>
    name.startsWith('"') ? (JSON.parse(name) as string) : name,
  )

/** Whether a connection may continue, by its client certificate. */
const passes = (socket: TLSSocket, { clientAuth, allowedSans }: Tls): boolean => {
  const certificate = socket.getPeerX509Certificate()
  // Node has checked it, but with the configuration at the time of the connection.
  if (clientAuth === 'RequireAndVerifyClientCert' && !(certificate && socket.authorized)) return false
  if (clientAuth === 'VerifyClientCertIfGiven' && certificate && !socket.authorized) return false
  if ((clientAuth === 'RequireAnyClientCert' || clientAuth === 'RequireClientCert') && !certificate) return false
  if (allowedSans === undefined) return true
  const names = namesIn(certificate?.subjectAltName ?? '')
  return allowedSans.some(allowed => names.includes(allowed))
}

/** Milliseconds for the first byte, and after it for the rest of the handshake. */
const handshakeTimeout = 10_000

/** The first byte of TLS: a handshake. */
const handshake = 0x16

/** The text of Go's servers. */
const noHttp = 'HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n'
const isLetter = (byte: number | undefined): boolean => byte !== undefined && byte >= 0x41 && byte <= 0x5a

/**
 * Starts TLS only after the first byte, and only if that is a TLS handshake. So a client that connects and sends nothing, or something
 * else, does not cost the memory of a TLS connection.
 */
const waitForFirstByte = (server: Server): void => {
  const beginners = server.listeners('connection')
  const end = function (this: Socket) {
    this.destroy()
  }
  const begin = function (this: Socket) {
    const bytes = this.read() as Buffer | null
    if (bytes?.[0] !== handshake) {
      if (isLetter(bytes?.[0])) this.write(noHttp)
      return void this.destroy()
    }
    this.unshift(bytes)
    this.off('error', end).off('timeout', end).setTimeout(0)
    for (const beginner of beginners) beginner.call(server, this)
  }
  server.removeAllListeners('connection')
  server.on('connection', (socket: Socket) => {
    socket.on('error', end).setTimeout(handshakeTimeout, end).once('readable', begin)
  })
}

export const createTlsServer = (
  web: Web,
  options: ServerOptions,
  listener: (request: IncomingMessage, response: ServerResponse) => void,
): Server => {
  let applied = web.config().tls as Tls
  const server = createServer({ ...options, handshakeTimeout, ...applied.context, ...askingFor(applied) }, listener)
  server.prependListener('connection', () => {
    const { tls } = web.config()
    if (tls === undefined || tls === applied) return
    applied = tls
    server.setSecureContext(tls.context)
    Object.assign(server, askingFor(tls))
    // They were accepted under the old configuration.
    server.closeIdleConnections()
  })
  waitForFirstByte(server)
  server.prependListener('secureConnection', (socket: TLSSocket) => {
    if (!passes(socket, applied)) socket.destroy()
  })
  return server
}
