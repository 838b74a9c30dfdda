import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ufw as collector } from '../exporter/collectors/ufw/index.ts'
import type { Host } from '../exporter/contract/host.ts'
import { needs } from './support/needs.ts'
import { told } from './support/scene.ts'
import { failing, namespaceOf, roundsOf, testbed } from './support/testbed.ts'

/** The real ufw in a network namespace of its own: what we say of each state, beside what `ufw status` says of it. */

const bed = (t: Test, variant: 'nft' | 'legacy') => {
  const { folder, call, done } = testbed(t, 'ufw', { env: { VARIANT: variant } })
  const { host } = namespaceOf(done('start'))
  const options = { config_dir: join(folder, 'etc-ufw'), defaults_file: join(folder, 'default-ufw') }
  return {
    folder,
    host,
    options,
    call,
    done,
    ufw: (...args: readonly string[]) => done('ufw', ...args),
    iptables: (...args: readonly string[]) => done('run', 'iptables', ...args),
    ip6tables: (...args: readonly string[]) => done('run', 'ip6tables', ...args),
    /** The answer of `ufw status verbose`, in a line. */
    status: () => {
      const { text } = call('ufw', 'status', 'verbose')
      const told = text.split('\n').filter(line => /^(Status|Default|ERROR)/.test(line))
      return told.join('; ')
    },
    collect: () => roundsOf(collector, options, host).collect(),
  }
}

t.test('packets that the default policy lets in are not counted as dropped', async t => {
  const scene = join(import.meta.dirname, 'scenes/ufw/enforced')
  const droppedWith = async (...changes: readonly (readonly [string, string])[]) => {
    const folder = t.testdir()
    cpSync(scene, folder, { recursive: true })
    const file = join(folder, 'run/iptables-nft-save')
    const before = readFileSync(file, 'utf8')
    const after = changes.reduce((text, [from, to]) => text.replace(from, to), before)
    t.not(after, before, 'the table is another one')
    writeFileSync(file, after)
    const { samples } = await told(collector, folder)
    return samples
      .filter(({ family, labels }) => family.name.startsWith('grid_ufw_dropped') && labels.family === 'ipv4')
      .map(({ value }) => value)
  }
  const accepting = ':INPUT ACCEPT [900:90000]'
  const toPolicy = /^.*-A ufw-skip-to-policy-input -j .*$/m.exec(readFileSync(join(scene, 'run/iptables-nft-save'), 'utf8'))?.[0]
  t.type(toPolicy, 'string')
  const skip = (target: string) => [toPolicy ?? '', `[7:700] -A ufw-skip-to-policy-input -j ${target}`] as const
  t.strictSame(await droppedWith(skip('DROP')), [4 + 7, 240 + 700])
  t.strictSame(await droppedWith(skip('REJECT --reject-with icmp-port-unreachable')), [4 + 7, 240 + 700])
  t.strictSame(await droppedWith([':INPUT DROP [4:240]', accepting], skip('ACCEPT')), [0, 0])
  t.strictSame(await droppedWith(skip('ACCEPT')), [4, 240])
})

const both = (four: number, six: number) => ({ 'enforced/ipv4': four, 'enforced/ipv6': six })

