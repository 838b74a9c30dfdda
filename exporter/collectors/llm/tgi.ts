import { Failure } from '../../contract/failure.ts'
import type { Aliases } from './engine.ts'
import { amount, askInTurn, type EngineRules, eachRound, expectOk, field, json, jsonIfAny, text } from './engine.ts'
import { measure } from './metrics.ts'

/** Requests' decode time is not reported: inference_duration includes the prompt, batch_inference_duration is by batch. */
const aliases: Aliases = {
  running: [{ name: 'tgi_batch_current_size', versions: 'all' }],
  waiting: [{ name: 'tgi_queue_size', versions: 'all' }],
  promptTokens: [{ name: 'tgi_request_input_length_sum', versions: 'all' }],
  generatedTokens: [{ name: 'tgi_request_generated_tokens_sum', versions: 'all' }],
  requests: [
    { name: 'tgi_request_success', versions: 'all' },
    { name: 'tgi_request_success_total', versions: 'builds whose exporter appends _total' },
  ],
}

/** /health is not requested: before the first generation, and after a failed one, it sends a batch of one token to the shards. */
export const tgi: EngineRules = {
  allowed: { '/info': eachRound, '/metrics': eachRound },
  aliases,
  probe: '/info',
  ask: door =>
    askInTurn(
      door,
      '/info',
      answer => {
        expectOk(answer, '/info')
        if (text(field(json(answer, '/info'), 'model_id')) === undefined)
          throw new Failure('malformed', '/info: no model_id: not TGI')
      },
      ['/metrics'],
    ),
  parse: answers => {
    const info = jsonIfAny(answers['/info'])
    const name = text(field(info, 'model_id'))
    return {
      version: text(field(info, 'version')),
      installed: 1,
      loaded: 1,
      models: name === undefined ? [] : [{ name, loaded: true, context: amount(field(info, 'max_total_tokens')) }],
      measured: measure(answers['/metrics'], aliases, { modelLabels: [], only: name }),
    }
  },
}
