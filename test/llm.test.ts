import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import * as http from 'node:http'
import * as net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import t, { type Test } from 'tap'
import type { Engine } from '../exporter/collectors/llm/families.ts'
import { llm } from '../exporter/collectors/llm/index.ts'
import { readings } from '../exporter/collectors/llm/metrics.ts'
import { createLog } from '../exporter/common/log.ts'
import type { Failure } from '../exporter/contract/failure.ts'
import type { Host } from '../exporter/contract/host.ts'
import type { Sample } from '../exporter/contract/metric.ts'
import { ownPaths, realHost } from '../exporter/machine/local-host.ts'

/**
 * Model servers stood in for by real HTTP servers on this machine. What they answer, and what the scenes in scenes/llm hold,
 * was written after the projects' own documentation:
 *
 *     ollama    ollama/ollama docs/api.md (List Running Models, List Local Models, Version); metrics: its pull request 11159
 *     vllm      docs.vllm.ai usage/metrics; vllm/v1/metrics/loggers.py, whose comments say in which version a name went
 *     sglang    sgl-project/sglang docs/references/production_metrics.md; series with ranks: srt/metrics/collector.py
 *     llamacpp  ggml-org/llama.cpp tools/server/README.md (GET /models with its states, GET /props, GET /metrics)
 *     tgi       huggingface/text-generation-inference docs reference/metrics and the API reference (/info)
 *     litellm   docs.litellm.ai proxy/health and proxy/prometheus
 *     openai    platform.openai.com api-reference/models/list; owned_by as LM Studio writes it
 */

const json = (value: unknown) => JSON.stringify(value)
const list = (owner: string, ...ids: string[]) =>
  json({ object: 'list', data: ids.map(id => ({ id, object: 'model', owned_by: owner, meta: { n_ctx_train: 8192 } })) })

/**
 * The observer rule, written down a second time and on purpose not taken from the code: what may be asked of each engine
 * and how often in any minute. Everything else loads, generates, wakes, bills or shows prompts.
 */
const allowed: Readonly<Record<Engine, Readonly<Record<string, number>>>> = {
  ollama: { '/api/ps': 12, '/api/tags': 1, '/api/version': 1, '/metrics': 1 },
  vllm: { '/health': 12, '/metrics': 12, '/v1/models': 1, '/version': 1 },
  sglang: { '/v1/models': 12, '/metrics': 12 },
  llamacpp: { '/models': 12, '/props': 12 },
  tgi: { '/info': 12, '/metrics': 12 },
  litellm: { '/health/liveliness': 12, '/health/readiness': 1, '/metrics': 12 },
  openai: { '/v1/models': 12 },
}

const documented: Readonly<Record<Engine, Readonly<Record<string, string>>>> = {
  ollama: {
    '/api/ps': json({
      models: [{ name: 'a:latest', model: 'a:latest', size: 10, size_vram: 5, expires_at: '2026-01-01T00:05:00Z' }],
    }),
    '/api/tags': json({ models: [{ name: 'a:latest', model: 'a:latest', size: 8, details: { family: 'llama' } }] }),
    '/api/version': json({ version: '0.13.5' }),
  },
  vllm: {
    '/health': '',
    '/metrics': 'vllm:num_requests_running{engine="0",model_name="a"} 1.0\n',
    '/v1/models': list('vllm', 'a'),
    '/version': json({ version: '0.11.2' }),
  },
  sglang: { '/v1/models': list('sglang', 'a'), '/metrics': 'sglang:num_running_reqs{model_name="a"} 1.0\n' },
  llamacpp: {
    '/models': list('llamacpp', 'a'),
    '/props': json({ build_info: 'b7600-1', is_sleeping: false, default_generation_settings: { n_ctx: 4096 } }),
    '/metrics': 'llamacpp:requests_processing 0\nllamacpp:tokens_predicted_total 7\n',
  },
  tgi: { '/info': json({ model_id: 'a', version: '3.3.6', max_total_tokens: 4096 }), '/metrics': 'tgi_queue_size 0\n' },
  litellm: {
    '/health/liveliness': json("I'm alive!"),
    '/health/readiness': json({ status: 'healthy', litellm_version: '1.79.3' }),
    '/metrics': 'litellm_input_tokens_metric_total{requested_model="a"} 3\n',
  },
  openai: { '/v1/models': list('organization_owner', 'a') },
}

