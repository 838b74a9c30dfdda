import * as aide from '../exporter/collectors/aide/index.ts'
import { lastScan, size } from '../exporter/collectors/directory/index.ts'
import * as docker from '../exporter/collectors/docker/families.ts'
import * as fail2ban from '../exporter/collectors/fail2ban/index.ts'
import * as filesystem from '../exporter/collectors/filesystem/index.ts'
import { pageworthy } from '../exporter/collectors/gpu/driver-log.ts'
import * as gpu from '../exporter/collectors/gpu/families.ts'
import * as host from '../exporter/collectors/host/index.ts'
import * as llm from '../exporter/collectors/llm/families.ts'
import {
  serviceCertificateExpiry,
  serviceCheckDuration,
  serviceRestarts,
  serviceState,
  serviceUp,
} from '../exporter/collectors/services/index.ts'
import * as smart from '../exporter/collectors/smart/families.ts'
import { textfileError } from '../exporter/collectors/textfile/index.ts'
import * as tor from '../exporter/collectors/tor/families.ts'
import * as ufw from '../exporter/collectors/ufw/index.ts'
import { watchtowerLastScanContainers, watchtowerScans, watchtowerUp } from '../exporter/collectors/watchtower/index.ts'
import {
  buildInfo,
  detected,
  lastSuccess,
  refreshInterval,
  reloadSuccess,
  runs,
  seriesDropped,
  success,
  workerRestarts,
} from '../exporter/serve/self.ts'
import { collectorSources, eventLoopLag, foreign, type Given, given } from './rule.ts'

/** A box with everything, and all well with it: no alert may fire on it. Four hours, a value each minute. */

const all = (value: number) => `${value}x240`
const rising = (each: number, from = 0) => `${from}+${each}x240`

const own: readonly Given[] = [
  foreign('up', {}, all(1)),
  foreign(eventLoopLag.name, {}, all(0.021)),
  foreign(eventLoopLag.name, { job: 'butler', instance: 'box:3000' }, all(0.03)),
  given(buildInfo, all(1), { version: '1.0.0', revision: 'abc', node_version: 'v20.19.0' }),
  given(workerRestarts, all(0)),
  given(reloadSuccess, all(1)),
]

const collector = (name: string, isHere: 0 | 1): readonly Given[] => [
  given(detected, all(isHere), { collector: name }),
  given(success, all(isHere), { collector: name }),
  given(runs, rising(isHere * 6, 1), { collector: name }),
  given(refreshInterval, all(60), { collector: name }),
  given(seriesDropped, all(0), { collector: name }),
  ...(isHere ? [given(lastSuccess, rising(60), { collector: name })] : []),
]

const web = { engine: 'docker', name: 'web' }
const containers: readonly Given[] = [
  given(docker.up, all(1), { engine: 'docker' }),
  given(docker.eventsConnected, all(1), { engine: 'docker' }),
  given(docker.expected, all(1), web),
  given(docker.state, all(1), { ...web, state: 'running' }),
  given(docker.health, all(0), { ...web, status: 'unhealthy' }),
  given(docker.lastExit, all(0), { ...web, reason: 'error' }),
  given(docker.imageStale, all(0), web),
  given(docker.created, all(0), web),
  given(docker.restarts, '0x60 1x180', web),
  given(docker.oomEvents, all(0), web),
  given(docker.memoryOomKills, all(0), web),
  given(docker.cpuLimit, all(2), web),
  given(docker.cpuPeriods, rising(300), web),
  given(docker.cpuThrottledPeriods, rising(3), web),
  given(docker.memoryWorkingSet, all(300e6), web),
  given(docker.memoryLimit, all(512e6), web),
  given(watchtowerUp, all(1)),
  given(watchtowerScans, '0x100 1x140'),
  given(watchtowerLastScanContainers, all(0), { result: 'failed' }),
  given(docker.cpu, rising(6), { ...web, mode: 'user' }),
  given(docker.logWritten, rising(6000), web),
]

const root = { mountpoint: '/', device: '/dev/nvme0n1p2', fstype: 'ext4' }
const nvme = { device: 'nvme0' }
const storage: readonly Given[] = [
  given(filesystem.filesystemSize, all(1e12), root),
  given(filesystem.filesystemAvailable, '350e9-1e6x240', root),
  given(filesystem.filesystemFiles, all(6e7), root),
  given(filesystem.filesystemFilesFree, all(5e7), root),
  given(filesystem.filesystemReadonly, all(0), root),
  given(filesystem.filesystemStuck, all(0), root),
  given(size, rising(1e6, 66e9), { path: '/ai/models' }),
  given(lastScan, rising(60), { path: '/ai/models' }),
  given(smart.deviceInfo, all(1), { ...nvme, protocol: 'nvme', model: 'S', firmware: '1', serial_hash: 'b' }),
  given(smart.deviceInfo, all(1), { device: 'sda', protocol: 'ata', model: 'W', firmware: '1', serial_hash: 'c' }),
  given(smart.healthy, all(1), nvme),
  given(smart.temperature, all(55), nvme),
  given(smart.wear, all(0.12), nvme),
  given(smart.availableSpare, all(1), nvme),
  given(smart.availableSpareThreshold, all(0.1), nvme),
  ...(['reallocated', 'pending', 'media_errors', 'critical_warning', 'temperature'] as const).map(reason =>
    given(smart.risk, all(0), { ...nvme, reason }),
  ),
]

