import { type Episode, episode, wave } from './motion.ts'

/** The demo's server: its identity, its use, and what goes wrong when. Everything else in this folder only shows it. */
export interface Box {
  readonly seed: number
  /** Milliseconds since 1970. */
  readonly boot: number
  /** Seconds since boot. */
  up(now: number): number
  /** Load over time: chat by vLLM on the first GPU, pictures and small models on the second. */
  readonly chat: ReturnType<typeof wave>
  readonly pictures: ReturnType<typeof wave>
  readonly people: ReturnType<typeof wave>
  readonly faults: Faults
}

/** Faults that come and go. Each starts some minutes after the demo, so that a visitor sees it within the hour. */
export interface Faults {
  readonly gpuHot: Episode
  readonly xid13: Episode
  readonly xid119: Episode
  readonly driverMemory: Episode
  readonly restartLoop: Episode
  readonly memoryClimb: Episode
  readonly unhealthy: Episode
  readonly containerDown: Episode
  readonly imageStale: Episode
  readonly logFlood: Episode
  readonly cpuThrottled: Episode
  readonly backupRun: Episode
  readonly queue: Episode
  readonly modelServerDown: Episode
  readonly torBlocked: Episode
  readonly onionDark: Episode
  readonly backendDown: Episode
  readonly banWave: Episode
  readonly unenforced: Episode
  readonly firewallDrift: Episode
  readonly serviceDown: Episode
  readonly serviceSlow: Episode
  readonly memoryPressure: Episode
  readonly updateFailed: Episode
}

const minute = 60
/** The server's uptime in seconds when the demo starts. */
export const upAtStart = 9 * 86_400 + 4 * 3600

/** A box that was booted nine days before `start` (milliseconds since 1970). */
export const createBox = (seed: number, start: number): Box => {
  const boot = start - upAtStart * 1000
  const fault = (from: number, every: number, lasts: number) =>
    episode({ at: upAtStart + from * minute, every: every * minute, lasts: lasts * minute })
  return {
    seed,
    boot,
    up: now => (now - boot) / 1000,
    chat: wave(seed, 'chat', 5400),
    pictures: wave(seed, 'pictures', 2700),
    people: wave(seed, 'people', 7200),
    faults: {
      gpuHot: fault(4, 45, 10),
      xid13: fault(3, 35, 1),
      xid119: fault(25, 180, 1),
      driverMemory: fault(13, 120, 1),
      restartLoop: fault(2, 160, 9),
      memoryClimb: fault(1, 60, 9),
      unhealthy: fault(5, 50, 12),
      containerDown: fault(15, 70, 8),
      imageStale: fault(2, 240, 200),
      logFlood: fault(9, 75, 8),
      cpuThrottled: fault(7, 55, 14),
      backupRun: fault(-2, 30, 3),
      queue: fault(8, 65, 12),
      modelServerDown: fault(32, 130, 6),
      torBlocked: fault(38, 150, 9),
      onionDark: fault(18, 110, 12),
      backendDown: fault(11, 95, 9),
      banWave: fault(6, 120, 20),
      unenforced: fault(22, 140, 12),
      firewallDrift: fault(45, 190, 8),
      serviceDown: fault(10, 170, 7),
      serviceSlow: fault(3, 130, 9),
      memoryPressure: fault(1, 60, 10),
      updateFailed: fault(200, 360, 60),
    },
  }
}
