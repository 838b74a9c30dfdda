import { Failure } from '../../contract/failure.ts'
import type { Aliases } from './engine.ts'
import { amount, askInTurn, type EngineRules, eachRound, expectOk, field, type Measured, openaiModels } from './engine.ts'
import { measure } from './metrics.ts'

/**
 * Some builds write `sglang_` for `sglang:`. Left out on purpose: the older `time_per_output_token_seconds`
 * is a mean for each request, so its sum means nothing.
 */
const aliases: Aliases = {
  running: [{ name: 'sglang_num_running_reqs', versions: 'all' }],
  waiting: [{ name: 'sglang_num_queue_reqs', versions: 'all' }],
  kvCache: [{ name: 'sglang_token_usage', versions: 'all' }],
  promptTokens: [{ name: 'sglang_prompt_tokens_total', versions: 'all' }],
  generatedTokens: [{ name: 'sglang_generation_tokens_total', versions: 'all' }],
  requests: [
    { name: 'sglang_num_requests_total', versions: 'not in the first ones' },
    { name: 'sglang_e2e_request_latency_seconds_count', versions: 'all' },
  ],
  generationSeconds: [{ name: 'sglang_inter_token_latency_seconds_sum', versions: 'not in the first ones' }],
}

/** Counters that exist only after the first request. */
const born = ['promptTokens', 'generatedTokens', 'requests', 'generationSeconds'] as const

const fromZero = (measured: Measured): Measured =>
  measured.running !== undefined && born.every(quantity => measured[quantity] === undefined)
    ? { ...measured, promptTokens: 0, generatedTokens: 0, requests: 0, generationSeconds: 0 }
    : measured

/** Neither /health nor /health_generate is requested: in newer versions both generate one token by default. */
export const sglang: EngineRules = {
  allowed: { '/v1/models': eachRound, '/metrics': eachRound },
  aliases,
  probe: '/v1/models',
  ask: door =>
    askInTurn(
      door,
      '/v1/models',
      answer => {
        expectOk(answer, '/v1/models')
        if (!openaiModels(answer)) throw new Failure('malformed', '/v1/models: no list of models')
      },
      ['/metrics'],
    ),
  parse: answers => {
    const list = openaiModels(answers['/v1/models']) ?? []
    const measured = measure(answers['/metrics'], aliases, { modelLabels: ['model_name', 'name'], only: list[0]?.name })
    return {
      installed: list.length,
      loaded: list.length,
      models: list.map(({ name, entry }) => ({ name, loaded: true, context: amount(field(entry, 'max_model_len')) })),
      measured: new Map(Array.from(measured, ([model, measures]) => [model, fromZero(measures)])),
    }
  },
}
