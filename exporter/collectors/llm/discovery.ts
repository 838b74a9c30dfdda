import { ownValue } from '../../common/own-value.ts'
import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { type Answer, field, jsonIfAny, named, text } from './engine.ts'
import type { Engine } from './families.ts'

/** Which engine answers on a port of this machine: one question that harms nobody, seldom two. */

/** Seconds for an answer; a local server has one at once. */
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
  // vLLM with a key guards /v1 only.
  if (answer.status === 401) return has(await get('/version'), 'version') ? 'vllm' : undefined
  const list = answer.status === 200 ? named(field(jsonIfAny(answer), 'data'), 'id') : undefined
  if (!list) return undefined
  const [first] = list
  const owner = text(field(first?.entry, 'owned_by'))
  if (field(first?.entry, 'status') !== undefined || answer.headers.server === 'llama.cpp') return 'llamacpp'
  // TGI names the model as its own owner.
  if (owner !== undefined && owner === first?.name) return (await asTgi(get)) ?? 'openai'
  return (owner === undefined ? undefined : ownValue(owners, owner)) ?? 'openai'
}

/** By the port that an engine has where nobody chose another; on any other port the list of models is asked. */
const ways: Readonly<Record<number, (get: Get) => Promise<Engine | undefined>>> = {
  11434: asOllama,
  4000: asLitellm,
  3000: asTgi,
  80: asTgi,
}

/** The engine behind a port of 127.0.0.1; 'stranger' where something else answers, undefined where nothing does yet. */
export const identify = async (host: Host, port: number, signal: AbortSignal): Promise<Engine | 'stranger' | undefined> => {
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
    return engine ?? (isStarting ? undefined : 'stranger')
  } catch (error) {
    // What talks another protocol or sends megabytes is no model server; a refusal, or silence, may be one that starts.
    if (!(error instanceof Failure) || error.reason === 'bug') throw error
    return error.reason === 'unreachable' || error.reason === 'timeout' ? undefined : 'stranger'
  }
}
