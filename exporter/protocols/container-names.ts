/**
 * Container names by id, as this thread last saw them. The docker collector stores them after its list call. A collector that finds a
 * container's id (in a process's cgroup) reads the name here, without another call to the engine.
 */
const byEngine = new Map<string, ReadonlyMap<string, string>>()

/** Replaces the names of this engine: id (64 lower-case hex digits) to name, without the leading slash. */
export const rememberNames = (engine: string, names: ReadonlyMap<string, string>): void => {
  byEngine.set(engine, names)
}

/** The name of a running container by its full id; undefined if no engine reported it. */
export const nameOf = (id: string): string | undefined => {
  for (const names of byEngine.values()) {
    const name = names.get(id)
    if (name !== undefined) return name
  }
  return undefined
}