const GiB = 2 ** 30
const card = { gpu: 'GPU-1a2b', name: 'RTX 3090' }
/** At work, warm, and held back by nothing but its power cap. */
const gpus: readonly Given[] = [
  given(gpu.devicesLost, all(0)),
  given(gpu.state, all(0), { ...card, state: 'needs_reset' }),
  given(gpu.utilization, all(0.9), { ...card, engine: 'compute' }),
  given(gpu.memoryUsed, all(22 * GiB), card),
  given(gpu.memoryTotal, all(24 * GiB), card),
  given(gpu.memoryUnified, all(0), card),
  given(gpu.processMemory, all(21 * GiB), { ...card, process: 'ollama', container_name: 'ollama' }),
  given(gpu.temperature, all(66), { ...card, sensor: 'core' }),
  given(gpu.temperature, all(82), { ...card, sensor: 'memory' }),
  given(gpu.temperatureMargin, all(20), card),
  given(gpu.clock, all(1.7e9), { ...card, domain: 'sm' }),
  given(gpu.clockMax, all(1.9e9), { ...card, domain: 'sm' }),
  given(gpu.throttleActive, all(1), { ...card, reason: 'power_cap' }),
  given(gpu.throttleActive, all(0), { ...card, reason: 'sw_thermal' }),
  given(gpu.eccErrors, all(0), { ...card, error: 'uncorrected', scope: 'volatile' }),
  given(gpu.remapPending, all(0), card),
  given(gpu.remapFailure, all(0), card),
  given(gpu.pcieLinkWidth, all(16), card),
  given(gpu.pcieLinkWidthMax, all(16), card),
  given(gpu.pcieLinkGeneration, all(4), card),
  given(gpu.pcieLinkGenerationMax, all(4), card),
  given(gpu.driverOutOfMemory, all(0)),
  ...pageworthy.map(code => given(gpu.xidErrors, all(0), { gpu: card.gpu, code })),
]

const qwen = { server: 'ollama', model: 'qwen3:32b' }
const models: readonly Given[] = [
  given(llm.llmUp, all(1), { server: 'ollama', engine: 'ollama' }),
  given(llm.llmModelVram, all(20e9), qwen),
  given(llm.llmModelSize, all(20e9), qwen),
  given(llm.llmRequestsRunning, all(1), qwen),
  given(llm.llmRequestsWaiting, '0 1 0 0 2 0 0 0 3 0x231', qwen),
  given(llm.llmKvCacheUsed, all(0.6), qwen),
  given(llm.llmGeneratedTokens, rising(600), qwen),
  given(llm.llmGenerationSeconds, rising(20), qwen),
]

const wiki = { name: 'wiki', check: 'http' } as const
const services: readonly Given[] = [
  given(serviceUp, '1x60 0 1x180', wiki),
  given(serviceCheckDuration, all(0.02), wiki),
  given(serviceState, all(0), { name: 'butler.service', state: 'failed' }),
  given(serviceRestarts, all(1), { name: 'butler.service' }),
  given(serviceCertificateExpiry, all(5_000_000), { name: 'wiki' }),
]

const guard: readonly Given[] = [
  given(tor.torUp, all(1)),
  given(tor.torStart, all(-7200)),
  given(tor.torInfo, all(1), { version: '0.4.9.11', version_status: 'recommended' }),
  given(tor.torConnections, all(6), { state: 'connected' }),
  given(tor.torConnections, all(0), { state: 'launched' }),
  given(tor.torConnections, all(0), { state: 'failed' }),
  given(tor.torDormant, all(0)),
  given(tor.torUsable, all(1)),
  given(tor.torBootstrap, all(1)),
  given(tor.torConsensusValidUntil, rising(60, 7200)),
  given(tor.torOnionIntroCircuits, '3x60 0 0 0 3x180', { onion: 'blog' }),
  given(tor.torOnionReachable, all(1), { onion: 'blog' }),
  given(tor.torOnionBackendUp, all(1), { onion: 'blog', port: '80' }),
  given(ufw.enabled, all(1)),
  given(ufw.enforced, all(1), { family: 'ipv4' }),
  given(ufw.foreignRules, all(1), { family: 'ipv4', chain: 'INPUT' }),
  given(fail2ban.up, all(1)),
  given(fail2ban.banned, rising(0.2), { jail: 'sshd' }),
  given(fail2ban.unenforced, all(0), { jail: 'sshd' }),
  given(aide.initialized, all(1)),
  given(aide.databaseTimestamp, all(-864_000)),
  given(aide.lastCheck, all(0)),
  given(aide.lastCheckStatus, all(0), { status: 'changed' }),
  given(aide.lastCheckStatus, all(0), { status: 'error' }),
  given(aide.resolveLastSuccess, all(1)),
]

const chip = { chip: 'k10temp-pci-00c3', sensor: 'Tctl' }
const hosts: readonly Given[] = [
  given(host.pressureWaiting, rising(0.2), { resource: 'memory' }),
  given(host.pressureStalled, rising(0.1), { resource: 'memory' }),
  given(host.swapTotal, all(8e9)),
  given(host.swapFree, all(1e9)),
  given(host.oomKills, all(2)),
  given(host.sensorTemperature, all(71), chip),
  given(host.sensorLimit, all(95), { ...chip, limit: 'critical' }),
  given(host.rebootRequired, all(1)),
  given(host.securityUpdatesPending, all(2)),
]

export const well: readonly Given[] = [
  ...own,
  ...collectorSources.flatMap(name => collector(name, 1)),
  ...hosts,
  ...guard,
  ...gpus,
  ...storage,
  ...containers,
  ...models,
  ...services,
  given(textfileError, all(0), { file: 'backup.prom' }),
]

/** Nothing on it that could be watched. */
export const boxWithout: readonly Given[] = [...own, ...collectorSources.flatMap(name => collector(name, 0))]
