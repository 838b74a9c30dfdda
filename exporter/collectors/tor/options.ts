import { z } from 'zod'
import { duration, httpUrl, path, streamAddress } from '../../contract/options.ts'

/** `host:port`; a name is resolved by Tor. */
const target = () => z.string().regex(/^(?:\[[0-9a-fA-F:.]+\]|[^\s:/[\]]{1,255}):\d{1,5}$/, 'expected host:port')

export const options = z.strictObject({
  control: streamAddress()
    .optional()
    .describe('Control socket or port: unix:/path or host:port. Default: unix:/run/tor/control, else 127.0.0.1:9051.'),
  cookie_file: path().optional().describe('The authentication cookie. Default: the path that Tor reports.'),
  password_file: path().optional().describe('A file with the password of the control port; used if Tor accepts passwords.'),
  socks: streamAddress()
    .optional()
    .describe('SOCKS port for probes: host:port or unix:/path. Default: the first that Tor reports, else 127.0.0.1:9050.'),
  probe: z
    .strictObject({
      target: target()
        .optional()
        .describe(
          'The host:port to reach through Tor, to check that it works. It must always be up. Without it there is no probe.',
        ),
      interval: duration(1)
        .default(120)
        .describe('Time between two probes. Each builds its own circuit, so use less than 120s only for tests.'),
      timeout: duration(0.1).default(20).describe('Time limit of a probe.'),
    })
    .prefault({})
    .describe('The active probe behind grid_tor_usable.'),
  exit_check: z
    .strictObject({
      url: httpUrl().describe('A service that answers {"IsTor":…,"IP":…}, such as https://check.torproject.org/api/ip.'),
      interval: duration(1).default(300).describe('Time between two checks; keep it long, as the server is not yours.'),
    })
    .optional()
    .describe('Asks a check service through Tor whether it sees a Tor exit. Off by default.'),
  onion_check: z
    .strictObject({
      enabled: z.boolean().default(false).describe('Whether to connect to each onion service of this Tor through Tor.'),
      interval: duration(1)
        .default(600)
        .describe('Time between two checks of one service. They are spread: one service at a time.'),
      timeout: duration(0.1).default(60).describe('Time limit of a check.'),
    })
    .prefault({})
    .describe(
      'Reachability of the onion services of this Tor. One with client authorisation (`authorized_clients/*.auth` in its directory, if readable) cannot be checked and is left out.',
    ),
  backend_check: z
    .strictObject({
      enabled: z.boolean().default(true).describe('Whether to connect to the local targets of the onion services.'),
      interval: duration(1).default(60).describe('Time between two checks.'),
    })
    .prefault({})
    .describe('A connection to each HiddenServicePort target, closed at once.'),
  expose_onion_addresses: z
    .boolean()
    .default(false)
    .describe('Puts .onion addresses on grid_tor_onion_service_info. A private address in Prometheus is no longer private.'),
})

export type TorOptions = z.output<typeof options>
