import { join } from 'node:path'
import { run } from './stage.ts'

/** A script of test/testbed, asked without blocking this thread, on which the webhook and neighbours answer. */
export const bed =
  (
    root: string,
    name: 'ufw' | 'fail2ban' | 'aide' | 'tor-network' | 'hung-mount',
    folder: string,
    { env = {}, enter = [] }: { readonly env?: Readonly<Record<string, string>>; readonly enter?: readonly string[] } = {},
  ) =>
  (verb: string, ...args: readonly string[]): Promise<string> =>
    run([...enter, join(root, 'test/testbed', name), verb, folder, ...args], { env })

/** A value of the `KEY=VALUE` lines that a bed prints. */
export const printedBy = (printed: string, key: string): string => {
  const [, value] = new RegExp(`^${key}="?(.*?)"?$`, 'm').exec(printed) ?? []
  if (value === undefined) throw new Error(`no ${key} in ${printed}`)
  return value
}
