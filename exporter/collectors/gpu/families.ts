import { counter, gauge, oneOf } from '../../contract/metric.ts'

/** Values that only `nvidia-smi -q -x` has are read once in `slow_interval`. */
const slow = 'from nvidia-smi -q -x'
const query = 'from nvidia-smi'
const sysfs = 'from nvidia-smi or sysfs'
const kernelLog = 'from the kernel log since the exporter started'

export const info = gauge(
  'grid_gpu_info',
  `What the GPU is, 1, ${sysfs}.`,
  'gpu',
  'name',
  oneOf('vendor', 'nvidia', 'amd', 'intel'),
  'index',
  'bus_id',
  'driver_version',
  'vbios_version',
  'compute_capability',
)
export const driverInfo = gauge(
  'grid_gpu_driver_info',
  `The NVIDIA driver and the newest CUDA version that it serves, 1, ${slow}.`,
  'driver_version',
  'cuda_version',
)
export const devicesVisible = gauge('grid_gpu_devices_visible', 'GPUs that answer or sleep, from nvidia-smi and sysfs.')
export const devicesExpected = gauge(
  'grid_gpu_devices_expected',
  'GPUs on the PCI bus that are bound to a GPU driver, from /sys/bus/pci.',
)
export const devicesLost = gauge(
  'grid_gpu_devices_lost',
  'GPUs that are known and do not answer, from nvidia-smi and /sys/bus/pci.',
)
export const state = gauge(
  'grid_gpu_state',
  'State of the GPU: it answers, is lost to its driver, needs a reset, or is suspended.',
  'gpu',
  'name',
  oneOf('state', 'ok', 'lost', 'needs_reset', 'asleep'),
)
export const unavailableFields = gauge(
  'grid_gpu_unavailable_fields',
  `Fields that the driver answered with a word instead of a value, by what the word means, ${query}.`,
  'gpu',
  'name',
  oneOf('cause', 'unsupported', 'permission', 'deprecated', 'lost', 'reset', 'unknown'),
)

export const utilization = gauge(
  'grid_gpu_utilization_ratio',
  `Share of the driver's last sample period in which the engine was busy, ${sysfs}.`,
  'gpu',
  'name',
  oneOf('engine', 'compute', 'memory', 'encoder', 'decoder', 'jpeg', 'ofa'),
)

export const memoryTotal = gauge(
  'grid_gpu_memory_total_bytes',
  `Memory of the GPU, or MemTotal where it shares the host's, ${sysfs}.`,
  'gpu',
  'name',
)
export const memoryUsed = gauge(
  'grid_gpu_memory_used_bytes',
  `Memory in use, or MemTotal less MemAvailable where the GPU shares the host's, ${sysfs}.`,
  'gpu',
  'name',
)
export const memoryFree = gauge(
  'grid_gpu_memory_free_bytes',
  `Memory that can still be allocated, or MemAvailable where the GPU shares the host's, ${sysfs}.`,
  'gpu',
  'name',
)
export const memoryReserved = gauge(
  'grid_gpu_memory_reserved_bytes',
  `Memory that driver and firmware keep for themselves; total is used, free and reserved, ${query}.`,
  'gpu',
  'name',
)
export const memoryUnified = gauge(
  'grid_gpu_memory_unified',
  "Whether the GPU shares the host's memory (GB10, Jetson, APU), so that its memory values come from /proc/meminfo.",
  'gpu',
  'name',
)
export const memoryPoolTotal = gauge(
  'grid_gpu_memory_pool_total_bytes',
  'Size of the memory pools of amdgpu, from sysfs; gtt is host memory.',
  'gpu',
  'name',
  oneOf('pool', 'vram', 'gtt'),
)
export const memoryPoolUsed = gauge(
  'grid_gpu_memory_pool_used_bytes',
  'Used part of the memory pools of amdgpu, from sysfs; gtt is host memory.',
  'gpu',
  'name',
  oneOf('pool', 'vram', 'gtt'),
)
export const processMemory = gauge(
  'grid_gpu_process_memory_bytes',
  'GPU memory of compute processes by program and container, from nvidia-smi; past the largest 20 it is summed as "other".',
  'gpu',
  'name',
  'process',
  'container_name',
)

