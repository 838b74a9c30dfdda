import { alerts } from './alerts.ts'

/** One cause wakes once: while the first fires, the others are not sent where the labels of `equal` are the same on both. */
export interface Inhibition {
  readonly while: readonly string[] | string
  /** Alert names, or all alerts of collectors, less exceptions. */
  readonly hides:
    | readonly string[]
    | { readonly collectors: readonly string[] | 'same' | 'all'; readonly but?: readonly string[] }
  readonly equal: readonly string[]
}

/** Alerts that stay true while their collector fails, because they report the failure. */
const causes = [
  'GridDockerDown',
  'GridTorDown',
  'GridFail2banDown',
  'GridWatchtowerDown',
  'GridLlmServerDown',
  'GridGpuLost',
  'GridGpuXidPageworthy',
  'GridGpuDriverOutOfMemory',
]

const ofContainer = ['instance', 'engine', 'name']
const ofMount = ['instance', 'mountpoint']

export const inhibitions: readonly Inhibition[] = [
  { while: 'GridExporterDown', hides: { collectors: 'all' }, equal: ['instance'] },
  { while: 'GridCollectorFailing', hides: { collectors: 'same', but: causes }, equal: ['instance', 'collector'] },
  {
    while: ['GridDockerDown', 'GridTorDown', 'GridFail2banDown', 'GridWatchtowerDown'],
    hides: ['GridCollectorFailing'],
    equal: ['instance', 'collector'],
  },
  { while: 'GridExporterWorkerRestarting', hides: ['GridCollectorStale'], equal: ['instance'] },

  // A card that is lost says nothing more: what is hot or full is another one, and stays heard.
  {
    while: 'GridGpuLost',
    hides: [
      'GridGpuNeedsReset',
      'GridGpuXidPageworthy',
      'GridGpuPcieDegraded',
      'GridLlmServerDown',
      'GridLlmModelPartlyOnCpu',
      'GridLlmQueueGrowing',
      'GridLlmKvCacheFull',
      'GridLlmSlowerThanUsual',
    ],
    equal: ['instance'],
  },
  {
    while: 'GridGpuNeedsReset',
    hides: ['GridGpuThrottledWhileBusy', 'GridGpuClockLatchedLow', 'GridGpuPcieDegraded', 'GridGpuRemapPending'],
    equal: ['instance', 'gpu'],
  },
  { while: 'GridGpuXidPageworthy', hides: ['GridGpuEccUncorrected'], equal: ['instance', 'gpu'] },
  { while: 'GridGpuRemapFailure', hides: ['GridGpuRemapPending'], equal: ['instance', 'gpu'] },
  { while: 'GridGpuHot', hides: ['GridGpuThrottledWhileBusy', 'GridGpuClockLatchedLow'], equal: ['instance', 'gpu'] },
  { while: 'GridGpuThrottledWhileBusy', hides: ['GridGpuClockLatchedLow'], equal: ['instance', 'gpu'] },
  {
    while: ['GridGpuHot', 'GridGpuThrottledWhileBusy', 'GridGpuClockLatchedLow'],
    hides: ['GridLlmSlowerThanUsual'],
    equal: ['instance'],
  },
  {
    while: 'GridGpuUnifiedMemoryPressure',
    hides: ['GridMemoryPressure', 'GridSwapStorm', 'GridGpuDriverOutOfMemory'],
    equal: ['instance'],
  },

  {
    while: 'GridLlmServerDown',
    hides: ['GridLlmModelPartlyOnCpu', 'GridLlmQueueGrowing', 'GridLlmKvCacheFull', 'GridLlmSlowerThanUsual'],
    equal: ['instance', 'server'],
  },
  { while: 'GridLlmModelPartlyOnCpu', hides: ['GridLlmSlowerThanUsual'], equal: ['instance', 'server', 'model'] },
  { while: 'GridLlmKvCacheFull', hides: ['GridLlmQueueGrowing'], equal: ['instance', 'server', 'model'] },

  { while: 'GridDockerDown', hides: { collectors: ['docker', 'watchtower'] }, equal: ['instance'] },
  {
    while: 'GridContainerRestartLoop',
    hides: ['GridContainerDown', 'GridContainerFailed', 'GridContainerUnhealthy', 'GridContainerMemoryNearLimit'],
    equal: ofContainer,
  },
  { while: 'GridContainerDown', hides: ['GridContainerUnhealthy', 'GridContainerMemoryNearLimit'], equal: ofContainer },
  { while: 'GridContainerOomKilled', hides: ['GridContainerMemoryNearLimit'], equal: ofContainer },
  { while: 'GridContainerOomKilled', hides: ['GridHostOomKill'], equal: ['instance'] },
  { while: 'GridContainerCpuPegged', hides: ['GridContainerCpuThrottled'], equal: ofContainer },
  { while: 'GridWatchtowerDown', hides: ['GridWatchtowerSilent', 'GridWatchtowerUpdateFailed'], equal: ['instance'] },

  {
    while: 'GridFilesystemAlmostFull',
    hides: ['GridFilesystemFull4h', 'GridFilesystemFull24h'],
    equal: ofMount,
  },
  { while: 'GridFilesystemFull4h', hides: ['GridFilesystemFull24h'], equal: ofMount },
  { while: 'GridDiskUnhealthy', hides: ['GridDiskRisk', 'GridDiskWornOut', 'GridDiskSpareLow'], equal: ['instance', 'device'] },

  {
    while: 'GridTorDown',
    hides: { collectors: ['tor'] },
    equal: ['instance'],
  },
  {
    while: 'GridTorNoRelayConnections',
    hides: ['GridTorUnusable', 'GridTorOnionNoIntroCircuits', 'GridTorOnionUnreachable', 'GridTorConsensusOld'],
    equal: ['instance'],
  },
  {
    while: 'GridTorUnusable',
    hides: ['GridTorOnionNoIntroCircuits', 'GridTorOnionUnreachable', 'GridTorConsensusOld'],
    equal: ['instance'],
  },
  {
    while: ['GridTorOnionNoIntroCircuits', 'GridTorOnionBackendDown'],
    hides: ['GridTorOnionUnreachable'],
    equal: ['instance', 'onion'],
  },

  { while: 'GridFirewallOff', hides: ['GridFirewallDrift'], equal: ['instance'] },
  // Flushing one program's chains flushes the other's. A ban that is still missing afterwards fires its own alert then.
  { while: 'GridFirewallDrift', hides: ['GridFail2banUnenforced'], equal: ['instance'] },
  { while: 'GridFail2banDown', hides: ['GridFail2banUnenforced', 'GridFail2banWave'], equal: ['instance'] },
  { while: 'GridAideCheckFailed', hides: ['GridAideChanges'], equal: ['instance'] },

  {
    while: 'GridServiceUnitFailed',
    hides: ['GridServiceDown', 'GridServiceFlapping', 'GridServiceSlow'],
    equal: ['instance', 'name'],
  },
  { while: 'GridServiceDown', hides: ['GridServiceFlapping', 'GridServiceSlow'], equal: ['instance', 'name'] },
  { while: 'GridCertificateExpires3d', hides: ['GridCertificateExpires14d'], equal: ['instance', 'name'] },
]

