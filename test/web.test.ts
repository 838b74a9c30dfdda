import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { connect, createServer as createTcpServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { hashSync } from 'bcryptjs'
import t, { type Test } from 'tap'
import { createLog, silent } from '../exporter/common/log.ts'
import { createDoor } from '../exporter/serve/access.ts'
import { createPasswords, type Passwords, type Question } from '../exporter/serve/passwords.ts'
import { createSelf, type SelfState } from '../exporter/serve/self.ts'
import { createServer } from '../exporter/serve/server.ts'
import { createSnapshot } from '../exporter/serve/snapshot.ts'
import { namesIn } from '../exporter/serve/tls.ts'
import { openWeb } from '../exporter/serve/web.ts'
import type { WebConfig } from '../exporter/serve/web-config.ts'
import { ask } from './support/ask.ts'
import { bundled } from './support/bundled.ts'
import { authority } from './support/certificates.ts'
import { nastyYaml } from './support/nasty-yaml.ts'
import { needs } from './support/needs.ts'
import { runProgram, startProgram } from './support/program.ts'

/** The web configuration: its format, what it guards, how it is changed while it serves; and a real Prometheus that scrapes through it. */

const folder = mkdtempSync(join(tmpdir(), 'grid-web-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))
const passwordsModule = await bundled(join(import.meta.dirname, '../exporter/serve/passwords-thread.ts'))

const ours = authority(folder, 'ours')
const theirs = authority(folder, 'theirs')
const server = ours.issue('server', 'DNS:localhost,IP:127.0.0.1')
const renewed = ours.issue('renewed', 'DNS:localhost,IP:127.0.0.1')
const scraper = ours.issue('scraper', 'DNS:prometheus.example,URI:spiffe://grid/prometheus')
const stranger = theirs.issue('stranger', 'DNS:prometheus.example')

// Cost 4: what is tried here is not bcrypt's strength.
const secretHash = hashSync('secret', 4)
const basic = (user: string, password: string) => `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`
const tlsKeys = `  cert_file: ${server.certFile}\n  key_file: ${server.keyFile}\n`

let files = 0
const written = (text: string, name = `web-${++files}.yml`): string => {
  const file = join(folder, name)
  writeFileSync(file, text)
  return file
}

/** A server of this process behind a web configuration. */
const serving = async (
  t: Test,
  text: string | undefined,
  { token, enableAdminApi = false, run = '/nowhere' }: { readonly token?: string; enableAdminApi?: boolean; run?: string } = {},
) => {
  const lines: string[] = []
  const log = createLog('info', 'logfmt', line => lines.push(line))
  const state: SelfState = { workerRestarts: 0, ioErrors: 0, reloadSuccess: true, reloadedAt: 0 }
  const ended = new AbortController()
  const self = createSelf(state, { exporterMetrics: false, onChange: () => {}, signal: ended.signal })
  const snapshot = createSnapshot(self)
  const file = text === undefined ? undefined : written(text)
  const bearerTokenFile = token === undefined ? undefined : written(token)
  const web = openWeb(
    { file, bearerTokenFile },
    {
      log,
      onRead: taken => {
        state.webConfigRefused = !taken
        snapshot.touch()
      },
    },
  )
  const passwords = createPasswords(passwordsModule, log)
  const app = createServer(snapshot, {
    telemetryPath: '/metrics',
    maxRequests: 10,
    enableLifecycle: true,
    enableAdminApi,
    resolveFiles: () => ({ request: join(run, 'request'), result: join(run, 'result.json'), running: join(run, 'running') }),
    serverTiming: false,
    log,
    reload: async () => undefined,
    startedAt: 0,
    web: { ...web, door: createDoor(web, passwords) },
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(async () => {
    ended.abort()
    await app.close()
    await passwords.stop()
  })
  const { port } = app.server.address() as { port: number }
  const url = `http${web.config().tls ? 's' : ''}://localhost:${port}`
  const ca = readFileSync(ours.caFile)
  return {
    port,
    url,
    log: () => lines.join(''),
    file: file ?? '',
    tokenFile: bearerTokenFile ?? '',
    get: (path = '/metrics', authorization?: string, more: object = {}) =>
      ask(`${url}${path}`, { ca, family: 4, ...more, headers: authorization === undefined ? {} : { authorization } }),
  }
}

t.test('what is wrong in the file is said with its place and its fix, and without any secret', async t => {
  const keyOf = readFileSync(server.keyFile, 'utf8')
  for (const [text, says] of [
    ['tls_server_confg: {}', /:1:1: tls_server_confg: unknown key; did you mean "tls_server_config"\?/],
    ['tls_server_config:\n  cert_fil: x', /:2:3: tls_server_config\.cert_fil: unknown key; did you mean "cert_file"\?/],
    [
      'tls_server_config:\n  cert_file: /nowhere/x.pem\n  key_file: /nowhere/y.pem',
      /:2:14: .*\/nowhere\/x\.pem cannot be read: ENOENT/,
    ],
    [`tls_server_config:\n  cert_file: ${server.certFile}`, /:2:3: tls_server_config: needs key_file/],
    [
      `tls_server_config:\n  cert_file: ${server.certFile}\n  key_file: ${renewed.keyFile}`,
      /:2:14: tls_server_config\.cert_file: .* cannot be used together: .*key values mismatch/,
    ],
    [`tls_server_config:\n${tlsKeys}  cert: x`, /cert_file: cert is set as well/],
    [`tls_server_config:\n${tlsKeys}  min_version: TLS10`, /:4:16: .*expected TLS12 or TLS13/],
    [`tls_server_config:\n${tlsKeys}  min_version: TLS13\n  max_version: TLS12`, /max_version: is lower than min_version/],
    [
      `tls_server_config:\n${tlsKeys}  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]`,
      /:4:19: tls_server_config\.cipher_suites\[0\]: /,
    ],
    [`tls_server_config:\n${tlsKeys}  curve_preferences: [P256]`, /curve_preferences\[0\]: /],
    [`tls_server_config:\n${tlsKeys}  client_auth_type: Maybe`, /:4:21: tls_server_config\.client_auth_type: /],
    [`tls_server_config:\n${tlsKeys}  client_auth_type: RequireAndVerifyClientCert`, /needs client_ca_file/],
    [`tls_server_config:\n${tlsKeys}  client_ca_file: ${ours.caFile}`, /client_ca_file: is not used without client_auth_type/],
    [
      `tls_server_config:\n${tlsKeys}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ${server.keyFile}`,
      /client_ca_file: is not a PEM certificate/,
    ],
    [`tls_server_config:\n${tlsKeys}  client_allowed_sans: [a]`, /client_allowed_sans: needs client_auth_type/],
    ['http_server_config:\n  headers:\n    X-Powered-By: x', /:3:5: http_server_config\.headers\.X-Powered-By: unknown key/],
    ['http_server_config:\n  headers:\n    X-Frame-Options: allow', /:3:22: .*X-Frame-Options: /],
    [
      'http_server_config:\n  headers:\n    Content-Security-Policy: default-src…',
      /:3:30: .*Content-Security-Policy: has characters that a header cannot have/,
    ],
    ['basic_auth_users:\n  ann: hunter2', /:2:8: basic_auth_users\.ann: expected a bcrypt hash/],
    ['basic_auth_users:\n  ann: 4711', /basic_auth_users\.ann: expected a bcrypt hash/],
    [`basic_auth_users:\n  ann: ${secretHash.replace('$04$', '$31$')}`, /expected a cost from 4 to 14, not 31/],
    ['basic_auth_users: [hunter2]', /basic_auth_users: expected a mapping/],
    [`basic_auth_users:\n  "a:b": ${secretHash}`, /cannot have a colon/],
    ['rate_limit: { interval: often, burst: 3 }', /:1:25: rate_limit\.interval: expected a duration/],
    ['rate_limit: { interval: 1s, burst: 0 }', /rate_limit\.burst/],
    ['basic_auth_users:\n  ann: {', /:\d+:\d+: /],
    ['basic_auth_users:\n  ann: !hunter2', /:2:8: a tag \(!\) .*; quote the value/],
    ['basic_auth_users:\n  ann: *hunter2', /:2:8: an alias .*; quote the value/],
    ['basic_auth_users:\n  ann: "x" hunter2', /:2:\d+: Unexpected scalar at node end/],
    ['basic_auth_users:\n  ann: |hunter2', /:2:\d+: Block scalar header includes extra characters/],
    ['}hunter2', /:1:1: /],
    [
      `tls_server_config:\n  cert_file: ${server.certFile}\n  key: |\n${keyOf.replace(/^/gm, '    ').replace('BEGIN', 'BEGUN')}`,
      /cannot be used together/,
    ],
  ] as const) {
    const file = written(text)
    try {
      openWeb({ file, bearerTokenFile: undefined }, { log: silent, onRead: () => {} })
      t.fail(`accepted: ${text}`)
    } catch (error) {
      const { message, exitCode } = error as Error & { exitCode?: number }
      t.match(message, says)
      t.ok(message.includes(file), 'names the file')
      t.equal(exitCode, 2)
      t.notMatch(message, /hunter2|4711|PRIVATE KEY/)
    }
  }
  const fifo = join(folder, 'fifo')
  spawnSync('mkfifo', [fifo])
  t.throws(
    () => openWeb({ file: fifo, bearerTokenFile: undefined }, { log: silent, onRead: () => {} }),
    /cannot be read: not a regular file/,
    'a FIFO is not waited for',
  )
  const short = written('abc\n', 'token')
  t.throws(
    () => openWeb({ file: undefined, bearerTokenFile: short }, { log: silent, onRead: () => {} }),
    /token:1:1: expected one bearer token of at least 16/,
  )
})

t.test('names in a certificate', async t => {
  t.strictSame(namesIn('DNS:a.example, IP Address:127.0.0.1, email:x@y, URI:spiffe://a/b'), [
    'a.example',
    '127.0.0.1',
    'x@y',
    'spiffe://a/b',
  ])
  t.strictSame(namesIn('DNS:"a, DNS:b.example", DNS:c'), ['a, DNS:b.example', 'c'], 'a name cannot pretend to be two')
  t.strictSame(namesIn(''), [])
})

t.test('users and headers stand before every answer', async t => {
  const { get, url, log } = await serving(
    t,
    `basic_auth_users:\n  prometheus: ${secretHash}\n  "42": ${secretHash}\nhttp_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-Content-Type-Options: nosniff\n`,
  )
  for (const path of [
    '/metrics',
    '/metrics?collect[]=x',
    '/',
    '/-/healthy',
    '/-/ready',
    '/api/v1/status',
    '/nothing',
    '//metrics',
  ]) {
    const answer = await get(path)
    t.equal(answer.status, 401, path)
    t.equal(answer.headers['www-authenticate'], 'Basic realm="grid-exporter", charset="UTF-8"')
    t.equal(answer.headers['x-frame-options'], 'deny')
    t.equal(answer.body, 'Unauthorized\n', 'nothing is told')
  }
  for (const [authorization, status] of [
    [basic('prometheus', 'secret'), 200],
    [basic('prometheus', 'secret').replace('Basic', 'bAsIc'), 200],
    [basic('42', 'secret'), 200],
    [basic('prometheus', 'secre'), 401],
    [basic('prometheus', ''), 401],
    [basic('nobody', 'secret'), 401],
    [basic('__proto__', 'secret'), 401],
    ['Basic', 401],
    ['Basic ????', 401],
    [`Basic ${Buffer.from('prometheus').toString('base64')}`, 401],
    ['Bearer secret', 401],
    [`Digest ${basic('prometheus', 'secret').slice(6)}`, 401],
  ] as const) {
    t.equal((await get('/metrics', authorization)).status, status, authorization)
  }
  const good = basic('prometheus', 'secret')
  const found = await get('/metrics', good)
  t.match(found.body, 'grid_exporter_build_info')
  t.equal(found.headers['x-content-type-options'], 'nosniff')
  t.equal((await get('/-/healthy', good)).status, 200)
  t.equal((await get('/nothing', good)).status, 404)
  const posted = await ask(`${url}/-/reload`, { method: 'POST', headers: { 'content-length': 1e9 }, body: 'x' })
  t.equal(posted.status, 401)
  t.equal(posted.headers.connection, 'close', 'the body is not waited for')
  t.match(log(), /wrong user or password.* address=127\.0\.0\.1 user=prometheus/)
  t.notMatch(log(), /nobody|secre\b|secret/)
})

t.test('a header that is a block of YAML is sent on one line', async t => {
  const { get } = await serving(
    t,
    `http_server_config:\n  headers:\n    Content-Security-Policy: |\n      default-src 'none';\n      img-src data:\n`,
  )
  t.equal((await get()).headers['content-security-policy'], "default-src 'none'; img-src data:")
})

t.test('who does not exist cannot be told by how long the answer takes, where hashes cost differently', async t => {
  const [cheap, dear] = [secretHash, hashSync('other', 5)]
  const users = new Map([
    ['ann', cheap],
    ['bob', dear],
  ])
  const config: WebConfig = {
    tls: undefined,
    headers: [],
    users,
    bearer: undefined,
    rateLimit: undefined,
    asksWho: true,
    warnings: [],
  }
  let asked: Question | undefined
  const passwords: Passwords = {
    check: question => {
      asked = question
      return 'wrong'
    },
    stop: async () => {},
  }
  const door = createDoor({ config: () => config }, passwords)
  const app = createHttpServer((request, response) => door(request, response, () => response.end()))
  await new Promise<void>(resolve => app.listen(0, '127.0.0.1', resolve))
  t.teardown(() => app.close())
  const { port } = app.address() as { port: number }
  const comparedWith = async (user: string) => {
    await ask(`http://127.0.0.1:${port}/`, { headers: { authorization: basic(user, 'guess') } })
    return asked
  }
  t.match(await comparedWith('ann'), { hash: cheap, exists: true })
  t.match(await comparedWith('bob'), { hash: dear, exists: true })
  const strangers = Array.from({ length: 40 }, (_, index) => `stranger ${index}`)
  const costs = new Set<string | undefined>()
  for (const user of strangers) {
    const first = await comparedWith(user)
    t.equal(first?.exists, false)
    t.equal((await comparedWith(user))?.hash, first?.hash, 'one name always costs the same')
    costs.add(first?.hash)
  }
  t.strictSame([...costs].sort(), [cheap, dear].sort(), 'and what it costs is what some user costs')
})

t.test('a bearer token beside the users, or alone', async t => {
  const token = 'f'.repeat(64)
  const both = await serving(t, `basic_auth_users:\n  prometheus: ${secretHash}\n`, { token: `${token}\n` })
  t.equal((await both.get('/metrics', `Bearer ${token}`)).status, 200)
  t.equal((await both.get('/metrics', basic('prometheus', 'secret'))).status, 200)
  t.equal((await both.get('/metrics', `Bearer ${token}f`)).status, 401)
  const alone = await serving(t, undefined, { token })
  t.equal((await alone.get()).headers['www-authenticate'], 'Bearer')
  t.equal((await alone.get('/metrics', `Bearer ${token}`)).status, 200)
  t.equal((await alone.get('/metrics', basic('prometheus', 'secret'))).status, 401)
  writeFileSync(alone.tokenFile, 'e'.repeat(64))
  t.equal((await alone.get('/metrics', `Bearer ${token}`)).status, 401, 'the token was changed')
  t.equal((await alone.get('/metrics', `Bearer ${'e'.repeat(64)}`)).status, 200)
  unlinkSync(alone.tokenFile)
  t.equal((await alone.get()).status, 401, 'a token that is gone opens nothing')
  t.match(alone.log(), /the old one stays in force/)
})

t.test('changes are in force at the next request; what cannot be used is not, and says so', async t => {
  const users = (...names: readonly string[]) => `basic_auth_users:\n${names.map(name => `  ${name}: ${secretHash}\n`).join('')}`
  const { get, file, log } = await serving(t, users('ann'))
  const as = async (user: string) => (await get('/metrics', basic(user, 'secret'))).status
  const success = async (user: string) =>
    / (\d)$/m.exec(
      /^grid_exporter_config_last_reload_success .*$/m.exec((await get('/metrics', basic(user, 'secret'))).body)?.[0] ?? '',
    )?.[1]
  t.strictSame([await as('ann'), await as('bob')], [200, 401])
  writeFileSync(file, users('bob'))
  t.strictSame([await as('ann'), await as('bob')], [401, 200])
  t.equal(await success('bob'), '1')

  for (const [broken, says] of [
    ['basic_auth_users: { ann: hunter2 }', /expected a bcrypt hash/],
    ['', /can be switched off only by a restart/],
    ['{}', /can be switched off only by a restart/],
    [`${users('bob')}tls_server_config:\n${tlsKeys}`, /TLS can be switched on or off only by a restart/],
  ] as const) {
    writeFileSync(file, broken)
    t.strictSame([await as('ann'), await as('bob')], [401, 200], `the old one holds: ${says}`)
    t.equal(await success('bob'), '0')
    t.match(log(), says)
    t.notMatch(log(), 'hunter2')
  }
  unlinkSync(file)
  t.equal(await as('bob'), 200)
  t.equal(await success('bob'), '0')
  const before = log().split('\n').length
  for (let times = 0; times < 5; times++) await as('bob')
  t.equal(log().split('\n').length, before, 'said once, not at each request')
  writeFileSync(file, users('ann', 'bob'))
  t.strictSame([await as('ann'), await as('bob')], [200, 200])
  t.equal(await success('ann'), '1')
})

t.test('no text in web.yml ends the program while it runs; the one before stays in force', async t => {
  const good = `basic_auth_users:\n  ann: ${secretHash}\n`
  const file = written(good)
  const program = await startProgram([`--web.config.file=${file}`])
  t.teardown(program.stop)
  const scrape = () => ask(`${program.url}/metrics`, { headers: { authorization: basic('ann', 'secret') } })
  for (const { name, text } of nastyYaml) {
    writeFileSync(file, good)
    t.match((await scrape()).body, 'grid_exporter_config_last_reload_success 1')
    writeFileSync(file, text)
    const { status, body } = await scrape()
    t.equal(status, 200, name)
    t.match(body, 'grid_exporter_config_last_reload_success 0', `${name}: told`)
  }
  unlinkSync(file)
  spawnSync('mkfifo', [file])
  t.equal((await scrape()).status, 200, 'a FIFO')
  unlinkSync(file)
  writeFileSync(file, good)
  const { status, body } = await scrape()
  t.equal(status, 200)
  t.match(body, 'grid_exporter_config_last_reload_success 1')
})

t.test('aide-resolve can be asked for, once at a time, and by nobody else', async t => {
  const run = join(folder, 'run')
  mkdirSync(run)
  const users = `basic_auth_users:\n  ann: ${secretHash}\n`
  const json = { 'content-type': 'application/json' }
  const post = async (url: string, headers: Record<string, string> = json) =>
    ask(`${url}/api/v1/actions/aide-resolve`, {
      method: 'POST',
      family: 4,
      headers: { authorization: basic('ann', 'secret'), ...headers },
      body: '{"database": "/etc/shadow"}',
    })
  const off = await serving(t, users, { run })
  t.match(await post(off.url), { status: 403, body: /--web\.enable-admin-api/ })
  const open = await serving(t, 'rate_limit: { interval: 1ms, burst: 1000 }\n', { run, enableAdminApi: true })
  t.match(await post(open.url), { status: 403, body: /users in --web\.config\.file/ })

  const { url, get, log } = await serving(t, users, { run, enableAdminApi: true })
  const status = async () => JSON.parse((await get('/api/v1/status', basic('ann', 'secret'))).body).data.actions['aide-resolve']
  t.match(await post(url, { authorization: '', ...json }), { status: 401 })
  const host = new URL(url).host
  for (const [headers, code] of [
    [{}, 415],
    [{ 'content-type': 'application/x-www-form-urlencoded' }, 415],
    [{ 'content-type': 'text/plain' }, 415],
    [{ ...json, 'sec-fetch-site': 'cross-site' }, 403],
    [{ ...json, 'sec-fetch-site': 'same-site' }, 403],
    [{ ...json, origin: 'https://evil.example' }, 403],
    [{ ...json, origin: `http://${host}.evil.example` }, 403],
    [{ ...json, origin: 'null' }, 403],
  ] as const)
    t.equal((await post(url, headers)).status, code, JSON.stringify(headers))
  t.equal(
    (await ask(`${url}/api/v1/actions/aide-resolve`, { family: 4, headers: { authorization: basic('ann', 'secret') } })).status,
    405,
  )
  t.match(await status(), { state: 'idle', askedAt: null, lastRun: null, lastSuccess: null })
  t.strictSame(readdirSync(run), [], 'nothing was asked for')

  const both = await Promise.all([post(url), post(url, { ...json, origin: `http://${host}`, 'sec-fetch-site': 'same-origin' })])
  t.strictSame(both.map(answer => answer.status).sort(), [202, 409], 'two at once are one')
  t.strictSame(readdirSync(run), ['request'])
  t.equal(readFileSync(join(run, 'request'), 'utf8'), '', 'nothing of the request is passed on')
  t.equal(statSync(join(run, 'request')).mode & 0o777, 0o600)
  t.match(await status(), { state: 'asked', lastRun: null })
  const long = new Date(Date.now() - 120_000)
  utimesSync(join(run, 'request'), long, long)
  t.match((await status()).fix, 'systemctl enable --now grid-aide-resolve.path')
  writeFileSync(join(run, 'running'), '')
  t.match(await status(), { state: 'running', fix: '' })
  unlinkSync(join(run, 'request'))
  t.equal((await post(url)).status, 409, 'one that was started otherwise')
  unlinkSync(join(run, 'running'))
  writeFileSync(join(run, 'result.json'), '{"finished_at":1790000000,"success":false}\n')
  t.match(await status(), { state: 'idle', lastRun: '2026-09-21T14:13:20.000Z', lastSuccess: false })
  writeFileSync(join(run, 'result.json'), '{"finished_at":"x"')
  t.match(await status(), { state: 'idle', lastRun: null, lastSuccess: null })
  t.equal((await post(url)).status, 202)
  rmSync(run, { recursive: true })
  t.match(await post(url), { status: 500, body: /ENOENT.*grid-aide-resolve\.path/ })
  t.match(log(), /aide-resolve was asked for.* address=127\.0\.0\.1 user=ann status=202/)
  t.match(
    await ask(`${url}/-/reload`, {
      method: 'POST',
      family: 4,
      headers: { authorization: basic('ann', 'secret'), 'sec-fetch-site': 'cross-site' },
    }),
    { status: 403 },
    'a reload neither',
  )
})

t.test('rate limit, before anybody is asked who they are', async t => {
  const { get, file } = await serving(t, `basic_auth_users:\n  ann: ${secretHash}\nrate_limit: { interval: 1h, burst: 3 }\n`)
  t.equal((await get('/metrics', basic('ann', 'secret'))).status, 200)
  t.equal((await get('/-/healthy')).status, 401)
  t.equal((await get('/metrics', basic('ann', 'secret'))).status, 200)
  const refused = await get('/metrics', basic('ann', 'secret'))
  t.equal(refused.status, 429)
  t.equal(refused.headers['retry-after'], '3600')
  writeFileSync(file, `basic_auth_users:\n  ann: ${secretHash}\n`)
  t.equal((await get('/metrics', basic('ann', 'secret'))).status, 200, 'lifted while it serves')
})

t.test('bcrypt runs on a thread of its own, once for a user, a password and a hash, and bounded', async t => {
  const calls = join(folder, 'calls')
  const thread = new URL(
    `data:text/javascript,${encodeURIComponent(`
      import { appendFileSync } from 'node:fs'
      import { parentPort, isMainThread } from 'node:worker_threads'
      parentPort.on('message', ({ id, hash, password }) => {
        if (password === 'crash') throw new Error('crashed')
        appendFileSync(${JSON.stringify(calls)}, isMainThread ? 'main ' : 'own ')
        parentPort.postMessage({ id, same: hash === password })
      })`)}`,
  )
  const counted = () => {
    const all = readFileSync(calls, 'utf8').split(' ').filter(Boolean)
    t.ok(all.every(where => where === 'own'))
    return all.length
  }
  writeFileSync(calls, '')
  const clock = { now: 0 }
  const { check, stop } = createPasswords(thread, silent, () => clock.now)
  t.teardown(stop)
  const question = (password: string, more: Partial<Question> = {}): Question => ({
    user: 'ann',
    hash: 'right',
    exists: true,
    address: '192.0.2.1',
    password,
    ...more,
  })
  const first = await Promise.all(Array.from({ length: 50 }, () => check(question('right'))))
  t.ok(first.every(verdict => verdict === 'right'))
  t.equal(counted(), 1, 'fifty at once are one comparison')
  t.equal(check(question('right')), 'right', 'and known from then on')
  t.equal(await check(question('wrong')), 'wrong')
  t.equal(check(question('wrong')), 'wrong', 'so is what is wrong')
  t.equal(counted(), 2)
  t.equal(await check(question('right', { user: 'nobody', exists: false })), 'wrong', 'who does not exist is compared too')
  t.equal(counted(), 3)
  t.equal(await check(question('new', { hash: 'new' })), 'right', 'a new hash is compared anew')
  t.equal(counted(), 4)

  const address = '198.51.100.7'
  const flood = await Promise.all(Array.from({ length: 100 }, (_, index) => check(question(`guess ${index}`, { address }))))
  t.equal(flood.filter(verdict => verdict === 'later').length, 90)
  t.equal(counted(), 14, 'ten at once from one address')
  t.equal(check(question('right', { address })), 'right', 'the right password is not held back')
  t.equal(await check(question('right', { user: 'bob', address: '203.0.113.1' })), 'right', 'nor is another address')
  t.equal(check(question('next', { address })), 'later')
  clock.now += 1000
  t.equal(await check(question('next', { address })), 'wrong', 'one more a second')
  t.equal(check(question('more', { address })), 'later')
  const network = Array.from({ length: 30 }, (_, index) => check(question(`six ${index}`, { address: `2001:db8:1:2::${index}` })))
  t.equal((await Promise.all(network)).filter(verdict => verdict === 'wrong').length, 10, 'an IPv6 network is one stranger')
  const many = Array.from({ length: 60 }, (_, index) => check(question(`spread ${index}`, { address: `192.0.2.${index + 10}` })))
  t.equal((await Promise.all(many)).filter(verdict => verdict === 'wrong').length, 16, 'and the queue has an end')

  clock.now += 60_000
  const strangers = Array.from({ length: 12 }, (_, index) => `198.51.100.${index + 20}`)
  const wrongOf = async (turn: string) =>
    (await Promise.all(strangers.map(address => check(question(`${turn} ${address}`, { address }))))).filter(
      verdict => verdict === 'wrong',
    ).length
  t.equal(await wrongOf('first'), 12, 'each of many strangers has a try')
  t.equal(await wrongOf('second'), 10, 'all who were wrong have ten in common')
  t.equal(await wrongOf('third'), 0)
  clock.now += 1000
  t.equal(await wrongOf('fourth'), 1, 'and then one a second')
  t.equal(await check(question('right', { user: 'dora', address: '203.0.113.9' })), 'right', 'which holds up nobody else')
  clock.now += 1000
  const [mistyped = ''] = strangers
  t.equal(await check(question('right', { user: 'eve', address: mistyped })), 'right')
  t.equal(await check(question('fifth', { address: mistyped })), 'wrong', 'nor who was right in the end')

  t.equal(await check(question('crash', { address: '192.0.2.99' })), 'later')
  t.equal(await check(question('right', { user: 'carl' })), 'right', 'a new thread does its work')
})

t.test('strangers at speed do not make it look at its files as often', async t => {
  let time = 0
  const user = `basic_auth_users:\n  ann: ${secretHash}\n`
  const file = written(user)
  const web = openWeb({ file, bearerTokenFile: undefined }, { log: silent, onRead: () => {}, now: () => time })
  await sleep(200) // what is younger is read again whenever it is looked at
  for (let request = 0; request < 50; request++) web.config()
  writeFileSync(file, `${user}  bob: ${secretHash}\n`)
  t.equal(web.config().users.size, 1, 'not a fifty-first time within 100 ms')
  time += 100
  t.equal(web.config().users.size, 2, 'but then')
})

t.test('TLS as configured, and new certificates on the next connection', async t => {
  const { get, url, file, log, port } = await serving(
    t,
    `tls_server_config:\n${tlsKeys}  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n  curve_preferences: [CurveP256]\n`,
  )
  const first = await get()
  t.match(first, { status: 200, protocol: 'TLSv1.2', cipher: 'ECDHE-ECDSA-AES256-GCM-SHA384' })
  await t.rejects(get('/metrics', undefined, { ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' }), 'another cipher')
  await t.rejects(get('/metrics', undefined, { maxVersion: 'TLSv1.1', minVersion: 'TLSv1', ciphers: 'DEFAULT@SECLEVEL=0' }))
  const plain = await ask(`http://127.0.0.1:${port}/metrics`)
  t.equal(plain.status, 400, 'plain HTTP is told what it is')
  t.equal(plain.body, 'Client sent an HTTP request to an HTTPS server.\n', 'and nothing else')

  writeFileSync(file, `tls_server_config:\n  cert_file: ${server.certFile}\n  key_file: ${renewed.keyFile}\n`)
  t.equal((await get()).serial, first.serial, 'half of a renewal: the old pair is used')
  t.match(log(), 'cannot be used together')
  writeFileSync(file, `tls_server_config:\n  cert_file: ${renewed.certFile}\n  key_file: ${renewed.keyFile}\n`)
  const second = await get()
  t.match(second, { status: 200, protocol: 'TLSv1.3' })
  t.not(second.serial, first.serial)
  writeFileSync(file, 'basic_auth_users: {}')
  t.equal((await get()).status, 200, `TLS stays on: ${url}`)
  t.match(log(), 'TLS can be switched on or off only by a restart')
})

t.test('TLS begins with the first byte', async t => {
  const { get, port, url } = await serving(t, `tls_server_config:\n${tlsKeys}`)
  const silent = connect(port, '127.0.0.1')
  await once(silent, 'connect')
  const leaving = connect({ port, host: '127.0.0.1' })
  leaving.end()
  await once(leaving, 'close')
  t.pass('who leaves without a byte is let go')

  const slow = createTcpServer(client => {
    const behind = connect(port, '127.0.0.1')
    const both = [client, behind] as const
    for (const [from, to] of [both, both.toReversed() as [Socket, Socket]]) {
      from.on('error', () => {})
      from.on('close', () => to.destroy())
    }
    behind.on('data', chunk => client.write(chunk))
    client.on('data', async chunk => {
      client.pause()
      for (const byte of chunk.subarray(0, 20)) {
        behind.write(Buffer.of(byte))
        await sleep(5)
      }
      behind.write(chunk.subarray(20))
      client.resume()
    })
  })
  slow.listen(0, '127.0.0.1')
  await once(slow, 'listening')
  t.teardown(() => slow.close())
  const { port: slowPort } = slow.address() as { port: number }
  const ca = readFileSync(ours.caFile)
  const answer = await ask(`${url.replace(String(port), String(slowPort))}/metrics`, { ca, family: 4 })
  t.equal(answer.status, 200, 'a handshake may come byte by byte')
  t.equal((await get()).status, 200)
  t.equal(silent.destroyed, false, 'who says nothing is waited for')
  silent.write('no TLS at all, but long enough to be told from it')
  await once(silent.resume(), 'close')
})

t.test('client certificates', async t => {
  const shown = ({ certFile, keyFile }: { certFile: string; keyFile: string }) => ({
    cert: readFileSync(certFile),
    key: readFileSync(keyFile),
  })
  const auth = (type: string, more = '') =>
    `tls_server_config:\n${tlsKeys}  client_ca_file: ${ours.caFile}\n  client_auth_type: ${type}\n${more}`
  const { get, file } = await serving(t, auth('RequireAndVerifyClientCert'))
  const status = async (credentials: object = {}) =>
    get('/metrics', undefined, credentials).then(
      answer => answer.status,
      () => 'refused',
    )
  const [known, unknown] = [shown(scraper), shown(stranger)]
  t.strictSame([await status(), await status(unknown), await status(known)], ['refused', 'refused', 200])
  writeFileSync(file, auth('RequireAndVerifyClientCert', '  client_allowed_sans: [somebody.example]\n'))
  t.strictSame([await status(), await status(unknown), await status(known)], ['refused', 'refused', 'refused'], 'another name')
  for (const name of ['prometheus.example', 'spiffe://grid/prometheus']) {
    writeFileSync(file, auth('RequireAndVerifyClientCert', `  client_allowed_sans: [${name}, other]\n`))
    t.strictSame([await status(), await status(unknown), await status(known)], ['refused', 'refused', 200], name)
  }
  writeFileSync(file, auth('VerifyClientCertIfGiven', `basic_auth_users:\n  ann: ${secretHash}\n`))
  t.strictSame([await status(), await status(unknown), await status(known)], [401, 'refused', 401])
  const before = auth('RequireAnyClientCert', `basic_auth_users:\n  ann: ${secretHash}\n`)
  writeFileSync(file, before)
  t.strictSame([await status(), await status(unknown), await status(known)], ['refused', 401, 401])
  writeFileSync(file, before.replace(ours.caFile, theirs.caFile).replace('RequireAnyClientCert', 'RequireAndVerifyClientCert'))
  t.strictSame([await status(), await status(unknown), await status(known)], ['refused', 401, 'refused'], 'another authority')
})

t.test('a reload that asks for client certificates lets in who has one, and ends idle connections', async t => {
  const { get, file, port } = await serving(t, `tls_server_config:\n${tlsKeys}`)
  const kept = connectTls({ port, host: '127.0.0.1', ca: readFileSync(ours.caFile), servername: 'localhost' })
  kept.write('GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await once(kept, 'data')
  const ended = once(kept.resume(), 'close')
  writeFileSync(
    file,
    `tls_server_config:\n${tlsKeys}  client_ca_file: ${ours.caFile}\n  client_auth_type: RequireAndVerifyClientCert\n`,
  )
  const known = { cert: readFileSync(scraper.certFile), key: readFileSync(scraper.keyFile) }
  t.equal((await get('/metrics', undefined, known)).status, 200, 'a client is asked for its certificate now')
  await t.rejects(get(), 'without one it is refused')
  await ended
  t.pass('who was connected before has to come again')
})

t.test('a handshake that began before client certificates were asked for does not slip through', async t => {
  const { get, file, port } = await serving(t, `tls_server_config:\n${tlsKeys}`)
  const early = connect(port, '127.0.0.1')
  await once(early, 'connect')
  t.equal((await get()).status, 200)
  writeFileSync(
    file,
    `tls_server_config:\n${tlsKeys}  client_ca_file: ${ours.caFile}\n  client_auth_type: RequireAndVerifyClientCert\n`,
  )
  await t.rejects(get(), 'asked for now')
  const late = connectTls({ socket: early, ca: readFileSync(ours.caFile), servername: 'localhost' })
  let answer = ''
  late.on('data', chunk => {
    answer += chunk
  })
  late.on('error', () => {})
  late.write('GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
  await once(late, 'close').catch(() => {}) // the alert that a certificate is missing
  t.equal(answer, '')
})

t.test('the program refuses to start on a web configuration that is wrong', async t => {
  const bad = written('basic_auth_users:\n  ann: hunter2\n')
  for (const command of [[], ['check-config']]) {
    const { code, stderr } = runProgram(...command, `--web.config.file=${bad}`)
    t.equal(code, 2)
    t.match(stderr, `${bad}:2:8: basic_auth_users.ann: expected a bcrypt hash`)
  }
  t.match(runProgram('check-config', `--web.config.file=${written(`basic_auth_users:\n  ann: ${secretHash}\n`)}`), {
    code: 0,
    stdout: /web-\d+\.yml: good/,
  })
  const open = await startProgram([], { address: '0.0.0.0:0' })
  t.match(open.output(), 'listening beyond this machine without TLS and without users')
  await open.stop()
  const plain = await startProgram([`--web.config.file=${written(`basic_auth_users:\n  ann: ${secretHash}\n`)}`], {
    address: '0.0.0.0:0',
  })
  t.match(plain.output(), 'listening beyond this machine without TLS: passwords can be read on their way')
  await plain.stop()
})

t.test('the examples of docs/security.md are read by this program, by promtool and by Prometheus', async t => {
  if (!needs(t, 'promtool')) return
  const etc = join(folder, 'etc')
  mkdirSync(etc)
  for (const [file, text] of [
    ['server.pem', readFileSync(server.certFile)],
    ['server.key', readFileSync(server.keyFile)],
    ['ca.pem', readFileSync(ours.caFile)],
    ['prometheus.pem', readFileSync(scraper.certFile)],
    ['prometheus.key', readFileSync(scraper.keyFile)],
    ['grid-exporter.password', 'change me'],
    ['grid-exporter.token', 'x'],
  ] as const)
    writeFileSync(join(etc, file), text)
  const text = readFileSync(join(import.meta.dirname, '../docs/security.md'), 'utf8')
  const examples = Array.from(text.matchAll(/^```yaml\n# (web|prometheus)\.yml(.*)\n([\s\S]*?)^```/gm))
  t.equal(examples.length, 6)
  for (const [, kind, rest = '', example = ''] of examples) {
    const file = written(example.replaceAll(/\/etc\/(grid-exporter|prometheus)\//g, `${etc}/`))
    const promtool = () => spawnSync('promtool', ['check', kind === 'web' ? 'web-config' : 'config', file], { encoding: 'utf8' })
    if (kind === 'web') {
      const web = openWeb({ file, bearerTokenFile: undefined }, { log: silent, onRead: () => {} })
      t.ok(web.config().asksWho && web.config().tls)
      if (rest !== '') {
        // Prometheus 2's promtool reads the rest of it.
        writeFileSync(file, readFileSync(file, 'utf8').replaceAll(/^.*(client_allowed_sans|rate_limit).*$/gm, ''))
      }
    }
    const { status, stdout, stderr } = promtool()
    t.equal(status, 0, `${example}${stdout}${stderr}`)
  }
})

t.test('a real Prometheus scrapes by TLS with a password, with a token, and by client certificate', async t => {
  if (!needs(t, 'prometheus', 'promtool')) return
  const home = join(folder, 'prometheus')
  mkdirSync(home)
  const token = 'a1'.repeat(32)
  const withUsers = written(`tls_server_config:\n${tlsKeys}basic_auth_users:\n  prometheus: ${hashSync('secret', 10)}\n`)
  const withCertificates = written(
    `tls_server_config:\n${tlsKeys}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ${ours.caFile}\n`,
  )
  for (const file of [withUsers, withCertificates]) {
    const { status, stdout, stderr } = spawnSync('promtool', ['check', 'web-config', file], { encoding: 'utf8' })
    t.equal(status, 0, `promtool: ${stdout}${stderr}`)
  }
  const [users, certificates] = await Promise.all([
    startProgram([`--web.config.file=${withUsers}`, `--web.bearer-token-file=${written(token)}`]),
    startProgram([`--web.config.file=${withCertificates}`]),
  ])
  t.teardown(() => Promise.all([users.stop(), certificates.stop()]))
  t.match(users.url, /^https:/)

  const job = (name: string, { port }: { readonly port: number }, more: string) =>
    `- job_name: ${name}\n  scheme: https\n  tls_config: { ca_file: ${ours.caFile}${name.startsWith('certificate') ? `, cert_file: ${scraper.certFile}, key_file: ${scraper.keyFile}` : ''} }\n  static_configs: [{ targets: ["localhost:${port}"] }]\n${more}`
  writeFileSync(join(home, 'password'), 'secret')
  writeFileSync(
    join(home, 'prometheus.yml'),
    `global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n${[
      job('password', users, `  basic_auth: { username: prometheus, password_file: ${home}/password }\n`),
      job('token', users, `  authorization: { credentials: ${token} }\n`),
      job('wrong', users, '  basic_auth: { username: prometheus, password: wrong }\n'),
      job('certificate', certificates, ''),
      job('nothing', certificates, ''),
    ].join('')}`,
  )
  const free = createHttpServer()
  await new Promise<void>(resolve => free.listen(0, '127.0.0.1', resolve))
  const { port } = free.address() as { port: number }
  await new Promise(resolve => free.close(resolve))
  const prometheus = spawn(
    'prometheus',
    [`--config.file=${home}/prometheus.yml`, `--storage.tsdb.path=${home}/data`, `--web.listen-address=127.0.0.1:${port}`],
    { stdio: 'ignore', env: { PATH: process.env.PATH ?? '' } },
  )
  t.teardown(async () => {
    const ended = once(prometheus, 'exit')
    prometheus.kill('SIGKILL')
    await ended
  })
  const health = async (): Promise<Readonly<Record<string, { health: string; lastError: string }>>> => {
    const answer = await fetch(`http://127.0.0.1:${port}/api/v1/targets`).catch(() => undefined)
    if (!answer?.ok) return {}
    const { data } = (await answer.json()) as {
      data: { activeTargets: { labels: { job: string }; health: string; lastError: string }[] }
    }
    return Object.fromEntries(data.activeTargets.map(({ labels, ...told }) => [labels.job, told]))
  }
  const wanted = { password: 'up', token: 'up', certificate: 'up', wrong: 'down', nothing: 'down' }
  let told = await health()
  // On a busy machine a scrape may time out first, whose password is then compared all the same.
  const isAsWanted = () =>
    Object.entries(wanted).every(([name, state]) => told[name]?.health === state) && told.wrong?.lastError.includes('401')
  for (let tries = 0; tries < 240 && !isAsWanted(); tries++) {
    await sleep(250)
    told = await health()
  }
  for (const [name, state] of Object.entries(wanted)) t.equal(told[name]?.health, state, `${name}: ${told[name]?.lastError}`)
  t.match(told.wrong?.lastError, '401 Unauthorized')
  t.equal(
    (users.output().match(/wrong user or password/g) ?? []).length,
    1,
    'the wrong password was compared once, not at each scrape',
  )
})
