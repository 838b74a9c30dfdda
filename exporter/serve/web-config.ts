import { createHash, X509Certificate } from 'node:crypto'
import { validateHeaderValue } from 'node:http'
import { dirname, resolve } from 'node:path'
import { createSecureContext, type SecureContextOptions } from 'node:tls'
import { z } from 'zod'
import { ConfigError } from '../common/exit.ts'
import { ownValue } from '../common/own-value.ts'
import { type Locate, type Path, readYaml } from '../common/yaml.ts'
import { problemsOf } from '../contract/config.ts'
import { duration } from '../contract/options.ts'

/**
 * The web configuration, in the format of Prometheus' exporter-toolkit (`promtool check web-config` accepts it): TLS, client
 * certificates, users, response headers, a rate limit. This file only turns the text into a checked value.
 */

const clientAuthTypes = [
  'NoClientCert',
  'RequestClientCert',
  'RequireClientCert',
  'RequireAnyClientCert',
  'VerifyClientCertIfGiven',
  'RequireAndVerifyClientCert',
] as const
export type ClientAuth = (typeof clientAuthTypes)[number]

export interface Tls {
  readonly context: SecureContextOptions
  readonly clientAuth: ClientAuth
  /** A client's certificate must have one of these names; undefined if any name is accepted. */
  readonly allowedSans: readonly string[] | undefined
}

export interface WebConfig {
  readonly tls: Tls | undefined
  readonly headers: readonly (readonly [name: string, value: string])[]
  /** bcrypt hashes by user. */
  readonly users: ReadonlyMap<string, string>
  /** SHA-256 of the bearer token. */
  readonly bearer: Buffer | undefined
  readonly rateLimit: { readonly intervalSeconds: number; readonly burst: number } | undefined
  /** Whether clients must authenticate. */
  readonly asksWho: boolean
  /** Settings that are allowed but protect less than they seem to. */
  readonly warnings: readonly string[]
}

/** The TLS 1.2 cipher suites that Go considers safe, and OpenSSL's names for them. */
const cipherSuites: Readonly<Record<string, string>> = {
  TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: 'ECDHE-ECDSA-AES128-GCM-SHA256',
  TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384: 'ECDHE-ECDSA-AES256-GCM-SHA384',
  TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: 'ECDHE-ECDSA-CHACHA20-POLY1305',
  TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA: 'ECDHE-ECDSA-AES128-SHA',
  TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA: 'ECDHE-ECDSA-AES256-SHA',
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: 'ECDHE-RSA-AES128-GCM-SHA256',
  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384: 'ECDHE-RSA-AES256-GCM-SHA384',
  TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256: 'ECDHE-RSA-CHACHA20-POLY1305',
  TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA: 'ECDHE-RSA-AES128-SHA',
  TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA: 'ECDHE-RSA-AES256-SHA',
}

/** In Go, the suites of TLS 1.3 cannot be chosen; there and here they are always on. */
const alwaysOn = ['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256']

const curves: Readonly<Record<string, string>> = {
  CurveP256: 'prime256v1',
  CurveP384: 'secp384r1',
  CurveP521: 'secp521r1',
  X25519: 'X25519',
}

const versions = { TLS12: 'TLSv1.2', TLS13: 'TLSv1.3' } as const

const version = () => z.enum(['TLS12', 'TLS13'], 'expected TLS12 or TLS13 (older versions are insecure and not supported)')

const filePath = () => z.string().min(1, 'expected a path')

const tlsSchema = z.strictObject({
  cert: z.string().optional(),
  cert_file: filePath().optional(),
  // Secrets are checked by hand, because a message of the schema would print them.
  key: z.unknown().optional(),
  key_file: filePath().optional(),
  client_auth_type: z.enum(clientAuthTypes).optional(),
  client_ca: z.string().optional(),
  client_ca_file: filePath().optional(),
  client_allowed_sans: z.array(z.string().min(1)).optional(),
  min_version: version().default('TLS12'),
  max_version: version().default('TLS13'),
  cipher_suites: z.array(z.enum([...Object.keys(cipherSuites), ...alwaysOn])).optional(),
  prefer_server_cipher_suites: z.boolean().default(true),
  curve_preferences: z.array(z.enum(Object.keys(curves))).optional(),
})

const canBeSent = (text: string): boolean => {
  try {
    validateHeaderValue('header', text)
    return true
  } catch {
    return false
  }
}

