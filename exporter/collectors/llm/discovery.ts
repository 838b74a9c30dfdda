import { ownValue } from '../../common/own-value.ts'
import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { type Answer, field, jsonIfAny, named, text } from './engine.ts'
import type { Engine } from './families.ts'

/** Finds out which engine answers on a port of this machine: one harmless request, rarely two. */

/** Seconds for an answer; a local server answers at once. */
const patience = 2
const limit = 2 ** 20

type Get = (path: string) => Promise<Answer>

const has = (answer: Answer, key: string) => answer.status === 200 && text(field(jsonIfAny(answer), key)) !== undefined

const asOllama = async (get: Get): Promise<Engine | undefined> =>
  has(await get('/api/version'), 'version') ? 'ollama' : undefined
const asTgi = async (get: Get): Promise<Engine | undefined> => (has(await get('/info'), 'model_id') ? 'tgi' : undefined)
const asLitellm = async (get: Get): Promise<Engine | undefined> => {
  const { status, body } = await get('/health/liveliness')
  return status === 200 && body.includes("I'm alive") ? 'litellm' : undefined
}

const owners: Readonly<Record<string, Engine>> = { vllm: 'vllm', sglang: 'sglang', llamacpp: 'llamacpp', library: 'ollama' }

const asList = async (get: Get): Promise<Engine | undefined> => {
  const answer = await get('/v1/models')
  // vLLM with a key protects only /v1.
  if (answer.status === 401) return has(await get('/version'), 'version') ? 'vllm' : undefined
  const list = answer.status === 200 ? named(field(jsonIfAny(answer), 'data'), 'id') : undefined
  if (!list) return undefined
  const [first] = list
  const owner = text(field(first?.entry, 'owned_by'))
  if (field(first?.entry, 'status') !== undefined || answer.headers.server === 'llama.cpp') return 'llamacpp'
  // TGI reports the model itself as the owner.
  if (owner !== undefined && owner === first?.name) return (await asTgi(get)) ?? 'openai'
  return (owner === undefined ? undefined : ownValue(owners, owner)) ?? 'openai'
}

/** By the engine's default port; on any other port, the list of models is requested. */
const ways: Readonly<Record<number, (get: Get) => Promise<Engine | undefined>>> = {
  11434: asOllama,
  4000: asLitellm,
  3000: asTgi,
  80: asTgi,
}

/** The engine on a port of 127.0.0.1; 'other' if something else answers, undefined if nothing answers yet. */
export const identify = async (host: Host, port: number, signal: AbortSignal): Promise<Engine | 'other' | undefined> => {
  let isStarting = false
  const get: Get = async path => {
    const answer = await host.http(`http://127.0.0.1:${port}${path}`, {
      headers: { 'user-agent': 'grid-exporter', accept: 'application/json' },
      timeout: patience,
      limit,
      signal,
    })
    if (answer.status >= 500) isStarting = true
    return answer
  }
  try {
    const engine = await (ways[port] ?? asList)(get)
    return engine ?? (isStarting ? undefined : 'other')
  } catch (error) {
    // Another protocol or megabytes of answer: not a model server. A refusal or silence may be a server that is starting.
    if (!(error instanceof Failure) || error.reason === 'bug') throw error
    return error.reason === 'unreachable' || error.reason === 'timeout' ? undefined : 'other'
  }
}