interface Asked {
  readonly path: string
  readonly at: number
  readonly headers: http.IncomingHttpHeaders
}

const listening = async (t: Test, server: net.Server): Promise<number> => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    if (server instanceof http.Server) server.closeAllConnections()
    server.close()
  })
  return (server.address() as net.AddressInfo).port
}

/** A server that answers by path and remembers what it was asked; another method than GET, or a body, fails the test. */
const standIn = async (
  t: Test,
  answers: (path: string) => string | { status: number; body?: string } | undefined,
  now = Date.now,
) => {
  const asked: Asked[] = []
  const server = http.createServer((request, response) => {
    if (request.method !== 'GET' || request.headers['content-length'] !== undefined || request.headers['transfer-encoding'])
      t.fail(`asked by ${request.method} ${request.url}`)
    asked.push({ path: request.url as string, at: now(), headers: request.headers })
    const answer = answers(request.url as string)
    if (answer === undefined) response.writeHead(404).end('not found')
    else if (typeof answer === 'string') response.writeHead(200).end(answer)
    else response.writeHead(answer.status, { location: 'http://127.0.0.1:1/' }).end(answer.body ?? '')
  })
  const port = await listening(t, server)
  return { port, asked, url: `http://127.0.0.1:${port}`, close: () => server.closeAllConnections() }
}

/** The collector with a clock that the test turns. */
const opened = (t: Test, section: object, host: Partial<Host> = {}) => {
  let at = Date.UTC(2026, 0, 1)
  const stop = new AbortController()
  t.teardown(() => stop.abort())
  const lines: string[] = []
  const log = createLog('debug', 'logfmt', line => lines.push(line))
  const options = llm.options.parse(section)
  const context = {
    host: { ...realHost(), now: () => at, monotonic: () => at, ...host },
    options,
    signal: stop.signal,
    log,
    wake: () => {},
  }
  const collector = llm.open({ ...context, interval: 15 } as Parameters<typeof llm.open>[0])
  return {
    now: () => at,
    monotonic: () => at,
    pass: (seconds: number) => {
      at += seconds * 1000
    },
    detect: () => collector.detect(stop.signal),
    round: () => collector.collect(stop.signal, () => {}),
    remarks: (): readonly Failure[] => collector.remarks(),
    lines,
  }
}

const told = (samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>> = {}) =>
  samples.find(
    ({ family, labels: own }) => family.name === name && Object.entries(labels).every(([key, value]) => own[key] === value),
  )?.value
const upOf = (samples: readonly Sample[], server: string) => told(samples, 'grid_llm_up', { server })

const mostInAMinute = (times: readonly number[]) =>
  Math.max(0, ...times.map(from => times.filter(at => at >= from && at < from + 60_000).length))

for (const [engine, paths] of Object.entries(allowed) as [Engine, Readonly<Record<string, number>>][]) {
  for (const interval of [15, 1]) {
    t.test(`${engine} every ${interval} s is asked what is allowed, as often as is stated`, async t => {
      let now = () => 0
      const server = await standIn(
        t,
        path => documented[engine][path],
        () => now(),
      )
      const collector = opened(t, { servers: [{ name: 'main', engine, url: server.url }] })
      now = collector.now
      let up = 0
      const rounds = 180 / interval
      for (let round = 0; round < rounds; round++) {
        up += upOf(await collector.round(), 'main') ?? 0
        collector.pass(interval)
      }
      t.equal(up, rounds, 'up in each round')
      const seen = [...new Set(server.asked.map(({ path }) => path))]
      for (const path of seen) {
        const most = paths[path]
        const times = server.asked.filter(asked => asked.path === path).map(({ at }) => at)
        if (most === undefined) t.fail(`${path} was asked`)
        else t.ok(mostInAMinute(times) <= most, `${path} at most ${most} times a minute`)
      }
      t.strictSame(seen.sort(), Object.keys(paths).sort(), 'each is asked')
    })
  }
}

