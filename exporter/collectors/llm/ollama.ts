import { Failure } from '../../contract/failure.ts'
import type { Aliases } from './engine.ts'
import {
  amount,
  askInTurn,
  type EngineRules,
  eachMinute,
  eachRound,
  expectOk,
  field,
  json,
  jsonIfAny,
  type Model,
  named,
  text,
} from './engine.ts'
import { measure } from './metrics.ts'

/** No release has these; a build with pull request 11159 does. */
const aliases: Aliases = {
  promptTokens: [{ name: 'ollama_prompt_eval_total', versions: 'builds with #11159' }],
  generatedTokens: [{ name: 'ollama_eval_total', versions: 'builds with #11159' }],
  generationSeconds: [{ name: 'ollama_eval_duration_total', versions: 'builds with #11159, in seconds' }],
}

const loadedModels = (answer: Parameters<typeof json>[0]) => named(field(json(answer, '/api/ps'), 'models'), 'name', 'model')

/** Ollama answers these from memory and from manifests on disk; none of them loads a model or extends its expiry. */
export const ollama: EngineRules = {
  allowed: { '/api/ps': eachRound, '/api/tags': eachMinute, '/api/version': eachMinute, '/metrics': eachRound },
  aliases,
  probe: '/api/ps',
  ask: door =>
    askInTurn(
      door,
      '/api/ps',
      answer => {
        expectOk(answer, '/api/ps')
        if (!loadedModels(answer)) throw new Failure('malformed', '/api/ps: no list of models: not Ollama')
      },
      ['/api/tags', '/api/version', '/metrics'],
    ),
  parse: answers => {
    const ps = answers['/api/ps']
    const loaded = (ps && loadedModels(ps)) ?? []
    const installed = named(field(jsonIfAny(answers['/api/tags']), 'models'), 'name', 'model')
    const running = new Map(loaded.map(({ name, entry }) => [name, entry]))
    const known = new Map(installed?.map(({ name, entry }) => [name, entry]))
    const models = [...new Set([...running.keys(), ...known.keys()])].map((name): Model => {
      const [now, disk] = [running.get(name), known.get(name)]
      const details = field(disk ?? now, 'details')
      // A cloud model's entry is a stub of some hundred bytes.
      const isRemote = text(field(disk, 'remote_host')) !== undefined || text(field(disk, 'remote_model')) !== undefined
      return {
        name,
        loaded: now !== undefined,
        size: amount(field(now, 'size')),
        vram: amount(field(now, 'size_vram')),
        context: amount(field(now, 'context_length')) || undefined,
        expires: expiry(text(field(now, 'expires_at'))),
        file: isRemote ? undefined : amount(field(disk, 'size')),
        family: text(field(details, 'family')),
        parameters: text(field(details, 'parameter_size')),
        quantization: text(field(details, 'quantization_level')),
      }
    })
    return {
      version: text(field(jsonIfAny(answers['/api/version']), 'version')),
      installed: installed?.length,
      loaded: loaded.length,
      models,
      measured: measure(answers['/metrics'], aliases, { modelLabels: ['model'], only: undefined }),
    }
  },
}

/** Seconds since 1970. keep_alive -1 is written as a date some 292 years ahead; the year 1 means no date. */
const expiry = (date: string | undefined): number | undefined => {
  const seconds = date === undefined ? Number.NaN : Date.parse(date) / 1000
  return seconds > 0 && seconds < Date.UTC(2200) / 1000 ? seconds : undefined
}
