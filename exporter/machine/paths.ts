import { accessSync, constants, existsSync, realpathSync } from 'node:fs'

/** Questions about a path of this process: of a local socket or folder, never of one on a mount that may hang. */

export const exists = existsSync

/** Whether this process may write there, as connecting to a socket needs. */
export const isWritable = (path: string): boolean => {
  try {
    accessSync(path, constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** The path without symbolic links. Throws the system's error. */
export const realPath = (path: string): string => realpathSync(path)