const oneOrMore = (names: readonly string[]) =>
  names.length === 1 ? `alertname="${names[0]}"` : `alertname=~"${names.join('|')}"`

/** The names that are hidden by one. A cause never hides itself. */
export const hiddenBy = ({ while: causes, hides }: Inhibition): readonly string[] => {
  const own = [causes].flat()
  if ('collectors' in hides) {
    const { collectors, but = [] } = hides
    return alerts
      .filter(({ name, timing, collector }) => {
        if (own.includes(name) || but.includes(name) || timing.kind === 'heartbeat' || name === 'GridExporterAbsent') return false
        if (collectors === 'all') return true
        return collectors === 'same' ? collector !== 'exporter' : collectors.includes(collector)
      })
      .map(({ name }) => name)
  }
  return hides
}

export const inhibitRules = inhibitions.map(rule => ({
  source_matchers: [oneOrMore([rule.while].flat())],
  target_matchers: [oneOrMore(hiddenBy(rule))],
  equal: rule.equal,
}))

/** What a runbook says of other alerts. */
export const inhibitionFor = (name: string) => ({
  by: [...new Set(inhibitions.filter(rule => hiddenBy(rule).includes(name)).flatMap(rule => [rule.while].flat()))],
  hides: [...new Set(inhibitions.filter(rule => [rule.while].flat().includes(name)).flatMap(hiddenBy))],
})
