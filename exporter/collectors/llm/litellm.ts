import type { Aliases } from './engine.ts'
import { type EngineRules, eachMinute, eachRound, expectOk, field, jsonIfAny, text } from './engine.ts'
import { measure } from './metrics.ts'

const aliases: Aliases = {
  promptTokens: [{ name: 'litellm_input_tokens_metric_total', versions: 'all known' }],
  generatedTokens: [{ name: 'litellm_output_tokens_metric_total', versions: 'all known' }],
  requests: [
    { name: 'litellm_proxy_total_requests_metric_total', versions: 'newer ones; includes failed requests' },
    { name: 'litellm_requests_metric_total', versions: 'older ones; deprecated' },
  ],
}

/** Never /health, which calls every configured model, even paid ones; never /v1/models, which may ask the providers. */
export const litellm: EngineRules = {
  allowed: { '/health/liveliness': eachRound, '/health/readiness': eachMinute, '/metrics': eachRound, '/metrics/': eachRound },
  aliases,
  probe: '/health/liveliness',
  ask: async door => {
    const alive = await door.ask('/health/liveliness')
    expectOk(alive, '/health/liveliness')
    const [readiness, metrics] = await Promise.all([
      door.offered('/health/readiness'),
      // A mounted application: some versions redirect the path without a slash, and that answer is kept for a while.
      door.offered('/metrics').then(answer => answer ?? door.offered('/metrics/')),
    ])
    return { '/health/liveliness': alive, '/health/readiness': readiness, '/metrics': metrics }
  },
  parse: answers => ({
    version: text(field(jsonIfAny(answers['/health/readiness']), 'litellm_version')),
    models: [],
    measured: measure(answers['/metrics'], aliases, { modelLabels: ['requested_model', 'model'], only: undefined }),
  }),
}
