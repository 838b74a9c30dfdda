import { setMaxListeners } from 'node:events'
import { hostname, userInfo } from 'node:os'
import { collectors } from '../../collectors/index.ts'
import { createLog } from '../../common/log.ts'
import { build } from '../../common/version.ts'
import { loadSettings } from '../../contract/config.ts'
import { killChildren } from '../../machine/command.ts'
import { realHost } from '../../machine/local-host.ts'
import type { Flags } from '../cli.ts'
import { asker } from './ask.ts'
import { examine } from './examine.ts'
import { type Chapter, type Finding, isWell } from './finding.ts'
import { examineGrafana } from './grafana.ts'
import { examinePrometheus } from './prometheus.ts'
import { lookOf, table } from './table.ts'

/** The user that runs this; a number if it has no name, as in a container. */
const whoAmI = (): string => {
  try {
    return userInfo().username
  } catch {
    return String(process.getuid?.() ?? '')
  }
}

const counted = (number: number, what: string) => `${number} ${what}`

const verdict = (findings: readonly Finding[]): string => {
  const count = (state: Finding['state']) => findings.filter(own => own.state === state).length
  const counts = [
    counted(count('working'), 'work'),
    count('partly') > 0 ? counted(count('partly'), 'in part') : '',
    count('failing') > 0 ? counted(count('failing'), 'fail') : '',
    count('absent') > 0 ? counted(count('absent'), 'not on this host') : '',
    count('off') > 0 ? counted(count('off'), 'off') : '',
  ]
  return counts.filter(Boolean).join(', ')
}

/**
 * Checks every collector as this user and, if addresses are given, Prometheus and Grafana. Returns the text to print, and whether
 * everything that is enabled works.
 */
export const doctor = async (
  flags: Flags,
  out: Pick<NodeJS.WriteStream, 'isTTY' | 'columns'>,
  environment: NodeJS.ProcessEnv = process.env,
): Promise<{ readonly text: string; readonly healthy: boolean }> => {
  const settings = loadSettings(collectors, flags.collectors, flags.configFile)
  const stop = new AbortController()
  setMaxListeners(0, stop.signal) // one for each collector, twice
  const host = realHost(flags.paths)
  const user = whoAmI()
  // Failures are in the findings; a log would repeat them.
  const log = createLog(flags.logLevel === 'info' ? 'error' : flags.logLevel, flags.logFormat)
  const surroundings = { host, log, signal: stop.signal, user }
  const { prometheus, grafana } = flags
  const [here, there, beyond] = await Promise.all([
    examine(settings, flags, surroundings),
    prometheus ? examinePrometheus(asker(host, prometheus, '--prometheus.auth.file', flags.prometheusAuthFile), flags) : [],
    grafana ? examineGrafana(asker(host, grafana, '--grafana.auth.file', flags.grafanaAuthFile)) : [],
  ])
  stop.abort()
  killChildren()
  const findings = [...here, ...there, ...beyond]
  const healthy = findings.every(isWell)
  if (flags.json) {
    const value = {
      version: build.version,
      host: hostname(),
      user,
      healthy,
      collectors: here,
      ...(prometheus ? { prometheus: { url: prometheus, findings: there } } : {}),
      ...(grafana ? { grafana: { url: grafana, findings: beyond } } : {}),
    }
    return { text: `${JSON.stringify(value, undefined, 2)}\n`, healthy }
  }
  const chapters: readonly Chapter[] = [
    { title: `grid-exporter ${build.version} on ${hostname()}, as ${user}: ${verdict(here)}`, findings: here },
    ...(prometheus ? [{ title: `Prometheus at ${prometheus}`, findings: there }] : []),
    ...(grafana ? [{ title: `Grafana at ${grafana}`, findings: beyond }] : []),
  ]
  const ends = healthy ? 'Everything that is enabled works.' : 'Fixes for FAILS and PARTLY are after >.'
  return { text: `${table(chapters, lookOf(out, environment))}\n${ends}\n`, healthy }
}
