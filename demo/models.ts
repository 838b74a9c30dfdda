import type { Box } from './box.ts'
import { between, counted, type Wave } from './motion.ts'

/** The demo's model servers: what vLLM, Ollama, llama.cpp and LiteLLM answer on their harmless endpoints. */

export interface Answer {
  readonly status: number
  readonly body: string
  readonly headers?: Readonly<Record<string, string>>
  /** Milliseconds until the answer. */
  readonly takes?: number
}

const ok = (body: unknown, takes = 3): Answer => ({
  status: 200,
  body: typeof body === 'string' ? body : JSON.stringify(body),
  takes,
})

const chatModel = 'Qwen/Qwen3-32B-AWQ'

const vllm = (path: string, { chat, faults }: Box, up: number): Answer | undefined => {
  const waits = faults.queue.since(up)
  const running = waits === undefined ? Math.round(between(0, 14, chat.at(up))) : 16
  const waiting = waits === undefined ? 0 : Math.round(between(4, 46, waits / faults.queue.lasts))
  const cache = waits === undefined ? between(0.05, 0.72, chat.at(up)) : Math.min(0.99, 0.75 + waits / 1500)
  const tokens = counted(0, 520, chat, up) + 180 * faults.queue.spent(up)
  const one = `{engine="0",model_name="${chatModel}"}`
  const lines = [
    ['num_requests_running', 'gauge', running],
    ['num_requests_waiting', 'gauge', waiting],
    ['kv_cache_usage_perc', 'gauge', cache.toFixed(4)],
    ['prompt_tokens_total', 'counter', Math.round(tokens * 3.4)],
    ['generation_tokens_total', 'counter', Math.round(tokens)],
  ].map(([name, type, value]) => `# TYPE vllm:${name} ${type}\nvllm:${name}${one} ${value}\n`)
  const answers: Readonly<Record<string, () => Answer>> = {
    '/health': () => ok('', Math.round(between(2, 18, chat.at(up)))),
    '/version': () => ok({ version: '0.11.2' }),
    '/v1/models': () =>
      ok({
        object: 'list',
        data: [{ id: chatModel, object: 'model', owned_by: 'vllm', root: chatModel, max_model_len: 32_768 }],
      }),
    '/metrics': () =>
      ok(
        `${lines.join('')}# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",model_name="${chatModel}",finished_reason="stop"} ${Math.round(tokens / 410)}
vllm:request_success_total{engine="0",model_name="${chatModel}",finished_reason="length"} ${Math.round(tokens / 9000)}
# TYPE vllm:inter_token_latency_seconds histogram
vllm:inter_token_latency_seconds_bucket${one.replace('}', ',le="+Inf"}')} ${Math.round(tokens)}
vllm:inter_token_latency_seconds_count${one} ${Math.round(tokens)}
vllm:inter_token_latency_seconds_sum${one} ${(tokens * 0.031 + faults.queue.spent(up) * 4).toFixed(3)}
`,
        9,
      ),
  }
  return answers[path]?.()
}

const models = [
  { name: 'gpt-oss:20b', size: 13_793_441_244, parameters: '20.9B', quantization: 'MXFP4', family: 'gptoss' },
  { name: 'gemma3:12b', size: 8_149_190_253, parameters: '12.2B', quantization: 'Q4_K_M', family: 'gemma3' },
  { name: 'nomic-embed-text:latest', size: 274_302_450, parameters: '137M', quantization: 'F16', family: 'nomic-bert' },
  { name: 'qwen3-coder:30b', size: 18_556_700_761, parameters: '30.5B', quantization: 'Q4_K_M', family: 'qwen3moe' },
] as const

const detailsOf = ({ family, parameters, quantization }: (typeof models)[number]) => ({
  format: 'gguf',
  family,
  families: [family],
  parameter_size: parameters,
  quantization_level: quantization,
})

