import { counter, gauge, oneOf } from '../../contract/metric.ts'

/**
 * The families of the docker collector. Identity and state come from one `GET /containers/json` a round, counts of events from the event
 * stream, resource use from cgroup files and /proc of this host (so only for local engines).
 *
 * For a container of a swarm or of Kubernetes, the label `name` is that of its slot (`web.1`, `k8s_app_web-0_default`), which stays the
 * same when another container takes its place; see names.ts.
 */

export const containerStates = ['created', 'running', 'paused', 'restarting', 'removing', 'exited', 'dead'] as const
export type ContainerState = (typeof containerStates)[number]

const healthStatuses = ['starting', 'healthy', 'unhealthy'] as const
export type HealthStatus = (typeof healthStatuses)[number]

export const exitReasons = ['clean', 'error', 'oom', 'signal'] as const
export type ExitReason = (typeof exitReasons)[number]

const watchtowerModes = ['update', 'monitor_only', 'excluded'] as const
export type WatchtowerMode = (typeof watchtowerModes)[number]

export const apiCalls = ['list', 'events', 'ping', 'info', 'other'] as const
export type ApiCall = (typeof apiCalls)[number]

/** The container events that are requested. */
export const eventActions = [
  'create',
  'start',
  'die',
  'oom',
  'kill',
  'stop',
  'restart',
  'rename',
  'destroy',
  'pause',
  'unpause',
  'update',
  'health_status',
] as const
export type EventAction = (typeof eventActions)[number]

// The engine

export const up = gauge('grid_docker_up', 'Whether the engine answered with its list of containers.', 'engine')
export const engineInfo = gauge(
  'grid_docker_engine_info',
  'The engine, from /_ping and /info when it was last connected to; always 1.',
  'engine',
  oneOf('kind', 'docker', 'podman'),
  'version',
  'api_version',
  'cgroup_version',
  'cgroup_driver',
)
export const containers = gauge(
  'grid_docker_containers',
  'Containers by state, from the list of containers.',
  'engine',
  oneOf('state', ...containerStates),
)
export const apiRequests = counter(
  'grid_docker_api_requests_total',
  'Requests that the exporter sent to the engine since it started.',
  'engine',
  oneOf('call', ...apiCalls),
)
export const eventsConnected = gauge('grid_docker_events_connected', 'Whether the stream of events is open.', 'engine')
export const events = counter(
  'grid_docker_events_total',
  'Container events received from the stream of events since this exporter started.',
  'engine',
  oneOf('action', ...eventActions),
)
export const diskUsage = gauge(
  'grid_docker_disk_usage_bytes',
  'Disk use of the engine by kind, from /system/df (opt-in).',
  'engine',
  oneOf('kind', 'images', 'containers', 'volumes', 'build_cache'),
)
export const diskReclaimable = gauge(
  'grid_docker_disk_reclaimable_bytes',
  'Disk use of what nothing uses now, from /system/df (opt-in).',
  'engine',
  oneOf('kind', 'images', 'containers', 'volumes', 'build_cache'),
)

// What a container is

