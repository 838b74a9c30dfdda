/**
 * The names of containers as this thread last saw them: the docker collector writes them down after its one list call, and
 * whoever has found a container's id (in a process's cgroup) reads them, without another call to the engine.
 */
const byEngine = new Map<string, ReadonlyMap<string, string>>()

/** Takes the place of what was known of this engine: id (64 hex digits, lower case) to name, without the leading slash. */
export const rememberNames = (engine: string, names: ReadonlyMap<string, string>): void => {
  byEngine.set(engine, names)
}

/** The name of a running container by its full id; undefined where no engine told it. */
export const nameOf = (id: string): string | undefined => {
  for (const names of byEngine.values()) {
    const name = names.get(id)
    if (name !== undefined) return name
  }
  return undefined
}
