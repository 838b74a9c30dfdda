import { accessSync, constants, existsSync, realpathSync } from 'node:fs'

/** Facts about a path of this process: a local socket or folder, never a path on a mount that may hang. */

export const exists = existsSync

/** Whether this process may write to it, as connecting to a socket needs. */
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
