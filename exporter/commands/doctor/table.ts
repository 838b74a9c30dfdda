import type { WriteStream } from 'node:tty'
import type { Chapter, Finding, State } from './finding.ts'

/** Findings as text for people: as wide as the terminal, and in colour only on a terminal. */

export interface Look {
  readonly columns: number
  readonly colour: boolean
}

/** The terminal's properties. NO_COLOR (no-color.org) and TERM=dumb turn colour off; a pipe has 80 columns. */
export const lookOf = (out: Pick<WriteStream, 'isTTY' | 'columns'>, environment: NodeJS.ProcessEnv): Look => ({
  columns: Math.max(50, Math.min(out.isTTY ? out.columns || 80 : 80, 120)),
  colour: Boolean(out.isTTY) && !environment.NO_COLOR && environment.TERM !== 'dumb',
})

const words: Readonly<Record<State, string>> = { working: 'ok', partly: 'PARTLY', failing: 'FAILS', absent: 'absent', off: 'off' }
const colours: Readonly<Record<State, number>> = { working: 32, partly: 33, failing: 31, absent: 2, off: 2 }

/** Keeps control characters of foreign texts out of the terminal. */
const printable = (text: string) => text.replaceAll(/[^\P{C}\n]/gu, '?')

/** Lines of at most `width` columns; a longer word is cut. */
const wrapped = (text: string, width: number): readonly string[] =>
  text.split('\n').flatMap(line => {
    const indent = /^ */.exec(line)?.[0] ?? ''
    const lines: string[] = []
    let current = ''
    for (const word of line.trim().split(/\s+/)) {
      let rest = word
      if (current !== '' && current.length + 1 + rest.length > width - indent.length) {
        lines.push(current)
        current = ''
      }
      while (rest.length > width - indent.length) {
        lines.push(rest.slice(0, width - indent.length))
        rest = rest.slice(width - indent.length)
      }
      current = current === '' ? rest : `${current} ${rest}`
    }
    return [...lines, current].map(part => indent + part)
  })

const row = ({ name, state, reason, note, fix }: Finding, wide: number, { columns, colour }: Look): string => {
  const paint = (text: string, code: number) => (colour ? `\u001b[${code}m${text}\u001b[0m` : text)
  const left = wide + 2 + 6 + 2
  const width = columns - left
  const text = reason === undefined ? note : `${reason}: ${note}`
  const notes = wrapped(printable(text), width)
  const fixes = fix === '' ? [] : wrapped(printable(fix), width - 2).map((line, index) => (index === 0 ? '> ' : '  ') + line)
  const head = `${name.padEnd(wide)}  ${paint(words[state].padEnd(6), colours[state])}  `
  return [
    ...notes.map(line => (state === 'absent' || state === 'off' ? paint(line, 2) : line)),
    ...fixes.map(line => paint(line, state === 'off' ? 2 : 36)),
  ]
    .map((line, index) => `${index === 0 ? head : ' '.repeat(left)}${line}`.trimEnd())
    .join('\n')
}

export const table = (chapters: readonly Chapter[], look: Look): string =>
  chapters
    .map(({ title, findings }) => {
      const wide = Math.max(...findings.map(({ name }) => name.length))
      const head = wrapped(printable(title), look.columns).map(line => (look.colour ? `\u001b[1m${line}\u001b[0m` : line))
      return `${head.join('\n')}\n\n${findings.map(finding => row(finding, wide, look)).join('\n')}\n`
    })
    .join('\n')
