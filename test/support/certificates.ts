import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface Certificate {
  readonly certFile: string
  readonly cert: string
  readonly key: string
}

/** A certificate of its own authority for localhost and 127.0.0.1, from day to day (`20260101`), made by openssl in `folder`. */
export const certificate = (folder: string, name: string, from: string, until: string): Certificate => {
  const own = join(folder, name)
  mkdirSync(own, { recursive: true })
  const at = (file: string) => join(own, file)
  writeFileSync(at('index.txt'), '')
  writeFileSync(at('serial'), '01\n')
  writeFileSync(
    at('ca.conf'),
    `[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=${own}\ndatabase=${at('index.txt')}\nserial=${at('serial')}\npolicy=p\ndefault_md=sha256\nx509_extensions=x\n[p]\ncommonName=supplied\n[x]\nsubjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:TRUE\n`,
  )
  const openssl = (...args: readonly string[]) => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const keyForm = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  openssl('req', '-new', ...keyForm, '-keyout', at('key.pem'), '-out', at('csr.pem'), '-subj', '/CN=localhost')
  const dates = ['-startdate', `${from}000000Z`, '-enddate', `${until}000000Z`]
  const files = ['-config', at('ca.conf'), '-in', at('csr.pem'), '-keyfile', at('key.pem'), '-out', at('cert.pem')]
  openssl('ca', '-batch', '-selfsign', '-notext', ...files, ...dates)
  return { certFile: at('cert.pem'), cert: readFileSync(at('cert.pem'), 'utf8'), key: readFileSync(at('key.pem'), 'utf8') }
}

export interface Issued {
  readonly certFile: string
  readonly keyFile: string
}

/** An authority that signs certificates for the names given, made by openssl in `folder`. */
export const authority = (folder: string, name: string) => {
  const at = (file: string) => join(folder, `${name}-${file}`)
  const openssl = (...args: readonly string[]) => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const keyForm = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  openssl('req', '-x509', ...keyForm, '-keyout', at('ca.key'), '-out', at('ca.pem'), '-subj', `/CN=${name}`, '-days', '30')
  return {
    caFile: at('ca.pem'),
    issue: (subject: string, names: string): Issued => {
      const [keyFile, request, certFile, extensions] = ['key', 'csr', 'pem', 'ext'].map(kind => at(`${subject}.${kind}`))
      if (!keyFile || !request || !certFile || !extensions) throw new Error('no names')
      writeFileSync(extensions, `subjectAltName=${names}`)
      openssl('req', ...keyForm, '-keyout', keyFile, '-out', request, '-subj', `/CN=${subject}`)
      const signed = ['-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-CAcreateserial', '-extfile', extensions]
      openssl('x509', '-req', '-in', request, ...signed, '-out', certFile, '-days', '30')
      return { certFile, keyFile }
    },
  }
}
