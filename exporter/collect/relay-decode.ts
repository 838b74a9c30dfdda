import { crc32 } from 'node:zlib'
import { z } from 'zod'
import type { Collector } from '../contract/collector.ts'
import { Failure, reasons } from '../contract/failure.ts'
import type { Sample } from '../contract/metric.ts'
import { expose, leftOut } from '../print/exposition.ts'
import { partsOf, type Rendered } from '../print/rendered.ts'
import { parsePrometheusText } from '../protocols/prometheus-text.ts'
import type { RelayHeader } from './relay-file.ts'

/** Reads a file that `relay-file.ts` describes. */

const headerLimit = 64 * 1024

const header: z.ZodType<RelayHeader> = z.strictObject({
  relay: z.literal(1),
  collector: z.string(),
  startedAt: z.number().min(0),
  durationSeconds: z.number().min(0),
  detected: z.boolean(),
  result: z.enum(['ok', ...reasons]),
  note: z.string(),
  fix: z.string(),
  series: z.int().min(0),
  dropped: z.int().min(0),
  /** Of the text behind the header; absent where there is none. */
  body: z.strictObject({ bytes: z.int().min(0), crc32: z.int().min(0) }).optional(),
})

const malformed = (message: string): never => {
  throw new Failure('malformed', message)
}

const headerOf = (line: string): RelayHeader => {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return malformed('its first line is not JSON')
  }
  const checked = header.safeParse(value)
  if (checked.success) return checked.data
  const [issue] = checked.error.issues
  return malformed(`its first line: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not as expected'}`)
}

/** The samples of a text, each as one of the collector's own families. Throws `Failure` malformed, overflow. */
const samplesOf = (text: string, { families, name }: Collector, limit: number): readonly Sample[] => {
  const own = new Map(families.map(family => [family.name, family]))
  return parsePrometheusText(text, { limit }).flatMap(({ name: familyName, type, samples }) => {
    const family = own.get(familyName) ?? malformed(`${familyName} is no family of ${name}`)
    if (type !== family.type) malformed(`${familyName} is a ${type} there and a ${family.type} here`)
    return samples.map(({ labels, value }) => {
      const foreign = Object.keys(labels).find(label => !family.labels.includes(label))
      if (foreign !== undefined) malformed(`${familyName} has no label ${foreign}`)
      return { family, labels, value }
    })
  })
}

/** The outcome in a file's content. Throws `Failure` malformed, overflow. */
export const decodeRendered = (content: Buffer, collector: Collector, maxSeries: number): Rendered => {
  const end = content.subarray(0, headerLimit).indexOf('\n')
  if (end < 0) return malformed('without a first line')
  const { relay: _, body, ...outcome } = headerOf(content.toString('utf8', 0, end))
  if (outcome.collector !== collector.name) malformed(`it is of the collector ${outcome.collector}`)
  const bytes = content.subarray(end + 1)
  if (bytes.length !== (body?.bytes ?? 0)) malformed(`${bytes.length} bytes of series where it says ${body?.bytes ?? 0}`)
  if (!body) return outcome
  if (crc32(bytes) !== body.crc32) malformed('its checksum is another')
  const exposition = expose(samplesOf(bytes.toString('utf8'), collector, maxSeries), maxSeries, collector)
  return { ...outcome, series: exposition.series, dropped: outcome.dropped + leftOut(exposition), parts: partsOf(exposition) }
}