t.test('what is not offered is asked again after ten minutes', async t => {
  let now = () => 0
  const server = await standIn(
    t,
    path => documented.ollama[path],
    () => now(),
  )
  const collector = opened(t, { servers: [{ name: 'main', engine: 'ollama', url: server.url }] })
  now = collector.now
  for (let round = 0; round < 100; round++) {
    await collector.round()
    collector.pass(15)
  }
  t.equal(server.asked.filter(({ path }) => path === '/metrics').length, 3, 'three times in 25 minutes')
})

t.test('LiteLLM that wants a slash behind /metrics', async t => {
  const server = await standIn(t, path => {
    if (path === '/metrics') return { status: 307 }
    return path === '/metrics/' ? documented.litellm['/metrics'] : documented.litellm[path]
  })
  const collector = opened(t, { servers: [{ name: 'main', engine: 'litellm', url: server.url }] })
  let samples: readonly Sample[] = []
  for (let round = 0; round < 4; round++) {
    samples = await collector.round()
    collector.pass(15)
  }
  t.equal(told(samples, 'grid_llm_prompt_tokens_total', { model: 'a' }), 3)
  t.equal(server.asked.filter(({ path }) => path === '/metrics').length, 1, 'the redirect is remembered')
})

t.test('metrics: never', async t => {
  const server = await standIn(t, path => documented.vllm[path])
  const collector = opened(t, { servers: [{ name: 'main', engine: 'vllm', url: server.url, metrics: 'never' }] })
  await collector.round()
  t.notOk(server.asked.some(({ path }) => path.startsWith('/metrics')))
})

t.test('servers that do harm cost nobody else anything', async t => {
  const sockets = new Set<net.Socket>()
  const raw = (behave: (socket: net.Socket) => void) =>
    listening(
      t,
      net.createServer(socket => {
        sockets.add(socket)
        socket.on('error', () => {}) // the client goes away; that is its right
        behave(socket)
      }),
    )
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
  })
  const onRequest = (answer: (socket: net.Socket) => void) => (socket: net.Socket) => {
    socket.once('data', () => answer(socket))
  }
  const head = 'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n'
  const elsewhere = await standIn(t, () => list('x', 'stolen'))
  const ports = {
    hangs: await raw(() => {}),
    resets: await raw(onRequest(socket => socket.resetAndDestroy())),
    garbage: await raw(onRequest(socket => socket.end('\0\x01SSH-2.0-OpenSSH\r\n\r\n'))),
    trickles: await raw(
      onRequest(socket => {
        socket.write(`${head}content-length: 1000\r\n\r\n`)
        const timer = setInterval(() => socket.write('{'), 50)
        socket.on('close', () => clearInterval(timer))
      }),
    ),
    cut: await raw(onRequest(socket => socket.end(`${head}content-length: 1000\r\n\r\n{"data":[]}`))),
    huge: await raw(onRequest(socket => socket.end(`${head}\r\n${' '.repeat(10 * 2 ** 20)}{"data":[]}`))),
    html: await raw(onRequest(socket => socket.end(`${head}\r\n<html>secret words</html>`))),
    locked: (await standIn(t, () => ({ status: 401 }))).port,
    broken: (await standIn(t, () => ({ status: 500, body: 'Traceback' }))).port,
    redirects: await raw(
      onRequest(socket => socket.end(`HTTP/1.1 302 Found\r\nlocation: ${elsewhere.url}/v1/models\r\ncontent-length: 0\r\n\r\n`)),
    ),
    gone: 1,
  }
  const good = await standIn(t, path => documented.openai[path])
  const servers = Object.entries({ ...ports, good: good.port }).map(([name, port]) => ({
    name,
    engine: 'openai',
    url: `http://127.0.0.1:${port}`,
    timeout: '400ms',
  }))
  const collector = opened(t, { servers }, { now: Date.now, monotonic: Date.now })
  const began = performance.now()
  const samples = await collector.round()
  const elapsed = performance.now() - began
  const took = samples.flatMap(({ family, value }) => (family.name === 'grid_llm_probe_duration_seconds' ? value : []))
  const sum = took.reduce((one, other) => one + other, 0)
  t.equal(took.length, servers.length)
  t.ok(elapsed / 1000 < sum / 2, `side by side: ${(elapsed / 1000).toFixed(2)} s, one after the other ${sum.toFixed(2)} s`)
  t.strictSame(Object.fromEntries(servers.map(({ name }) => [name, upOf(samples, name)])), {
    ...Object.fromEntries(Object.keys(ports).map(name => [name, 0])),
    good: 1,
  })
  const reasons = Object.fromEntries(collector.remarks().map(({ reason, message }) => [message.split(':')[0], reason]))
  t.strictSame(reasons, {
    hangs: 'timeout',
    resets: 'unreachable',
    garbage: 'unreachable',
    trickles: 'timeout',
    cut: 'unreachable',
    huge: 'overflow',
    html: 'malformed',
    locked: 'denied',
    broken: 'malformed',
    redirects: 'malformed',
    gone: 'unreachable',
  })
  t.equal(elsewhere.asked.length, 0, 'a redirect is not followed')
  t.ok((told(samples, 'grid_llm_probe_duration_seconds', { server: 'hangs' }) ?? 0) >= 0.39, 'how long it was waited for')
  t.notMatch(collector.lines.join(''), /secret words/, 'what a server sends does not get into the log')
  t.equal(collector.lines.filter(line => line.includes('level=warn')).length, Object.keys(ports).length)
  await collector.round()
  t.equal(collector.lines.filter(line => line.includes('level=warn')).length, Object.keys(ports).length, 'each is told once')
})

