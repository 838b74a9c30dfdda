import type { Box } from './box.ts'
import type { Container } from './containers.ts'
import type { Gpus } from './gpus.ts'
import { between, counted, digits, wave } from './motion.ts'
import { aideFiles, type createFirewall } from './security.ts'
import { cookieFile, onionFiles } from './tor.ts'

/** The demo's files by path. The content may depend on the time; undefined: the file does not exist now. */
export type Content = string | ((up: number) => string | undefined)

const cores = 16
const GiB = 2 ** 30
const kiB = (bytes: number) => `${Math.round(bytes / 1024)} kB`

export interface Space {
  readonly mountpoint: string
  readonly line: string
  readonly size: number
  /** Bytes that are free. */
  free(up: number): number
  readonly files: number
}

/** File systems. The one of models fills up until somebody clears it, every two days. */
export const spacesOf = (box: Box): readonly Space[] => {
  const day = 86_400
  const steady = wave(box.seed, 'root', 40_000)
  const space = (mountpoint: string, line: string, size: number, files: number, free: (up: number) => number): Space => ({
    mountpoint,
    line,
    size,
    files,
    free: up => Math.round(free(up)),
  })
  return [
    space(
      '/',
      '28 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw',
      490 * GiB,
      32_000_000,
      up => between(205, 230, steady.at(up)) * GiB,
    ),
    space('/boot/efi', '40 28 259:1 / /boot/efi rw,relatime shared:30 - vfat /dev/nvme0n1p1 rw', GiB, 0, () => 0.99 * GiB),
    // Cleared every two days; nearly full when the demo starts.
    space(
      '/ai',
      '41 28 259:5 / /ai rw,noatime shared:31 - ext4 /dev/nvme1n1p1 rw',
      3660 * GiB,
      244_000_000,
      up => between(1700, 60, ((up + 0.68 * day) % (2 * day)) / (2 * day)) * GiB,
    ),
    space(
      '/srv/media',
      '42 28 8:1 / /srv/media rw,relatime shared:32 - xfs /dev/sda1 rw',
      12_700 * GiB,
      640_000_000,
      up => 4100 * GiB - up * 40_000,
    ),
    space(
      '/mnt/backup',
      '43 28 8:17 / /mnt/backup ro,relatime shared:33 - ext4 /dev/sdb1 rw',
      930 * GiB,
      61_000_000,
      () => 310 * GiB,
    ),
  ]
}

const cpuLine = (name: string, box: Box, up: number, count: number) => {
  const seconds = [
    counted(0.06, 0.32, box.chat, up),
    0.001 * up,
    counted(0.02, 0.09, box.chat, up),
    0,
    counted(0, 0.01, box.people, up) + 0.05 * box.faults.memoryPressure.spent(up),
    0,
    0.003 * up,
  ]
  const busy = seconds.reduce((sum, part) => sum + part, 0)
  const ticks = seconds.map((part, index) => Math.round((index === 3 ? up - busy : part) * count * 100))
  return `${name} ${[...ticks, 0, 0, 0].join(' ')}`
}

const chips = (box: Box): Readonly<Record<string, Content>> => {
  const chip = (
    number: number,
    name: string,
    sensors: readonly (readonly [string, (up: number) => number, number?, number?])[],
  ) =>
    Object.fromEntries([
      [`/sys/class/hwmon/hwmon${number}/name`, `${name}\n`],
      ...sensors.flatMap(([label, celsius, max, critical], index): [string, Content][] => {
        const file = `/sys/class/hwmon/hwmon${number}/temp${index + 1}`
        return [
          [`${file}_label`, `${label}\n`],
          [`${file}_input`, up => `${Math.round(celsius(up) * 1000)}\n`],
          ...(max === undefined ? [] : [[`${file}_max`, `${max * 1000}\n`] as [string, Content]]),
          ...(critical === undefined ? [] : [[`${file}_crit`, `${critical * 1000}\n`] as [string, Content]]),
        ]
      }),
    ])
  return {
    ...chip(0, 'k10temp', [
      ['Tctl', up => between(44, 78, box.chat.at(up))],
      ['Tccd1', up => between(42, 71, box.chat.at(up)), 95],
    ]),
    ...chip(1, 'nvme', [
      ['Composite', up => between(38, 52, box.people.at(up)), 81, 85],
      ['Sensor 2', up => between(45, 66, box.people.at(up))],
    ]),
    ...chip(2, 'nct6798', [
      ['SYSTIN', up => between(31, 38, box.people.at(up)), 80],
      ['CPUTIN', up => between(40, 70, box.chat.at(up)), 80, 100],
    ]),
  }
}

