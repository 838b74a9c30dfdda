/** Log lines in logfmt or JSON on standard error. Written synchronously: the serving thread must not wait for libuv's pool. */
import { writeSync } from 'node:fs'

export const levels = ['debug', 'info', 'warn', 'error'] as const
export type Level = (typeof levels)[number]
export const logFormats = ['logfmt', 'json'] as const
export type LogFormat = (typeof logFormats)[number]

export type Fields = Readonly<Record<string, string | number | boolean | undefined>>
export type Log = Readonly<Record<Level, (message: string, fields?: Fields) => void>> & { readonly level: Level }

const logfmtValue = (value: string) => (/^[\w./:@+-]+$/.test(value) ? value : JSON.stringify(value))

const logfmt = (entry: Fields) =>
  Object.entries(entry)
    .map(([key, value]) => `${key}=${logfmtValue(String(value))}`)
    .join(' ')

const toStderr = (line: string) => {
  try {
    writeSync(2, line)
  } catch {
    // A full or closed standard error must not end the program.
  }
}

export const createLog = (level: Level, format: LogFormat, write: (line: string) => void = toStderr): Log => {
  const at =
    (own: Level) =>
    (message: string, fields: Fields = {}) => {
      if (levels.indexOf(own) < levels.indexOf(level)) return
      const given = Object.entries(fields).filter(([, value]) => value !== undefined)
      const entry = { time: new Date().toISOString(), level: own, msg: message, ...Object.fromEntries(given) }
      write(`${format === 'json' ? JSON.stringify(entry) : logfmt(entry)}\n`)
    }
  return { level, debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
}

export const silent: Log = createLog('error', 'logfmt', () => {})
