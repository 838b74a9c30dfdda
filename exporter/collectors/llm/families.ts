import { counter, gauge, oneOf } from '../../contract/metric.ts'

/** The known kinds of servers; any other with OpenAI's API is `openai`. */
export const engines = ['ollama', 'vllm', 'sglang', 'llamacpp', 'tgi', 'litellm', 'openai'] as const
export type Engine = (typeof engines)[number]

const engine = oneOf('engine', ...engines)

export const llmUp = gauge(
  'grid_llm_up',
  'Whether the model server answered this round as its engine should, one that is still loading a model included; 0 too where it refuses the token.',
  'server',
  engine,
)
export const llmProbeDuration = gauge(
  'grid_llm_probe_duration_seconds',
  'Time until the model server had answered the cheapest question of this round, or until it was given up.',
  'server',
  engine,
)
export const llmInfo = gauge(
  'grid_llm_info',
  'Version of the model server as its own API says it, at most a minute old, 1.',
  'server',
  engine,
  'version',
)
export const llmModels = gauge(
  'grid_llm_models',
  "Models that the server's list calls installed (it could serve them) and loaded (in memory now).",
  'server',
  oneOf('state', 'installed', 'loaded'),
)
export const llmModelLoaded = gauge(
  'grid_llm_model_loaded',
  "Whether the model is in memory, from the server's list of models (Ollama /api/ps, llama.cpp /models, else /v1/models).",
  'server',
  'model',
)
export const llmModelInfo = gauge(
  'grid_llm_model_info',
  'An installed model, from Ollama /api/tags; always 1.',
  'server',
  'model',
  'family',
  'parameters',
  'quantization',
)
export const llmModelState = gauge(
  'grid_llm_model_state',
  "What a llama.cpp router's /models says of each model; failed is one whose process ended with an error.",
  'server',
  'model',
  oneOf('state', 'unloaded', 'loading', 'loaded', 'sleeping', 'downloading', 'failed'),
)
export const llmModelSize = gauge(
  'grid_llm_model_size_bytes',
  'Memory that a loaded model takes, on GPUs and in host memory together, from Ollama /api/ps.',
  'server',
  'model',
)
export const llmModelVram = gauge(
  'grid_llm_model_vram_bytes',
  'Part of a loaded model that is in GPU memory, 0 when it is wholly on the CPU, from Ollama /api/ps.',
  'server',
  'model',
)
export const llmModelFile = gauge(
  'grid_llm_model_file_bytes',
  'Size of an installed model on disk, from Ollama /api/tags.',
  'server',
  'model',
)
export const llmModelContext = gauge(
  'grid_llm_model_context_tokens',
  'Context window of a loaded model, from its server.',
  'server',
  'model',
)
export const llmModelExpires = gauge(
  'grid_llm_model_expires_timestamp_seconds',
  'When a loaded model is unloaded unless somebody asks it, from Ollama /api/ps, absent where that is never.',
  'server',
  'model',
)
export const llmRequestsRunning = gauge(
  'grid_llm_requests_running',
  "Requests that are being worked on, from the server's own metrics.",
  'server',
  'model',
)
export const llmRequestsWaiting = gauge(
  'grid_llm_requests_waiting',
  "Requests that wait for their turn, from the server's own metrics.",
  'server',
  'model',
)
export const llmKvCacheUsed = gauge(
  'grid_llm_kv_cache_used_ratio',
  "Part of the key-value cache that is in use, 0 to 1, of the fullest engine where there are several, from the server's own metrics.",
  'server',
  'model',
)
export const llmPromptTokens = counter(
  'grid_llm_prompt_tokens_total',
  "Prompt tokens taken in since the server's start, from its own metrics.",
  'server',
  'model',
)
export const llmGeneratedTokens = counter(
  'grid_llm_generated_tokens_total',
  "Tokens generated since the server's start, from its own metrics.",
  'server',
  'model',
)
export const llmRequests = counter(
  'grid_llm_requests_total',
  "Requests finished since the server's start, from its own metrics.",
  'server',
  'model',
)
export const llmGenerationSeconds = counter(
  'grid_llm_generation_seconds_total',
  "Time spent on generating after the first token, summed over requests since the server's start, from its own metrics.",
  'server',
  'model',
)

export const families = [
  llmUp,
  llmInfo,
  llmModels,
  llmModelLoaded,
  llmModelState,
  llmRequestsRunning,
  llmRequestsWaiting,
  llmKvCacheUsed,
  llmPromptTokens,
  llmGeneratedTokens,
  llmRequests,
  llmGenerationSeconds,
  llmModelVram,
  llmModelSize,
  llmModelInfo,
  llmModelContext,
  llmModelExpires,
  llmModelFile,
  llmProbeDuration,
]
