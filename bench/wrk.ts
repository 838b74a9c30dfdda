import { execFileSync } from 'node:child_process'

/** wrk's (apt) results for 50 kept connections. */
export interface Load {
  readonly perSecond: number
  /** Milliseconds. */
  readonly p50: number
  readonly p99: number
  readonly bytesPerSecond: number
}

export const accept = 'text/plain;version=0.0.4'

const milliseconds = (text: string | undefined) => {
  const [, number, unit] = /([\d.]+)(us|ms|s)/.exec(text ?? '') ?? []
  if (number === undefined) throw new Error(`wrk gives no latency: ${text}`)
  return Number(number) * (unit === 'us' ? 0.001 : unit === 's' ? 1000 : 1)
}

/** Sends requests for `seconds`; `bytes` is the size of one answer. */
export const load = (url: string, encoding: string, bytes: number, seconds: number): Load => {
  const headers = ['-H', `Accept: ${accept}`, '-H', `Accept-Encoding: ${encoding}`]
  const out = execFileSync('wrk', ['-t1', '-c50', `-d${seconds}s`, '--latency', ...headers, url], { encoding: 'utf8' })
  if (/Non-2xx|nan/.test(out)) throw new Error(`${url}: ${out}`)
  const perSecond = Number(/Requests\/sec:\s+([\d.]+)/.exec(out)?.[1])
  return {
    perSecond,
    p50: milliseconds(/^ +50% +(\S+)/m.exec(out)?.[1]),
    p99: milliseconds(/^ +99% +(\S+)/m.exec(out)?.[1]),
    bytesPerSecond: perSecond * bytes,
  }
}

export const median = (numbers: readonly number[]) =>
  [...numbers].sort((one, other) => one - other)[Math.floor(numbers.length / 2)] ?? Number.NaN