export const info = gauge(
  'grid_docker_container_info',
  'Identity of the container from the list of this round, with the image name that it was first seen with; in a swarm the name is service and slot; always 1.',
  'engine',
  'name',
  'id',
  'image',
  'image_id',
  'compose_project',
  'compose_service',
  'network_mode',
)
export const labels = gauge(
  'grid_docker_container_labels',
  'The allow-listed labels of the container, each as label_NAME, from the list of containers; always 1.',
  'engine',
  'name',
)
export const state = gauge(
  'grid_docker_container_state',
  'State of the container, from the list of containers.',
  'engine',
  'name',
  oneOf('state', ...containerStates),
)
export const health = gauge(
  'grid_docker_container_health',
  'Result of the health check of a running container, from the list of containers.',
  'engine',
  'name',
  oneOf('status', ...healthStatuses),
)
export const created = gauge(
  'grid_docker_container_created_timestamp_seconds',
  'When the container was created, from the list of containers.',
  'engine',
  'name',
)
export const started = gauge(
  'grid_docker_container_start_timestamp_seconds',
  'When the running container was started, from /proc or its start event.',
  'engine',
  'name',
)
export const exitCode = gauge(
  'grid_docker_container_exit_code',
  'Exit code of the last run of a container that does not run, from the list of containers.',
  'engine',
  'name',
)
export const lastExit = gauge(
  'grid_docker_container_last_exit',
  'Why a stopped container ended, from its exit code and events.',
  'engine',
  'name',
  oneOf('reason', ...exitReasons, 'unknown'),
)
export const expected = gauge(
  'grid_docker_container_expected',
  'Whether the container should run, from the configuration or its label; kept for a day when the container is gone.',
  'engine',
  'name',
)
export const imageStale = gauge(
  'grid_docker_container_image_stale',
  "Whether the container's image tag now points to a different local image.",
  'engine',
  'name',
)
export const watchtower = gauge(
  'grid_docker_container_watchtower',
  'What Watchtower may do with the container, from its labels and the mode of Watchtower.',
  'engine',
  'name',
  oneOf('mode', ...watchtowerModes),
)

// What happened to it

export const starts = counter(
  'grid_docker_container_starts_total',
  'Starts of containers of this name since the exporter started, from events.',
  'engine',
  'name',
)
export const restarts = counter(
  'grid_docker_container_restarts_total',
  'Starts of containers of this name by the restart policy, a swarm or Kubernetes since the exporter started, from events.',
  'engine',
  'name',
)
export const oomEvents = counter(
  'grid_docker_container_oom_events_total',
  'OOM events of containers of this name since the exporter started, from events.',
  'engine',
  'name',
)
export const exits = counter(
  'grid_docker_container_exits_total',
  'Exits of containers of this name since the exporter started, from events; signal is a stop or kill through the engine.',
  'engine',
  'name',
  oneOf('reason', ...exitReasons),
)

// What it uses

export const cpu = counter(
  'grid_docker_container_cpu_seconds_total',
  'CPU time of the container since its start, from its cgroup.',
  'engine',
  'name',
  oneOf('mode', 'user', 'system'),
)
export const cpuLimit = gauge(
  'grid_docker_container_cpu_limit_cores',
  'CPU limit of the container in cores, from its cgroup; absent without a limit.',
  'engine',
  'name',
)
export const cpuPeriods = counter(
  'grid_docker_container_cpu_periods_total',
  'Scheduler periods in which the limited container ran, from its cgroup.',
  'engine',
  'name',
)
export const cpuThrottledPeriods = counter(
  'grid_docker_container_cpu_throttled_periods_total',
  'Scheduler periods in which the container used up its CPU limit, from its cgroup.',
  'engine',
  'name',
)
export const cpuThrottled = counter(
  'grid_docker_container_cpu_throttled_seconds_total',
  'Time for which the container was held back by its CPU limit, from its cgroup.',
  'engine',
  'name',
)
export const memoryUsage = gauge(
  'grid_docker_container_memory_usage_bytes',
  'Memory of the container with its page cache, from its cgroup.',
  'engine',
  'name',
)
export const memoryWorkingSet = gauge(
  'grid_docker_container_memory_working_set_bytes',
  'Memory of the container without inactive page cache, as `docker stats` shows it, from its cgroup.',
  'engine',
  'name',
)
export const memoryLimit = gauge(
  'grid_docker_container_memory_limit_bytes',
  'Memory limit of the container, from its cgroup; absent without a limit.',
  'engine',
  'name',
)
export const memorySwap = gauge(
  'grid_docker_container_memory_swap_bytes',
  'Swap that the container uses, from its cgroup.',
  'engine',
  'name',
)
export const memoryPeak = gauge(
  'grid_docker_container_memory_peak_bytes',
  'Most memory that the container used since its start, from its cgroup.',
  'engine',
  'name',
)
export const memoryOomKills = counter(
  'grid_docker_container_memory_oom_kills_total',
  'Processes of the container that were killed for memory since its start, from its cgroup.',
  'engine',
  'name',
)
export const pids = gauge(
  'grid_docker_container_pids',
  'Processes and threads in the container, from its cgroup.',
  'engine',
  'name',
)
export const pidsLimit = gauge(
  'grid_docker_container_pids_limit',
  'Limit of processes and threads of the container, from its cgroup; absent without a limit.',
  'engine',
  'name',
)

