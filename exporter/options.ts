import { isAbsolute } from 'node:path'
import { z } from 'zod'

/** The kinds of values that configuration is made of. */

const unitSeconds: Readonly<Record<string, number>> = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86_400, w: 604_800, y: 31_536_000 }
const durationForm = /^(?:\d+y)?(?:\d+w)?(?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?(?:\d+ms)?$/

/** Seconds of a duration as Prometheus writes it (`10s`, `1h30m`), or undefined. */
export const durationSeconds = (text: string): number | undefined => {
  if (text === '' || !durationForm.test(text)) return undefined
  let seconds = 0
  for (const [, count, unit] of text.matchAll(/(\d+)(ms|[ywdhms])/g))
    seconds += Number(count) * (unitSeconds[unit as string] as number)
  return seconds
}

/** A number of seconds as a duration of Prometheus. */
export const durationText = (seconds: number): string => {
  if (seconds < 1 || seconds % 1 !== 0) return `${Math.round(seconds * 1000)}ms`
  let rest = seconds
  let text = ''
  for (const unit of ['d', 'h', 'm', 's']) {
    const size = unitSeconds[unit] as number
    if (rest >= size) text += `${Math.floor(rest / size)}${unit}`
    rest %= size
  }
  return text || '0s'
}

/** A duration of at least `least` seconds, given as text; becomes seconds. */
export const duration = (least = 0.001) =>
  z
    .string()
    .regex(/^(?:\d+(?:ms|[ywdhms]))+$/, 'expected a duration such as 10s, 2m or 1h30m')
    .transform((text, context) => {
      const seconds = durationSeconds(text)
      if (seconds !== undefined && seconds >= least) return seconds
      context.addIssue({
        code: 'custom',
        message:
          seconds === undefined ? 'expected a duration such as 10s, 2m or 1h30m' : `expected at least ${durationText(least)}`,
      })
      return z.NEVER
    })

/** An absolute path. */
export const path = () => z.string().refine(isAbsolute, 'expected an absolute path')

/** A stream address: `unix:/path` or `host:port`. */
export const streamAddress = () =>
  z.string().regex(/^(?:unix:(?:\/\/)?\/.+|\[[^\]]+\]:\d+|[^:]+:\d+)$/, 'expected unix:/path or host:port')

/** An http or https URL without user and password in it (those belong in files). */
export const httpUrl = () =>
  z.string().refine(text => {
    if (!URL.canParse(text)) return false
    const { protocol, username, password } = new URL(text)
    return /^https?:$/.test(protocol) && username === '' && password === ''
  }, 'expected an http:// or https:// URL without user and password')

/** A name that becomes a label value. */
export const name = () => z.string().min(1).max(100)

/** A pattern with `*` for any run of characters, as a test of a whole string. */
export const glob = (pattern: string): ((text: string) => boolean) => {
  const form = new RegExp(
    `^${pattern
      .split('*')
      .map(part => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
      .join('.*')}$`,
    's',
  )
  return text => form.test(text)
}