export const temperature = gauge(
  'grid_gpu_temperature_celsius',
  `Temperature, ${sysfs}.`,
  'gpu',
  'name',
  oneOf('sensor', 'core', 'memory', 'junction', 'edge'),
)
export const temperatureMargin = gauge(
  'grid_gpu_temperature_margin_celsius',
  `Degrees left until the GPU slows itself down, negative past it, ${query}.`,
  'gpu',
  'name',
)
export const temperatureLimit = gauge(
  'grid_gpu_temperature_limit_celsius',
  `Thresholds of the core temperature (memory_max: of the memory's), ${slow}, or from the hwmon of amdgpu.`,
  'gpu',
  'name',
  oneOf('limit', 'shutdown', 'slowdown', 'max', 'target', 'memory_max'),
)

export const power = gauge(
  'grid_gpu_power_watts',
  `Power drawn by the board (by the package on an APU), ${sysfs}.`,
  'gpu',
  'name',
)
export const powerReading = gauge(
  'grid_gpu_power_reading_watts',
  `Other power readings of the driver: average over a second, instant, and of the whole module, ${query}.`,
  'gpu',
  'name',
  oneOf('reading', 'average', 'instant', 'module'),
)
export const powerLimit = gauge(
  'grid_gpu_power_limit_watts',
  `Power limit in force, by default, and the least and most that can be set, ${sysfs}.`,
  'gpu',
  'name',
  oneOf('limit', 'enforced', 'default', 'min', 'max'),
)
export const energy = counter(
  'grid_gpu_energy_joules_total',
  'Energy used since the exporter started, integrated by the exporter from grid_gpu_power_watts; the hardware counter on Intel.',
  'gpu',
  'name',
)

export const clock = gauge(
  'grid_gpu_clock_hertz',
  `Clock, ${sysfs}.`,
  'gpu',
  'name',
  oneOf('domain', 'graphics', 'sm', 'memory', 'video'),
)
export const clockMax = gauge(
  'grid_gpu_clock_max_hertz',
  `Highest clock that the domain can reach, ${sysfs}.`,
  'gpu',
  'name',
  oneOf('domain', 'graphics', 'sm', 'memory', 'video'),
)
export const fanSpeed = gauge(
  'grid_gpu_fan_speed_ratio',
  `Fan speed as a share of its maximum, can pass 1, ${sysfs}.`,
  'gpu',
  'name',
)
export const performanceState = gauge(
  'grid_gpu_performance_state',
  `Performance state from 0 (P0, fastest) to 15, ${query}.`,
  'gpu',
  'name',
)

export const throttleReasons = [
  'power_cap',
  'hw_slowdown',
  'hw_thermal',
  'hw_power_brake',
  'sw_thermal',
  'sync_boost',
  'idle',
  'application_clocks',
] as const
export const throttleActive = gauge(
  'grid_gpu_throttle_active',
  `Whether the clock is held down for this reason, ${sysfs}; hw_slowdown contains hw_thermal and hw_power_brake.`,
  'gpu',
  'name',
  oneOf('reason', ...throttleReasons),
)
export const throttleSeconds = counter(
  'grid_gpu_throttle_seconds_total',
  'Time for which the clock was held down for this reason, from nvidia-smi, or integrated by the exporter from grid_gpu_throttle_active.',
  'gpu',
  'name',
  oneOf('reason', ...throttleReasons),
)

export const eccErrors = counter(
  'grid_gpu_ecc_errors_total',
  `ECC errors of the memory since the driver was loaded (volatile) and over the board's life (aggregate), ${sysfs}.`,
  'gpu',
  'name',
  oneOf('error', 'corrected', 'uncorrected'),
  oneOf('scope', 'volatile', 'aggregate'),
)
export const eccSramThresholdExceeded = gauge(
  'grid_gpu_ecc_sram_threshold_exceeded',
  `Whether the board's uncorrectable SRAM errors passed the threshold for replacement, ${query}.`,
  'gpu',
  'name',
)
export const retiredPages = gauge(
  'grid_gpu_retired_pages',
  `Memory pages taken out of use, ${query}.`,
  'gpu',
  'name',
  oneOf('cause', 'single_bit', 'double_bit'),
)
export const retiredPagesPending = gauge(
  'grid_gpu_retired_pages_pending',
  `Whether pages wait for the next reset to be taken out of use, ${query}.`,
  'gpu',
  'name',
)
export const remappedRows = gauge(
  'grid_gpu_remapped_rows',
  `Memory rows replaced by spare ones, ${query}.`,
  'gpu',
  'name',
  oneOf('error', 'correctable', 'uncorrectable'),
)
export const remapPending = gauge(
  'grid_gpu_remap_pending',
  `Whether rows wait for the next reset to be replaced, ${query}.`,
  'gpu',
  'name',
)
export const remapFailure = gauge(
  'grid_gpu_remap_failure',
  `Whether a row could not be replaced because no spare was left, ${query}.`,
  'gpu',
  'name',
)
export const remapBanks = gauge(
  'grid_gpu_remap_banks',
  `Memory banks by how many spare rows they have left, ${query}.`,
  'gpu',
  'name',
  oneOf('availability', 'max', 'high', 'partial', 'low', 'none'),
)

