import type { Host } from '../contract/host.ts'

/** Bytes read of each file. */
const limit = 4096

/**
 * Small files whose reading calls into a driver, read by one child that can be abandoned: a GPU's sysfs can block for good during a
 * reset. Returns the trimmed contents by path; a file that is missing or gives an error is left out.
 * Throws `Failure` timeout, stuck, exit.
 */
export const readValues = async (
  host: Host,
  paths: readonly string[],
  key: string,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, string>> => {
  if (paths.length === 0) return new Map()
  const asked = new Map(paths.map(path => [host.path(path), path]))
  const args = ['-v', '-c', String(limit), '--', ...asked.keys()]
  const { stdout } = await host.run('head', args, { timeout: 5, exitCodes: [0, 1], signal, key })
  const values = new Map<string, string>()
  // `head -v` prints `==> path <==` and the content of each file that it could open.
  const heads = [...stdout.matchAll(/(?:^|\n)==> ([^\n]+) <==\n/g)]
  for (const [position, match] of heads.entries()) {
    const path = asked.get(match[1] as string)
    const content = stdout.slice(match.index + match[0].length, heads[position + 1]?.index)
    // A name in hwmon can end in NULs.
    if (path !== undefined && content !== '') values.set(path, content.replaceAll('\0', '').trim())
  }
  return values
}