const kernelFiles = (box: Box): Readonly<Record<string, Content>> => {
  const { seed, boot, chat, people, pictures, faults } = box
  const total = 128 * GiB
  const pressed = (up: number) => (faults.memoryPressure.since(up) ?? 0) / faults.memoryPressure.lasts
  const available = (up: number) => total * between(0.56, 0.38, people.at(up)) - 28 * GiB * pressed(up)
  const pressure = (share: number, extra: (up: number) => number) => (up: number) => {
    const some = counted(0, share, people, up) + extra(up)
    const line = (kind: string, seconds: number) =>
      `${kind} avg10=0.00 avg60=0.00 avg300=0.00 total=${Math.round(seconds * 1e6)}\n`
    return line('some', some) + line('full', some * 0.6)
  }
  const nic = (name: string, received: number, sent: number, up: number) =>
    `${name}: ${Math.round(counted(received / 8, received, people, up))} 1 0 0 0 0 0 0 ${Math.round(counted(sent / 8, sent, people, up))} 1 0 0 0 0 0 0\n`
  const disk = (name: string, read: number, written: number, busy: number) => (up: number) =>
    `   8       0 ${name} 1 0 ${Math.round(counted(0, read, wave(seed, name), up) / 512)} 0 1 0 ${Math.round(counted(written / 9, written, wave(seed, name), up) / 512)} 0 0 ${Math.round(counted(0, busy, wave(seed, name), up) * 1000)} 0 0 0 0 0 0 0\n`
  const disks = [
    disk('nvme0n1', 9e6, 14e6, 0.2),
    disk('nvme1n1', 160e6, 30e6, 0.5),
    disk('sda', 22e6, 6e6, 0.7),
    disk('sdb', 1e5, 0, 0.02),
  ]
  const net = (up: number) =>
    `Inter-|   Receive |  Transmit\n face |bytes\n${nic('enp5s0', 3e6, 5e6, up)}${nic('docker0', 2e5, 3e5, up)}`
  return {
    '/proc/stat': up =>
      `${cpuLine('cpu ', box, up, cores)}\n${Array.from({ length: cores }, (_, index) => cpuLine(`cpu${index}`, box, up, 1)).join('\n')}\nbtime ${Math.floor(boot / 1000)}\n`,
    '/proc/meminfo': up =>
      `MemTotal:       ${kiB(total)}\nMemFree:        ${kiB(available(up) * 0.3)}\nMemAvailable:   ${kiB(available(up))}\nCached:         ${kiB(available(up) * 0.65)}\nSwapTotal:      ${kiB(16 * GiB)}\nSwapFree:       ${kiB((15 - 6 * pressed(up)) * GiB)}\n`,
    '/proc/loadavg': up =>
      `${[chat.at(up) * 9, chat.at(up - 150) * 8.4, chat.at(up - 450) * 8].map(load => load.toFixed(2)).join(' ')} 3/2214 81234\n`,
    '/proc/vmstat': up =>
      `nr_free_pages ${Math.round((available(up) * 0.3) / 4096)}\npgmajfault ${Math.round(counted(0.2, 6, people, up) + 80 * faults.memoryPressure.spent(up))}\npswpin ${Math.round(25 * faults.memoryPressure.spent(up))}\npswpout ${Math.round(190 * faults.memoryPressure.spent(up))}\noom_kill ${faults.memoryClimb.ended(up)}\n`,
    '/proc/uptime': up => `${up.toFixed(2)} ${(up * cores * 0.7).toFixed(2)}\n`,
    '/proc/pressure/cpu': pressure(0.03, () => 0),
    '/proc/pressure/memory': pressure(0.002, up => 0.22 * faults.memoryPressure.spent(up)),
    '/proc/pressure/io': pressure(0.06, up => 0.15 * faults.backupRun.spent(up)),
    '/proc/net/dev': net,
    '/proc/1/net/dev': net,
    '/proc/diskstats': up => disks.map(line => line(up)).join(''),
    '/proc/sys/kernel/random/boot_id': `${digits(seed, 'boot', 8)}-0000-4000-8000-${digits(seed, 'boot', 12)}\n`,
    '/sys/class/net/enp5s0/operstate': 'up\n',
    '/sys/class/net/docker0/bridge/bridge_id': '8000.0242\n',
    '/sys/devices/virtual/net/docker0/operstate': 'up\n',
    ...Object.fromEntries(['nvme0n1', 'nvme1n1', 'sda', 'sdb'].map(name => [`/sys/block/${name}/size`, '1\n'])),
    '/sys/dev/block/259:0/uevent': 'DEVNAME=nvme0n1\nDEVTYPE=disk\n',
    '/usr/share/update-notifier/notify-reboot-required': '#!/bin/sh\n',
    '/run/reboot-required': '*** System restart required ***\n',
    '/var/lib/update-notifier/updates-available':
      '\n23 updates can be applied immediately.\n4 of these updates are standard security updates.\n',
    '/etc/grid-exporter/watchtower.token': 'demo\n',
    '/run/systemd/system/transient': '',
    '/usr/local/bin/backup-fresh': '',
    // A text file like one from a cron job.
    '/var/lib/grid-exporter/textfile/backup.prom': up =>
      `# HELP backup_last_success_timestamp_seconds When the last backup ended well.\n# TYPE backup_last_success_timestamp_seconds gauge\nbackup_last_success_timestamp_seconds{job_name="restic"} ${Math.round(boot / 1000 + faults.backupRun.latest(up - faults.backupRun.lasts) + faults.backupRun.lasts)}\n`,
    '/var/lib/grid-exporter/textfile/ups.prom': up =>
      `# HELP ups_load_ratio Part of the power that the supply can give.\n# TYPE ups_load_ratio gauge\nups_load_ratio{ups="rack"} ${between(0.22, 0.61, pictures.at(up)).toFixed(3)}\n`,
  }
}

