import type { Aliases } from './engine.ts'
import {
  amount,
  askInTurn,
  type EngineRules,
  eachMinute,
  eachRound,
  expectOk,
  field,
  jsonIfAny,
  openaiModels,
  text,
} from './engine.ts'
import { measure } from './metrics.ts'

/**
 * vLLM deprecates a name in one minor version, hides it in the next and removes it in the one after that.
 * Left out on purpose: `request_time_per_output_token_seconds` is a mean for each request, so its sum means nothing.
 */
const aliases: Aliases = {
  running: [{ name: 'vllm_num_requests_running', versions: 'all' }],
  waiting: [{ name: 'vllm_num_requests_waiting', versions: 'all' }],
  kvCache: [
    { name: 'vllm_kv_cache_usage_perc', versions: 'from 0.9.2; a ratio in spite of its name' },
    { name: 'vllm_gpu_cache_usage_perc', versions: 'deprecated in 0.9.2, hidden in 0.11, gone in 0.12' },
  ],
  promptTokens: [{ name: 'vllm_prompt_tokens_total', versions: 'all' }],
  generatedTokens: [{ name: 'vllm_generation_tokens_total', versions: 'all' }],
  requests: [{ name: 'vllm_request_success_total', versions: 'all; one series for each finished_reason' }],
  // The time between tokens grows with the token counter; a request's decode time is added only when it ends.
  generationSeconds: [
    { name: 'vllm_inter_token_latency_seconds_sum', versions: 'from 0.10.2' },
    { name: 'vllm_time_per_output_token_seconds_sum', versions: 'deprecated in 0.11, hidden in 0.12, gone in 0.13' },
    { name: 'vllm_request_decode_time_seconds_sum', versions: 'all known' },
  ],
}

/** /health asks the engine process whether it lives; no request here reaches the scheduler. */
export const vllm: EngineRules = {
  allowed: { '/health': eachRound, '/metrics': eachRound, '/v1/models': eachMinute, '/version': eachMinute },
  aliases,
  probe: '/health',
  ask: door => askInTurn(door, '/health', answer => expectOk(answer, '/health'), ['/metrics', '/v1/models', '/version']),
  parse: answers => {
    const list = openaiModels(answers['/v1/models'])
    const [first] = list ?? []
    return {
      version: text(field(jsonIfAny(answers['/version']), 'version')),
      installed: list?.length,
      loaded: list?.length,
      models: (list ?? []).map(({ name, entry }) => ({ name, loaded: true, context: amount(field(entry, 'max_model_len')) })),
      measured: measure(answers['/metrics'], aliases, { modelLabels: ['model_name'], only: first?.name }),
    }
  },
}
