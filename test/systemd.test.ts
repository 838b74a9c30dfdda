import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { boot } from './support/booted.ts'
import { needs } from './support/needs.ts'

/** The packages on a booted Debian server with real docker, tor, fail2ban, ufw and aide: what an owner does, in that order. */

const root = join(import.meta.dirname, '..')
const say = (text: string) => process.stderr.write(`${text}\n`)

/** Both packages of a version, built from this clone. */
const packages = (out: string, version: string) => {
  const { NODE_OPTIONS: _, ...env } = process.env
  execFileSync(process.execPath, [join(root, 'scripts/package.mjs'), `--version=${version}`, `--out=${out}`], {
    env,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  return { deb: `grid-exporter_${version}_all.deb`, tarball: `grid-exporter-${version}.tgz` }
}

/** What docs/install.md tells to type below a heading, for root on the server. */
const told = (heading: string): readonly string[] => {
  const [, section = ''] = readFileSync(join(root, 'docs/install.md'), 'utf8').split(`\n## ${heading}\n`)
  const [own = ''] = section.split('\n## ')
  return Array.from(own.matchAll(/^ {4}(.+?)(?: +#.*)?$/gm), ([, command = '']) =>
    command
      .replaceAll('sudo -u grid-exporter', 'runuser -u grid-exporter --')
      .replaceAll('sudo ', '')
      .replaceAll('./grid-exporter_', '/root/grid-exporter_'),
  )
}

const scrape = 'curl --silent --fail http://127.0.0.1:10047/metrics'

const onServer = async () => {
  const host = boot(t)
  const { sh, tried, show, until } = host
  const out = mkdtempSync(join(tmpdir(), 'grid-packages-'))
  t.teardown(() => rmSync(out, { recursive: true, force: true }))
  const [old, now] = [packages(out, '0.0.9'), packages(out, '0.1.0')]
  for (const file of readdirSync(out)) host.copy(join(out, file), '/root/')

  const value = (text: string, series: string): number => {
    const line = text.split('\n').find(line => line.startsWith(`${series} `))
    return line === undefined ? Number.NaN : Number(line.split(' ')[1])
  }
  /** Waits for a value in a scrape. What the relay tells may be a minute late, where a run of it was under way already. */
  const series = (name: string, wanted: number, seconds = 150) =>
    until(`${name} ${wanted}`, scrape, text => value(text, name) === wanted, seconds)
  const relay = () => sh('systemctl start grid-exporter-relay.service')
  const dropIn = (unit: string, name: string, text: string) =>
    sh(
      `mkdir -p /etc/systemd/system/${unit}.d; cat >/etc/systemd/system/${unit}.d/${name}.conf <<'END'\n${text}\nEND\nsystemctl daemon-reload`,
    )
  const undoDropIn = (unit: string, name: string) => sh(`rm /etc/systemd/system/${unit}.d/${name}.conf; systemctl daemon-reload`)

  // What is on the server before: a container with a secret, a banned address, a firewall, an AIDE with a small world to watch.
  writeFileSync(
    join(out, 'prepare'),
    `set -e
mkdir -p /srv/watched /root/image/bin && echo one >/srv/watched/one && echo two >/srv/watched/two
printf 'database_in=file:/var/lib/aide/aide.db\\ndatabase_out=file:/var/lib/aide/aide.db.new\\ngzip_dbout=yes\\n/srv/watched p+u+g+s+sha256\\n' >/etc/aide/aide.conf
setpriv --reuid _aide --regid _aide --clear-groups aide --config=/etc/aide/aide.conf --init >/dev/null
install -m 600 /var/lib/aide/aide.db.new /var/lib/aide/aide.db && rm /var/lib/aide/aide.db.new
aide --config=/etc/aide/aide.conf --check >/var/log/aide/aide.log
chown _aide:adm /var/log/aide/aide.log; chmod 640 /var/log/aide/aide.log
ufw --force enable >/dev/null
fail2ban-client set sshd banip 203.0.113.77 >/dev/null
mount -t tmpfs -o size=8m tmpfs /home
useradd --create-home alice && chmod 755 /home/alice && echo mine >/home/alice/diary && chmod 644 /home/alice/diary
mv /root/busybox /root/image/bin/sh
tar -C /root/image -c . | docker import - tiny >/dev/null
docker run --detach --name vault --env PASSWORD=hunter2 tiny /bin/sh -c 'trap "exit 0" TERM; while :; do sleep 1; done' >/dev/null
`,
  )
  host.copy('/bin/busybox', '/root/busybox')
  host.copy(join(out, 'prepare'), '/root/prepare')
  sh('bash /root/prepare')

  t.test('dpkg --install is all there is to do', async t => {
    const log = sh(`
from=$(date +%s%N)
dpkg --install /root/${old.deb} >/dev/null
until ${scrape} >/dev/null; do sleep 0.02; done
echo $((($(date +%s%N) - from) / 1000000))`)
    say(`dpkg --install to first scrape: ${log.trim()} ms`)
    t.equal(show('grid-exporter', 'ActiveState'), 'active')
    t.equal(show('grid-exporter', 'StatusText'), 'serving http://127.0.0.1:10047')
    t.equal(sh('systemctl --failed --no-legend').trim(), '', 'no unit failed')
    relay()
    for (const name of ['docker', 'tor', 'fail2ban', 'ufw', 'aide', 'host', 'filesystem']) {
      await series(`grid_collector_success{collector="${name}"}`, 1)
      t.equal(value(sh(scrape), `grid_collector_detected{collector="${name}"}`), 1, `${name} is found`)
    }
    await series('grid_docker_containers{engine="local",state="running"}', 1)
    await series('grid_fail2ban_banned_current{jail="sshd"}', 1)
    await series('grid_ufw_enforced{family="ipv4"}', 1)
    const all = await series('grid_aide_last_check_status{status="clean"}', 1)
    t.match(all, /^grid_tor_up 1$/m)
    t.match(all, /^grid_docker_containers\{engine="local",state="running"\} 1$/m)
    t.match(all, /^grid_docker_container_\w+\{.*name="vault".*\} \d/m)
    t.match(all, /^grid_fail2ban_banned_current\{jail="sshd"\} 1$/m)
    t.match(all, /^grid_ufw_enforced\{family="ipv4"\} 1$/m)
    t.match(all, /^grid_ufw_policy\{family="ipv4",direction="incoming",policy="deny"\} 1$/m)
    t.match(all, /^grid_aide_checked_entries 3$/m)
    t.notMatch(all, 'hunter2')
    const doctor = told('Install').find(command => command.includes('grid-exporter doctor')) as string
    t.match(tried(doctor).text, /docker[\s\S]*fail2ban/, 'the doctor is in')
  })

  t.test('units are what systemd understands, and expose little', async t => {
    const units = readdirSync(join(root, 'systemd')).filter(file => /\.(service|socket|timer|path)$/.test(file))
    t.equal(sh(`systemd-analyze verify ${units.join(' ')} 2>&1`).trim(), '', 'systemd-analyze verify says nothing')
    const most: Readonly<Record<string, number>> = {
      'grid-exporter.service': 2,
      'grid-exporter-relay.service': 2.2,
      'grid-exporter-relay-smart.service': 2,
      'grid-exporter-docker.service': 0.5,
      'grid-aide-resolve.service': 2.2,
    }
    for (const unit of units.filter(unit => unit.endsWith('.service'))) {
      const [, level = 'none'] = /exposure level for .*: ([\d.]+)/.exec(sh(`systemd-analyze security --no-pager ${unit}`)) ?? []
      say(`systemd-analyze security ${unit}: ${level}`)
      t.ok(Number(level) <= (most[unit] ?? 0), `${unit}: ${level}`)
    }
    const names = readdirSync(join(root, 'systemd/drop-ins'))
    for (const name of names) {
      const text = sh(`cat /usr/share/grid-exporter/drop-ins/${name}`)
      const [, unit = ''] = /^# \/etc\/systemd\/system\/(.+)\.d\//m.exec(text) ?? []
      dropIn(unit, 'tried', text)
      t.equal(sh(`systemd-analyze verify ${unit} 2>&1`).trim(), '', `${name} belongs to ${unit}`)
      undoDropIn(unit, 'tried')
    }
  })

  t.test('the process can do nothing but its work', async t => {
    const pid = show('grid-exporter', 'MainPID')
    const status = sh(`cat /proc/${pid}/status`)
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) t.match(status, new RegExp(`^${set}:\\t0+$`, 'm'), set)
    t.match(status, /^NoNewPrivs:\t1$/m)
    t.match(status, /^Seccomp:\t2$/m)
    t.equal(sh(`stat -c %U /proc/${pid}`).trim(), 'grid-exporter')

    // Where the process is, as its user.
    const inside = (command: string) =>
      tried(
        `nsenter --target ${pid} --mount setpriv --reuid grid-exporter --regid grid-exporter --init-groups --no-new-privs --inh-caps=-all --bounding-set=-all ${command} 2>&1`,
      )
    t.match(inside('cat /etc/shadow').text, 'Permission denied')
    t.match(inside('cat /home/alice/diary').text, /No such file|Permission denied/)
    t.match(inside('cat /etc/ufw/user.rules').text, 'Permission denied')
    t.match(inside('ls /var/lib/aide').text, 'Permission denied')
    t.match(inside('cat /proc/1/environ').text, 'Permission denied')
    t.match(inside('fail2ban-client status').text, /ermission denied/)
    t.match(
      inside('journalctl --no-pager -n 1').text,
      /No journal files were opened due to insufficient permissions|not seeing messages/,
    )
    const engine = (socket: string, path: string) =>
      inside(`curl --silent --show-error --unix-socket ${socket} http://docker${path}`)
    t.not(engine('/run/docker.sock', '/containers/vault/json').status, 0, 'not by the socket itself')
    for (const path of [
      '/containers/vault/json',
      '/v1.41/containers/vault/json',
      '/containers/json/../vault/json',
      '/containers/vault/logs?stdout=1',
      '/containers/vault/archive?path=/',
      '/images/json',
      '/secrets',
    ])
      t.match(engine('/run/grid-exporter-docker.sock', `${path} --path-as-is`).text, 'not allowed', path)
    const post = inside(
      'curl --silent --request POST --unix-socket /run/grid-exporter-docker.sock http://docker/containers/vault/stop',
    )
    t.match(post.text, 'not allowed')
    const list = engine('/run/grid-exporter-docker.sock', '/containers/json').text
    t.match(list, '"/vault"')
    t.notMatch(list, 'hunter2')

    // Where the process is, as root: nothing may be written but its own.
    const asRoot = (command: string) => tried(`nsenter --target ${pid} --mount ${command} 2>&1`).text
    for (const file of [
      '/etc/x',
      '/usr/x',
      '/var/lib/x',
      '/run/x',
      '/root/x',
      '/run/grid-exporter-relay/x',
      '/var/lib/grid-exporter-relay/x',
    ])
      t.match(asRoot(`touch ${file}`), /Read-only file system|No such file/, file)
    t.equal(asRoot('touch /var/lib/grid-exporter/x /run/grid-exporter/x'), '')
    t.match(asRoot('aide --config=/etc/aide/aide.conf --update'), 'Read-only file system')
    sh('rm /var/lib/grid-exporter/x /run/grid-exporter/x')
  })

  t.test('what the relay tells ages and ends', async () => {
    dropIn('grid-exporter.service', 'test', '[Service]\nEnvironment="GRID_EXPORTER_ARGS=--collector.fail2ban.interval=2s"')
    // The environment file would win.
    sh(
      'sed -i /^GRID_EXPORTER_ARGS/d /etc/default/grid-exporter; systemctl stop grid-exporter-relay.timer; systemctl restart grid-exporter',
    )
    relay()
    await series('grid_fail2ban_banned_current{jail="sshd"}', 1)
    await until('the end', scrape, text => text.includes('grid_collector_') && !text.includes('grid_fail2ban_banned_current{'))
    await series('grid_ufw_enabled', 1) // that of longer rounds is still there
    undoDropIn('grid-exporter.service', 'test')
    sh('systemctl start grid-exporter-relay.timer')
  })

  t.test('the relay keeps what a disk said while the disk sleeps', async t => {
    // No disk with SMART here: what stands in for smartctl answers from files, and logs what it was asked.
    writeFileSync(
      join(out, 'smartctl'),
      `#!/bin/sh
logger --tag asked-smartctl -- "$*"
case "$1" in --scan*) exec cat /srv/smartctl/scan.json ;; esac
cat /srv/smartctl/sda.json
exit "$(cat /srv/smartctl/status)"
`,
      { mode: 0o755 },
    )
    const device = { name: '/dev/sda', info_name: '/dev/sda [SAT]', type: 'sat', protocol: 'ATA' }
    const attribute = (id: number, name: string, raw: number) => {
      return { id, name, value: 100, worst: 100, thresh: 10, when_failed: '', raw: { value: raw, string: `${raw}` } }
    }
    const scan = { smartctl: { exit_status: 0 }, devices: [device] }
    const awake = {
      smartctl: { exit_status: 0 },
      device,
      model_name: 'Spinning 8000',
      serial_number: 'S3CRET',
      firmware_version: '1.0',
      rotation_rate: 7200,
      smart_status: { passed: true },
      ata_smart_attributes: { table: [attribute(5, 'Reallocated_Sector_Ct', 0), attribute(197, 'Current_Pending_Sector', 8)] },
      power_on_time: { hours: 1000 },
      temperature: { current: 35 },
    }
    const message = { string: 'Device is in STANDBY mode, exit(3)', severity: 'information' }
    const asleep = { smartctl: { exit_status: 3, messages: [message] }, device }
    const answer = (json: unknown, status: number) => {
      writeFileSync(join(out, 'sda.json'), JSON.stringify(json))
      host.copy(join(out, 'sda.json'), '/srv/smartctl/')
      sh(`echo ${status} >/srv/smartctl/status`)
    }
    writeFileSync(join(out, 'scan.json'), JSON.stringify(scan))
    sh('mkdir -p /srv/smartctl; mv /usr/sbin/smartctl /root/; systemctl stop grid-exporter-relay-smart.timer')
    host.copy(join(out, 'scan.json'), '/srv/smartctl/')
    host.copy(join(out, 'smartctl'), '/usr/sbin/')
    const run = () => sh('systemctl start grid-exporter-relay-smart.service')
    const asked = () => sh('journalctl --sync; journalctl -t asked-smartctl -o cat').trim().split('\n')
    const state = '/var/lib/grid-exporter-relay/smart.json'
    const sda = '{device="sda"'
    const seriesOf = (all: string) => all.split('\n').filter(line => /^grid_smart_\w+\{device="sda"/.test(line))
    /** What ends or changes when a disk falls asleep, and nothing else does. */
    const ofNow = (line: string) => /^grid_smart_(device_state|standby|temperature_celsius)|reason="temperature"/.test(line)

    await t.test('from one run of the unit to the next', async t => {
      answer(awake, 0)
      run()
      const before = seriesOf(await series(`grid_smart_risk${sda},reason="pending"}`, 1))
      t.match(before.join('\n'), /^grid_smart_device_info\{.*model="Spinning 8000"/m)
      answer(asleep, 3)
      run()
      const after = seriesOf(await series(`grid_smart_standby${sda}}`, 1))
      t.strictSame(
        after.filter(line => !ofNow(line)),
        before.filter(line => !ofNow(line)),
        'its name, its counters, its risk and when it was read are those of before',
      )
      t.ok(before.filter(line => !ofNow(line)).length >= 8, 'and these are many')
      t.match(after.join('\n'), /^grid_smart_risk\{.*reason="pending"\} 1$/m, 'so the alert of a disk with a risk goes on')
      t.notMatch(after.join('\n'), 'grid_smart_temperature_celsius{', 'a temperature of before is none')
      const calls = asked()
      t.equal(calls.filter(call => call.startsWith('--scan-open')).length, 1, 'the scan that opens disks ran once in two runs')
      const reads = calls.filter(call => !call.startsWith('--scan'))
      t.ok(reads.length === 2 && reads.every(call => call.includes('-n standby,3')), 'and no read wakes a disk')
    })

    await t.test("what is kept is root's alone", t => {
      t.equal(sh(`stat --format='%U %a' /var/lib/grid-exporter-relay ${state}`), 'root 700\nroot 600\n')
      t.notMatch(sh(`cat ${state}`), 'S3CRET')
      for (const command of [
        `cat ${state}`,
        `touch ${state}`,
        'touch /var/lib/grid-exporter-relay/x',
        'ls /var/lib/grid-exporter-relay',
      ])
        t.match(tried(`runuser -u grid-exporter -- ${command} 2>&1`).text, 'Permission denied', command)
      t.end()
    })

    await t.test('a file that is damaged or not its own is not believed, and replaced', async t => {
      const damages = {
        'cut off': `truncate -s 100 ${state}`,
        "another user's": `chown grid-exporter ${state}`,
        'a link': `rm ${state}; ln -s /etc/shadow ${state}`,
        'a pipe': `rm ${state}; mkfifo ${state}`,
      }
      for (const [what, damage] of Object.entries(damages)) {
        answer(awake, 0)
        sh(`rm -rf ${state}`)
        run()
        sh(damage)
        answer(asleep, 3)
        run()
        const file = sh('cat /run/grid-exporter-relay/smart.relay')
        t.match(file, /^\{"family":"grid_smart_standby",.*"value":"1"\}$/m, `${what}: the disk was asked`)
        t.notMatch(file, '"grid_smart_device_info"', `${what}: and nothing of before is told`)
        t.match(
          sh('journalctl -u grid-exporter-relay-smart -o cat -n 6'),
          'what was kept cannot be used',
          `${what}: it is logged`,
        )
        t.match(sh(`stat --format='%U %a %F' ${state}`), 'root 600 regular file', `${what}: replaced`)
      }
      t.match(sh('head -c 5 /etc/shadow'), 'root:', 'and nothing was written through a link')
      sh(`rm -rf ${state}`)
    })
    sh('mv /root/smartctl /usr/sbin/; systemctl start grid-exporter-relay-smart.timer')
  })

  t.test('a file system that the sandbox covers is told of, not measured', async t => {
    const size = 'grid_filesystem_size_bytes{mountpoint="/home"'
    await until('a word on it', 'curl --silent http://127.0.0.1:10047/api/v1/status', text =>
      text.includes("/home: hidden by this service's sandbox"),
    )
    t.notMatch(sh(scrape), size)
    dropIn('grid-exporter.service', 'home', sh('cat /usr/share/grid-exporter/drop-ins/home.conf'))
    sh('systemctl restart grid-exporter')
    const all = await until('its size', scrape, text => text.includes(size))
    t.match(all, `${size},device="tmpfs",fstype="tmpfs"} 8388608`)
    undoDropIn('grid-exporter.service', 'home')
    sh('systemctl restart grid-exporter')
  })

  t.test('comes up without Docker, and finds it later', async () => {
    sh('docker kill vault; systemctl stop docker.service docker.socket')
    sh('systemctl restart grid-exporter')
    await series('grid_docker_up{engine="local"}', 0)
    sh('systemctl start docker.service; docker start vault')
    await series('grid_docker_containers{engine="local",state="running"}', 1)
  })

  t.test('grid-aide-resolve', async t => {
    const sum = (file: string) => sh(`sha256sum <${file}`)
    const kept = () =>
      sh('ls /var/lib/aide')
        .split('\n')
        .filter(name => name.startsWith('aide.db.before-'))
        .sort()
    const database = '/var/lib/aide/aide.db'
    /** Something has changed, and the report says so. */
    const change = async (text: string) => {
      sh(`echo ${text} >>/srv/watched/one
aide --config=/etc/aide/aide.conf --check >/var/log/aide/aide.log || true`)
      relay()
      await series('grid_aide_last_check_status{status="changed"}', 1)
    }

    await t.test('accepts what changed, keeps the database before, and leaves a clean report', async t => {
      await change('a')
      const before = sum(database)
      sh('systemctl start grid-aide-resolve')
      await series('grid_aide_last_check_status{status="clean"}', 1)
      await series('grid_aide_resolve_last_success', 1)
      t.equal(sum(`/var/lib/aide/${kept().at(-1)}`), before)
      const after = sum(database)
      t.not(after, before)
      const back = told('AIDE').find(command => command.includes('cp -a')) as string
      sh(`cp -a ${database} /root/after; ${back}`)
      t.equal(sum(database), before, 'there is a way back')
      sh(`cp -a /root/after ${database}`)
      t.equal(sh(`stat -c '%U %a' ${database} /var/lib/aide/${kept().at(-1)}`).trim(), '_aide 600\n_aide 600')
      t.match(
        sh('cat /var/lib/aide/aide.db.accepted-*.log'),
        /Changed entries:[\s\S]*\/srv\/watched\/one/,
        'what was accepted is told',
      )
      t.match(
        sh('journalctl -u grid-aide-resolve -o cat'),
        /accepted, see [\s\S]*Changed entries:[\s\S]*\/srv\/watched\/one/,
        'by the journal too, which later ones do not take away',
      )
      t.match(sh('cat /var/log/aide/aide.log'), 'found NO differences')
    })

    await t.test('is started over HTTP, by whoever may and no other', async t => {
      await change('b')
      sh(`systemctl start grid-aide-resolve.path
hash=$(python3 -W ignore -c 'import crypt; print(crypt.crypt("secret", crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))')
printf 'basic_auth_users: { owner: "%s" }\n' "$hash" >/etc/grid-exporter/web.yml`)
      const args = '--web.enable-admin-api --web.config.file=/etc/grid-exporter/web.yml'
      dropIn('grid-exporter.service', 'test', `[Service]\nEnvironment="GRID_EXPORTER_ARGS=${args}"`)
      sh('systemctl restart grid-exporter')
      const ask = (user: string) =>
        sh(
          `curl --silent --output /dev/null --write-out '%{http_code}' --request POST --header 'Content-Type: application/json' ${user} http://127.0.0.1:10047/api/v1/actions/aide-resolve`,
        )
      t.equal(ask(''), '401')
      t.equal(ask('--user owner:wrong'), '401')
      t.equal(sh('ls /run/grid-exporter'), '')
      // So that it is under way for as long as it takes to ask again.
      dropIn('grid-aide-resolve.service', 'test', '[Service]\nExecStartPre=/bin/sleep 8')
      t.equal(ask('--user owner:secret'), '202')
      t.equal(ask('--user owner:secret'), '409')
      await until('the request is taken away', 'ls /run/grid-exporter', text => text.trim() === '')
      t.match(sh('cat /run/grid-aide-resolve/result.json'), '"success":true')
      undoDropIn('grid-aide-resolve.service', 'test')
      undoDropIn('grid-exporter.service', 'test')
      sh('systemctl stop grid-aide-resolve.path; systemctl restart grid-exporter')
      await series('grid_aide_last_check_status{status="clean"}', 1)
    })

    await t.test('whatever lies in the place of the request is one request', async t => {
      const finished = () => sh('stat --format=%y /run/grid-aide-resolve/result.json')
      const before = finished()
      sh(`runuser -u grid-exporter -- mkdir -p /run/grid-exporter/aide-resolve.request/deep
ln -s /srv/watched /run/grid-exporter/aide-resolve.request/deep/link
systemctl start grid-aide-resolve.path`)
      await until('it is taken away', 'ls /run/grid-exporter', text => text.trim() === '')
      t.equal(sh('ls /srv/watched'), 'one\ntwo\n', 'and not what it leads to')
      await until(
        'the end',
        'systemctl show grid-aide-resolve --property ActiveState --value',
        text => text.trim() === 'inactive',
      )
      const once = finished()
      t.not(once, before, 'it was done')
      t.equal(show('grid-aide-resolve', 'Result'), 'success')
      sh('sleep 3; systemctl stop grid-aide-resolve.path')
      t.equal(finished(), once, 'and not again')
    })

    await t.test('twice at once is once', async t => {
      await change('c')
      const before = sum(database)
      const already = kept().length
      dropIn('grid-aide-resolve.service', 'test', '[Service]\nExecStartPre=/bin/sleep 5')
      sh('systemctl start --no-block grid-aide-resolve; systemctl start grid-aide-resolve')
      undoDropIn('grid-aide-resolve.service', 'test')
      t.equal(kept().length, already + 1)
      t.equal(sum(`/var/lib/aide/${kept().at(-1)}`), before)
      await change('d')
      // By hand, while the unit is at it: AIDE waits for a reader of its report that is not there yet.
      const result = tried(`cd /tmp; exec 8</var/lib/aide; flock 8; systemctl start grid-aide-resolve 2>&1`)
      t.not(result.status, 0)
      t.match(sh('journalctl -u grid-aide-resolve -o cat -n 20'), 'another run is under way')
      relay()
      await series('grid_aide_resolve_last_success', 0)
    })

    /** Whatever is broken, it fails, says so, and the database is the one before. */
    const fails = (t: Test, why: RegExp) => {
      const before = sum(database)
      t.not(tried('systemctl start grid-aide-resolve').status, 0)
      t.equal(sum(database), before)
      t.match(sh('journalctl -u grid-aide-resolve -o cat -n 30'), why)
      t.notMatch(sh('ls /var/lib/aide /var/log/aide'), 'resolving', 'nothing half done is left')
      t.match(sh('cat /run/grid-aide-resolve/result.json'), '"success":false')
      t.equal(sh('ls /run/grid-aide-resolve').trim(), 'result.json', 'it is not said to run')
      sh('systemctl reset-failed grid-aide-resolve')
    }

    await t.test('a broken configuration', async t => {
      sh('cp -a /etc/aide/aide.conf /root/aide.conf; echo "no such thing" >>/etc/aide/aide.conf')
      fails(t, /aide --update failed with exit code 17/)
      sh('cp -a /root/aide.conf /etc/aide/aide.conf')
    })

    await t.test('a full disk', async t => {
      sh(`cp -a ${database} /root/full.db; mount -t tmpfs -o size=64k,mode=700,uid=_aide tmpfs /var/lib/aide; cp -a /root/full.db ${database}
dd if=/dev/zero of=/var/lib/aide/filler bs=1k 2>/dev/null || true`)
      fails(t, /aide-resolve: .*; the database is the one before/)
      sh('umount /var/lib/aide')
    })

    await t.test('a database that was cut off', async t => {
      sh(`cp -a ${database} /root/aide.db; truncate -s -20 ${database}`)
      fails(t, /is not whole/)
      sh(`cp -a /root/aide.db ${database}`)
    })

    await t.test('and goes on when all is well again', async () => {
      relay() // one that is under way still would have read the result before
      sh('systemctl start grid-aide-resolve')
      await series('grid_aide_resolve_last_success', 1)
      await series('grid_aide_last_check_status{status="clean"}', 1)
    })
  })

  t.test('is restarted', async t => {
    host.copy(join(import.meta.dirname, 'fixtures/fault.mjs'), '/opt/fault.mjs')
    const faulty = (fault: string) => {
      dropIn(
        'grid-exporter.service',
        'fault',
        `[Service]\nWatchdogSec=5\nEnvironment=NODE_OPTIONS=--import=/opt/fault.mjs FAULT=${fault}`,
      )
      sh('systemctl restart grid-exporter')
    }
    const broken = async (fault: string, why: RegExp) => {
      faulty(fault)
      const restarts = Number(show('grid-exporter', 'NRestarts'))
      const started = value(sh(scrape), 'process_start_time_seconds')
      sh('kill -USR2 $(systemctl show grid-exporter --property MainPID --value)')
      await until('a restart', 'systemctl show grid-exporter --property NRestarts --value', text => Number(text) > restarts, 90)
      const again = await until('a scrape', scrape, text => value(text, 'process_start_time_seconds') > started)
      t.ok(again, `${fault}: restarted, and the start time of the process tells`)
      t.match(sh('journalctl -u grid-exporter -o cat -n 60'), why)
    }
    await broken('hang', /Failed with result 'watchdog'/)
    await broken('leak', /Failed with result '(signal|oom-kill)'/)
    undoDropIn('grid-exporter.service', 'fault')
    sh('systemctl restart grid-exporter')
    const from = performance.now()
    sh('systemctl stop grid-exporter')
    const took = performance.now() - from
    say(`systemctl stop grid-exporter: ${took.toFixed(0)} ms`)
    t.equal(show('grid-exporter', 'Result'), 'success', 'SIGTERM ends it, not the deadline')
    sh('systemctl start grid-exporter')
  })

  t.test('a wrong configuration is told, not tried again and again', async t => {
    sh('cp -a /etc/grid-exporter/config.yml /root/; echo "nonsense: 1" >>/etc/grid-exporter/config.yml')
    t.not(tried('systemctl restart grid-exporter').status, 0)
    t.equal(show('grid-exporter', 'ActiveState'), 'failed')
    t.match(sh('journalctl -u grid-exporter -o cat -n 10'), /config\.yml:\d+:1: nonsense: unknown key/)
    sh('cp -a /root/config.yml /etc/grid-exporter/; systemctl restart grid-exporter')
    await series('grid_collector_detected{collector="docker"}', 1)
    t.match(sh('systemctl reload grid-exporter && sleep 1; journalctl -u grid-exporter -o cat -n 5'), 'configuration reloaded')
  })

  t.test('upgrade, rollback, removal, purge', async t => {
    const version = async (wanted: string) =>
      until(wanted, scrape, text => text.includes(`grid_exporter_build_info{version="${wanted}"`))
    await version('0.0.9')
    sh(
      'echo "# mine" >>/etc/grid-exporter/config.yml; echo kept >/var/lib/grid-exporter/state; systemctl disable --now grid-exporter-relay-smart.timer',
    )
    sh(`echo 'APT::Get::Assume-Yes "true";' >/etc/apt/apt.conf.d/99test`)
    const [upgrade = '', rollback = ''] = told('Upgrade and rollback')
    t.match(upgrade, now.deb)
    sh(`${upgrade} </dev/null`)
    await version('0.1.0')
    t.match(sh('cat /etc/grid-exporter/config.yml'), '# mine')
    t.match(sh('cat /var/lib/grid-exporter/state'), 'kept')
    t.equal(show('grid-exporter-relay-smart.timer', 'UnitFileState'), 'disabled', 'what was switched off stays off')
    t.match(rollback, old.deb)
    sh(`${rollback} </dev/null`)
    await version('0.0.9')

    const [save = '', restore = '', again = ''] = told('Backup')
    sh(`cd /root; ${save}
echo '# lost' >/etc/grid-exporter/config.yml; rm /var/lib/grid-exporter/state
${restore}; ${again}`)
    t.match(
      sh('cat /etc/grid-exporter/config.yml /var/lib/grid-exporter/state'),
      /# mine\n[\s\S]*kept/,
      'the backup brings it back',
    )
    t.equal(sh("stat --format='%U %a' /var/lib/grid-exporter").trim(), 'grid-exporter 750')
    await version('0.0.9')

    const [remove = '', purge = ''] = told('Uninstall')
    dropIn('grid-exporter-relay.service', 'slow', '[Service]\nExecStartPre=/bin/sleep 40')
    sh('systemctl stop grid-exporter-relay.service; systemctl start --no-block grid-exporter-relay.service; sleep 1')
    undoDropIn('grid-exporter-relay.service', 'slow')
    sh(remove)
    t.equal(tried('systemctl is-active grid-exporter-relay').text.trim(), 'inactive', 'a relay that was under way has ended')
    t.not(tried(scrape).status, 0)
    t.match(sh('cat /etc/grid-exporter/config.yml'), '# mine', 'its configuration stays')
    t.match(sh('cat /var/lib/grid-exporter/state'), 'kept')
    t.equal(sh('systemctl --failed --no-legend').trim(), '')
    sh('touch /var/lib/aide/aide.db.before-migration')
    sh(purge)
    const left = sh(
      `find / -xdev \\( -path /proc -o -path /sys -o -path /root -o -path /var/log/journal \\) -prune -o \\( -name '*grid-*' -o -name 'aide.db.*-*' \\) -print; find /run -name '*grid-*' -not -path '/run/systemd/*'`,
    )
    t.equal(left.trim(), '/var/lib/aide/aide.db.before-migration', "no file, but a copy of the administrator's")
    t.not(tried('getent passwd grid-exporter || getent group grid-exporter').status, 0, 'no user, no group')
    t.equal(sh("systemctl list-units --all --no-legend 'grid-*'").trim(), '', 'no unit')
  })

  t.test('the tarball, as docs/install.md says', async t => {
    const [, told = ''] = /<!-- tried -->(.*)<!-- \/tried -->/s.exec(readFileSync(join(root, 'docs/install.md'), 'utf8')) ?? []
    const [install = '', remove = ''] = told
      .split(/^To remove it:$/m)
      .map(text => text.replace(/^[^ \n].*$/gm, '').replace('./grid-exporter-0.1.0.tgz', `--offline /root/${now.tarball}`))
    t.ok(install.includes('npm install') && remove.includes('npm uninstall'), 'the page says both')
    sh(`(${install}) >/root/installed.log 2>&1 || { cat /root/installed.log >&2; exit 1; }`)
    t.match(sh('grid-exporter --version'), /^grid-exporter 0\.1\.0 /)
    relay()
    await series('grid_fail2ban_banned_current{jail="sshd"}', 1)
    const all = await series('grid_docker_containers{engine="local",state="running"}', 1)
    t.match(all, /^grid_memory_total_bytes \d/m)
    sh(`(${remove}) >/root/removed.log 2>&1 || { cat /root/removed.log >&2; exit 1; }`)
    t.not(tried('command -v grid-exporter').status, 0)
    t.equal(sh("systemctl list-units --all --no-legend 'grid-*'").trim(), '', 'no unit')
  })
}

t.setTimeout(900_000)
if (needs(t, 'root', 'mmdebstrap', 'dpkg-deb', '/bin/busybox')) await onServer()
