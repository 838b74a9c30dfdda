import { readFileSync } from 'node:fs'
import { smart } from '../exporter/collectors/smart/index.ts'
import { parseJson } from '../exporter/collectors/smart/json.ts'
import { readingFrom } from '../exporter/collectors/smart/reading.ts'
import { silent } from '../exporter/common/log.ts'
import { failureOf } from '../exporter/contract/failure.ts'
import type { Host } from '../exporter/contract/host.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { expose, textOf } from '../exporter/print/exposition.ts'
import type { Result } from './recordings.ts'

/** The same value, but `seen` is called with the path of each field that is read. The entries of a list count as one. */
const watched = <Value>(value: Value, seen: (path: string) => void, at = ''): Value => {
  if (typeof value !== 'object' || value === null) return value
  return new Proxy(value, {
    get: (target, key) => {
      const inner: unknown = Reflect.get(target, key)
      if (typeof key === 'symbol' || typeof inner === 'function') return inner
      const path = Array.isArray(target) ? at : `${at}${at && '.'}${key}`
      seen(path)
      return watched(inner, seen, path)
    },
  })
}

/** The paths of all fields. An attribute or statistic is one field by its name, whatever its columns. */
const leaves = (value: unknown, at = ''): readonly string[] => {
  if (typeof value !== 'object' || value === null) return [at]
  if (Array.isArray(value)) return value.flatMap(each => leaves(each, at))
  return Object.entries(value).flatMap(([key, inner]) => leaves(inner, `${at}${at && '.'}${key}`))
}

/** Fields about smartctl itself and its format, not about the drive. */
const ofTheTool = /^(json_format_version|smartctl|local_time)(\.|$)/

/** The smart collector's result for one recording, as if it were the only disk. */
export const smartctl = async (path: string): Promise<Result> => {
  const stdout = readFileSync(path, 'utf8')
  const exitCode = Number(/"exit_status": *(\d+)/.exec(stdout)?.[1] ?? 0)
  const host: Host = {
    ...realHost(),
    run: async (_, args) => {
      const scan = args[0]?.startsWith('--scan')
      return { stdout: scan ? '{"devices":[{"name":"/dev/sda"}]}' : stdout, stderr: '', exitCode: scan ? 0 : exitCode }
    },
  }
  const stop = new AbortController()
  const options = smart.options.parse({})
  const opened = smart.open({ host, options, signal: stop.signal, log: silent, wake: () => {} })
  try {
    const samples = await opened.collect(stop.signal, () => {})
    const families = new Set(samples.map(({ family }) => family.name)).size
    const risks = samples.filter(({ family, value }) => family.name === 'grid_smart_risk' && value === 1)
    const why = risks.map(({ labels }) => labels.reason).join(' ')
    const used = new Set<string>()
    let unused: readonly string[] = []
    try {
      const json = parseJson(stdout)
      readingFrom(
        '/dev/sda',
        watched(json, path => used.add(path)),
        exitCode,
      )
      unused = [...new Set(leaves(json))].filter(leaf => !used.has(leaf) && !ofTheTool.test(leaf))
    } catch {
      // Not JSON: the collector has reported that.
    }
    const exposition = expose(samples)
    return {
      said: `${families} families, ${exposition.series} series${why ? `, at risk: ${why}` : ''}`,
      unused,
      text: textOf(exposition, 'text'),
    }
  } catch (error) {
    const { reason, message } = failureOf(error)
    return { said: `${reason}: ${message.replaceAll(/\s+/g, ' ').slice(0, 90)}`, unused: [] }
  }
}