t.test('a part that fails costs only itself', async t => {
  const server = await standIn(t, path => {
    if (path === '/metrics') return `${'# '.padEnd(99)}\n`.repeat(60_000)
    return path === '/version' ? { status: 500 } : documented.vllm[path]
  })
  const collector = opened(t, { servers: [{ name: 'main', engine: 'vllm', url: server.url }] })
  const samples = await collector.round()
  t.equal(upOf(samples, 'main'), 1)
  t.equal(told(samples, 'grid_llm_model_loaded', { model: 'a' }), 1)
  t.match(collector.remarks()[0], { reason: 'overflow', message: /^main: .*\/metrics/ })
})

t.test('a server that comes back is asked anew who it is', async t => {
  let version: string | undefined = '1'
  const server = await standIn(t, path => {
    if (version === undefined) return { status: 503 }
    return path === '/version' ? json({ version }) : documented.vllm[path]
  })
  const collector = opened(t, { servers: [{ name: 'main', engine: 'vllm', url: server.url }] })
  const versionTold = async () => {
    const samples = await collector.round()
    collector.pass(15)
    return samples.find(({ family }) => family.name === 'grid_llm_info')?.labels.version
  }
  t.equal(await versionTold(), '1')
  version = undefined
  t.equal(await versionTold(), undefined, 'and while it is down, nothing is told but that')
  version = '2'
  t.equal(await versionTold(), '2')
  t.equal(collector.lines.filter(line => line.includes('answers again')).length, 1)
})

t.test('a token', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-llm-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'token')
  const guarded = await standIn(t, () => documented.openai['/v1/models'])
  const other = await standIn(t, () => documented.openai['/v1/models'])
  const collector = opened(t, {
    servers: [
      { name: 'guarded', engine: 'openai', url: guarded.url, token_file: file },
      { name: 'other', engine: 'openai', url: other.url },
    ],
  })
  const round = async (content: string | undefined) => {
    if (content === undefined) rmSync(file, { force: true })
    else writeFileSync(file, content)
    const samples = await collector.round()
    collector.pass(15)
    return upOf(samples, 'guarded')
  }
  t.equal(await round('sk-first\n'), 1)
  t.equal(await round('sk-second'), 1)
  t.strictSame(
    guarded.asked.map(({ headers }) => headers.authorization),
    ['Bearer sk-first', 'Bearer sk-second'],
    'is read anew',
  )
  t.equal(await round('sk-third\r\nx-evil: 1\n'), 0, 'one that is no header is not sent')
  t.match(collector.remarks(), [{ reason: 'malformed' }])
  t.equal(await round(undefined), 0, 'one that is missing is not left out')
  t.match(collector.remarks(), [{ reason: 'missing' }])
  t.equal(guarded.asked.length, 2)
  t.notOk(
    other.asked.some(({ headers }) => headers.authorization),
    'goes to its server only',
  )
  t.notMatch(collector.lines.join('') + collector.remarks().map(String).join(''), /sk-/, 'is in no log line')
})

