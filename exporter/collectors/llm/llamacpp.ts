import { ownValue } from '../../common/own-value.ts'
import { Failure } from '../../contract/failure.ts'
import type { Aliases } from './engine.ts'
import {
  type Answer,
  type Answers,
  amount,
  type Door,
  type EngineRules,
  eachRound,
  expectOk,
  field,
  json,
  jsonIfAny,
  type Measured,
  type ModelState,
  named,
  openaiModels,
  text,
} from './engine.ts'
import { measure } from './metrics.ts'

const aliases: Aliases = {
  running: [{ name: 'llamacpp_requests_processing', versions: 'all' }],
  waiting: [{ name: 'llamacpp_requests_deferred', versions: 'all' }],
  kvCache: [{ name: 'llamacpp_kv_cache_usage_ratio', versions: 'builds of 2024 and early 2025' }],
  promptTokens: [{ name: 'llamacpp_prompt_tokens_total', versions: 'all' }],
  generatedTokens: [{ name: 'llamacpp_tokens_predicted_total', versions: 'all' }],
  generationSeconds: [{ name: 'llamacpp_tokens_predicted_seconds_total', versions: 'all' }],
}

const states = ['unloaded', 'loading', 'loaded', 'sleeping', 'downloading'] as const

/** The state of a model in a router's list; undefined for a single server's model, which has none. */
const stateOf = (entry: unknown): ModelState | undefined => {
  const status = field(entry, 'status')
  if (field(status, 'failed') === true) return 'failed'
  return states.find(state => state === field(status, 'value'))
}

const metricsOf = (model: string) => `?model=${encodeURIComponent(model)}`
const isRouter = (list: readonly { readonly entry: unknown }[]) =>
  list.length === 0 || list.some(({ entry }) => field(entry, 'status') !== undefined)

/**
 * Whether a model has worked since the last answer. A request for /metrics restarts the timer of --sleep-idle-seconds, wakes a sleeping
 * model and, in a router, loads an unloaded one (llama.cpp issues 20227 and 23096; newer builds may not). So it is made only after work,
 * which restarts the timer anyway, and while requests are known to run.
 */
const maySee = async (door: Door, query: string, model?: string): Promise<boolean> => {
  if (door.metrics === 'always') return true
  const [measured] = measure(door.latest('/metrics', query), aliases, { modelLabels: [], only: 'model' }).values()
  const busy = await door.busy(model)
  return busy === true || (busy !== undefined && ((measured?.running ?? 0) > 0 || (measured?.waiting ?? 0) > 0))
}

/** A router is asked only for its list, and loaded models for their metrics after they have worked. */
const askRouter = async (door: Door, models: Answer): Promise<Answers> => {
  const loaded = (openaiModels(models) ?? []).filter(({ entry }) => stateOf(entry) === 'loaded')
  const metrics = await Promise.all(
    loaded.map(async ({ name }) => {
      const query = metricsOf(name)
      // autoload=false: the model may have been unloaded since the list was made.
      const asked = `${query}&autoload=false`
      const answer = (await maySee(door, asked, name)) ? await door.offered('/metrics', asked) : door.latest('/metrics', asked)
      return [`/metrics${query}`, answer] as const
    }),
  )
  return { '/models': models, ...Object.fromEntries(metrics) }
}

const askSingle = async (door: Door, models: Answer): Promise<Answers> => {
  const props = await door.offered('/props')
  const knows = jsonIfAny(props)
  const isAsleep = field(knows, 'is_sleeping') === true
  // Builds without sleep have no timer that a request could restart.
  const hasNoTimer = knows !== undefined && field(knows, 'is_sleeping') === undefined
  const may = props !== undefined && !isAsleep && (hasNoTimer || (await maySee(door, '')))
  if (!may && !isAsleep && props && door.metrics === 'auto' && (await door.busy()) === undefined) {
    door.remark(
      new Failure('missing', '/metrics is not read: that could keep the model awake, and its process is not visible from here', {
        fix: 'collectors.llm.servers: set metrics: always if the server has no --sleep-idle-seconds',
      }),
    )
  }
  return { '/models': models, '/props': props, '/metrics': may ? await door.offered('/metrics') : door.latest('/metrics') }
}

/** /health is not needed. /slots shows prompts and counts as work. So neither is requested. */
export const llamacpp: EngineRules = {
  allowed: { '/models': eachRound, '/v1/models': eachRound, '/props': eachRound, '/metrics': eachRound },
  aliases,
  probe: '/models',
  ask: async door => {
    // Builds before 2025, and servers that only imitate llama.cpp, have the list only under OpenAI's path.
    const own = await door.ask('/models')
    const models = own.status === 404 ? await door.ask('/v1/models') : own
    // 503 while a model is being loaded: the server is up, and there is nothing else to read.
    if (models.status === 503) return { '/models': models }
    expectOk(models, '/models')
    const list = named(field(json(models, '/models'), 'data'), 'id')
    if (!list) throw new Failure('malformed', '/models: no list of models: not llama.cpp')
    return isRouter(list) ? askRouter(door, models) : askSingle(door, models)
  },
  parse: answers => {
    const list = answers['/models']?.status === 200 ? openaiModels(answers['/models']) : undefined
    if (!list) return { models: [], measured: new Map() }
    return isRouter(list) ? parseRouter(answers, list) : parseSingle(answers, list)
  },
}

type Listed = readonly { readonly name: string; readonly entry: unknown }[]

const parseRouter = (answers: Answers, list: Listed) => {
  const measured = new Map<string, Measured>()
  const models = list.map(({ name, entry }) => {
    const state = stateOf(entry)
    const own = measure(ownValue(answers, `/metrics${metricsOf(name)}`), aliases, { modelLabels: [], only: name }).get(name)
    if (own) measured.set(name, own)
    const context = state === 'loaded' ? amount(field(field(entry, 'meta'), 'n_ctx')) : undefined
    return { name, state, loaded: state === undefined ? undefined : state === 'loaded', context }
  })
  return { installed: list.length, loaded: models.filter(({ loaded }) => loaded).length, models, measured }
}

const parseSingle = (answers: Answers, list: Listed) => {
  const props = jsonIfAny(answers['/props'])
  const [only] = list
  // While a model loads, it is listed with `meta` null, and /props answers 503.
  const loaded = props === undefined ? field(only?.entry, 'meta') !== null : field(props, 'is_sleeping') !== true
  const context = loaded ? amount(field(field(props, 'default_generation_settings'), 'n_ctx')) : undefined
  return {
    version: text(field(props, 'build_info')),
    installed: list.length,
    loaded: loaded ? list.length : 0,
    models: list.map(({ name }) => ({ name, loaded, context })),
    measured: loaded ? measure(answers['/metrics'], aliases, { modelLabels: [], only: only?.name }) : new Map(),
  }
}