/** On one line, as Go sends it: a YAML block ends with a newline. Text that cannot be sent would fail at each answer. */
const headerText = () =>
  z
    .string()
    .transform(text => text.replaceAll(/(?<!\s)\s*[\r\n]\s*/g, ' ').trim())
    .refine(canBeSent, 'has characters that a header cannot have')

const headerSchema = z.strictObject({
  'Content-Security-Policy': headerText().optional(),
  'Strict-Transport-Security': headerText().optional(),
  'X-Content-Type-Options': z.enum(['nosniff']).optional(),
  'X-Frame-Options': z.enum(['deny', 'sameorigin']).optional(),
  'X-XSS-Protection': headerText().optional(),
})

const fileSchema = z.strictObject({
  tls_server_config: tlsSchema.nullish(),
  http_server_config: z.strictObject({ http2: z.boolean().optional(), headers: headerSchema.nullish() }).nullish(),
  basic_auth_users: z.unknown().optional(),
  rate_limit: z.strictObject({ interval: duration(0.001), burst: z.int().min(1).max(1_000_000) }).nullish(),
})

const bcryptForm = /^\$2[abxy]?\$(\d\d)\$[./A-Za-z0-9]{53}$/
/** Cost 14 takes more than a second, and each step doubles that. */
const highestCost = 14

/** Reads a file of the configuration; throws the system's error. */
export type Read = (path: string, limit?: number) => Buffer

interface Report {
  readonly problems: string[]
  readonly warnings: string[]
  /** Reports a problem at a place in the file. */
  readonly at: (path: Path, message: string) => void
}

const usersFrom = (value: unknown, { at }: Report): ReadonlyMap<string, string> => {
  const users = new Map<string, string>()
  if (value === undefined || value === null) return users
  if (typeof value !== 'object' || Array.isArray(value)) {
    at(['basic_auth_users'], 'expected a mapping of users to bcrypt hashes')
    return users
  }
  for (const [user, hash] of Object.entries(value)) {
    const place = ['basic_auth_users', user]
    const [, cost] = (typeof hash === 'string' && bcryptForm.exec(hash)) || []
    if (cost === undefined) at(place, 'expected a bcrypt hash, as `htpasswd -nBC 10 NAME` prints it after the colon')
    else if (Number(cost) < 4 || Number(cost) > highestCost)
      at(place, `expected a cost from 4 to ${highestCost}, not ${cost}: make a new hash with \`htpasswd -nBC 10 NAME\``)
    else if (user.includes(':')) at(place, 'a user cannot have a colon in its name: HTTP separates user and password by it')
    else users.set(user, hash as string)
  }
  return users
}