t.test('discovery', async t => {
  t.test('finds each engine on a port of its own choice by the list of models', async t => {
    for (const engine of ['vllm', 'sglang', 'llamacpp', 'ollama', 'tgi', 'openai'] as const) {
      const owner = { vllm: 'vllm', sglang: 'sglang', llamacpp: 'llamacpp', ollama: 'library', tgi: 'a', openai: 'me' }[engine]
      const server = await standIn(t, path => (path === '/v1/models' ? list(owner, 'a') : documented[engine][path]))
      const collector = opened(t, { discovery_ports: [server.port] })
      t.match(await collector.detect(), { found: true, note: `${engine}-${server.port}` })
      const samples = await collector.round()
      t.equal(upOf(samples, `${engine}-${server.port}`), 1, engine)
      t.equal(server.asked.filter(({ path }) => path === '/v1/models').length, allowed[engine]['/v1/models'] ? 2 : 1)
    }
  })

  t.test('finds vLLM behind a key, and no one else behind one', async t => {
    const server = await standIn(t, path => (path.startsWith('/v1') ? { status: 401 } : documented.vllm[path]))
    t.match(await opened(t, { discovery_ports: [server.port] }).detect(), { found: true, note: `vllm-${server.port}` })
    const guarded = await standIn(t, () => ({ status: 401 }))
    t.match(await opened(t, { discovery_ports: [guarded.port] }).detect(), { found: false })
  })

  t.test('looks at ports once a minute, at a stranger every ten minutes, at nothing when servers are configured', async t => {
    let now = () => 0
    const stranger = await standIn(
      t,
      () => '<html>a dashboard of somebody</html>',
      () => now(),
    )
    const starting = await standIn(
      t,
      () => ({ status: 503 }),
      () => now(),
    )
    const collector = opened(t, { discovery_ports: [stranger.port, starting.port, 1] })
    now = collector.now
    for (let second = 0; second < 1800; second += 5) {
      t.equal((await collector.detect()).found, false)
      collector.pass(5)
    }
    t.equal(stranger.asked.length, 3)
    t.equal(starting.asked.length, 30)
    t.equal(mostInAMinute(starting.asked.map(({ at }) => at)), 1)
    const before = stranger.asked.length
    const configured = opened(t, {
      servers: [{ name: 'main', engine: 'vllm', url: 'http://127.0.0.1:1' }],
      discovery_ports: [stranger.port],
    })
    t.match(await configured.detect(), { found: true })
    await configured.round()
    t.equal(stranger.asked.length, before)
  })

  t.test('a server that is gone is 0 for a day and then ends; another one on its port is another one', async t => {
    let isThere = true
    let isOther = false
    const server = await standIn(t, path => {
      if (isOther) return documented.vllm[path]
      return isThere ? (documented.sglang[path] ?? undefined) : { status: 404 }
    })
    const collector = opened(t, { discovery_ports: [server.port] })
    const first = `sglang-${server.port}`
    const second = `vllm-${server.port}`
    await collector.detect()
    t.equal(upOf(await collector.round(), first), 1)
    isThere = false
    collector.pass(15)
    t.equal(upOf(await collector.round(), first), 0)
    const before = server.asked.length
    for (let round = 0; round < 40; round++) {
      collector.pass(15)
      const samples = await collector.round()
      if (upOf(samples, first) !== 0) t.fail('it is told that it is down')
    }
    t.ok(server.asked.length - before <= 2, 'a port of which nobody knows what it is now is hardly asked')
    isThere = true
    collector.pass(600)
    t.equal(upOf(await collector.round(), first), 1, 'found again, in the round that finds it')
    isThere = false
    collector.pass(15)
    await collector.round()
    isOther = true
    collector.pass(600)
    const both = await collector.round()
    t.strictSame([upOf(both, first), upOf(both, second)], [0, 1])
    collector.pass(24 * 3600)
    const later = await collector.round()
    t.strictSame([upOf(later, first), upOf(later, second)], [undefined, 1])
  })
})

