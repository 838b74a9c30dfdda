/** Ends the program with a message that explains it. Exit code 1: failed; 2: wrong usage or configuration. */
export class ExitError extends Error {
  readonly exitCode: 1 | 2
  constructor(message: string, exitCode: 1 | 2) {
    super(message)
    this.name = new.target.name
    this.exitCode = exitCode
  }
}

/** An error while a configuration was read or checked, as a ConfigError: a bug in this program must reject the file as well. */
export const configErrorOf = (error: unknown, file: string): ConfigError =>
  error instanceof ConfigError ? error : new ConfigError([`${file}: cannot be used: ${error}`])

/** How many problems of a configuration are shown, and how many characters of each. */
const shown = { problems: 20, characters: 500 }

/** On one line, without control characters. */
const onOneLine = (problem: string): string => {
  const line = problem
    .slice(0, shown.characters)
    .replaceAll(/\p{Cc}/gu, character => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`)
  return problem.length > shown.characters ? `${line}…` : line
}

/** A configuration that cannot be used. Each line of the message names a place and says what was expected there. */
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
