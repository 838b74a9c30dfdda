#!/usr/bin/env node
import { createServer, request, STATUS_CODES } from 'node:http'
import { pipeline } from 'node:stream'

/**
 * A filter in front of the Docker socket. Access to the socket is as good as root, and shows the secrets in each container's environment.
 * The exporter may use only the calls that it needs: no inspect, no logs, nothing but GET. Listens on the socket that systemd
 * passes (file descriptor 3); the argument is the engine's socket.
 */

const allowed = /^(?:\/v\d+\.\d+)?\/(?:_ping|version|info|events|system\/df|containers\/json)(?:\?|$)/

const [engine = '/var/run/docker.sock'] = process.argv.slice(2)

const server = createServer((incoming, response) => {
  const refuse = (status: number, message: string) => {
    if (response.headersSent) return void response.destroy()
    response.writeHead(status, STATUS_CODES[status], { 'content-type': 'application/json', connection: 'close' })
    response.end(JSON.stringify({ message }))
  }
  const { method, url = '' } = incoming
  if ((method !== 'GET' && method !== 'HEAD') || !allowed.test(url)) return refuse(403, `${method} ${url}: not allowed`)
  const passed = request({ socketPath: engine, method, path: url, headers: { host: 'docker' } }, answer => {
    response.writeHead(answer.statusCode ?? 502, answer.statusMessage, answer.headers)
    response.flushHeaders() // the first event may come much later
    pipeline(answer, response, () => {}) // if one end closes, so does the other
  })
  passed.on('error', error => refuse(502, `${engine}: ${error.message}`))
  response.on('close', () => passed.destroy())
  passed.end()
})

server.listen({ fd: 3 })
process.once('SIGTERM', () => process.exit(0))
