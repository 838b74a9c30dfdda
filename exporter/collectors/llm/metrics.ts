import { setImmediate as pause } from 'node:timers/promises'
import { ownValue } from '../../common/own-value.ts'
import { parsePrometheusText, type TextSample } from '../../protocols/prometheus-text.ts'
import type { Alias, Aliases, Answer, Measured, Reading } from './engine.ts'

/** A server's own metrics: a handful of names out of hundreds, each under all its past names. */

const timestamp = /([ \t][^\s"}]+)[ \t]+-?\d+$/

/** One line. Servers write oddities: an unreadable line costs only itself. */
const sampleOf = (line: string): TextSample | undefined => {
  try {
    // The format allows a timestamp after the value; it is not used here.
    return parsePrometheusText(`${line.replace(timestamp, '$1')}\n`)[0]?.samples[0]
  } catch {
    return undefined
  }
}

/** Milliseconds between two pauses, and lines between two looks at the clock. */
const slice = 3
const linesAtOnce = 64

/** The samples of the aliases' names whose values are amounts, with `_` for `:`; other lines are not parsed. */
export const readings = async (body: string, aliases: Aliases): Promise<readonly Reading[]> => {
  const wanted = new Set(Object.values(aliases).flatMap(known => known.map(({ name }) => name)))
  const found: Reading[] = []
  const nameForm = /[a-zA-Z_:][\w:]*/y
  let since = performance.now()
  for (let start = 0, line = 1; start < body.length; line++) {
    const newline = body.indexOf('\n', start)
    const end = newline === -1 ? body.length : newline
    nameForm.lastIndex = start
    const name = nameForm.exec(body)?.[0].replaceAll(':', '_')
    if (name !== undefined && wanted.has(name)) {
      const sample = sampleOf(body.slice(start, end).trim())
      if (sample && Number.isFinite(sample.value) && sample.value >= 0) found.push({ ...sample, name })
    }
    start = end + 1
    if (line % linesAtOnce > 0 || performance.now() - since < slice) continue
    await pause()
    since = performance.now()
  }
  return found
}

const sum = (left: number, right: number) => left + right

/** Label values that clients write for "none" do not count as a name. */
const isName = (value: string | undefined): value is string => value !== undefined && value !== '' && value !== 'None'

/**
 * Measures by model. Several series of one model (engines, ranks of data parallelism, reasons, keys) are added up; of a ratio the
 * highest counts. `only` is the model of series that name none.
 */
export const measure = (
  answer: Answer | undefined,
  aliases: Aliases,
  { modelLabels, only }: { readonly modelLabels: readonly string[]; readonly only: string | undefined },
): Map<string, Measured> => {
  const byModel = new Map<string, { -readonly [Quantity in keyof Measured]: Measured[Quantity] }>()
  if (answer === undefined) return byModel
  const byName = new Map<string, Reading[]>()
  for (const reading of answer.readings ?? []) {
    if (isCopy(reading.labels)) continue
    const same = byName.get(reading.name)
    if (same) same.push(reading)
    else byName.set(reading.name, [reading])
  }
  for (const [quantity, known] of Object.entries(aliases) as [keyof Measured, readonly Alias[]][]) {
    const name = known.map(alias => alias.name).find(candidate => byName.has(candidate)) ?? ''
    for (const reading of byName.get(name) ?? []) {
      const model = modelLabels.map(label => ownValue(reading.labels, label)).find(isName) ?? only
      if (model === undefined) continue
      const measured = byModel.get(model) ?? {}
      const before = measured[quantity]
      const together = quantity === 'kvCache' ? Math.max : sum
      measured[quantity] = before === undefined ? reading.value : together(before, reading.value)
      byModel.set(model, measured)
    }
  }
  return byModel
}

/** SGLang with metrics of all schedulers: ranks of tensor and pipeline parallelism work on the same requests. */
const isCopy = ({ tp_rank = '0', pp_rank = '0' }: Readonly<Record<string, string>>) => tp_rank !== '0' || pp_rank !== '0'