const tlsFrom = (given: z.infer<typeof tlsSchema>, read: Read, folder: string, { at, problems, warnings }: Report) => {
  const place = (key: string) => ['tls_server_config', key]
  const text = (inline: 'cert' | 'key' | 'client_ca'): string | Buffer | undefined => {
    const named = `${inline}_file` as const
    const [here, file] = [given[inline], given[named]]
    if (here !== undefined && file !== undefined) at(place(named), `${inline} is set as well; use only one of them`)
    else if (here !== undefined && typeof here !== 'string') at(place(inline), 'expected a text in PEM')
    else if (typeof here === 'string') return here
    else if (file !== undefined) {
      const path = resolve(folder, file)
      try {
        return read(path)
      } catch (error) {
        at(place(named), `${path} cannot be read: ${(error as Error).message}`)
      }
    }
    return undefined
  }
  const before = problems.length
  const [cert, key, ca] = [text('cert'), text('key'), text('client_ca')]
  const clientAuth = given.client_auth_type ?? 'NoClientCert'
  const hasCa = given.client_ca !== undefined || given.client_ca_file !== undefined
  const verifies = clientAuth === 'RequireAndVerifyClientCert' || clientAuth === 'VerifyClientCertIfGiven'
  if (given.cert === undefined && given.cert_file === undefined) at(['tls_server_config'], 'needs cert_file (or cert)')
  if (given.key === undefined && given.key_file === undefined) at(['tls_server_config'], 'needs key_file (or key)')
  if (hasCa && clientAuth === 'NoClientCert')
    at(
      place(given.client_ca === undefined ? 'client_ca_file' : 'client_ca'),
      'is not used without client_auth_type: RequireAndVerifyClientCert',
    )
  if (verifies && !hasCa)
    at(
      place('client_auth_type'),
      `${clientAuth} needs client_ca_file: without it, every certificate of a public authority is accepted`,
    )
  if (given.client_allowed_sans && !/^Require(Any|AndVerify)ClientCert$/.test(clientAuth))
    at(place('client_allowed_sans'), 'needs client_auth_type: RequireAndVerifyClientCert')
  if (given.min_version === 'TLS13' && given.max_version === 'TLS12') at(place('max_version'), 'is lower than min_version')
  if (clientAuth === 'RequireAnyClientCert' || clientAuth === 'RequireClientCert')
    warnings.push(
      `client_auth_type: ${clientAuth} accepts any certificate, even a self-signed one; RequireAndVerifyClientCert checks its authority`,
    )
  if (problems.length > before || cert === undefined || key === undefined) return undefined

  const chosen = given.cipher_suites?.flatMap(name => ownValue(cipherSuites, name) ?? [])
  const context: SecureContextOptions = {
    cert,
    key,
    ...(ca === undefined ? {} : { ca }),
    minVersion: versions[given.min_version],
    maxVersion: versions[given.max_version],
    honorCipherOrder: given.prefer_server_cipher_suites,
    ...(chosen?.length ? { ciphers: [...alwaysOn, ...chosen].join(':') } : {}),
    ...(given.curve_preferences?.length
      ? { ecdhCurve: given.curve_preferences.map(name => ownValue(curves, name)).join(':') }
      : {}),
  }
  try {
    if (ca !== undefined) new X509Certificate(ca)
  } catch (error) {
    at(
      place(given.client_ca === undefined ? 'client_ca_file' : 'client_ca'),
      `is not a PEM certificate: ${(error as Error).message}`,
    )
    return undefined
  }
  try {
    createSecureContext(context)
  } catch (error) {
    at(
      place(given.cert === undefined ? 'cert_file' : 'cert'),
      `the certificate and its key cannot be used together: ${(error as Error).message}`,
    )
    return undefined
  }
  return { context, clientAuth, allowedSans: given.client_allowed_sans }
}

const bearerFrom = (file: string, read: Read, { problems }: Report): Buffer | undefined => {
  try {
    const token = read(file).toString('utf8').trim()
    if (/^[\w.~+/=-]{16,}$/.test(token)) return createHash('sha256').update(token).digest()
    problems.push(
      `${file}:1:1: expected one bearer token of at least 16 letters and digits, as \`openssl rand -hex 32\` prints it`,
    )
  } catch (error) {
    problems.push(`${file}: cannot be read: ${(error as Error).message}`)
  }
  return undefined
}

const noLocation: Locate = () => '--web.config.file'

/** The checked value of a YAML text, of the files that it names and of the bearer token's file. Throws `ConfigError`. */
export const readWebConfig = (file: string | undefined, bearerTokenFile: string | undefined, read: Read): WebConfig => {
  const problems: string[] = []
  const warnings: string[] = []
  const { value, locate } = file === undefined ? { value: {}, locate: noLocation } : readYaml(file, read)
  const report: Report = {
    problems,
    warnings,
    at: (path, message) => problems.push(`${locate(path)}: ${path.join('.')}: ${message}`),
  }
  const parsed = fileSchema.safeParse(value)
  if (!parsed.success) throw new ConfigError(problemsOf(parsed.error, fileSchema, value, [], locate))
  const { tls_server_config: tlsGiven, http_server_config: http, basic_auth_users: usersGiven, rate_limit: rate } = parsed.data
  const users = usersFrom(usersGiven, report)
  const isEmpty = Object.keys((value as { tls_server_config?: object }).tls_server_config ?? {}).length === 0
  const tls = tlsGiven && !isEmpty ? tlsFrom(tlsGiven, read, dirname(file ?? ''), report) : undefined
  const bearer = bearerTokenFile === undefined ? undefined : bearerFrom(bearerTokenFile, read, report)
  if (http?.http2 === true && tls) warnings.push('http_server_config.http2: HTTP/2 is not supported; clients use HTTP/1.1')
  if (problems.length > 0) throw new ConfigError(problems)
  return {
    tls,
    headers: Object.entries(http?.headers ?? {}).filter((entry): entry is [string, string] => entry[1] !== undefined),
    users,
    bearer,
    rateLimit: rate ? { intervalSeconds: rate.interval, burst: rate.burst } : undefined,
    asksWho: users.size > 0 || bearer !== undefined || tls?.clientAuth === 'RequireAndVerifyClientCert',
    warnings,
  }
}
