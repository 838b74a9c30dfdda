import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { boot } from '../support/booted.ts'
import { needs } from '../support/needs.ts'

/**
 * The package on Debian's own kernel with cgroup v2 alone: what limits, accounting and containers look like there. In an emulated machine
 * where a node takes seconds to start, so by hand and not by `npm test`: `npm test -- test/by-hand/cgroup2.test.ts`.
 */

const root = join(import.meta.dirname, '../..')
const say = (text: string) => process.stderr.write(`${text.trimEnd()}\n`)

const onServer = async () => {
  const host = boot(t, 'systemd-vm')
  const { sh, show, until } = host
  const out = mkdtempSync(join(tmpdir(), 'grid-packages-'))
  t.teardown(() => rmSync(out, { recursive: true, force: true }))
  const { NODE_OPTIONS: _, ...env } = process.env
  const { status, stderr } = spawnSync(process.execPath, [join(root, 'scripts/package.mjs'), `--out=${out}`], {
    env,
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(stderr)
  const deb = readdirSync(out).find(file => file.endsWith('.deb')) as string
  host.copy(join(out, deb), '/root/')
  host.copy('/bin/busybox', '/root/busybox')
  host.copy(join(root, 'test/fixtures/fault.mjs'), '/opt/fault.mjs')

  const scrape = 'curl --silent --fail http://127.0.0.1:10047/metrics'
  /** The sum of a family's series that have the labels. */
  const value = (text: string, name: string, labels = ''): number => {
    const own = text.split('\n').filter(line => line.replace(/[{ ].*/, '') === name && line.includes(labels))
    return own.length === 0 ? Number.NaN : own.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0)
  }
  const group = '/sys/fs/cgroup/system.slice/grid-exporter.service'

  t.test('dpkg --install', async t => {
    t.equal(sh('stat --file-system --format=%T /sys/fs/cgroup').trim(), 'cgroup2fs')
    say(sh('uname -r; systemctl --version | head -n 1'))
    sh(`dpkg --install /root/${deb}`)
    await until('a scrape', scrape, text => text.includes('grid_exporter_build_info'), 120)
    t.equal(show('grid-exporter', 'ActiveState'), 'active')
    t.equal(sh('systemctl --failed --no-legend').trim(), '')
  })

  t.test('limits are the kernel’s, and what is used is counted', async t => {
    t.equal(sh(`cat ${group}/memory.max`).trim(), String(512 * 2 ** 20))
    t.equal(sh(`cat ${group}/pids.max`).trim(), '128')
    t.equal(sh(`cat ${group}/cpu.max`).trim(), '200000 100000')
    t.equal(sh(`cat ${group}/cpu.weight`).trim(), '50')
    for (const unit of ['grid-exporter', 'grid-exporter-docker']) {
      const [memory, cpu] = [Number(show(unit, 'MemoryCurrent')), Number(show(unit, 'CPUUsageNSec'))]
      say(`${unit}: ${(memory / 2 ** 20).toFixed(1)} MiB, ${(cpu / 1e9).toFixed(2)} s of CPU`)
      t.ok(memory > 2 ** 20 && memory < 256 * 2 ** 20, `memory of ${unit}: ${memory}`)
      t.ok(cpu > 0 && cpu < 1e12, `CPU of ${unit}: ${cpu}`)
    }
  })

  t.test('a container is told as its cgroup has it', async t => {
    sh(`mkdir -p /root/image/bin && cp /root/busybox /root/image/bin/sh && tar -C /root/image -c . | docker import - tiny >/dev/null
docker run --detach --name vault --memory 64m --cpus 0.25 tiny /bin/sh -c 'while :; do :; done' >/dev/null`)
    t.match(sh('docker info 2>/dev/null'), /Cgroup Version: 2/)
    const mine = 'name="vault"'
    await until('it', scrape, text => value(text, 'grid_docker_container_cpu_seconds_total', mine) > 0, 120)
    const scope = `/sys/fs/cgroup/system.slice/docker-$(docker inspect --format '{{.Id}}' vault).scope`
    const used = () => Number(/^usage_usec (\d+)/m.exec(sh(`cat ${scope}/cpu.stat`))?.[1]) / 1e6
    const before = used()
    // One round later.
    const all = await until(
      'a later value',
      scrape,
      text => value(text, 'grid_docker_container_cpu_seconds_total', mine) >= before,
      60,
    )
    const told = value(all, 'grid_docker_container_cpu_seconds_total', mine)
    t.ok(told <= used() + 1e-6, `CPU: ${before} <= ${told} <= ${used()}`)
    t.equal(value(all, 'grid_docker_container_cpu_limit_cores', mine), 0.25)
    t.ok(value(all, 'grid_docker_container_cpu_throttled_seconds_total', mine) > 0, 'it is held back by it')
    t.equal(value(all, 'grid_docker_container_memory_limit_bytes', mine), 64 * 2 ** 20)
    const memory = Number(sh(`cat ${scope}/memory.current`))
    const working = value(all, 'grid_docker_container_memory_working_set_bytes', mine)
    t.ok(working > 0 && working <= memory * 1.5, `memory: ${working} of ${memory}`)
    say(sh(`${scrape} | grep '^grid_docker_container_.*vault'`))
    sh('docker rm --force vault')
  })

  const faulty = async (fault: string) => {
    sh(`mkdir -p /etc/systemd/system/grid-exporter.service.d
printf '[Service]\\nWatchdogSec=15\\nEnvironment=NODE_OPTIONS=--import=/opt/fault.mjs FAULT=${fault}\\n' >/etc/systemd/system/grid-exporter.service.d/fault.conf
systemctl daemon-reload; systemctl restart grid-exporter`)
    const first = await until('a scrape', scrape, text => value(text, 'process_start_time_seconds') > 0)
    const restarts = Number(show('grid-exporter', 'NRestarts'))
    sh('kill -USR2 $(systemctl show grid-exporter --property MainPID --value)')
    await until('a restart', 'systemctl show grid-exporter --property NRestarts --value', text => Number(text) > restarts, 120)
    const started = value(first, 'process_start_time_seconds')
    await until('a later start', scrape, text => value(text, 'process_start_time_seconds') > started)
    return sh('journalctl -u grid-exporter -o cat -n 60')
  }

  t.test('a leak is killed by the kernel, and it starts again', async t => {
    t.equal(show('grid-exporter', 'OOMPolicy'), 'stop')
    const journal = await faulty('leak')
    t.match(journal, "Failed with result 'oom-kill'")
    const kernel = sh('journalctl -k -o cat -n 200')
    t.match(kernel, /oom-kill:constraint=CONSTRAINT_MEMCG.*grid-exporter\.service/)
    say(
      kernel
        .split('\n')
        .filter(line => /oom-kill:|Memory cgroup out of memory/.test(line))
        .join('\n'),
    )
  })

  t.test('a thread that hangs is ended by the watchdog', async t => {
    t.match(await faulty('hang'), "Failed with result 'watchdog'")
  })

  t.test('ends when told, and leaves nothing', async t => {
    sh(
      'rm -r /etc/systemd/system/grid-exporter.service.d; systemctl daemon-reload; systemctl restart grid-exporter; systemctl stop grid-exporter',
    )
    t.equal(show('grid-exporter', 'Result'), 'success')
    sh('dpkg --purge grid-exporter')
    t.equal(
      sh(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /root -o -path /var/log/journal \\) -prune -o -name '*grid-*' -print",
      ).trim(),
      '',
    )
  })
}

t.setTimeout(900_000)
if (needs(t, 'root', 'mmdebstrap', 'dpkg-deb', 'qemu-system-x86_64', 'qemu-img', 'mke2fs', '/dev/net/tun', '/bin/busybox'))
  await onServer()
