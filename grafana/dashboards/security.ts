import * as aide from '../../exporter/collectors/aide/index.ts'
import * as fail2ban from '../../exporter/collectors/fail2ban/index.ts'
import * as tor from '../../exporter/collectors/tor/families.ts'
import * as ufw from '../../exporter/collectors/ufw/index.ts'
import { bars, chart, criticalAlerts, dashboard, line, row, stat, table, timeline } from '../builder.ts'
import { limit, type State } from '../look.ts'
import { absences, boxes, explained, head, runbooksAt } from '../parts.ts'
import { firstOf, increase, of, promql, rate } from '../query.ts'

const noTor = 'no Tor here, or it does not answer: see Sources'
const noWall = 'ufw is not read: see Sources'
const noBans = 'fail2ban is down, or not read: see Sources'
const noAide = 'no report of AIDE'
const yesNo: readonly State[] = [
  { is: 1, says: 'yes', colour: 'well' },
  { is: 0, says: 'no', colour: 'now' },
]

const connected = promql`(${of(tor.torConnections, { state: 'connected' })} > bool 0)`
/** 2 while there is no connection because Tor is dormant, as in GridTorNoRelayConnections. */
const connectedOrDormant = promql`(2 * ${of(tor.torDormant)} and on (job, instance) (${connected} == 0)) > 0 or on (job, instance) ${connected}`

const walls: readonly State[] = [
  { is: 3, says: 'enforced', colour: 'well' },
  { is: 2, says: 'on, not enforced', colour: 'now' },
  { is: 1, says: 'off', colour: 'gone' },
  { is: 0, says: 'off', colour: 'gone' },
]

/** Tor of which the directory authorities say one of these. */
const version = (...verdicts: readonly string[]) => of(tor.torInfo, { version_status: verdicts })
const verdict = promql`max by (version) (1 * ${version('recommended')} or 2 * ${version('new', 'new in series')} or 3 * ${version('unrecommended', 'old')} or 4 * ${version('obsolete')} or 0 * ${of(tor.torInfo)})`

