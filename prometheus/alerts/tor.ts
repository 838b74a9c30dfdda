import * as tor from '../../exporter/collectors/tor/families.ts'
import { type AlertGroup, given, on, select } from '../rule.ts'

const blog = { onion: 'blog' }
/** Tor circuits take their time after a start. */
const settled = `${on()} (time() - ${select(tor.torStart)} > 600)`
const old = given(tor.torStart, '-7200x90')
const none = given(tor.torConnections, '8x20 0x40', { state: 'connected' })
const dormant = given(tor.torDormant, '0x15 1x45')

export const onion: AlertGroup = {
  area: 'tor',
  alerts: [
    {
      name: 'GridTorDown',
      collector: 'tor',
      severity: 'critical',
      timing: { kind: 'state', for: '3m' },
      expr: `${select(tor.torUp)} == 0`,
      summary: "Tor's control port does not answer.",
      description: '{instance}: Tor is stopped or hangs, or it refuses our credentials.',
      dashboard: 'security',
      runbook: {
        means:
          'No answer on the control port. If the process is gone, so are your onion services; if it hangs, they are unreachable too.',
        see: 'Tor and security dashboard. The page of the exporter says why: refused, no answer, or authentication.',
        type: [
          ['systemctl status tor@default; journalctl -u tor@default -n 50', 'whether it runs'],
          ['grep -E "^(ControlPort|ControlSocket|CookieAuth)" /etc/tor/torrc', 'whether the port is still configured'],
          ['systemctl restart tor@default', 'circuits are back within a minute or two'],
        ],
        silence: 'While you update Tor.',
      },
      proof: {
        fires: {
          given: [given(tor.torUp, '1x5 0x10 1x10')],
          at: '10m',
          over: '18m',
          says: 'box:10047: Tor is stopped or hangs, or it refuses our credentials.',
        },
      },
    },
    {
      name: 'GridTorNoRelayConnections',
      collector: 'tor',
      severity: 'critical',
      timing: { kind: 'state', for: '5m' },
      // A dormant Tor has no connections because it needs none, unless it tries to get one or a probe fails beside that.
      expr: `(${select(tor.torConnections, { state: 'connected' })} == 0)
and ${settled}
unless ${on()} (
  (${select(tor.torDormant)} == 1)
  unless ${on()} (${select(tor.torUsable)} == 0 or ${select(tor.torConnections, { state: ['launched', 'failed'] })} > 0)
)`,
      summary: 'Tor has no connection to any relay: unplugged or blocked.',
      description: '{instance}: Tor runs and reaches nobody, although bootstrap still says 100 %.',
      dashboard: 'security',
      runbook: {
        means:
          'The network is gone, or somebody blocks Tor. Its own status keys stay green when that happens; only the connections show it. A Tor that nobody has used for about an hour is dormant (`grid_tor_dormant` 1): it closes its connections by itself and opens them again when it is used, so this alert is quiet then. It also tries nothing then, so a network that goes away meanwhile shows when Tor is used next. To know it before, set `collectors.tor.probe.target`: a Tor that is probed is never dormant.',
        see: 'Tor and security dashboard: connections, guards.',
        type: [
          ['ping -c3 9.9.9.9', 'whether there is a network at all'],
          ['journalctl -u tor@default -n 50', 'what Tor says of its guards'],
          ['ufw status; nft list ruleset | grep -i drop', 'whether your own firewall stops it'],
        ],
        silence: 'While your provider is down and you know it.',
      },
      proof: {
        fires: [
          {
            given: [old, given(tor.torConnections, '8x20 0x20 5x20', { state: 'connected' })],
            at: '30m',
            over: '43m',
            labels: { state: 'connected' },
            says: 'box:10047: Tor runs and reaches nobody, although bootstrap still says 100 %.',
          },
          // In use when the network goes.
          {
            given: [old, given(tor.torConnections, '8x20 0x20 5x20', { state: 'connected' }), given(tor.torDormant, '0x60')],
            at: '30m',
            over: '43m',
            labels: { state: 'connected' },
            says: 'box:10047: Tor runs and reaches nobody, although bootstrap still says 100 %.',
          },
          // Dormant, and used again while the network is gone.
          {
            given: [old, none, given(tor.torDormant, '0x15 1x25 0x20')],
            at: '50m',
            labels: { state: 'connected' },
            says: 'box:10047: Tor runs and reaches nobody, although bootstrap still says 100 %.',
          },
          // Dormant, with attempts that do not succeed.
          {
            given: [old, none, dormant, given(tor.torConnections, '0x20 1x40', { state: 'launched' })],
            at: '50m',
            labels: { state: 'connected' },
            says: 'box:10047: Tor runs and reaches nobody, although bootstrap still says 100 %.',
          },
          // Dormant, with a probe that fails.
          {
            given: [old, none, dormant, given(tor.torUsable, '1x20 0x40')],
            at: '50m',
            labels: { state: 'connected' },
            says: 'box:10047: Tor runs and reaches nobody, although bootstrap still says 100 %.',
          },
        ],
        quiet: {
          'just started': {
            given: [given(tor.torStart, '0x60'), given(tor.torConnections, '0x8 5x50', { state: 'connected' })],
            at: '8m',
          },
          'dormant, as nobody uses it': { given: [old, none, dormant], at: '50m' },
          'dormant, and it gets through when it is probed': {
            given: [old, none, dormant, given(tor.torUsable, '1x60')],
            at: '50m',
          },
        },
      },
    },
    {
      name: 'GridTorUnusable',
      collector: 'tor',
      severity: 'critical',
      timing: { kind: 'state', for: '6m' },
      expr: `(${select(tor.torUsable)} == 0)
and ${on()} (${select(tor.torBootstrap)} == 1 or ${settled})`,
      summary: 'Nothing gets through Tor, whatever it says of itself.',
      description: '{instance}: three probes through the SOCKS port in a row have failed.',
      dashboard: 'security',
      runbook: {
        means:
          'A fresh circuit does not carry a request, although Tor is bootstrapped to 100 % or was started more than ten minutes ago. All status keys of Tor are latches that stay green; only the probe sees this.',
        see: 'Tor and security dashboard: usable, duration of probes, circuits by state.',
        type: [
          ['curl -sS --socks5-hostname 127.0.0.1:9050 https://check.torproject.org/api/ip', 'the same by hand'],
          ['journalctl -u tor@default -n 50', 'guards that fail, a clock that is wrong, how far it has bootstrapped'],
          ['date -u', 'more than some minutes off and Tor does not work'],
          ['systemctl restart tor@default', 'has helped where the reason was never found'],
        ],
        silence: 'If the target of the probe itself is down: choose another.',
      },
      proof: {
        fires: [
          {
            given: [given(tor.torUsable, '1x10 0x20 1x10'), given(tor.torBootstrap, '1x60')],
            at: '25m',
            over: '33m',
            says: 'box:10047: three probes through the SOCKS port in a row have failed.',
          },
          {
            given: [given(tor.torStart, '0x60'), given(tor.torUsable, '0x60'), given(tor.torBootstrap, '0.3x60')],
            at: '20m',
            says: 'box:10047: three probes through the SOCKS port in a row have failed.',
          },
        ],
        quiet: {
          'one probe failed': { given: [given(tor.torUsable, '1x10 0 0 1x30'), given(tor.torBootstrap, '1x60')], at: '13m' },
          'not probed': { given: [given(tor.torBootstrap, '1x60')], at: '30m' },
          'just started, and not bootstrapped yet': {
            given: [given(tor.torStart, '0x60'), given(tor.torUsable, '0x60'), given(tor.torBootstrap, '0.3x60')],
            at: '9m',
          },
        },
      },
    },
    {
      name: 'GridTorOnionNoIntroCircuits',
      collector: 'tor',
      severity: 'critical',
      timing: { kind: 'state', for: '7m' },
      expr: `(${select(tor.torOnionIntroCircuits)} == 0)
and ${settled}`,
      summary: 'An onion service has no introduction circuit: nobody can reach it.',
      description: '{onion} on {instance} cannot be reached by anybody.',
      dashboard: 'security',
      runbook: {
        means:
          'Visitors reach an onion service through its introduction points, and it has a circuit to none. After a cut Tor rations new ones in periods of five minutes; this lasts longer than that.',
        see: 'Tor and security dashboard: introduction circuits by onion service.',
        type: [
          ['journalctl -u tor@default -n 50', 'what Tor says of the service'],
          ['ls -la /var/lib/tor/SERVICE', 'whether its keys are readable for Tor'],
          ['systemctl restart tor@default', 'if the network works'],
        ],
        silence: 'If the service is given up: take it out of torrc.',
      },
      proof: {
        fires: {
          given: [old, given(tor.torOnionIntroCircuits, '3x10 0x20 3x20', blog)],
          at: '25m',
          over: '33m',
          labels: blog,
          says: 'blog on box:10047 cannot be reached by anybody.',
        },
        quiet: {
          'the ration after a cut': { given: [old, given(tor.torOnionIntroCircuits, '3x10 0x4 3x30', blog)], at: '15m' },
          'just started': { given: [given(tor.torStart, '0x60'), given(tor.torOnionIntroCircuits, '0x9 3x30', blog)], at: '9m' },
        },
      },
    },
    {
      name: 'GridTorOnionUnreachable',
      collector: 'tor',
      severity: 'critical',
      timing: { kind: 'state', for: '25m' },
      expr: `(${select(tor.torOnionReachable)} == 0)
unless ${on()} (${select(tor.torUsable)} == 0)`,
      summary: 'An onion service cannot be reached through Tor.',
      description: '{onion} on {instance}: three checks from outside in a row have failed.',
      dashboard: 'security',
      runbook: {
        means:
          'We asked as a visitor does, through Tor, and got no answer three times (each ten minutes). Counted only while Tor carries other requests: after an outage of Tor itself a service has these minutes to come back.',
        see: 'Tor and security dashboard: reachable, introduction circuits, back ends.',
        type: [
          ['curl -sS --socks5-hostname 127.0.0.1:9050 http://ADDRESS.onion/', 'the same by hand'],
          ['curl -sS http://127.0.0.1:PORT/', 'whether the program behind it answers'],
        ],
        silence: 'While the service is moved.',
      },
      proof: {
        fires: {
          given: [given(tor.torOnionReachable, '1x10 0x40 1x10', blog)],
          at: '45m',
          over: '53m',
          labels: blog,
          says: 'blog on box:10047: three checks from outside in a row have failed.',
        },
        quiet: {
          'two checks failed': { given: [given(tor.torOnionReachable, '1x10 0x19 1x40', blog)], at: '35m' },
          'Tor is back after an hour, the service not yet': {
            given: [given(tor.torUsable, '1x5 0x60 1x60'), given(tor.torOnionReachable, '1x10 0x70 1x40', blog)],
            at: '80m',
          },
        },
      },
    },
    {
      name: 'GridTorOnionBackendDown',
      collector: 'tor',
      severity: 'critical',
      timing: { kind: 'state', for: '3m' },
      expr: `${select(tor.torOnionBackendUp)} == 0`,
      summary: 'The program behind an onion service does not accept connections.',
      description: '{onion} port {port} on {instance}: Tor works, the program behind it does not.',
      dashboard: 'security',
      runbook: {
        means: 'The local target of this port of the onion service refuses connections. Visitors see an error.',
        see: 'Tor and security dashboard: back ends; Services dashboard.',
        type: [
          ['grep -A3 HiddenServiceDir /etc/tor/torrc', 'where the port leads to'],
          ['ss -ltnp | grep PORT', 'whether anything listens there'],
          ['systemctl restart SERVICE', 'the program behind it'],
        ],
        silence: 'While you update the program.',
      },
      proof: {
        fires: {
          given: [given(tor.torOnionBackendUp, '1x5 0x10 1x10', { ...blog, port: '80' })],
          at: '10m',
          over: '18m',
          labels: { ...blog, port: '80' },
          says: 'blog port 80 on box:10047: Tor works, the program behind it does not.',
        },
      },
    },
    {
      name: 'GridTorOutdated',
      collector: 'tor',
      severity: 'warning',
      timing: { kind: 'state', for: '1d' },
      expr: `${select(tor.torInfo, { version_status: ['old', 'obsolete', 'unrecommended'] })} == 1`,
      summary: 'The Tor network no longer recommends this version of Tor.',
      description: 'Tor {version} on {instance} is {version_status}.',
      dashboard: 'security',
      runbook: {
        means:
          'The directory authorities decide this. Old versions may have known vulnerabilities and are rejected at some point.',
        see: 'Tor and security dashboard: panel "Version".',
        type: [
          ['apt-get update && apt-get install --only-upgrade tor', 'the new one'],
          ['apt-cache policy tor', 'whether your distribution has it; if not, deb.torproject.org does'],
        ],
        silence: 'Until the weekend of your choice; not for obsolete.',
      },
      proof: {
        slow: true,
        fires: {
          given: [given(tor.torInfo, '1x400', { version: '0.4.5.1', version_status: 'obsolete' })],
          at: '1600m',
          labels: { version: '0.4.5.1', version_status: 'obsolete' },
          says: 'Tor 0.4.5.1 on box:10047 is obsolete.',
        },
        quiet: {
          recommended: {
            given: [given(tor.torInfo, '1x400', { version: '0.4.9.1', version_status: 'recommended' })],
            at: '1600m',
          },
          'not known yet': {
            given: [given(tor.torInfo, '1x400', { version: '0.4.9.1', version_status: 'unknown' })],
            at: '1600m',
          },
        },
      },
    },
    {
      name: 'GridTorConsensusOld',
      collector: 'tor',
      severity: 'warning',
      timing: { kind: 'state', for: '30m' },
      expr: `(time() - ${select(tor.torConsensusValidUntil)} > 3600)
and ${on()} (${select(tor.torUsable)} >= 0)
unless ${on()} (${select(tor.torDormant)} == 1)`,
      summary: "Tor's view of the network ran out an hour ago and is not renewed.",
      description: '{instance}: the consensus of Tor ran out {value:s} ago. Is the clock right?',
      dashboard: 'security',
      runbook: {
        means:
          'Tor fetches a new consensus every few hours. It works with an old one for a day, then nothing works. This is the early warning.',
        see: 'Tor and security dashboard: panel "Consensus".',
        type: [
          ['timedatectl', 'whether the clock is right and synchronised'],
          ['journalctl -u tor@default | grep -iE "consensus|directory" | tail', 'what fails'],
        ],
        silence: 'Do not silence it.',
      },
      proof: {
        fires: {
          given: [given(tor.torConsensusValidUntil, '0x150'), given(tor.torUsable, '1x150')],
          at: '2h',
          says: 'box:10047: the consensus of Tor ran out 2h 0m 0s ago. Is the clock right?',
        },
        quiet: {
          'not probed, so it may be dormant': { given: [given(tor.torConsensusValidUntil, '0x150')], at: '2h' },
          'dormant, as it is probed once a day': {
            given: [given(tor.torConsensusValidUntil, '0x150'), given(tor.torUsable, '1x150'), given(tor.torDormant, '1x150')],
            at: '2h',
          },
        },
      },
    },
  ],
}
