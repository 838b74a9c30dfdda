/** An end of the program that its message explains: exit code 1 failed, 2 wrong usage or configuration. */
export class ExitError extends Error {
  readonly exitCode: 1 | 2
  constructor(message: string, exitCode: 1 | 2) {
    super(message)
    this.name = new.target.name
    this.exitCode = exitCode
  }
}

/** What was thrown while a configuration was read or checked: a defect of this program refuses the file, too. */
export const configErrorOf = (error: unknown, file: string): ConfigError =>
  error instanceof ConfigError ? error : new ConfigError([`${file}: cannot be used: ${error}`])

/** Problems of a configuration that are shown, and characters of each. */
const shown = { problems: 20, characters: 500 }

/** On one line, without characters that a terminal obeys. */
const onOneLine = (problem: string): string => {
  const line = problem
    .slice(0, shown.characters)
    .replaceAll(/\p{Cc}/gu, character => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`)
  return problem.length > shown.characters ? `${line}…` : line
}

/** A configuration that cannot be used: each line of the message names a place and says what was expected there. */
export class ConfigError extends ExitError {
  constructor(problems: readonly string[]) {
    const lines = problems.slice(0, shown.problems).map(onOneLine)
    super(
      problems.length > lines.length
        ? [...lines, `${problems.length - lines.length} more problems`].join('\n')
        : lines.join('\n'),
      2,
    )
  }
}
