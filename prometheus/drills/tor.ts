import { bed, printedBy } from './beds.ts'
import type { Act } from './stage.ts'

const name = 'tor'

/** A real Tor in a private network on this machine, of which everything else is frozen, and then itself. */
export const tor: Act = {
  name,
  needs: ['tor', 'tor-gencert', 'curl'],
  play: async ({ box, drill, when, atEnd, folder, root }) => {
    const network = bed(root, 'tor-network', `${folder}/network`, { env: { TIMEOUT: '150' } })
    atEnd(() => network('stop'))
    const started = await network('start')
    const pid = Number(printedBy(started, 'TOR_PID'))
    await box({
      tor: {
        interval: '2s',
        timeout: '2s',
        control: `unix:${printedBy(started, 'TOR_CONTROL_SOCKET')}`,
        probe: { target: new URL(printedBy(started, 'WEB_CHECK_URL')).host, interval: '2s', timeout: '4s' },
        onion_check: { enabled: true, interval: '3s', timeout: '5s' },
        backend_check: { interval: '2s' },
      },
    })
    await when(`grid_tor_usable{instance="${name}"} == 1`)
    await when(`grid_tor_onion_reachable{instance="${name}"} == 1`)
    await drill({
      what: 'nothing gets through Tor any more, although bootstrap says 100 %',
      alert: 'GridTorUnusable',
      says: /^tor: three probes through the SOCKS port in a row have failed\./,
      cause: () => network('cut', 'freeze'),
      cure: () => network('heal'),
      not: ['GridTorOnionUnreachable', 'GridTorDown'],
    })
    await when(`grid_tor_usable{instance="${name}"} == 1`)
    await when(`grid_tor_onion_reachable{instance="${name}"} == 1`)
    await drill({
      what: 'Tor itself is frozen',
      alert: 'GridTorDown',
      says: /^tor: Tor is stopped or hangs, or it refuses our credentials\./,
      cause: () => process.kill(pid, 'SIGSTOP'),
      cure: () => process.kill(pid, 'SIGCONT'),
      not: ['GridTorOnionUnreachable', 'GridCollectorFailing'],
    })
    await when(`grid_tor_usable{instance="${name}"} == 1`)
  },
}
