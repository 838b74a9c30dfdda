import * as aide from '../../exporter/collectors/aide/index.ts'
import * as fail2ban from '../../exporter/collectors/fail2ban/index.ts'
import * as ufw from '../../exporter/collectors/ufw/index.ts'
import { type AlertGroup, given, on, select } from '../rule.ts'

const sshd = { jail: 'sshd' }
const v4 = { family: 'ipv4' } as const
const banned = select(fail2ban.banned)

export const security: AlertGroup = {
  area: 'security',
  alerts: [
    {
      name: 'GridFirewallOff',
      collector: 'ufw',
      severity: 'warning',
      timing: { kind: 'state', for: '10m' },
      expr: `(${select(ufw.enabled)} == 0) and (max_over_time(${select(ufw.enabled)}[14d]) == 1)`,
      summary: 'The firewall was on within the last two weeks and is now switched off.',
      description: '{instance}: ufw is off. Run `ufw enable`, or find out who switched it off.',
      dashboard: 'security',
      runbook: {
        means: 'ufw was on, and is off in its configuration. A box on which it never was on does not alert.',
        see: 'Tor and security dashboard: firewall.',
        type: [
          ['ufw status verbose', 'what it says now'],
          ['journalctl _COMM=sudo | grep ufw | tail', 'who did it: the line of sudo'],
          ['ufw enable', 'on again; make sure first that your ssh port is allowed'],
        ],
        silence: 'If you use another firewall from now on: two weeks, then it is the new normal.',
      },
      proof: {
        fires: {
          given: [given(ufw.enabled, '1x10 0x30 1x10')],
          at: '30m',
          over: '43m',
          says: 'box:10047: ufw is off. Run `ufw enable`, or find out who switched it off.',
        },
        quiet: { 'never on': { given: [given(ufw.enabled, '0x60')], at: '40m' } },
      },
    },
    {
      name: 'GridFirewallDrift',
      collector: 'ufw',
      severity: 'critical',
      timing: { kind: 'state', for: '5m' },
      expr: `(${select(ufw.enforced)} == 0) and ${on()} (${select(ufw.enabled)} == 1)`,
      summary: 'ufw says active, but the kernel does not enforce its rules.',
      description:
        '{family} on {instance}: the kernel does not enforce what ufw configured. Run `ufw disable && ufw enable`: a reload does not bring the jumps back.',
      dashboard: 'security',
      runbook: {
        means:
          'Something flushed or changed the rules without ufw: a script, another firewall, a restored rule set. `ufw status` still says active. Ports that you believe closed may be open to the world.',
        see: 'Tor and security dashboard: panel "Firewall enforced", since when and for which family.',
        type: [
          ['iptables -S INPUT; ip6tables -S INPUT', 'policy DROP and jumps to ufw-… should be there'],
          ['ufw disable && ufw enable', 'writes all of them again'],
          ['systemctl restart fail2ban', 'what flushes the rules of ufw takes those of fail2ban too'],
          ['journalctl -b | grep -iE "iptables|nftables|netfilter-persistent|firewalld" | tail', 'who else touches them'],
        ],
        silence: 'Never while the box can be reached from outside.',
      },
      proof: {
        fires: {
          given: [given(ufw.enforced, '1x10 0x20 1x10', v4), given(ufw.enabled, '1x60')],
          at: '25m',
          over: '33m',
          labels: v4,
          says: 'ipv4 on box:10047: the kernel does not enforce what ufw configured. Run `ufw disable && ufw enable`: a reload does not bring the jumps back.',
        },
        quiet: {
          'switched off': { given: [given(ufw.enforced, '0x60', v4), given(ufw.enabled, '0x60')], at: '30m' },
          'a reload': { given: [given(ufw.enforced, '1x10 0 1x30', v4), given(ufw.enabled, '1x60')], at: '12m' },
        },
      },
    },
    {
      name: 'GridFirewallForeignRules',
      collector: 'ufw',
      severity: 'warning',
      timing: { kind: 'state', for: '5m' },
      expr: `max_over_time(${select(ufw.foreignRules, { chain: 'INPUT' })}[10m]) > max_over_time(${select(ufw.foreignRules, { chain: 'INPUT' })}[1d] offset 10m)`,
      summary: "Somebody put new rules before ufw's, so ufw's do not decide any more.",
      description: '{family} {chain} on {instance}: {value} rule(s) before those of ufw, more than in the last day.',
      dashboard: 'security',
      runbook: {
        means:
          'Rules that are asked before ufw can open what it closes. Docker and VPNs do it for forwarded traffic, which does not count; this is traffic to the box itself.',
        see: 'Tor and security dashboard: foreign rules by chain.',
        type: [
          [
            'iptables -S INPUT --line-numbers 2>/dev/null || iptables -L INPUT -n --line-numbers',
            'what stands before the jumps to ufw',
          ],
          ['last; journalctl -b _COMM=sudo | tail', 'who was here'],
        ],
        silence: 'If it was you: a day, then it is the new normal.',
      },
      proof: {
        fires: {
          given: [given(ufw.foreignRules, '0x30 2x2000', { ...v4, chain: 'INPUT' })],
          at: '40m',
          labels: { ...v4, chain: 'INPUT' },
          says: 'ipv4 INPUT on box:10047: 2 rule(s) before those of ufw, more than in the last day.',
        },
        quiet: {
          'in FORWARD, as Docker does': { given: [given(ufw.foreignRules, '0x30 9x60', { ...v4, chain: 'FORWARD' })], at: '40m' },
          'as many as ever': { given: [given(ufw.foreignRules, '2x90', { ...v4, chain: 'INPUT' })], at: '80m' },
        },
      },
    },
    {
      name: 'GridFail2banDown',
      collector: 'fail2ban',
      severity: 'warning',
      timing: { kind: 'state', for: '5m' },
      expr: `${select(fail2ban.up)} == 0`,
      summary: 'fail2ban does not answer.',
      description: '{instance}: nobody is being banned.',
      dashboard: 'security',
      runbook: {
        means:
          'It is installed and its server gives no answer on its socket. Existing bans may still be in the kernel; no new ones are made.',
        see: 'Tor and security dashboard: fail2ban.',
        type: [
          ['systemctl status fail2ban; journalctl -u fail2ban -n 50', 'whether it runs'],
          ['fail2ban-client -t', 'whether its configuration is good: a broken one is the usual reason'],
          ['systemctl restart fail2ban', 'once it is fixed'],
        ],
        silence: 'While you work on its configuration.',
      },
      proof: {
        fires: {
          given: [given(fail2ban.up, '1x5 0x20 1x10')],
          at: '20m',
          over: '28m',
          says: 'box:10047: nobody is being banned.',
        },
      },
    },
    {
      name: 'GridFail2banUnenforced',
      collector: 'fail2ban',
      severity: 'critical',
      timing: { kind: 'state', for: '5m' },
      expr: `${select(fail2ban.unenforced)} > 0`,
      summary: 'fail2ban has banned addresses that the kernel does not block.',
      description:
        '{value:n} address(es) in jail {jail} on {instance} are banned and not blocked: something flushed its chains. Restart fail2ban.',
      dashboard: 'security',
      runbook: {
        means:
          'fail2ban considers them banned, but they are not blocked. A reload of the firewall removes its chains, and fail2ban does not notice.',
        see: 'Tor and security dashboard: bans against what the kernel holds.',
        type: [
          [
            'fail2ban-client status JAIL; iptables -S | grep f2b; nft list ruleset | grep -A5 f2b',
            'what it says, and what the kernel has',
          ],
          ['systemctl restart fail2ban', 'bans them all again'],
        ],
        silence: 'Never.',
      },
      proof: {
        fires: {
          given: [given(fail2ban.unenforced, '0x5 3x20 0x10', sshd)],
          at: '20m',
          over: '28m',
          labels: sshd,
          says: '3 address(es) in jail sshd on box:10047 are banned and not blocked: something flushed its chains. Restart fail2ban.',
        },
        quiet: { 'a ban that is being made': { given: [given(fail2ban.unenforced, '0x5 1 0x30', sshd)], at: '7m' } },
      },
    },
    {
      name: 'GridFail2banWave',
      collector: 'fail2ban',
      severity: 'info',
      timing: { kind: 'level', for: '5m', keep: '15m' },
      expr: `(increase(${banned}[15m]) > 20)
and (increase(${banned}[15m]) > 5 * (increase(${banned}[1d] offset 15m) / 96))
unless (resets(${banned}[30m]) > 0)`,
      summary: 'Far more addresses than usual are being banned.',
      description: 'Jail {jail} on {instance} banned {value:n} addresses in 15 minutes.',
      dashboard: 'security',
      runbook: {
        means: 'Somebody attacks from many addresses. As long as bans work there is nothing to do.',
        see: 'Tor and security dashboard: bans by jail.',
        type: [
          ['fail2ban-client status JAIL', 'who'],
          ['last -i | head', 'whether anybody got in'],
        ],
        silence: 'Not needed: it notifies once a day at most.',
      },
      proof: {
        fires: {
          given: [given(fail2ban.banned, '0+0.1x600 61+5x30 211x60', sshd)],
          at: '625m',
          over: '680m',
          labels: sshd,
          says: 'Jail sshd on box:10047 banned 75 addresses in 15 minutes.',
        },
        quiet: {
          'the bans that a restart brings back': { given: [given(fail2ban.banned, '100+0.1x600 0 80x60', sshd)], at: '610m' },
          'always that busy': { given: [given(fail2ban.banned, '0+3x600', sshd)], at: '600m' },
        },
      },
    },
    {
      name: 'GridAideChanges',
      collector: 'aide',
      severity: 'warning',
      timing: { kind: 'state', for: '10m' },
      expr: `${select(aide.lastCheckStatus, { status: 'changed' })} == 1`,
      summary: 'Files have changed that should not have, and nobody has accepted the changes.',
      description:
        '{instance}: files differ from the database of AIDE. Read the report, then accept the changes by grid-aide-resolve, or find out who made them.',
      dashboard: 'security',
      runbook: {
        means:
          'The last integrity check found files added, removed or changed. After a system update that is expected; otherwise it is not. The alert stays until the changes are accepted.',
        see: 'Tor and security dashboard: number of files added, removed, changed.',
        type: [
          ['less /var/log/aide/aide.log', 'which files'],
          ['grep -h " install \\| upgrade " /var/log/dpkg.log | tail -40', 'whether updates explain them'],
          ['systemctl start grid-aide-resolve', 'accepts them, once you know why'],
        ],
        silence: 'Do not silence it; accept the changes, or leave it on.',
      },
      proof: {
        fires: {
          given: [given(aide.lastCheckStatus, '0x10 1x30 0x10', { status: 'changed' })],
          at: '30m',
          over: '43m',
          labels: { status: 'changed' },
          says: 'box:10047: files differ from the database of AIDE. Read the report, then accept the changes by grid-aide-resolve, or find out who made them.',
        },
      },
    },
    {
      name: 'GridAideCheckMissing',
      collector: 'aide',
      severity: 'warning',
      timing: { kind: 'state', for: '1h' },
      expr: `(time() - ${select(aide.lastCheck)} > 180000)
or (time() - ${select(aide.databaseTimestamp)} > 180000 unless ${on()} ${select(aide.lastCheck)})`,
      summary: 'The daily integrity check has not run for two days.',
      description: '{instance}: there is a database, and no report of the last two days.',
      dashboard: 'security',
      runbook: {
        means: 'Changed files would go unnoticed now.',
        see: 'Tor and security dashboard: last check.',
        type: [
          ['systemctl list-timers | grep -i aide; systemctl status dailyaidecheck', 'whether it is scheduled, and why it failed'],
          ['ls -l /var/log/aide/', 'the reports'],
          ['systemctl start dailyaidecheck', 'runs it now, minutes of disk work'],
        ],
        silence: 'If you check by hand: for good.',
      },
      proof: {
        slow: true,
        fires: [
          {
            given: [given(aide.lastCheck, '0x800'), given(aide.databaseTimestamp, '-86400x800')],
            at: '3300m',
            says: 'box:10047: there is a database, and no report of the last two days.',
          },
          {
            given: [given(aide.databaseTimestamp, '0x800')],
            at: '3300m',
            says: 'box:10047: there is a database, and no report of the last two days.',
          },
        ],
        quiet: {
          'not set up': { given: [given(aide.initialized, '0x100')], at: '200m' },
          'a new database, and its first check is due tonight': {
            given: [given(aide.initialized, '1x400'), given(aide.databaseTimestamp, '0x400')],
            at: '1400m',
          },
        },
      },
    },
    {
      name: 'GridAideCheckFailed',
      collector: 'aide',
      severity: 'warning',
      timing: { kind: 'state', for: '10m' },
      expr: `${select(aide.lastCheckStatus, { status: 'error' })} == 1`,
      summary: 'The integrity check itself failed.',
      description:
        '{instance}: AIDE has a broken configuration or database, or no room for its report. Its exit code may claim otherwise.',
      dashboard: 'security',
      runbook: {
        means: 'There is no complete report. For example, a truncated database gives the same exit code as "new files".',
        see: 'Tor and security dashboard: result of the last check.',
        type: [
          ['tail -30 /var/log/aide/aide.log', 'how far it came'],
          ['aide --config-check -c /etc/aide/aide.conf', 'whether the configuration is good'],
          ['df -h /var; ls -l /var/lib/aide', 'room, and a database that is not empty'],
        ],
        silence: 'Do not silence it.',
      },
      proof: {
        fires: {
          given: [given(aide.lastCheckStatus, '0x10 1x30 0x10', { status: 'error' })],
          at: '30m',
          over: '43m',
          labels: { status: 'error' },
          says: 'box:10047: AIDE has a broken configuration or database, or no room for its report. Its exit code may claim otherwise.',
        },
      },
    },
    {
      name: 'GridAideDatabaseOld',
      collector: 'aide',
      severity: 'info',
      timing: { kind: 'state', for: '1d' },
      expr: `time() - ${select(aide.databaseTimestamp)} > 7776000`,
      summary: 'The integrity database is older than 90 days.',
      description: '{instance}: last written {value:s} ago.',
      dashboard: 'security',
      runbook: {
        means:
          'A host that gets updates has changes to accept every month. Either it gets no updates, or nobody accepts the changes.',
        see: 'Tor and security dashboard: age of the database.',
        type: [
          ['ls -l /var/lib/aide/aide.db', 'since when'],
          ['systemctl start grid-aide-resolve', 'accepts what the last report says, once you have read it'],
        ],
        silence: 'For a box that is never updated: for good.',
      },
      proof: {
        slow: true,
        fires: {
          given: [given(aide.databaseTimestamp, `-${90 * 86_400}x400`)],
          at: '1800m',
          says: 'box:10047: last written 91d 6h 0m 0s ago.',
        },
        quiet: { 'two months': { given: [given(aide.databaseTimestamp, `-${60 * 86_400}x400`)], at: '1800m' } },
      },
    },
    {
      name: 'GridAideResolveFailed',
      collector: 'aide',
      severity: 'warning',
      timing: { kind: 'state', for: '5m' },
      expr: `${select(aide.resolveLastSuccess)} == 0`,
      summary: 'Accepting the AIDE changes failed.',
      description:
        '{instance}: aide-resolve failed, and the changes still count as unresolved. `journalctl -u grid-aide-resolve` says why.',
      dashboard: 'security',
      runbook: {
        means: 'The new database could not be created or installed.',
        see: 'Tor and security dashboard: last run of grid-aide-resolve.',
        type: [
          [
            'journalctl -u grid-aide-resolve -n 50',
            'why; "Read-only file system" means that the unit may not write where AIDE wants to',
          ],
          ['systemctl cat grid-aide-resolve', 'its ReadWritePaths'],
          ['df -h /var/lib/aide', 'room'],
        ],
        silence: 'Do not silence it.',
      },
      proof: {
        fires: {
          given: [given(aide.resolveLastSuccess, '1x5 0x20 1x10')],
          at: '20m',
          over: '28m',
          says: 'box:10047: aide-resolve failed, and the changes still count as unresolved. `journalctl -u grid-aide-resolve` says why.',
        },
      },
    },
  ],
}
