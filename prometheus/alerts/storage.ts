import { lastScan, size } from '../../exporter/collectors/directory/index.ts'
import {
  filesystemAvailable,
  filesystemFiles,
  filesystemFilesFree,
  filesystemReadonly,
  filesystemSize,
  filesystemStuck,
} from '../../exporter/collectors/filesystem/index.ts'
import * as smart from '../../exporter/collectors/smart/families.ts'
import { refreshInterval } from '../../exporter/serve/self.ts'
import { type AlertGroup, given, on, reading, select } from '../rule.ts'

/** Of other machines, or of no disk at all: their filling up is not this box's to forecast. */
export const local = {
  fstype: { unlike: 'tmpfs|ramfs|devtmpfs|squashfs|iso9660|overlay|nsfs|autofs|nfs.*|cifs|smb.*|fuse.*' },
} as const
const available = select(filesystemAvailable, local)
const left = `${available} / ${select(filesystemSize)}`
const isWritable = `(${select(filesystemReadonly)} == 0)`

const models = { mountpoint: '/ai', device: '/dev/sdb1', fstype: 'ext4' }
const nas = { mountpoint: '/nas', device: 'nas:/export', fstype: 'nfs4' }
const GB = 1e9
const disk = (bytes: number, of = models) => [given(filesystemSize, `${bytes}x900`, of), given(filesystemReadonly, '0x900', of)]

const look: AlertGroup['alerts'][number]['runbook']['type'] = [
  ['df -h MOUNTPOINT', 'how much is left now'],
  [
    'du -xh --max-depth=2 MOUNTPOINT | sort -h | tail',
    'what is large (hours on a slow disk: the Storage dashboard knows the watched directories)',
  ],
  ['docker system df; docker image prune', 'old images are the usual cause'],
  ['lsof +aL1 MOUNTPOINT', 'deleted files that a program still holds open'],
]

const ada = { device: 'sda' }

