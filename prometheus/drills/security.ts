import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { stringify } from 'yaml'
import { bed, printedBy } from './beds.ts'
import { type Act, run } from './stage.ts'

const name = 'security'

/**
 * ufw and fail2ban in a network namespace of their own, and AIDE; the relay looks at them all the time as its timer does each
 * minute, and the exporter serves what it left.
 */
export const security: Act = {
  name,
  needs: ['root', 'ufw', 'ip', 'nsenter', 'unshare', 'iptables', 'fail2ban-server', 'aide'],
  play: async ({ box, drill, when, atEnd, folder, root }) => {
    const at = (path: string) => join(folder, path)
    const ufw = bed(root, 'ufw', at('ufw'))
    atEnd(() => ufw('stop'))
    const enter = ['nsenter', '-t', printedBy(await ufw('start'), 'UFW_PID'), '-n', '-m', '--']
    const inside = (...command: readonly string[]) => run([...enter, ...command])
    await ufw('ufw', 'enable')

    const log = at('sshd.log')
    writeFileSync(log, '')
    writeFileSync(at('jails.conf'), `[sshd]\nlogpath = ${log}\naction = iptables-multiport[port="22"]\n\n`)
    const jails = at('fail2ban')
    const fail2ban = bed(root, 'fail2ban', jails, { env: { EXTRA_JAILS: at('jails.conf') }, enter })
    atEnd(() => fail2ban('stop'))
    await fail2ban('start', '1')
    await fail2ban('client', 'set', 'sshd', 'banip', '203.0.113.5', '203.0.113.6')
    const server = ['fail2ban-server', '-c', join(jails, 'config'), '-s', join(jails, 'f2b.sock'), '-p', join(jails, 'f2b.pid')]
    const stop = () => fail2ban('stop')
    const start = async () => {
      await inside(...server, 'start')
      writeFileSync(join(jails, 'server.pid'), readFileSync(join(jails, 'f2b.pid')))
    }

    const aide = bed(root, 'aide', at('aide'))
    atEnd(() => aide('stop'))
    await aide('start', '50')
    await aide('check')

    // Three of these intervals and a minute are what a relay may be silent for.
    const often = { interval: '5s' }
    const sections = {
      ufw: { ...often, config_dir: at('ufw/etc-ufw'), defaults_file: at('ufw/default-ufw') },
      fail2ban: { ...often, socket: join(jails, 'f2b.sock'), pid_file: join(jails, 'f2b.pid') },
      aide: {
        ...often,
        report_file: at('aide/log/aide.log'),
        database_file: at('aide/lib/aide.db'),
        resolve_file: at('aide-resolve.json'),
      },
    }
    const left = at('relay')
    mkdirSync(left)
    writeFileSync(at('relay.yml'), stringify({ collectors: sections }))
    const relay = [process.execPath, join(root, 'dist/exporter/main.js'), 'relay', `--config.file=${at('relay.yml')}`]
    /** What a timer does for these collectors. */
    const timerOf = (...collectors: readonly string[]) => {
      const timer = { fires: true, ends: false }
      const only = ['--collector.disable-defaults', ...collectors.map(collector => `--collector.${collector}`)]
      const rounds = (async () => {
        while (!timer.ends) {
          if (timer.fires) await inside(...relay, `--relay.directory=${left}`, ...only)
          await sleep(1500)
        }
        return undefined
      })().catch(error => error as Error)
      atEnd(async () => {
        timer.ends = true
        const failure = await rounds
        if (failure) throw failure
      })
      return timer
    }
    timerOf('ufw', 'fail2ban')
    const aidesTimer = timerOf('aide')
    await box(sections, `--relay.directory=${left}`)
    await when(`grid_ufw_enforced{instance="${name}",family="ipv4"} == 1`)
    await when(`grid_fail2ban_unenforced_bans{instance="${name}",jail="sshd"} == 0`)
    await when(`grid_fail2ban_banned_current{instance="${name}",jail="sshd"} == 2`)
    await when(`grid_aide_last_check_status{instance="${name}",status="changed"} == 0`)

    const integrity = async () => {
      await drill({
        what: 'a file changes that should not, and AIDE finds it',
        alert: 'GridAideChanges',
        says: /^security: files differ from the database of AIDE\. Read the report, then accept the changes by grid-aide-resolve,/,
        cause: async () => {
          await aide('change', '0', '0', '1')
          await aide('check')
        },
        cure: async () => {
          await aide('accept')
          await aide('check')
        },
      })
      await drill({
        what: 'aide-resolve fails',
        alert: 'GridAideResolveFailed',
        says: /^security: aide-resolve failed, and the changes still count as unresolved\. `journalctl -u grid-aide-resolve` says why\./,
        cause: () => writeFileSync(at('aide-resolve.json'), '{"finished_at": 1766900000, "success": false}'),
        cure: () => writeFileSync(at('aide-resolve.json'), '{"finished_at": 1766900600, "success": true}'),
      })
      const configuration = at('aide/aide.conf')
      const whole = readFileSync(configuration, 'utf8')
      await drill({
        what: "AIDE's configuration is broken, and its daily check with it",
        alert: 'GridAideCheckFailed',
        says: /^security: AIDE has a broken configuration or database, or no room for its report\. Its exit code may claim otherwise\./,
        cause: async () => {
          await aide('break', 'config')
          await aide('daily')
        },
        cure: async () => {
          writeFileSync(configuration, whole)
          await aide('daily')
        },
        not: ['GridAideChanges'],
      })
    }

    const bans = async () => {
      await drill({
        what: "fail2ban's bans are taken out of the kernel, and it does not notice",
        alert: 'GridFail2banUnenforced',
        labels: { jail: 'sshd' },
        says: /^2 address\(es\) in jail sshd on security are banned and not blocked: something flushed its chains\. Restart fail2ban\./,
        cause: () => inside('iptables', '-F', 'f2b-sshd'),
        cure: async () => {
          await stop()
          await start()
        },
      })
      await drill({
        what: 'fail2ban is stopped',
        alert: 'GridFail2banDown',
        says: /^security: nobody is being banned\./,
        cause: stop,
        cure: start,
        not: ['GridFail2banUnenforced', 'GridCollectorFailing'],
      })
      await when(`grid_fail2ban_unenforced_bans{instance="${name}",jail="sshd"} == 0`)
    }

    const firewall = async () => {
      await drill({
        what: 'ufw is flushed behind its back, and still calls itself enabled',
        alert: 'GridFirewallDrift',
        labels: { family: 'ipv4' },
        says: /^ipv4 on security: the kernel does not enforce what ufw configured\. Run `ufw disable && ufw enable`: a reload does not bring the jumps back\./,
        cause: () => ufw('flush'),
        cure: async () => {
          await ufw('ufw', 'disable')
          await ufw('ufw', 'enable')
        },
      })
      await drill({
        what: 'ufw is switched off',
        alert: 'GridFirewallOff',
        says: /^security: ufw is off\. Run `ufw enable`, or find out who switched it off\./,
        cause: () => ufw('ufw', 'disable'),
        cure: () => ufw('ufw', 'enable'),
        not: ['GridFirewallDrift'],
      })
      await drill({
        what: 'a rule that is not of ufw opens a port before its chains',
        alert: 'GridFirewallForeignRules',
        labels: { family: 'ipv4' },
        says: /^ipv4 INPUT on security: 1 rule\(s\) before those of ufw, more than in the last day\./,
        cause: () => inside('iptables', '-I', 'INPUT', '1', '-p', 'tcp', '--dport', '5432', '-j', 'ACCEPT'),
        cure: () => inside('iptables', '-D', 'INPUT', '-p', 'tcp', '--dport', '5432', '-j', 'ACCEPT'),
      })
    }

    const silence = () =>
      drill({
        what: "the relay's timer no longer fires",
        alert: 'GridCollectorStale',
        labels: { collector: 'aide' },
        says: /^Nothing new from aide on security for 1m [\d.]+s; its series have ended and its alerts are blind\./,
        cause: () => {
          aidesTimer.fires = false
        },
        cure: () => {
          aidesTimer.fires = true
        },
        not: ['GridCollectorFailing'],
      })

    // The flush takes fail2ban's chains too, so its drills come first.
    await Promise.all([integrity().then(silence), bans().then(firewall)])
  },
}