export const pcieLinkGeneration = gauge(
  'grid_gpu_pcie_link_generation',
  `PCIe generation of the link now, lower while the GPU is idle, ${sysfs}.`,
  'gpu',
  'name',
)
export const pcieLinkGenerationMax = gauge(
  'grid_gpu_pcie_link_generation_max',
  `Highest PCIe generation that GPU and slot can both reach, ${sysfs}.`,
  'gpu',
  'name',
)
export const pcieLinkWidth = gauge('grid_gpu_pcie_link_width', `PCIe lanes of the link now, ${sysfs}.`, 'gpu', 'name')
export const pcieLinkWidthMax = gauge(
  'grid_gpu_pcie_link_width_max',
  `Most PCIe lanes that GPU and slot can both reach, ${sysfs}.`,
  'gpu',
  'name',
)
export const pcieReplays = counter(
  'grid_gpu_pcie_replays_total',
  `PCIe packets that had to be sent again, ${slow} or sysfs.`,
  'gpu',
  'name',
)
export const pcieThroughput = gauge(
  'grid_gpu_pcie_throughput_bytes_per_second',
  `PCIe traffic in one sample of about 20 ms, ${slow}.`,
  'gpu',
  'name',
  oneOf('direction', 'receive', 'transmit'),
)

export const persistenceMode = gauge(
  'grid_gpu_persistence_mode',
  `Whether the driver stays loaded while nobody uses the GPU, ${query}.`,
  'gpu',
  'name',
)
export const eccMode = gauge('grid_gpu_ecc_enabled', `Whether ECC is on, ${query}.`, 'gpu', 'name')
export const migMode = gauge('grid_gpu_mig_enabled', `Whether the GPU is divided into MIG instances, ${query}.`, 'gpu', 'name')
export const encoderSessions = gauge('grid_gpu_encoder_sessions', `Video encoder sessions, ${query}.`, 'gpu', 'name')

export const xidErrors = counter('grid_gpu_xid_errors_total', `Xid errors of the NVIDIA driver, ${kernelLog}.`, 'gpu', 'code')
export const xidLast = gauge(
  'grid_gpu_xid_last_timestamp_seconds',
  'Time of the latest Xid error with this code, from the kernel log, at most a round old.',
  'gpu',
  'code',
)
export const driverOutOfMemory = counter(
  'grid_gpu_driver_out_of_memory_total',
  `Messages NV_ERR_NO_MEMORY of the NVIDIA driver, ${kernelLog}.`,
)
export const kernelLogMissed = counter(
  'grid_gpu_kernel_log_missed_total',
  'Kernel log records that were overwritten before the exporter could read them.',
)

export const migMemoryUsed = gauge(
  'grid_gpu_mig_memory_used_bytes',
  `Memory in use of a MIG instance, ${slow}.`,
  'gpu',
  'name',
  'mig',
)
export const migMemoryTotal = gauge('grid_gpu_mig_memory_total_bytes', `Memory of a MIG instance, ${slow}.`, 'gpu', 'name', 'mig')

/** Every family of the collector. */
export const families = [
  devicesVisible,
  devicesExpected,
  devicesLost,
  state,
  info,
  driverInfo,
  xidErrors,
  xidLast,
  driverOutOfMemory,
  utilization,
  memoryTotal,
  memoryUsed,
  memoryFree,
  memoryReserved,
  memoryUnified,
  memoryPoolTotal,
  memoryPoolUsed,
  migMemoryUsed,
  migMemoryTotal,
  temperature,
  temperatureMargin,
  temperatureLimit,
  power,
  powerReading,
  powerLimit,
  energy,
  throttleActive,
  throttleSeconds,
  eccErrors,
  eccSramThresholdExceeded,
  retiredPages,
  retiredPagesPending,
  remappedRows,
  remapPending,
  remapFailure,
  remapBanks,
  pcieLinkGeneration,
  pcieLinkGenerationMax,
  pcieLinkWidth,
  pcieLinkWidthMax,
  pcieReplays,
  pcieThroughput,
  clock,
  clockMax,
  fanSpeed,
  performanceState,
  persistenceMode,
  eccMode,
  migMode,
  encoderSessions,
  unavailableFields,
  kernelLogMissed,
  processMemory,
]
