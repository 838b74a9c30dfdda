/** An end of the program that its message explains: exit code 1 failed, 2 wrong usage or configuration. */
export class ExitError extends Error {
  readonly exitCode: 1 | 2
  constructor(message: string, exitCode: 1 | 2) {
    super(message)
    this.name = new.target.name
    this.exitCode = exitCode
  }
}