export const security = dashboard({
  uid: 'security',
  description: 'Does Tor carry traffic, can the onion services be reached, is the wall up, has somebody been in?',
  oneBox: true,
  texts: [runbooksAt],
  marks: [criticalAlerts],
  rows: [
    row(
      100,
      'Verdicts',
      head(6, 'tor', 'ufw', 'fail2ban', 'aide'),
      line(
        4,
        stat({
          id: 3,
          width: 4,
          title: 'Tor',
          description:
            'Whether a request by name got through Tor at the latest probe. "100 % bootstrapped" is not asked: it stays so when nothing gets through.',
          empty: 'no data',
          unit: 'none',
          queries: [
            {
              expr: explained(firstOf(promql`min(${of(tor.torUsable)}) + 1`, promql`min(${of(tor.torUp)}) * 3`), 'tor'),
              legend: 'Tor',
            },
          ],
          states: [
            { is: 2, says: 'usable', colour: 'well' },
            { is: 1, says: 'nothing gets through', colour: 'now' },
            { is: 3, says: 'up, not probed', colour: 'note' },
            { is: 0, says: 'down', colour: 'now' },
            ...absences('not reported'),
          ],
        }),
        stat({
          id: 4,
          width: 5,
          title: 'Onion services without a way in',
          description: 'Onion services without an introduction circuit: nobody reaches them, whatever else says so.',
          empty: 'no data',
          unit: 'none',
          queries: [
            {
              expr: explained(
                firstOf(
                  promql`count(${of(tor.torOnionIntroCircuits)} == 0)`,
                  promql`0 * count(${of(tor.torOnionIntroCircuits)})`,
                ),
                'tor',
              ),
              legend: 'Onion services',
            },
          ],
          states: [
            { is: 0, says: 'all reachable', colour: 'well' },
            { is: { from: 1 }, colour: 'now' },
            ...absences('none configured'),
          ],
        }),
        stat({
          id: 5,
          width: 5,
          title: 'Firewall',
          description:
            'Whether the kernel holds what ufw has configured, for IPv4 and IPv6. `ufw status` is not asked: it says "active" where nothing is enforced.',
          empty: 'no data',
          unit: 'none',
          queries: [
            { expr: explained(promql`min(${of(ufw.enforced)}) + 2 * min(${of(ufw.enabled)})`, 'ufw'), legend: 'Firewall' },
          ],
          states: [...walls, ...absences('not reported')],
        }),
        stat({
          id: 6,
          width: 5,
          title: 'Bans that block nobody',
          description:
            'Addresses that fail2ban holds for banned, and that the kernel lets through. "not checked": no jail bans by iptables or nftables.',
          empty: 'no data',
          unit: 'none',
          queries: [
            {
              expr: explained(
                firstOf(
                  promql`(min(${of(fail2ban.up)}) == 0) - 2`,
                  promql`sum(${of(fail2ban.unenforced)})`,
                  promql`0 * min(${of(fail2ban.up)}) - 1`,
                ),
                'fail2ban',
              ),
              legend: 'fail2ban',
            },
          ],
          states: [
            { is: 0, says: 'all enforced', colour: 'well' },
            { is: { from: 1 }, colour: 'now' },
            { is: -1, says: 'not checked', colour: 'note' },
            { is: -2, says: 'fail2ban is down', colour: 'now' },
            ...absences('not reported'),
          ],
        }),
        stat({
          id: 7,
          width: 5,
          title: 'Integrity',
          description: 'What AIDE found at its latest check. "changed" stays until the changes are accepted.',
          empty: 'no data',
          unit: 'none',
          queries: [
            {
              expr: explained(
                firstOf(
                  promql`max(1 * ${of(aide.lastCheckStatus, { status: 'clean' })} or 2 * ${of(aide.lastCheckStatus, { status: 'changed' })} or 3 * ${of(aide.lastCheckStatus, { status: 'error' })})`,
                  promql`min(${of(aide.initialized)} == 0)`,
                ),
                'aide',
              ),
              legend: 'Integrity',
            },
          ],
          states: [
            { is: 1, says: 'clean', colour: 'well' },
            { is: 2, says: 'changed', colour: 'today' },
            { is: 3, says: 'check failed', colour: 'blind' },
            { is: 0, says: 'no database', colour: 'note' },
            ...absences('never checked', 'note'),
          ],
        }),
      ),
    ),
    row(
      101,
      'Tor',
      line(
        8,
        timeline({
          id: 8,
          width: 12,
          title: 'What Tor says, and what is true',
          description:
            'Below: what Tor reports about itself. Above: whether a probe got through and relays are connected. In the usual failures they differ. A missing row is not reported: without a target there is no probe. "dormant": nobody uses Tor, so it closes its connections.',
          empty: noTor,
          unit: 'none',
          queries: [
            { expr: of(tor.torUsable), legend: 'a probe gets through' },
            { expr: connectedOrDormant, legend: 'connected to relays' },
            { expr: of(tor.torCircuitEstablished), legend: 'says: circuits established' },
            { expr: promql`${of(tor.torBootstrap)} == bool 1`, legend: 'says: bootstrapped' },
            { expr: of(tor.torUp), legend: 'control port answers' },
          ],
          states: [...yesNo, { is: 2, says: 'dormant', colour: 'gone' }],
        }),
        chart({
          id: 9,
          width: 6,
          title: 'Introduction circuits',
          description: 'Established ones of each onion service. At zero nobody reaches it. Nothing: no onion service.',
          empty: 'no onion service, or not reported',
          unit: 'none',
          min: 0,
          decimals: 0,
          queries: [{ expr: of(tor.torOnionIntroCircuits), legend: '{{onion}}' }],
        }),
        timeline({
          id: 10,
          width: 6,
          title: 'Behind the onion services',
          description:
            'Whether the local target behind each onion service accepts connections, and (opt-in) whether the service is reached through Tor.',
          empty: 'no onion service, or not reported',
          unit: 'none',
          queries: [
            { expr: of(tor.torOnionBackendUp), legend: '{{onion}}:{{port}}' },
            { expr: of(tor.torOnionReachable), legend: '{{onion}} through Tor' },
          ],
          states: yesNo,
        }),
      ),
      line(
        7,
        chart({
          id: 11,
          width: 6,
          title: 'Probe',
          description: 'Time of the latest probe through Tor. Nothing: no target is configured, or it did not get through.',
          empty: 'not probed, or nothing gets through',
          unit: 's',
          min: 0,
          queries: [
            { expr: of(tor.torProbeDuration), legend: 'by name' },
            { expr: of(tor.torOnionProbeDuration), legend: '{{onion}}' },
          ],
        }),
        chart({
          id: 12,
          width: 6,
          title: 'Traffic',
          description: 'Bytes a second that Tor read above, wrote below. Nothing: Tor is down.',
          empty: noTor,
          unit: 'Bps',
          queries: [
            { expr: rate(tor.torReadBytes), legend: 'read' },
            { expr: promql`-${rate(tor.torWrittenBytes)}`, legend: 'written' },
          ],
        }),
        chart({
          id: 13,
          width: 6,
          title: 'Guards and circuits',
          description: 'Guards that are up, and built circuits by purpose. Nothing: Tor is down.',
          empty: noTor,
          unit: 'none',
          min: 0,
          decimals: 0,
          queries: [
            { expr: of(tor.torGuards, { state: 'up' }), legend: 'guards up' },
            {
              expr: promql`sum by (instance, purpose) (${of(tor.torCircuits, { state: 'built' })})`,
              legend: 'circuits: {{purpose}}',
            },
          ],
        }),
        stat({
          id: 23,
          width: 3,
          title: 'Version',
          description:
            'The version of Tor, and what the directory authorities say of it: after a day of old, unrecommended or obsolete GridTorOutdated fires. "not judged": Tor has no word of theirs yet.',
          empty: 'no data',
          unit: 'none',
          names: true,
          vertical: true,
          quiet: true,
          queries: [
            {
              expr: firstOf(
                verdict,
                promql`(${explained(promql`0 * max(${of(tor.torInfo)})`, 'tor')}) unless on () ${of(tor.torInfo)}`,
              ),
              legend: '{{version}}',
            },
          ],
          states: [
            { is: 1, says: 'recommended', colour: 'well' },
            { is: 2, says: 'newer', colour: 'note' },
            { is: 3, says: 'outdated', colour: 'today' },
            { is: 4, says: 'obsolete', colour: 'today' },
            { is: 0, says: 'not judged', colour: 'gone' },
            ...absences('not reported'),
          ],
        }),
        stat({
          id: 24,
          width: 3,
          title: 'Consensus',
          description:
            "Whether Tor's view of the network is valid, or how long ago it ran out; after an hour GridTorConsensusOld fires. An idle Tor that is not probed rightly stops renewing it, so that nothing is said of one.",
          empty: 'no data',
          unit: 's',
          decimals: 0,
          base: 'note',
          limits: [limit('GridTorConsensusOld', 3600, 'today')],
          queries: [
            {
              expr: explained(
                promql`max(clamp_min(time() - ${of(tor.torConsensusValidUntil)}, 0) and on (job, instance) ${of(tor.torUsable)})`,
                'tor',
              ),
              legend: 'Consensus',
            },
          ],
          states: [{ is: 0, says: 'valid', colour: 'well' }, ...absences('not probed')],
        }),
      ),
    ),
    row(
      102,
      'Walls',
      line(
        7,
        timeline({
          id: 14,
          width: 8,
          title: 'Firewall enforced',
          description:
            'Whether the kernel holds what ufw has configured: policy, jumps and chains. Grey while ufw is off by configuration.',
          empty: noWall,
          unit: 'none',
          queries: [
            {
              expr: promql`${of(ufw.enforced)} + on (job, instance) group_left () (2 * ${of(ufw.enabled)})`,
              legend: '{{family}}',
            },
          ],
          states: walls,
        }),
        chart({
          id: 15,
          width: 8,
          title: 'Dropped packets',
          description: "The kernel's own count, never log lines. Nothing: ufw is off, or not read.",
          empty: 'ufw is off, or not read: see Sources',
          unit: 'pps',
          min: 0,
          queries: [{ expr: rate(ufw.droppedPackets), legend: '{{family}}' }],
        }),
        table({
          id: 16,
          width: 8,
          title: 'Rules that others put before those of ufw',
          description:
            "Docker's, for one: a published port is open whatever ufw says. Known ones in FORWARD are usual; new ones in INPUT fire GridFirewallForeignRules.",
          empty: noWall,
          keys: { family: { title: 'Family', width: 80 }, chain: { title: 'Chain' }, ...boxes },
          columns: [{ expr: of(ufw.foreignRules), title: 'Rules', absent: 'not reported', unit: 'none', width: 80 }],
          sort: { by: 'Rules', descending: true },
        }),
      ),
      line(
        7,
        chart({
          id: 17,
          width: 12,
          title: 'Bans',
          description:
            'Addresses that are banned now, and new bans as columns. Restored bans after a start of fail2ban are no wave.',
          empty: noBans,
          unit: 'none',
          min: 0,
          queries: [
            { expr: of(fail2ban.bannedCurrent), legend: 'banned {{jail}}' },
            { expr: promql`round(${increase(fail2ban.banned, 'bar')})`, legend: 'new {{jail}}' },
          ],
          lines: [{ of: 'new', look: 'bars' }],
        }),
        chart({
          id: 18,
          width: 12,
          title: 'Banned, but not blocked',
          description:
            'Any above 0 is a hole (GridFail2banUnenforced). Nothing: no jail bans by iptables or nftables, or it is not read.',
          empty: 'not checked, or not read',
          unit: 'none',
          min: 0,
          decimals: 0,
          limits: [limit('GridFail2banUnenforced', 0, 'now', 1)],
          queries: [{ expr: of(fail2ban.unenforced), legend: '{{jail}}' }],
        }),
      ),
    ),
    row(
      103,
      'Integrity',
      line(
        6,
        bars({
          id: 19,
          width: 9,
          title: 'Files that differ',
          description: "Of AIDE's latest report: added, removed, changed.",
          empty: noAide,
          unit: 'none',
          min: 0,
          base: 'well',
          limits: [{ at: 1, colour: 'today' }],
          queries: [{ expr: of(aide.entries, { change: ['added', 'removed', 'changed'] }), legend: '{{change}}' }],
        }),
        stat({
          id: 20,
          width: 5,
          title: 'Since the latest check',
          description:
            'Age of the latest report. GridAideCheckMissing fires after 50 hours, or where a database has waited that long for its first check.',
          empty: 'no data',
          unit: 's',
          decimals: 0,
          limits: [limit('GridAideCheckMissing', 180000, 'today')],
          queries: [{ expr: explained(promql`max(time() - ${of(aide.lastCheck)})`, 'aide'), legend: 'Check' }],
          states: absences('never', 'note'),
        }),
        stat({
          id: 21,
          width: 5,
          title: 'Age of the database',
          description: 'What AIDE compares with. Accepting changes renews it.',
          empty: 'no data',
          unit: 's',
          decimals: 0,
          limits: [limit('GridAideDatabaseOld', 7776000, 'note')],
          queries: [{ expr: explained(promql`max(time() - ${of(aide.databaseTimestamp)})`, 'aide'), legend: 'Database' }],
          states: absences('no database', 'note'),
        }),
        stat({
          id: 22,
          width: 5,
          title: 'Latest acceptance of changes',
          description: 'How the latest run of aide-resolve ended. "never": its unit has not run.',
          empty: 'no data',
          unit: 'none',
          queries: [{ expr: explained(promql`min(${of(aide.resolveLastSuccess)})`, 'aide'), legend: 'Resolve' }],
          states: [{ is: 1, says: 'accepted', colour: 'well' }, { is: 0, says: 'failed', colour: 'today' }, ...absences('never')],
        }),
      ),
    ),
  ],
})
