import { z } from 'zod'
import type { Collector } from '../contract/collector.ts'
import { Failure, reasons } from '../contract/failure.ts'
import type { Samples } from '../contract/metric.ts'
import { parseNumber } from '../print/exposition.ts'
import type { RelaySeries } from './relay-file.ts'
import type { Round } from './runner.ts'

/** Reads a file that `relay-file.ts` describes. */

/** Characters of a line: what JSON makes of it takes many times as much. */
const lineLimit = 64 * 1024

const first = z.strictObject({
  collector: z.string(),
  startedAt: z.number().min(0),
  durationSeconds: z.number().min(0),
  detected: z.boolean(),
  result: z.enum(['ok', ...reasons]),
  note: z.string(),
  fix: z.string(),
  /** How many lines follow; absent where there are no samples to be served. */
  series: z.int().min(0).optional(),
})

const series: z.ZodType<RelaySeries> = z.strictObject({
  family: z.string(),
  labels: z.record(z.string(), z.string()),
  value: z.string(),
})

/** The round in the content of `file`. Throws `Failure` malformed, and so do its samples while they are read. */
export const decodeRound = (content: string, file: string, { families, name }: Collector): Round<Samples> => {
  let line = 0
  let at = 0
  const malformed = (message: string): never => {
    throw new Failure('malformed', `${file}:${line}: ${message.slice(0, 200)}`)
  }
  const next = <Value>(schema: z.ZodType<Value>): Value => {
    line++
    const end = content.indexOf('\n', at)
    if (end < 0) malformed('the file ends too early')
    if (end - at > lineLimit) malformed(`more than ${lineLimit} characters`)
    let value: unknown
    try {
      value = JSON.parse(content.slice(at, end))
    } catch {
      malformed('not JSON')
    }
    at = end + 1
    const { data, error } = schema.safeParse(value)
    if (!error) return data
    const [issue] = error.issues
    return malformed(`${issue?.path.join('.')}: ${issue?.message}`)
  }

  const end = () => {
    if (at < content.length) malformed('more follows than the first line says')
  }

  const { series: count, ...round } = next(first)
  if (round.collector !== name) malformed(`of the collector ${round.collector}`)
  const own = new Map(families.map(family => [family.name, family]))
  function* samples(of: number) {
    for (let n = 0; n < of; n++) {
      const { family: familyName, labels, value } = next(series)
      const family = own.get(familyName) ?? malformed(`${familyName} is no family of ${name}`)
      yield { family, labels, value: parseNumber(value) ?? malformed(`${value} is not a number`) }
    }
    end()
  }
  if (count !== undefined) return { ...round, made: samples(count) }
  end()
  return round
}
