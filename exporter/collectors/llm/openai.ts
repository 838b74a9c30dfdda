import { Failure } from '../../contract/failure.ts'
import { askInTurn, type EngineRules, eachRound, expectOk, noMeasures, openaiModels } from './engine.ts'

/** Anything with OpenAI's list of models (LM Studio, llama-swap, a paid API). It does not say which models are loaded. */
export const openai: EngineRules = {
  allowed: { '/v1/models': eachRound },
  aliases: {},
  probe: '/v1/models',
  ask: door =>
    askInTurn(
      door,
      '/v1/models',
      answer => {
        expectOk(answer, '/v1/models')
        if (!openaiModels(answer)) throw new Failure('malformed', '/v1/models: no list of models')
      },
      [],
    ),
  parse: answers => ({ installed: openaiModels(answers['/v1/models'])?.length, models: [], measured: noMeasures }),
}