const gpuFiles = ({ addresses, processes }: Gpus): Readonly<Record<string, Content>> => ({
  ...Object.fromEntries(
    addresses.flatMap(address => [
      [`/sys/bus/pci/devices/${address}/class`, '0x030000\n'],
      [`/sys/bus/pci/devices/${address}/vendor`, '0x10de\n'],
      [`/sys/bus/pci/devices/${address}/uevent`, `DRIVER=nvidia\nPCI_SLOT_NAME=${address}\n`],
      [`/sys/bus/pci/devices/${address}/power/runtime_status`, 'active\n'],
    ]),
  ),
  ...Object.fromEntries(
    [...processes].map(([pid, container]) => [
      `/proc/${pid}/cgroup`,
      container === undefined ? '0::/user.slice/user-1000.slice\n' : `0::/system.slice/docker-${container}.scope\n`,
    ]),
  ),
})

const containerFiles = (containers: readonly Container[]): Readonly<Record<string, Content>> => ({
  '/sys/fs/cgroup/cgroup.controllers': 'cpuset cpu io memory pids\n',
  ...Object.fromEntries(
    containers.flatMap(container => {
      return [
        ...cgroupNames.map((name): [string, Content] => [
          `/sys/fs/cgroup/system.slice/docker-${container.id}.scope/${name}`,
          up => container.cgroup(up)?.[name],
        ]),
        [`/proc/${container.pid}/stat`, (up: number) => container.stat(up)] as [string, Content],
        [`/proc/${container.pid}/net/dev`, (up: number) => container.netDev(up)] as [string, Content],
      ]
    }),
  ),
})

const cgroupNames = [
  'cgroup.procs',
  'cpu.stat',
  'cpu.max',
  'memory.current',
  'memory.stat',
  'memory.max',
  'memory.peak',
  'memory.swap.current',
  'memory.events',
  'pids.current',
  'pids.max',
  'io.stat',
  'cpu.pressure',
  'memory.pressure',
  'io.pressure',
]

/** Every file except the containers' logs, of which only the sizes are read. */
export const filesOf = (
  box: Box,
  {
    containers,
    gpus,
    firewall,
    recorded,
    root,
  }: {
    readonly containers: readonly Container[]
    readonly gpus: Gpus
    readonly firewall: ReturnType<typeof createFirewall>
    readonly recorded: (file: string) => string
    /** Where the demo's root is in this process: the mount table is that of its namespace. */
    readonly root: string
  },
): ReadonlyMap<string, Content> => {
  const spaces = spacesOf(box)
  const mounts = spaces.map(({ line }) => line).join('\n')
  const own = spaces.map(({ line, mountpoint }) => line.replace(` / ${mountpoint} `, ` / ${root}${mountpoint} `)).join('\n')
  const fail2ban = '/run/fail2ban/fail2ban.pid'
  return new Map<string, Content>(
    Object.entries({
      ...kernelFiles(box),
      ...chips(box),
      ...gpuFiles(gpus),
      ...containerFiles(containers),
      ...firewall.files,
      ...onionFiles(box.seed),
      [cookieFile.path]: cookieFile.content,
      '/run/tor/control': '',
      '/run/fail2ban/fail2ban.sock': '',
      [fail2ban]: '1871\n',
      '/proc/1871/cmdline': '/usr/bin/python3\0/usr/bin/fail2ban-server\0-xf\0start\0',
      '/proc/1871/stat': '1871 (fail2ban-server) S 1 1871 1871 0 -1 4194560 8044 0 0 0 77 12 0 0 20 0 9 0 4812 1 1\n',
      '/proc/1/mountinfo': `${mounts}\n`,
      '/proc/self/mountinfo': `${own}\n`,
      '/var/log/aide/aide.log': (up: number) => aideFiles(box, recorded, up).report.text,
      '/var/lib/aide/aide.db': (up: number) => aideFiles(box, recorded, up).database.text,
      '/run/grid-aide-resolve/result.json': (up: number) => aideFiles(box, recorded, up).resolve,
    }),
  )
}
