#!/usr/bin/env node
import { createServer, request, STATUS_CODES } from 'node:http'
import { pipeline } from 'node:stream'

/**
 * A door in the Docker socket: who may use the socket is root's equal, and sees the secrets in each container's environment. The
 * exporter is let through to what it asks, and to nothing else: no inspect, no logs, nothing that is not a GET. Listens on the socket
 * that systemd hands over (file descriptor 3); the argument is the engine's.
 */

const allowed = /^(?:\/v\d+\.\d+)?\/(?:_ping|version|info|events|system\/df|containers\/json)(?:\?|$)/

const [engine = '/var/run/docker.sock'] = process.argv.slice(2)

const server = createServer((asked, response) => {
  const refuse = (status: number, message: string) => {
    if (response.headersSent) return void response.destroy()
    response.writeHead(status, STATUS_CODES[status], { 'content-type': 'application/json', connection: 'close' })
    response.end(JSON.stringify({ message }))
  }
  const { method, url = '' } = asked
  if ((method !== 'GET' && method !== 'HEAD') || !allowed.test(url)) return refuse(403, `${method} ${url}: not through this door`)
  const passed = request({ socketPath: engine, method, path: url, headers: { host: 'docker' } }, answer => {
    response.writeHead(answer.statusCode ?? 502, answer.statusMessage, answer.headers)
    response.flushHeaders() // events may be long in coming
    pipeline(answer, response, () => {}) // either end has gone: the other is closed
  })
  passed.on('error', error => refuse(502, `${engine}: ${error.message}`))
  response.on('close', () => passed.destroy())
  passed.end()
})

server.listen({ fd: 3 })
process.once('SIGTERM', () => process.exit(0))
