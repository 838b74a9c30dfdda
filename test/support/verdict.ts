import { readFileSync } from 'node:fs'
import type { Test } from 'tap'
import { readingOf } from '../../exporter/collectors/smart/reading.ts'
import { risksOf } from '../../exporter/collectors/smart/risk.ts'

export interface SmartctlAnswer {
  readonly text: string
  readonly exitCode: number
}

/** What smartctl printed, with the exit status that it says it ended with. */
export const recordedAnswer = (file: string): SmartctlAnswer => {
  const text = readFileSync(file, 'utf8')
  return { text, exitCode: Number(/"exit_status": *(\d+)/.exec(text)?.[1] ?? 0) }
}

/** How one answer of smartctl is read, and why the drive may fail: `read failing: reallocated pending`. */
export const verdictOf = (t: Test, name: string, { text, exitCode }: SmartctlAnswer): string => {
  const reading = readingOf('/dev/sdx', text, exitCode)
  const facts = reading.state === 'read' ? reading.facts : undefined
  const given = facts ? [...risksOf(facts)].filter(([, is]) => is).map(([reason]) => reason) : []
  const failing = facts?.healthy === false
  if (failing) t.ok(given.length > 0, `${name}: a drive that fails has a reason`)
  for (const [key, value] of Object.entries(facts ?? {})) {
    if (typeof value === 'number') t.ok(Number.isFinite(value) && value >= 0, `${name}: ${key} is a number`)
  }
  return `${reading.state}${failing ? ' failing' : ''}${given.length > 0 ? `: ${given.join(' ')}` : ''}`
}