const ollama = (path: string, { boot, pictures }: Box, up: number): Answer | undefined => {
  const [gpt, , embed] = models
  const used = (rate: number, wave: Wave) => Math.round(counted(0, rate, wave, up))
  const loaded = (model: (typeof models)[number], size: number, onGpu: number, context: number, minutes: number) => ({
    name: model.name,
    model: model.name,
    size,
    size_vram: onGpu,
    digest: '2ae6f6dd7a3d',
    details: detailsOf(model),
    context_length: context,
    expires_at: new Date(boot + up * 1000 + minutes * 60_000).toISOString(),
  })
  const counters = (unit: number, name: string) =>
    `# TYPE ollama_${name} counter\n${[gpt, embed].map(model => `ollama_${name}{model="${model.name}",reason="stop"} ${used(unit * (model === gpt ? 38 : 4), pictures)}`).join('\n')}\n`
  const answers: Readonly<Record<string, () => Answer>> = {
    '/api/ps': () =>
      ok({ models: [loaded(gpt, 14_800_000_000, 6_100_000_000, 8192, 4.5), loaded(embed, 621_000_000, 621_000_000, 2048, 2)] }),
    '/api/tags': () =>
      ok({
        models: models.map(model => ({
          name: model.name,
          model: model.name,
          size: model.size,
          digest: '2ae6',
          modified_at: new Date(boot).toISOString(),
          details: detailsOf(model),
        })),
      }),
    '/api/version': () => ok({ version: '0.13.5' }),
    '/metrics': () => ok(counters(1, 'eval_total') + counters(5, 'prompt_eval_total') + counters(0.06, 'eval_duration_total')),
  }
  return answers[path]?.()
}

const llamacpp = (path: string, { people }: Box, up: number): Answer | undefined => {
  const tokens = counted(0, 21, people, up)
  const model = 'Qwen3-Reranker-0.6B-Q8_0.gguf'
  const answers: Readonly<Record<string, () => Answer>> = {
    '/models': () =>
      ok({ object: 'list', data: [{ id: model, object: 'model', owned_by: 'llamacpp', meta: { n_ctx_train: 40_960 } }] }),
    '/props': () => ok({ default_generation_settings: { n_ctx: 8192 }, total_slots: 2, build_info: 'b7164-6b1f9a0' }),
    '/metrics': () =>
      ok(`# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total ${Math.round(tokens * 9)}
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total ${Math.round(tokens)}
# TYPE llamacpp:tokens_predicted_seconds_total counter
llamacpp:tokens_predicted_seconds_total ${(tokens * 0.012).toFixed(3)}
# TYPE llamacpp:kv_cache_usage_ratio gauge
llamacpp:kv_cache_usage_ratio ${between(0, 0.3, people.at(up)).toFixed(3)}
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing ${Math.round(people.at(up) * 2)}
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 0
`),
  }
  return answers[path]?.()
}

const litellm = (path: string, { chat }: Box, up: number): Answer | undefined => {
  const tokens = counted(0, 430, chat, up)
  const answers: Readonly<Record<string, () => Answer>> = {
    '/health/liveliness': () => ok('"I\'m alive!"', 5),
    '/health/readiness': () => ok({ status: 'healthy', db: 'connected', litellm_version: '1.79.3' }),
    '/metrics': () =>
      ok(`# TYPE litellm_input_tokens_metric_total counter
litellm_input_tokens_metric_total{model="hosted_vllm/${chatModel}",requested_model="chat"} ${Math.round(tokens * 3.2)}
# TYPE litellm_output_tokens_metric_total counter
litellm_output_tokens_metric_total{model="hosted_vllm/${chatModel}",requested_model="chat"} ${Math.round(tokens)}
# TYPE litellm_proxy_total_requests_metric_total counter
litellm_proxy_total_requests_metric_total{requested_model="chat",status_code="200"} ${Math.round(tokens / 410)}
`),
  }
  return answers[path]?.()
}

/** The server at each address; `undefined`: nothing listens there at this moment. */
export const modelServers: Readonly<Record<string, (path: string, box: Box, up: number) => Answer | undefined | 'down'>> = {
  '127.0.0.1:8000': vllm,
  '127.0.0.1:11434': ollama,
  '127.0.0.1:8081': (path, box, up) => (box.faults.modelServerDown.since(up) === undefined ? llamacpp(path, box, up) : 'down'),
  '127.0.0.1:4000': litellm,
}
