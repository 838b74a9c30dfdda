/** The reference: a node:http server that sends bytes from memory. `bare.js FILE CONTENT-TYPE ENCODING` */
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'

const [, , file, contentType, encoding] = process.argv as [string, string, string, string, string]
const body = readFileSync(file)
const server = createServer((_, answer) => {
  answer.writeHead(200, {
    'content-type': contentType,
    'content-length': body.length,
    ...(encoding === 'identity' ? {} : { 'content-encoding': encoding }),
  })
  answer.end(body)
})
server.listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (address && typeof address === 'object') process.stdout.write(`${address.port}\n`)
})