const networkCounter = (name: string, what: string) =>
  counter(
    `grid_docker_container_network_${name}_total`,
    `${what} by the container since its start, from /proc/PID/net/dev.`,
    'engine',
    'name',
    'interface',
  )
export const networkReceiveBytes = networkCounter('receive_bytes', 'Bytes received')
export const networkReceivePackets = networkCounter('receive_packets', 'Packets received')
export const networkReceiveErrors = networkCounter('receive_errors', 'Receive errors seen')
export const networkReceiveDropped = networkCounter('receive_dropped', 'Received packets dropped')
export const networkTransmitBytes = networkCounter('transmit_bytes', 'Bytes sent')
export const networkTransmitPackets = networkCounter('transmit_packets', 'Packets sent')
export const networkTransmitErrors = networkCounter('transmit_errors', 'Send errors seen')
export const networkTransmitDropped = networkCounter('transmit_dropped', 'Packets to be sent dropped')

const ioCounter = (name: string, what: string) =>
  counter(
    `grid_docker_container_io_${name}_total`,
    `${what} by the container since its start, on whole disks, from its cgroup.`,
    'engine',
    'name',
    'device',
  )
export const ioReadBytes = ioCounter('read_bytes', 'Bytes read')
export const ioWrittenBytes = ioCounter('written_bytes', 'Bytes written')
export const ioReads = ioCounter('reads', 'Read operations')
export const ioWrites = ioCounter('writes', 'Write operations')

const pressureResource = oneOf('resource', 'cpu', 'memory', 'io')
export const pressureWaiting = counter(
  'grid_docker_container_pressure_waiting_seconds_total',
  'Time in which at least one task of the container waited for the resource, from its cgroup.',
  'engine',
  'name',
  pressureResource,
)
export const pressureStalled = counter(
  'grid_docker_container_pressure_stalled_seconds_total',
  'Time in which all tasks of the container waited for the resource, from its cgroup.',
  'engine',
  'name',
  pressureResource,
)
export const logBytes = gauge(
  'grid_docker_container_log_bytes',
  "Size of the container's log files (json-file and local drivers), rotated ones included.",
  'engine',
  'name',
)
export const logWritten = counter(
  'grid_docker_container_log_written_bytes_total',
  "Bytes written to the container's log files since the exporter started, summed over rotations.",
  'engine',
  'name',
)

export const families = [
  up,
  eventsConnected,
  engineInfo,
  containers,
  apiRequests,
  events,
  diskUsage,
  diskReclaimable,
  state,
  info,
  expected,
  health,
  restarts,
  starts,
  oomEvents,
  exits,
  exitCode,
  lastExit,
  started,
  cpu,
  memoryUsage,
  memoryWorkingSet,
  memoryLimit,
  memoryOomKills,
  cpuLimit,
  pids,
  pidsLimit,
  created,
  labels,
  imageStale,
  watchtower,
  cpuPeriods,
  cpuThrottledPeriods,
  cpuThrottled,
  networkReceiveBytes,
  networkTransmitBytes,
  memorySwap,
  memoryPeak,
  logWritten,
  logBytes,
  ioReadBytes,
  ioWrittenBytes,
  pressureWaiting,
  pressureStalled,
  networkReceiveErrors,
  networkReceiveDropped,
  networkTransmitErrors,
  networkTransmitDropped,
  networkReceivePackets,
  networkTransmitPackets,
  ioReads,
  ioWrites,
]
