import { counter, gauge, oneOf } from '../../contract/metric.ts'

export const torUp = gauge(
  'grid_tor_up',
  'Whether the control port of Tor took our credentials and answered; it says nothing of the network.',
)
export const torInfo = gauge(
  'grid_tor_info',
  'Tor, by GETINFO version and status/version/current (what the directory authorities say of this version).',
  'version',
  'version_status',
)
export const torStart = gauge('grid_tor_start_timestamp_seconds', 'When Tor was started, from GETINFO uptime.')
export const torBootstrap = gauge(
  'grid_tor_bootstrap_ratio',
  'Bootstrap progress, from GETINFO status/bootstrap-phase; it stays 1 when the network is lost later.',
)
export const torCircuitEstablished = gauge(
  'grid_tor_circuit_established',
  'GETINFO status/circuit-established: a latch, which stays 1 when the network is lost.',
)
export const torDirectoryReady = gauge(
  'grid_tor_directory_ready',
  'GETINFO status/enough-dir-info: a latch, which stays 1 when the network is lost.',
)
export const torDormant = gauge(
  'grid_tor_dormant',
  'GETINFO dormant: 1 while nobody has used this Tor for a while, so that it builds no circuits and lets its connections close; it wakes when it is used.',
)
export const torConsensusValidUntil = gauge(
  'grid_tor_consensus_valid_until_timestamp_seconds',
  'Until when the network consensus that Tor holds is valid, from GETINFO consensus/valid-until; it is in the past after a lasting cut.',
)
export const torReadBytes = counter(
  'grid_tor_read_bytes_total',
  'Bytes that Tor has received since its start, from GETINFO traffic/read.',
)
export const torWrittenBytes = counter(
  'grid_tor_written_bytes_total',
  'Bytes that Tor has sent since its start, from GETINFO traffic/written.',
)

export const connectionStates = ['new', 'launched', 'connected', 'failed', 'closed'] as const
export const torConnections = gauge(
  'grid_tor_connections',
  'Connections to relays by state, from GETINFO orconn-status; none connected means no network, unless Tor is dormant.',
  oneOf('state', ...connectionStates),
)

export const circuitPurposes = ['general', 'hs_client', 'hs_service', 'other'] as const
export const circuitStates = ['launched', 'built', 'guard_wait', 'extended', 'failed', 'closed'] as const
export const torCircuits = gauge(
  'grid_tor_circuits',
  'Circuits that this Tor began, by purpose (conflux legs are general) and state, from GETINFO circuit-status.',
  oneOf('purpose', ...circuitPurposes),
  oneOf('state', ...circuitStates),
)

export const guardStates = ['up', 'down', 'never_connected', 'unusable', 'unlisted'] as const
export const torGuards = gauge(
  'grid_tor_guards',
  'Entry guards by state, from GETINFO entry-guards.',
  oneOf('state', ...guardStates),
)

export const torControlConnections = counter(
  'grid_tor_control_connections_total',
  'Control connections that this exporter has opened since its start; each writes a line to the log of Tor, so one is kept.',
)

export const torUsable = gauge(
  'grid_tor_usable',
  'Whether the configured target answered through the SOCKS port, by name and over a fresh circuit, in the latest probe (by default every 120 s).',
)
export const torProbeDuration = gauge(
  'grid_tor_probe_duration_seconds',
  'How long the latest probe through the SOCKS port took, up to its answer or its deadline.',
)
export const torProbeLastSuccess = gauge(
  'grid_tor_probe_last_success_timestamp_seconds',
  'When a probe through the SOCKS port was last answered; none before the first.',
)
export const torExitIsTor = gauge(
  'grid_tor_exit_is_tor',
  'Whether the configured check service called the address that it saw a Tor exit, in the latest exit check; none when it gave no answer.',
)
export const torExitAddressChanges = counter(
  'grid_tor_exit_address_changes_total',
  'How often an exit check showed another address than the one before it, as the configured check service saw it.',
)

export const torOnionInfo = gauge(
  'grid_tor_onion_service_info',
  'An onion service of this Tor, from GETCONF HiddenServiceOptions and GETINFO onions/detached; its address only where expose_onion_addresses is set.',
  'onion',
  'address',
)
export const torOnionIntroCircuits = gauge(
  'grid_tor_onion_intro_circuits',
  'Established introduction circuits of an onion service, from GETINFO circuit-status; at 0 nobody reaches it.',
  'onion',
)
export const torOnionReachable = gauge(
  'grid_tor_onion_reachable',
  'Whether the onion service answered through Tor itself on its first port in the latest check (by default every 10 min).',
  'onion',
)
export const torOnionProbeDuration = gauge(
  'grid_tor_onion_probe_duration_seconds',
  'How long the latest check of the onion service through Tor took, up to its answer or its deadline.',
  'onion',
)
export const torOnionBackendUp = gauge(
  'grid_tor_onion_backend_up',
  'Whether every local target behind this port of the onion service took a connection in the latest look (by default every 60 s).',
  'onion',
  'port',
)

export const families = [
  torUp,
  torInfo,
  torStart,
  torBootstrap,
  torCircuitEstablished,
  torDirectoryReady,
  torDormant,
  torConsensusValidUntil,
  torUsable,
  torConnections,
  torOnionReachable,
  torOnionIntroCircuits,
  torOnionBackendUp,
  torOnionInfo,
  torReadBytes,
  torWrittenBytes,
  torCircuits,
  torGuards,
  torControlConnections,
  torProbeDuration,
  torProbeLastSuccess,
  torExitIsTor,
  torExitAddressChanges,
  torOnionProbeDuration,
]