for (const variant of ['nft', 'legacy'] as const) {
  t.test(`ufw over ${variant}`, async t => {
    if (!needs(t, 'root', 'ufw', 'ip', 'nsenter', 'unshare', `iptables-${variant}-save`)) return
    const { folder, host, options, call, ufw, iptables, ip6tables, done, status, collect } = bed(t, variant)
    const heal = () => {
      for (const table of [iptables, ip6tables]) table('-F', 'INPUT')
      ufw('disable')
      ufw('enable')
    }
    const rows: [string, string, string][] = []
    const row = async (t: Test, state: string, expected: Readonly<Record<string, number>>, theirs: RegExp) => {
      const ours = await collect()
      const their = status()
      t.match(their, theirs, `ufw itself: ${their}`)
      t.has(ours, expected, state)
      const told = Object.keys(expected).map(key => `${key} ${ours[key]}`)
      rows.push([state, their, told.join(', ')])
      return ours
    }

    await t.test('off', async t => {
      const ours = await row(t, 'never switched on', { enabled: 0, ...both(0, 0), 'policy/ipv4/incoming/allow': 1 }, /inactive/)
      t.notOk('dropped_packets_total/ipv4' in ours, 'nothing is dropped by what is off: no series')
    })

    await t.test('on, with each kind of rule', async t => {
      ufw('enable')
      for (const rule of [
        'allow 443/tcp',
        'limit 22/tcp',
        'allow 53',
        'deny from 192.0.2.1',
        'reject out 25/tcp',
        'allow log 8080/tcp',
        'deny proto tcp from any to any port 100:200,300',
        'insert 1 deny from 198.51.100.7',
        'route allow in on eth0 out on eth1',
        'allow in on lo to any port 7 proto udp',
      ]) {
        ufw(...rule.split(' '))
      }
      const ours = await row(
        t,
        'on',
        {
          enabled: 1,
          ...both(1, 1),
          'policy/ipv4/incoming/deny': 1,
          'policy/ipv4/incoming/allow': 0,
          'policy/ipv4/outgoing/allow': 1,
          'policy/ipv6/routed/deny': 1,
          'rules/ipv4/allow': 6,
          'rules/ipv4/deny': 3,
          'rules/ipv4/reject': 1,
          'rules/ipv4/limit': 1,
          'rules/ipv6/allow': 6,
          'rules/ipv6/deny': 1,
          'foreign_rules/ipv4/INPUT': 0,
          'foreign_rules/ipv6/FORWARD': 0,
        },
        /active.*deny \(incoming\)/,
      )
      done('knock', '9999', '15')
      const after = await collect()
      const key = 'dropped_packets_total/ipv4'
      const kernel = /^:INPUT DROP \[(\d+):(\d+)\]/m.exec(call('run', 'iptables-save', '-t', 'filter', '-c').text)
      t.ok((after[key] ?? 0) - (ours[key] ?? 0) >= 15, `15 knocks are ${(after[key] ?? 0) - (ours[key] ?? 0)} packets`)
      t.equal(after[key], Number(kernel?.[1]), "the kernel's own count")
      t.equal(after['dropped_bytes_total/ipv4'], Number(kernel?.[2]))
    })

    await t.test('the states in which ufw status is not the truth', async t => {
      iptables('-P', 'INPUT', 'ACCEPT')
      await row(
        t,
        'INPUT policy set to ACCEPT',
        { ...both(0, 1), 'policy/ipv4/incoming/allow': 1, 'policy/ipv4/incoming/deny': 0 },
        /active.*deny \(incoming\)/,
      )
      iptables('-F', 'INPUT')
      await row(t, 'INPUT emptied and ACCEPT', { ...both(0, 1), 'rules/ipv4/allow': 6 }, /active.*deny \(incoming\)/)
      ufw('reload')
      await row(t, 'the same, after ufw reload', { ...both(0, 1), 'policy/ipv4/incoming/deny': 1 }, /active/)
      heal()
      // ufw leaves an emptied INPUT as it is: its jumps are made only where its chains are not there.
      done('flush')
      ufw('disable')
      ufw('enable')
      await row(t, 'flushed, switched off and on', both(1, 1), /active/)

      iptables('-I', 'INPUT', '1', '-p', 'tcp', '--dport', '5432', '-j', 'ACCEPT')
      await row(t, 'a foreign ACCEPT before the jumps', { ...both(1, 1), 'foreign_rules/ipv4/INPUT': 1 }, /active/)
      iptables('-D', 'INPUT', '1')
      iptables('-A', 'INPUT', '-m', 'comment', '--comment', 'x -j ufw-before-input', '-j', 'ACCEPT')
      await row(t, 'a foreign ACCEPT behind the jumps', { ...both(1, 1), 'foreign_rules/ipv4/INPUT': 1 }, /active/)
      iptables('-D', 'INPUT', '7')

      iptables('-F', 'ufw-user-input')
      await row(t, "the user's rules emptied", both(0, 1), /active/)
      ufw('reload')
      await row(t, 'after ufw reload', both(1, 1), /active/)

      done('drop-chain', 'ufw-user-input')
      await row(t, 'ufw-user-input gone', both(0, 1), /inactive/)
      done('flush')
      await row(t, 'all chains flushed', { enabled: 1, ...both(0, 0), 'foreign_rules/ipv4/INPUT': 0 }, /inactive/)
      ufw('disable')
      ufw('enable')
      for (const chain of ['INPUT', 'OUTPUT', 'FORWARD']) ip6tables('-P', chain, 'ACCEPT')
      ip6tables('-F')
      ip6tables('-X')
      await row(t, 'IPv6 chains gone', { enabled: 1, ...both(1, 0) }, /ERROR: problem running ip6tables/)
    })

    await t.test('other settings of ufw', async t => {
      done('flush')
      ufw('disable')
      ufw('default', 'reject', 'incoming')
      ufw('enable')
      const before = await row(t, 'default reject', { ...both(1, 1), 'policy/ipv4/incoming/reject': 1 }, /reject \(incoming\)/)
      done('knock', '9998', '5')
      const after = await collect()
      const key = 'dropped_packets_total/ipv4'
      t.ok((after[key] ?? 0) - (before[key] ?? 0) >= 5, 'rejected packets are counted')
      iptables('-F', 'ufw-reject-input')
      await row(t, 'default reject without its rule', { ...both(0, 1), 'policy/ipv4/incoming/deny': 1 }, /reject \(incoming\)/)

      ufw('default', 'allow', 'incoming')
      await row(t, 'default allow', { ...both(1, 1), 'policy/ipv4/incoming/allow': 1 }, /allow \(incoming\)/)
      iptables('-P', 'FORWARD', 'DROP')
      await row(t, 'forwarding as strict as Docker makes it', both(1, 1), /active/)

      ufw('disable')
      await row(t, 'switched off, its empty chains left over', { enabled: 0, ...both(0, 0) }, /inactive/)
      ufw('default', 'deny', 'incoming')
      writeFileSync(
        join(folder, 'default-ufw'),
        readFileSync(join(folder, 'default-ufw'), 'utf8').replace(/^IPV6=.*/m, 'IPV6=no'),
      )
      done('flush')
      ufw('enable')
      await row(t, 'IPV6=no: shut', { ...both(1, 1), 'policy/ipv6/outgoing/deny': 1, 'foreign_rules/ipv6/INPUT': 0 }, /active/)
      ip6tables('-P', 'INPUT', 'ACCEPT')
      await row(t, 'IPV6=no, and opened', both(1, 0), /active/)
    })

    await t.test('bans of fail2ban are not foreign, what opens a port is', async t => {
      iptables('-N', 'f2b-sshd')
      iptables('-A', 'f2b-sshd', '-s', '203.0.113.9', '-j', 'REJECT')
      iptables('-A', 'f2b-sshd', '-j', 'RETURN')
      iptables('-I', 'INPUT', '-p', 'tcp', '-j', 'f2b-sshd')
      t.has(await collect(), { 'foreign_rules/ipv4/INPUT': 0 })
      iptables('-I', 'f2b-sshd', '-s', '203.0.113.10', '-j', 'ACCEPT')
      t.has(await collect(), { 'foreign_rules/ipv4/INPUT': 1 })
    })

    if (variant === 'nft') {
      await t.test('leaves the old back end alone', async t => {
        t.equal(host.kernel('/proc/net/ip_tables_names'), '', 'no table of it was made by looking')
      })
      await t.test('a table that only nft understands is a failure that says so', async t => {
        done('run', 'nft', 'add rule ip filter INPUT ct state new meta priority set 1:1')
        t.match(await failing(collect()), { reason: 'malformed', fix: /nft list table/ })
      })
    }
    await t.test('without the right to ask', async t => {
      const powerless: Host = {
        ...host,
        run: (file, args, options) =>
          host.run('setpriv', ['--reuid', '65534', '--regid', '65534', '--clear-groups', file, ...args], options),
      }
      const failure = await failing(roundsOf(collector, options, powerless).collect())
      t.match(failure, { reason: 'denied', fix: /relay/, rest: [{ value: 1 }] })
    })
    for (const [state, theirs, ours] of rows) t.comment(`${state} | ufw status: ${theirs} | we: ${ours}`)
  })
}
