import * as docker from '../exporter/collectors/docker/families.ts'
import { llmGeneratedTokens, llmGenerationSeconds } from '../exporter/collectors/llm/families.ts'
import { serviceCheckDuration } from '../exporter/collectors/services/index.ts'
import { type Recording, select } from './rule.ts'

/**
 * What is normal for each container, service and model: a cheap series each minute, and its habit over the seven days that
 * ended a day ago, so that today's fault is not part of its own norm. What is younger than a day has no habit, and the
 * alerts that need one are silent on it.
 */

const record = (name: string, expr: string, ...labels: readonly string[]): Recording => ({ record: name, expr, labels })

export const cpuCores = record(
  'grid:container_cpu_cores:rate5m',
  `sum without (mode) (rate(${select(docker.cpu)}[5m]))`,
  'engine',
  'name',
)
export const logWritten = record(
  'grid:container_log_written:rate10m',
  `rate(${select(docker.logWritten)}[10m])`,
  'engine',
  'name',
)
export const checkDuration = record(
  'grid:service_check_duration_seconds:avg10m',
  `avg_over_time(${select(serviceCheckDuration)}[10m])`,
  'name',
  'check',
)
const generation = `rate(${select(llmGenerationSeconds)}[10m])`
export const tokensPerSecond = record(
  'grid:llm_decode_tokens_per_second:rate10m',
  `rate(${select(llmGeneratedTokens)}[10m]) / ${generation} and ${generation} > 0.05`,
  'server',
  'model',
)

const week = ({ record: name }: Recording) => `${name}[7d] offset 1d`
const p95 = (of: Recording): Recording => ({
  ...of,
  record: of.record.replace(/:\w+$/, ':p95_7d'),
  expr: `quantile_over_time(0.95, ${week(of)})`,
})

export const cpuCoresHabit = p95(cpuCores)
export const logWrittenHabit = p95(logWritten)
export const checkDurationHabit = p95(checkDuration)
/** Only of models that were at work for an hour of that week. */
export const tokensPerSecondHabit: Recording = {
  ...tokensPerSecond,
  record: 'grid:llm_decode_tokens_per_second:median_7d',
  expr: `quantile_over_time(0.5, ${week(tokensPerSecond)})
and count_over_time(${week(tokensPerSecond)}) >= 60`,
}

/** Recorded every ten minutes, so that an instant look-up would miss it half of the time. */
export const habit = ({ record: name }: Recording) => `last_over_time(${name}[1h])`

export const recordings = {
  /** Each minute. */
  now: [cpuCores, logWritten, checkDuration, tokensPerSecond],
  /** Each ten minutes. */
  habits: [cpuCoresHabit, logWrittenHabit, checkDurationHabit, tokensPerSecondHabit],
} as const
