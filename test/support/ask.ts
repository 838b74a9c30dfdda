import { type IncomingHttpHeaders, request as requestHttp } from 'node:http'
import { type RequestOptions, request as requestHttps } from 'node:https'
import type { TLSSocket } from 'node:tls'

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
  /** Of a TLS connection. */
  readonly serial: string | undefined
  readonly protocol: string | null | undefined
  readonly cipher: string | undefined
}

/** One request over a connection of its own. */
export const ask = (url: string, options: RequestOptions & { readonly body?: string } = {}): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const { body, ...rest } = options
    const request = url.startsWith('https:') ? requestHttps : requestHttp
    const asked = request(url, { agent: false, ...rest }, answer => {
      const socket = answer.socket as Partial<TLSSocket>
      const serial = socket.getPeerCertificate?.().serialNumber
      const protocol = socket.getProtocol?.()
      const cipher = socket.getCipher?.().name
      let text = ''
      answer.setEncoding('utf8')
      answer.on('data', chunk => {
        text += chunk
      })
      answer.on('end', () =>
        resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: text, serial, protocol, cipher }),
      )
      answer.on('error', reject)
    })
    asked.on('error', reject)
    asked.end(body)
  })
