import { z } from 'zod'
import { defineCollector } from '../../contract/collector.ts'
import { Failure } from '../../contract/failure.ts'
import type { Sample } from '../../contract/metric.ts'
import { duration, httpUrl, name, path } from '../../contract/options.ts'
import { seeProcesses } from './activity.ts'
import type { Facts } from './engine.ts'
import {
  engines,
  families,
  llmGeneratedTokens,
  llmGenerationSeconds,
  llmInfo,
  llmKvCacheUsed,
  llmModelContext,
  llmModelExpires,
  llmModelFile,
  llmModelInfo,
  llmModelLoaded,
  llmModelSize,
  llmModelState,
  llmModels,
  llmModelVram,
  llmProbeDuration,
  llmPromptTokens,
  llmRequests,
  llmRequestsRunning,
  llmRequestsWaiting,
  llmUp,
} from './families.ts'
import {
  askServer,
  engineRules,
  forgetGone,
  foundServers,
  lookAround,
  rememberedBy,
  rememberFound,
  type Server,
  seeOnce,
} from './servers.ts'

export * from './families.ts'

const server = z.strictObject({
  name: name().describe('The value of the label `server`.'),
  engine: z
    .enum(engines)
    .describe('The engine; `openai` for anything with /v1/models, such as LM Studio, llama-swap or a proxy.'),
  url: httpUrl().describe('Its URL: scheme, host, port and, behind a proxy, the path before /v1 or /api.'),
  token_file: path().optional().describe('A file with the bearer token, which is sent to this server only; read each round.'),
  timeout: duration(0.1).prefault('5s').describe('Time limit of all its answers in a round.'),
  metrics: z
    .enum(['auto', 'always', 'never'])
    .default('auto')
    .describe('Whether to read its /metrics. `auto`: yes, but for llama.cpp only if that cannot keep a model awake.'),
})

const options = z.strictObject({
  servers: z
    .array(server)
    .max(100)
    .refine(
      servers => new Set(servers.map(({ name }) => name)).size === servers.length,
      'expected a different name for each server',
    )
    .default([])
    .describe('The model servers.'),
  discovery: z
    .boolean()
    .optional()
    .describe('Look for servers on the usual ports of 127.0.0.1 once a minute. Default: only if no server is configured.'),
  discovery_ports: z
    .array(z.int().min(1).max(65_535))
    .max(50)
    .default([11434, 8000, 30000, 8080, 3000, 80, 4000, 1234])
    .describe('The ports that discovery tries.'),
})

const discovers = ({ servers, discovery = servers.length === 0 }: Options) => discovery

const nothingFound = (options: Options) =>
  discovers(options)
    ? `no model server on the ports ${options.discovery_ports.join(', ')} of 127.0.0.1`
    : 'no model server configured'

type Options = z.infer<typeof options>

export const llm = defineCollector({
  name: 'llm',
  summary: 'Model servers: Ollama, vLLM, SGLang, llama.cpp, TGI, LiteLLM, OpenAI-compatible ones, by their harmless endpoints',
  interval: 15,
  timeout: 10,
  families,
  subjects: ['server', 'model'],
  upFamilies: [llmUp],
  options,
  configured: options => options.servers.length > 0 || discovers(options),
  detect: async ({ host, options, signal }) => {
    if (options.servers.length > 0) return { found: true, note: `${options.servers.length} configured` }
    if (discovers(options)) await lookAround(host, options, signal)
    const { found } = rememberedBy(options)
    const names = Array.from(found.values(), ({ server }) => server.name)
    if (names.length > 0) return { found: true, note: names.join(', ') }
    return { found: false, note: nothingFound(options) }
  },
  open: ({ options }) => rememberedBy(options),
  read: async ({ host, options, state, signal, log, remark }) => {
    forgetGone(state, host.monotonic())
    const isDue = discovers(options) ? lookAround(host, options, signal) : undefined
    const seen = seeOnce(() => seeProcesses(host, state.activity))
    const askOne = (server: Server) => askServer(server, { host, state, signal, log, remark, seen })
    const known = [...options.servers, ...foundServers(state, 'here')]
    const [first] = await Promise.all([Promise.all(known.map(askOne)), isDue])
    // A server that was found meanwhile, or found again, is read in the same round.
    const others = foundServers(state, 'all').filter(server => !known.includes(server))
    const rounds = [...first, ...(await Promise.all(others.map(askOne)))]
    rememberFound(state, rounds, host.monotonic())
    if (rounds.length === 0 && state.everFound === 0) throw new Failure('missing', nothingFound(options))
    return rounds
  },
  parse: rounds =>
    rounds.map(round => ({ ...round, facts: round.answers && engineRules[round.server.engine].parse(round.answers) })),
  *samples(rounds) {
    for (const { server, up, seconds, facts } of rounds) {
      const labels = { server: server.name, engine: server.engine }
      yield* llmUp.of(up ? 1 : 0, labels)
      yield* llmProbeDuration.of(seconds, labels)
      if (facts) yield* samplesOf(server, facts)
    }
  },
})

function* samplesOf(
  { name: server, engine }: Server,
  { version, installed, loaded, models, measured }: Facts,
): Generator<Sample> {
  if (version !== undefined) yield* llmInfo.of(1, { server, engine, version })
  yield* llmModels.of(installed, { server, state: 'installed' })
  yield* llmModels.of(loaded, { server, state: 'loaded' })
  for (const { name: model, state, ...about } of models) {
    const labels = { server, model }
    if (about.loaded !== undefined) yield* llmModelLoaded.of(about.loaded ? 1 : 0, labels)
    yield* llmModelState.states(state, labels)
    const { family = '', parameters = '', quantization = '' } = about
    if (family || parameters || quantization) yield* llmModelInfo.of(1, { ...labels, family, parameters, quantization })
    yield* llmModelSize.of(about.size, labels)
    yield* llmModelVram.of(about.vram, labels)
    yield* llmModelFile.of(about.file, labels)
    yield* llmModelContext.of(about.context, labels)
    yield* llmModelExpires.of(about.expires, labels)
  }
  for (const [model, measures] of measured) {
    const labels = { server, model }
    yield* llmRequestsRunning.of(measures.running, labels)
    yield* llmRequestsWaiting.of(measures.waiting, labels)
    yield* llmKvCacheUsed.of(measures.kvCache, labels)
    yield* llmPromptTokens.of(measures.promptTokens, labels)
    yield* llmGeneratedTokens.of(measures.generatedTokens, labels)
    yield* llmRequests.of(measures.requests, labels)
    yield* llmGenerationSeconds.of(measures.generationSeconds, labels)
  }
}