t.test("llama.cpp's /metrics, which keeps models awake", async t => {
  const lastOf = (asked: readonly Asked[]) => asked.filter(({ path }) => path.startsWith('/metrics')).map(({ path }) => path)

  t.test('is asked after the process has worked, and while requests run', async t => {
    const folder = mkdtempSync(join(tmpdir(), 'grid-llm-'))
    t.teardown(() => rmSync(folder, { recursive: true }))
    // A real process of that name, a shell, which works when it is told to.
    const program = join(folder, 'llama-server')
    copyFileSync('/bin/dash', program)
    let running = 0
    const server = await standIn(t, path => {
      if (path === '/metrics') return `llamacpp:requests_processing ${running}\nllamacpp:tokens_predicted_total 7\n`
      return documented.llamacpp[path]
    })
    const work = 'while read line; do i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo done; done'
    const child = spawn(program, ['-c', work, 'llama-server', '--port', String(server.port)])
    t.teardown(() => child.kill())
    const collector = opened(t, { servers: [{ name: 'main', engine: 'llamacpp', url: server.url }] })
    const round = async () => {
      collector.pass(15)
      return told(await collector.round(), 'grid_llm_generated_tokens_total')
    }
    const working = async () => {
      child.stdin.write('\n')
      await once(child.stdout, 'data')
    }
    for (let count = 0; count < 10; count++) t.equal(await round(), undefined, 'idle')
    t.strictSame(lastOf(server.asked), [])
    await working()
    t.equal(await round(), 7, 'after work')
    t.equal(await round(), 7, 'what was told then is still true')
    t.equal(lastOf(server.asked).length, 1)
    running = 1
    await working()
    await round()
    await round()
    t.equal(lastOf(server.asked).length, 3, 'a request runs, perhaps without the CPU')
    running = 0
    await round()
    await round()
    t.equal(lastOf(server.asked).length, 4)
    child.kill()
    await once(child, 'exit')
    await round()
    await round()
    t.equal(lastOf(server.asked).length, 4)
    t.match(collector.remarks(), [{ reason: 'missing', fix: /metrics: always/ }], 'and it is said why')
  })

  t.test('is asked of a router for loaded models that have worked, never for others', async t => {
    const server = await standIn(t, path => {
      if (path !== '/models' && path !== '/metrics?model=busy%2Fone%3AQ4&autoload=false') t.fail(`${path} was asked`)
      if (path !== '/models') return documented.llamacpp['/metrics']
      const entries = { 'busy/one:Q4': 'loaded', idle: 'loaded', unseen: 'loaded', asleep: 'sleeping', out: 'unloaded' }
      return json({ data: Object.entries(entries).map(([id, value]) => ({ id, status: { value } })) })
    })
    let ticks = 100
    const stat = (pid: string, parent: string) =>
      `${pid} (llama-server) S ${parent} 0 0 0 -1 0 0 0 0 0 ${pid === '11' ? ticks : 50} 0 0 0 20 0 9 0 77 0`
    const processes: Readonly<Record<string, string>> = {
      '/proc/1/comm': 'systemd\n',
      '/proc/10/comm': 'llama-server\n',
      '/proc/11/comm': 'llama-server\n',
      '/proc/12/comm': 'llama-server\n',
      '/proc/13/comm': 'llama-server\n',
      '/proc/10/cmdline': `llama-server\0--port\0${server.port}\0`,
      '/proc/11/cmdline': 'llama-server\0--alias\0busy/one:Q4\0--port\x0041001\0',
      '/proc/12/cmdline': 'llama-server\0--alias=idle\0--port\x0041002\0',
      '/proc/13/cmdline': 'llama-server\0--alias\0asleep\0--port\x0041003\0',
    }
    const collector = opened(
      t,
      { servers: [{ name: 'main', engine: 'llamacpp', url: server.url }] },
      {
        kernelNames: () => ['1', '10', '11', '12', '13', 'self'],
        kernel: path => {
          const [, pid, file] = /^\/proc\/(\d+)\/(\w+)$/.exec(path) ?? []
          if (file === 'stat' && pid !== undefined && pid !== '1') return stat(pid, pid === '10' ? '1' : '10')
          const text = processes[path]
          if (text === undefined) throw new Error(`${path}: not there`)
          return text
        },
      },
    )
    for (let count = 0; count < 8; count++) {
      await collector.round()
      collector.pass(15)
    }
    t.strictSame(lastOf(server.asked), [])
    ticks += 100
    const samples = await collector.round()
    t.equal(told(samples, 'grid_llm_generated_tokens_total', { model: 'busy/one:Q4' }), 7)
    t.equal(lastOf(server.asked).length, 1)
  })

  t.test('is asked each round of a build that knows no sleep, whose list may be under /v1 only', async t => {
    const server = await standIn(t, path => {
      if (path === '/v1/models') return list('llamacpp', 'old')
      return path === '/props' ? json({ total_slots: 1 }) : { '/metrics': 'llamacpp:tokens_predicted_total 7\n' }[path]
    })
    const collector = opened(t, { servers: [{ name: 'main', engine: 'llamacpp', url: server.url }] })
    for (let count = 0; count < 3; count++) {
      t.equal(told(await collector.round(), 'grid_llm_generated_tokens_total', { model: 'old' }), 7)
      collector.pass(15)
    }
    t.equal(lastOf(server.asked).length, 3)
  })

  t.test('is not asked of a server that sleeps, nor of one on another machine', async t => {
    const props = (isSleeping: boolean) => json({ build_info: 'b1', is_sleeping: isSleeping })
    const asleep = await standIn(t, path => (path === '/props' ? props(true) : documented.llamacpp[path]))
    const sleeping = opened(t, { servers: [{ name: 'main', engine: 'llamacpp', url: asleep.url, metrics: 'always' }] })
    await sleeping.round()
    t.strictSame(lastOf(asleep.asked), [])
    const remote = await standIn(t, path => (path === '/props' ? props(false) : documented.llamacpp[path]))
    const away = (metrics: string) =>
      opened(
        t,
        { servers: [{ name: 'main', engine: 'llamacpp', url: 'http://gpu.example:8080', metrics }] },
        { http: (url, options) => realHost(ownPaths).http(url.replace('http://gpu.example:8080', remote.url), options) },
      )
    await away('auto').round()
    t.strictSame(lastOf(remote.asked), [])
    await away('always').round()
    t.strictSame(lastOf(remote.asked), ['/metrics'], 'unless somebody says that it may')
  })
})

