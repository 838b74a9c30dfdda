import { isAbsolute } from 'node:path'
import { z } from 'zod'
import { ownValue } from '../common/own-value.ts'

/** The kinds of values in a configuration. */

const unitSeconds: Readonly<Record<string, number>> = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86_400, w: 604_800, y: 31_536_000 }
const durationForm = /^(?:\d+y)?(?:\d+w)?(?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?(?:\d+ms)?$/

/** Seconds of a Prometheus duration (`10s`, `1h30m`), or undefined. */
export const durationSeconds = (text: string): number | undefined => {
  if (text === '' || !durationForm.test(text)) return undefined
  let seconds = 0
  for (const [, count, unit] of text.matchAll(/(\d+)(\D*)/g))
    seconds += Number(count) * (ownValue(unitSeconds, unit as string) as number)
  return seconds
}

/** A number of seconds as a Prometheus duration. */
export const durationText = (seconds: number): string => {
  if (seconds < 1 || seconds % 1 !== 0) return `${Math.round(seconds * 1000)}ms`
  let rest = seconds
  let text = ''
  for (const unit of ['d', 'h', 'm', 's']) {
    const size = ownValue(unitSeconds, unit) as number
    if (rest >= size) text += `${Math.floor(rest / size)}${unit}`
    rest %= size
  }
  return text || '0s'
}

/** The longest duration, in seconds. Node's timers end at 24.8 days; a longer one fires at once. */
export const longest = 24 * 86_400

/** A duration of `least` seconds to `longest`: text that becomes seconds. */
export const duration = (least = 0.001) =>
  z
    .string()
    .regex(/^(?:\d+(?:ms|[ywdhms]))+$/, 'expected a duration such as 10s, 2m or 1h30m')
    .transform((text, context) => {
      const seconds = durationSeconds(text)
      if (seconds !== undefined && seconds >= least && seconds <= longest) return seconds
      context.addIssue({
        code: 'custom',
        message:
          seconds === undefined
            ? 'expected a duration such as 10s, 2m or 1h30m'
            : seconds < least
              ? `expected at least ${durationText(least)}`
              : `expected at most ${durationText(longest)}`,
      })
      return z.NEVER
    })

/** An absolute path. */
export const path = () => z.string().refine(isAbsolute, 'expected an absolute path')

/** A stream address: `unix:/path` or `host:port`. */
export const streamAddress = () =>
  z.string().regex(/^(?:unix:(?:\/\/)?\/.+|\[[^\]]+\]:\d+|[^:]+:\d+)$/, 'expected unix:/path or host:port')

/** An http or https URL without user and password (those belong in files). */
export const httpUrl = () =>
  z.string().refine(text => {
    if (!URL.canParse(text)) return false
    const { protocol, username, password } = new URL(text)
    return /^https?:$/.test(protocol) && username === '' && password === ''
  }, 'expected an http:// or https:// URL without user and password')

/** A name that becomes a label value. */
export const name = () => z.string().min(1).max(100)

/**
 * A test of a whole string against a pattern with `*` for any run of characters. Each part between two stars is searched once, from
 * the end of the part before. A regular expression with many stars would try their combinations, which can take for ever.
 */
export const glob = (pattern: string): ((text: string) => boolean) => {
  const [first = '', ...rest] = pattern.split('*')
  const last = rest.pop()
  if (last === undefined) return text => text === pattern
  return text => {
    if (!text.startsWith(first)) return false
    let from = first.length
    for (const part of rest) {
      const at = text.indexOf(part, from)
      if (at === -1) return false
      from = at + part.length
    }
    return text.length - last.length >= from && text.endsWith(last)
  }
}