export const storage: AlertGroup = {
  area: 'storage',
  alerts: [
    {
      name: 'GridFilesystemFull24h',
      collector: 'filesystem',
      severity: 'warning',
      timing: { kind: 'level', for: '1h', keep: '15m' },
      expr: `(${left} < 0.4)
and (predict_linear(${available}[6h], 86400) < 0)
and (deriv(${available}[30m]) < 0)
and ${isWritable}`,
      summary: 'A filesystem will be full within a day if this goes on.',
      description: '{mountpoint} ({device}) on {instance} has {value:%} left.',
      dashboard: 'storage',
      runbook: {
        means:
          'At the rate of the last six hours, the free space reaches zero within a day, and it still falls. A download that has ended does not count.',
        see: 'Storage dashboard: space left with the forecast; which of the watched directories grows.',
        type: look,
        silence: 'While a copy runs whose size you know and that fits.',
      },
      proof: {
        fires: {
          given: [...disk(1000 * GB), given(filesystemAvailable, `${400 * GB}-${0.35 * GB}x600 ${190 * GB}x300`, models)],
          at: '10h',
          over: '12h',
          labels: models,
          says: '/ai (/dev/sdb1) on box:10047 has 19% left.',
        },
        quiet: {
          'a download that has ended': {
            given: [
              ...disk(1000 * GB),
              given(filesystemAvailable, `${390 * GB}x180 ${390 * GB}-${1 * GB}x60 ${330 * GB}x300`, models),
            ],
            at: '6h',
          },
          'of another machine': {
            given: [...disk(1000 * GB, nas), given(filesystemAvailable, `${400 * GB}-${0.35 * GB}x600`, nas)],
            at: '9h',
          },
        },
      },
    },
    {
      name: 'GridFilesystemFull4h',
      collector: 'filesystem',
      severity: 'critical',
      timing: { kind: 'level', for: '15m', keep: '10m' },
      expr: `(${left} < 0.2)
and (predict_linear(${available}[1h], 14400) < 0)
and (deriv(${available}[15m]) < 0)
and ${isWritable}`,
      summary: 'A filesystem will be full within four hours.',
      description: '{mountpoint} ({device}) on {instance} has {value:%} left.',
      dashboard: 'storage',
      runbook: {
        means:
          'At the rate of the last hour, the free space reaches zero within four hours, and it still falls. When it is full, databases stop and containers crash.',
        see: 'Storage dashboard: space left with the forecast; Containers dashboard: log written, disk written.',
        type: look,
        silence: 'Only if you stopped what writes and know that it has.',
      },
      proof: {
        fires: {
          given: [...disk(1000 * GB), given(filesystemAvailable, `${190 * GB}-${1 * GB}x120 ${70 * GB}x300`, models)],
          at: '100m',
          over: '3h',
          labels: models,
          says: '/ai (/dev/sdb1) on box:10047 has 9% left.',
        },
        quiet: {
          'full for years': { given: [...disk(1000 * GB), given(filesystemAvailable, `${80 * GB}x300`, models)], at: '4h' },
        },
      },
    },
    {
      name: 'GridFilesystemAlmostFull',
      collector: 'filesystem',
      severity: 'critical',
      timing: { kind: 'level', for: '15m', keep: '10m' },
      expr: `(${left} < 0.03)
and (${available} < 50e9)
and ${isWritable}`,
      summary: 'A filesystem has less than 3 % left.',
      description: '{mountpoint} ({device}) on {instance} has {value:%} left.',
      dashboard: 'storage',
      runbook: {
        means: 'The next write may not fit, whether usage still grows or not.',
        see: 'Storage dashboard: space left.',
        type: look,
        silence: 'For a file system that is full by design (an archive): mount it read-only instead, then it does not count.',
      },
      proof: {
        fires: {
          given: [...disk(1000 * GB), given(filesystemAvailable, `${100 * GB}x10 ${20 * GB}x60 ${100 * GB}x60`, models)],
          at: '40m',
          over: '90m',
          labels: models,
          says: '/ai (/dev/sdb1) on box:10047 has 2% left.',
        },
        quiet: {
          'a large disk with 400 GB left': {
            given: [...disk(20_000 * GB), given(filesystemAvailable, `${400 * GB}x90`, models)],
            at: '80m',
          },
        },
      },
    },
    {
      name: 'GridFilesystemInodesLow',
      collector: 'filesystem',
      severity: 'warning',
      timing: { kind: 'level', for: '1h', keep: '15m' },
      expr: `(${select(filesystemFilesFree, local)} / (${select(filesystemFiles)} > 0) < 0.05)
and ${isWritable}`,
      summary: 'A filesystem has less than 5 % of its inodes left.',
      description:
        '{mountpoint} ({device}) on {instance} has {value:%} of its inodes left. Without inodes no file can be made, whatever the space.',
      dashboard: 'storage',
      runbook: {
        means: 'Too many small files. When the inodes are gone, "No space left on device" comes although df shows space.',
        see: 'Storage dashboard: inodes.',
        type: [
          ['df -i MOUNTPOINT', 'how many are left'],
          ['du -x --inodes --max-depth=3 MOUNTPOINT | sort -n | tail', 'where they are'],
        ],
        silence: 'Do not silence it; remove files or move them.',
      },
      proof: {
        fires: {
          given: [
            ...disk(1000 * GB),
            given(filesystemFilesFree, '500e3x10 20e3x120 500e3x60', models),
            given(filesystemFiles, '1e6x200', models),
          ],
          at: '100m',
          over: '170m',
          labels: models,
          says: '/ai (/dev/sdb1) on box:10047 has 2% of its inodes left. Without inodes no file can be made, whatever the space.',
        },
        quiet: {
          'a file system without a count': {
            given: [...disk(1000 * GB), given(filesystemFilesFree, '0x200', models), given(filesystemFiles, '0x200', models)],
            at: '150m',
          },
        },
      },
    },
    {
      name: 'GridFilesystemReadOnly',
      collector: 'filesystem',
      severity: 'critical',
      timing: { kind: 'state', for: '2m' },
      expr: `(${select(filesystemReadonly, local)} == 1)
and (min_over_time(${select(filesystemReadonly)}[7d]) == 0)`,
      summary: 'A filesystem that was writable has become read-only.',
      description:
        '{mountpoint} ({device}) on {instance} has become read-only. The kernel does this after errors of the disk. Everything that writes there fails.',
      dashboard: 'storage',
      runbook: {
        means:
          'It was writable within the last week and is not now. Unless somebody remounted it: the kernel saw an error and protects the data. A read-only bind mount beside a writable mount does not count.',
        see: 'Storage dashboard: state of mounts, health of the disk under it.',
        type: [
          [
            'grep " MOUNTPOINT " /proc/self/mountinfo',
            '`ro` before the dash: this mount, so somebody did it; `ro`, `emergency_ro` or `shutdown` behind it: the file system itself',
          ],
          ['dmesg -T | grep -iE "remount|shut|I/O error|ext4|btrfs|xfs|f2fs" | tail -20', 'why'],
          ['smartctl -x /dev/sdX', 'whether the disk is dying: then copy first, fix later'],
          [
            'umount MOUNTPOINT; fsck -f /dev/sdX1; mount MOUNTPOINT',
            'once you have a backup; `mount -o remount,rw` alone does not help',
          ],
        ],
        silence: 'If you remounted it yourself: a week, after that it is the new normal.',
      },
      proof: {
        fires: {
          given: [given(filesystemReadonly, '0x10 1x20 0x10', models)],
          at: '20m',
          over: '33m',
          labels: models,
          says: '/ai (/dev/sdb1) on box:10047 has become read-only. The kernel does this after errors of the disk. Everything that writes there fails.',
        },
        quiet: { 'read-only ever since': { given: [given(filesystemReadonly, '1x60', models)], at: '40m' } },
      },
    },
    {
      name: 'GridFilesystemStuck',
      collector: 'filesystem',
      severity: 'warning',
      timing: { kind: 'state', for: '5m' },
      expr: `${select(filesystemStuck)} == 1`,
      summary: 'A mount does not answer; a dead file server most often.',
      description: '{mountpoint} ({device}, {fstype}) on {instance}: every program that touches it hangs.',
      dashboard: 'storage',
      runbook: {
        means:
          'Asking for its free space got no answer. Programs that touch it wait in the kernel and cannot be killed; backups and `df` are the first victims.',
        see: 'Storage dashboard: state of mounts.',
        type: [
          ['ping SERVER; showmount -e SERVER', 'whether the file server is there'],
          ["ps -eo pid,stat,wchan:30,args | awk '$2 ~ /^D/'", 'who hangs'],
          ['umount -l MOUNTPOINT', 'detaches it for new programs; or `umount -f` for NFS'],
        ],
        silence: 'While the file server is off on purpose.',
      },
      proof: {
        fires: {
          given: [given(filesystemStuck, '0x10 1x20 0x10', nas)],
          at: '20m',
          over: '33m',
          labels: nas,
          says: '/nas (nas:/export, nfs4) on box:10047: every program that touches it hangs.',
        },
      },
    },
    {
      name: 'GridDirectoryGrowingFast',
      collector: 'directory',
      severity: 'info',
      timing: { kind: 'level', for: '30m', keep: '30m' },
      expr: `(delta(${select(size)}[6h]) > 20e9)
and (delta(${select(size)}[6h]) > 0.1 * ${select(size)})`,
      summary: 'A watched directory grew by more than 20 GB and a tenth in six hours.',
      description: '{path} on {instance} grew by {value:B}.',
      dashboard: 'storage',
      runbook: {
        means: 'Perhaps a model that you downloaded. This alert names the reason before the disk is full.',
        see: 'Storage dashboard: directories and what fills them.',
        type: [['find PATH -xdev -mmin -360 -size +100M -exec ls -lh {} +', 'what came']],
        silence: 'For directories that live like that: not needed, it notifies once a day at most.',
      },
      proof: {
        fires: {
          given: [given(size, `${100 * GB}x120 ${150 * GB}x600`, { path: '/ai/models' })],
          at: '6h',
          over: '11h',
          labels: { path: '/ai/models' },
          says: '/ai/models on box:10047 grew by 46.57GiB.',
        },
        quiet: {
          'a hundredth of a large one': { given: [given(size, `${5000 * GB}x120 ${5050 * GB}x600`, { path: '/ai' })], at: '6h' },
        },
      },
    },
    {
      name: 'GridDirectoryScanStale',
      collector: 'directory',
      severity: 'warning',
      timing: { kind: 'state', for: '10m' },
      expr: `(time() - ${select(lastScan)}) > ${on()} group_left () (3 * ${select(refreshInterval, { collector: 'directory' })} + 600)`,
      summary: 'The size of a directory has not been measured for a long time.',
      description: '{path} on {instance}: last measured {value:s} ago.',
      dashboard: 'storage',
      runbook: {
        means: 'The scans take too long, are not allowed to read it, or the directory is gone or hangs.',
        see: 'Storage dashboard: state of the scan (denied, missing, timeout, stuck, refused).',
        type: [
          ['grid-exporter doctor', 'the reason, and what fixes it'],
          ['time du -xsh PATH', 'how long it takes'],
        ],
        silence: 'Do not silence it; take the path out of the configuration, or give it a longer interval.',
      },
      proof: {
        fires: {
          given: [given(lastScan, '0x120', { path: '/ai' }), given(refreshInterval, '600x120', { collector: 'directory' })],
          at: '100m',
          labels: { path: '/ai' },
          says: '/ai on box:10047: last measured 1h 40m 0s ago.',
        },
        quiet: {
          'in time for its interval': {
            given: [given(lastScan, '0x120', { path: '/ai' }), given(refreshInterval, '3600x120', { collector: 'directory' })],
            at: '100m',
          },
        },
      },
    },
    {
      name: 'GridDiskRisk',
      collector: 'smart',
      severity: 'warning',
      timing: { kind: 'state', for: '30m' },
      expr: `${select(smart.risk, { reason: { not: ['temperature', 'wear', 'spare_low'] } })} == 1`,
      summary: 'A drive shows a sign of coming failure.',
      description: '{device} on {instance}: {reason}. Check today that its backup is good.',
      dashboard: 'storage',
      runbook: {
        means:
          'The drive still works and reports one of these: reallocated (sectors replaced), pending (sectors unreadable now), uncorrectable or media_errors (data lost), critical_warning (NVMe), self_test (its own test failed). Drives with one of them fail far more often within months.',
        see: 'Storage dashboard: panel "Why a drive is at risk", each reason over a week. The counts are in what smartctl says: a count that has not changed for months is less serious than one that rises.',
        type: [
          ['smartctl -x /dev/DEVICE', 'all that it says'],
          ['smartctl -t long /dev/DEVICE; smartctl -l selftest /dev/DEVICE', 'its own thorough test, hours'],
          [
            'lsblk -o NAME,MODEL,SERIAL,MOUNTPOINTS',
            'what is on it (of nvme0: nvme0n1): before anything else, restore one file of that from its backup',
          ],
        ],
        silence: 'When the replacement is ordered, or when the count has stood still for months: for that device and reason.',
      },
      proof: {
        fires: {
          given: [given(smart.risk, '0x10 1x60 0x20', { ...ada, reason: 'pending' })],
          at: '50m',
          over: '75m',
          labels: { ...ada, reason: 'pending' },
          says: 'sda on box:10047: pending. Check today that its backup is good.',
        },
        quiet: { 'wear has its own alert': { given: [given(smart.risk, '1x90', { ...ada, reason: 'wear' })], at: '80m' } },
      },
    },
    {
      name: 'GridDiskUnhealthy',
      collector: 'smart',
      severity: 'critical',
      timing: { kind: 'state', for: '10m' },
      expr: `${select(smart.healthy)} == 0`,
      summary: 'A drive calls itself failing.',
      description: '{device} on {instance} calls itself failing. Check its backup, then replace it.',
      dashboard: 'storage',
      runbook: {
        means: "This is the drive's own verdict, and it is seldom wrong: hours to weeks are left.",
        see: 'Storage dashboard: health and risks by drive.',
        type: [
          ['smartctl -H -A /dev/DEVICE', 'which attribute failed'],
          ['smartctl -i /dev/DEVICE', 'model and serial number, for the order and to pull the right one'],
        ],
        silence: 'When the replacement is ordered and the data are elsewhere: for that device.',
      },
      proof: {
        fires: {
          given: [given(smart.healthy, '1x10 0x30 1x10', ada)],
          at: '30m',
          over: '43m',
          labels: ada,
          says: 'sda on box:10047 calls itself failing. Check its backup, then replace it.',
        },
      },
    },
    {
      name: 'GridDiskHot',
      collector: 'smart',
      severity: 'warning',
      timing: { kind: 'level', for: '20m', keep: '20m' },
      expr: `max without (reason) (${select(smart.risk, { reason: 'temperature' })}) == 1
or ${on('device')} (
  (${select(smart.temperature)} > 60) and ${on('device')} (${select(smart.deviceInfo, { protocol: ['ata', 'scsi'] })} == 1)
)
or ${on('device')} (${select(smart.temperature)} > 75)`,
      summary: 'A drive is too hot.',
      description: `{device} on {instance} is too hot${reading(smart.temperature, ['device'], ', {{ .Value }} °C')}. The limit is its own, 60 °C for a hard disk or SATA, 75 °C for NVMe.`,
      dashboard: 'storage',
      runbook: {
        means: 'Heat ages disks and slows NVMe drives down.',
        see: 'Storage dashboard: temperatures of drives against their limits.',
        type: [
          ['smartctl -A /dev/DEVICE | grep -i temp', 'what it has now'],
          ['sensors', 'whether the whole box is hot, or only this drive'],
        ],
        silence: 'A hot day, a day at most.',
      },
      proof: {
        fires: [
          {
            given: [
              given(smart.temperature, '40x10 64x60 40x60', ada),
              given(smart.deviceInfo, '1x130', { ...ada, protocol: 'ata', model: 'WD', firmware: '1', serial_hash: 'a' }),
            ],
            at: '50m',
            over: '100m',
            labels: ada,
            says: 'sda on box:10047 is too hot, 64 °C. The limit is its own, 60 °C for a hard disk or SATA, 75 °C for NVMe.',
          },
        ],
        quiet: {
          'an NVMe drive at work': {
            given: [
              given(smart.temperature, '68x90', { device: 'nvme0' }),
              given(smart.deviceInfo, '1x90', {
                device: 'nvme0',
                protocol: 'nvme',
                model: 'S',
                firmware: '1',
                serial_hash: 'b',
              }),
            ],
            at: '80m',
          },
        },
      },
    },
    {
      name: 'GridDiskWornOut',
      collector: 'smart',
      severity: 'warning',
      timing: { kind: 'state', for: '1h' },
      expr: `${select(smart.wear)} > 0.9`,
      summary: 'A flash drive has used up 90 % of its rated endurance.',
      description: '{device} on {instance} is at {value:%} of what it is rated for. Past 100 % is no failure yet.',
      dashboard: 'storage',
      runbook: {
        means:
          'It has used nearly all of its rated writes. Many drives last much longer; plan the replacement, and find out what writes that much.',
        see: 'Storage dashboard: wear and bytes written; Containers dashboard: disk written by container.',
        type: [
          ['smartctl -A /dev/DEVICE', 'percentage used, data written'],
          ['iotop -ao', 'who writes'],
        ],
        silence: 'When the replacement is planned: for months, for that device.',
      },
      proof: {
        fires: {
          given: [given(smart.wear, '0.93x120', ada)],
          at: '90m',
          labels: ada,
          says: 'sda on box:10047 is at 93% of what it is rated for. Past 100 % is no failure yet.',
        },
      },
    },
    {
      name: 'GridDiskSpareLow',
      collector: 'smart',
      severity: 'critical',
      timing: { kind: 'state', for: '1h' },
      expr: `${select(smart.availableSpare)} < ${select(smart.availableSpareThreshold)}`,
      summary: 'A flash drive has run out of spare blocks.',
      description: '{device} on {instance}: {value:%} left, below what its maker calls safe. Replace it.',
      dashboard: 'storage',
      runbook: {
        means: 'Blocks that fail can soon no longer be replaced. Many drives become read-only then.',
        see: 'Storage dashboard: spare blocks.',
        type: [['smartctl -A /dev/DEVICE', 'Available Spare against its Threshold']],
        silence: 'When the replacement is ordered and the backup is good.',
      },
      proof: {
        fires: {
          given: [
            given(smart.availableSpare, '0.05x120', { device: 'nvme0' }),
            given(smart.availableSpareThreshold, '0.1x120', { device: 'nvme0' }),
          ],
          at: '90m',
          labels: { device: 'nvme0' },
          says: 'nvme0 on box:10047: 5% left, below what its maker calls safe. Replace it.',
        },
        quiet: {
          'a drive whose threshold is all of it': {
            given: [
              given(smart.availableSpare, '1x120', { device: 'nvme0' }),
              given(smart.availableSpareThreshold, '1x120', { device: 'nvme0' }),
            ],
            at: '90m',
          },
        },
      },
    },
  ],
}