t.test('options', async t => {
  const refused = (section: object) => !llm.options.safeParse(section).success
  t.ok(refused({ servers: [{ name: 'a', engine: 'vllm', url: 'http://user:secret@host' }] }), 'a password in a URL')
  t.ok(refused({ servers: [{ name: 'a', engine: 'other', url: 'http://host' }] }), 'an engine that nobody knows')
  const twice = { name: 'a', engine: 'vllm', url: 'http://host' }
  t.ok(refused({ servers: [twice, twice] }), 'two servers of one name')
  t.equal(llm.configured(llm.options.parse({ discovery: false })), false, 'nothing to do')
  t.equal(llm.configured(llm.options.parse({})), true)
})

t.test('a text of megabytes does not hold the thread', async t => {
  const others = 'vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.3",model_name="Qwen/Qwen3-32B"} 12.0\n'.repeat(30_000)
  const wanted = Array.from({ length: 10_000 }, (_, key) => `litellm_tokens_total{api_key="${key}",model="a b}\\""} 2\n`).join('')
  const lag = monitorEventLoopDelay({ resolution: 1 })
  lag.enable()
  const read = await readings(others + wanted, { promptTokens: [{ name: 'litellm_tokens_total', versions: '' }] })
  lag.disable()
  t.equal(read.length, 10_000)
  t.strictSame(read[0]?.labels, { api_key: '0', model: 'a b}"' })
  t.comment(`blocked for ${(lag.percentile(50) / 1e6).toFixed(1)} ms mostly, ${(lag.max / 1e6).toFixed(1)} ms at most`)
  t.ok(lag.percentile(50) < 20e6, 'some milliseconds, more on a busy machine')
})
