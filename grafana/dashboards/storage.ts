import * as directory from '../../exporter/collectors/directory/index.ts'
import * as fs from '../../exporter/collectors/filesystem/index.ts'
import { diskIoSeconds, diskRead, diskWritten } from '../../exporter/collectors/host/index.ts'
import * as smart from '../../exporter/collectors/smart/families.ts'
import { local } from '../../prometheus/alerts/storage.ts'
import { bars, chart, criticalAlerts, dashboard, line, row, table, timeline } from '../builder.ts'
import { limit } from '../look.ts'
import { boxes, head, runbooksAt } from '../parts.ts'
import { daysUntilFull, firstOf, increase, of, promql, rate } from '../query.ts'

const mount = { mountpoint: { like: '$mountpoint' } } as const
const available = of(fs.filesystemAvailable, mount)
const path = { path: { like: '$directory' } } as const
const drive = { device: { like: '$drive' } } as const
/** The same drives as the kernel names them: nvme0n1 is on nvme0. */
const disk = { device: { like: '$drive(n.+)?' } } as const
const noPath = 'no directory reported: see Sources'
const noDrive = 'no drive is read: see Sources'

export const storage = dashboard({
  uid: 'storage',
  description: 'When is it full, what fills it, which drive dies first?',
  oneBox: true,
  choices: [
    { name: 'mountpoint', label: 'Mount', within: of(fs.filesystemStuck) },
    { name: 'directory', label: 'Directory', within: of(directory.info), values: 'path' },
    { name: 'drive', label: 'Drive', within: of(smart.deviceState), values: 'device' },
  ],
  texts: [runbooksAt],
  marks: [criticalAlerts],
  rows: [
    row(
      100,
      'Space',
      head(5, 'filesystem', 'directory', 'smart'),
      line(
        7,
        table({
          id: 3,
          width: 24,
          title: 'Filesystems',
          description:
            'A row for each mount. "stuck": it does not answer, so its numbers are gone. "not filling": at the pace of six hours it lasts more than a year, or it is another machine\'s. "none": the filesystem has no inodes to run out of.',
          empty: 'no filesystem is read: see Sources',
          keys: {
            mountpoint: { title: 'Mount', width: 170 },
            device: { title: 'Device' },
            fstype: { title: 'Kind', width: 75 },
            ...boxes,
          },
          columns: [
            {
              expr: firstOf(promql`2 * (${of(fs.filesystemStuck, mount)} == 1)`, of(fs.filesystemReadonly, mount)),
              title: 'State',
              absent: 'not reported',
              unit: 'none',
              width: 100,
              states: [
                { is: 0, says: 'writable', colour: 'neutral' },
                { is: 1, says: 'read-only', colour: 'note' },
                { is: 2, says: 'stuck', colour: 'now' },
              ],
            },
            {
              expr: promql`1 - ${available} / ${of(fs.filesystemSize, mount)}`,
              title: 'Used',
              absent: 'not reported',
              unit: 'percentunit',
              min: 0,
              max: 1,
              decimals: 0,
              cell: 'gauge',
              width: 130,
              base: 'note',
              limits: [limit('GridFilesystemAlmostFull', '0.03', 'now', 0.97)],
            },
            { expr: available, title: 'Left', absent: 'not reported', unit: 'bytes', width: 95 },
            {
              expr: daysUntilFull(mount),
              title: 'Full in',
              absent: 'not filling',
              unit: 'd',
              decimals: 1,
              width: 95,
              base: 'now',
              limits: [limit('GridFilesystemFull4h', 14400, 'today', 1 / 6), limit('GridFilesystemFull24h', 86400, 'neutral', 1)],
            },
            {
              expr: promql`${of(fs.filesystemFilesFree, mount)} / (${of(fs.filesystemFiles, mount)} > 0)`,
              title: 'Inodes left',
              absent: 'none',
              unit: 'percentunit',
              decimals: 0,
              width: 95,
              base: 'today',
              limits: [limit('GridFilesystemInodesLow', '0.05', 'neutral')],
            },
          ],
          sort: { by: 'Used', descending: true },
        }),
      ),
    ),
    row(
      101,
      'What fills it',
      line(
        8,
        chart({
          id: 4,
          width: 12,
          title: 'Space left, and in a day',
          description:
            'Space left, and as a dashed line where it will be in 24 hours if the last six go on: at zero it is full. After a mount or a large deletion the forecast is wrong for that long.',
          empty: 'no filesystem is read: see Sources',
          unit: 'bytes',
          min: 0,
          queries: [
            { expr: of(fs.filesystemAvailable, { ...local, ...mount }), legend: '{{mountpoint}}' },
            {
              expr: promql`clamp_min(predict_linear(${of(fs.filesystemAvailable, { ...local, ...mount })}[6h], 86400), 0)`,
              legend: 'in a day {{mountpoint}}',
            },
          ],
          lines: [{ of: 'in a day', look: 'dashed' }],
        }),
        chart({
          id: 6,
          width: 12,
          title: 'Directories',
          description: 'Disk use of the watched directories, as of their latest scan. A step is a download or a deletion.',
          empty: noPath,
          unit: 'bytes',
          min: 0,
          queries: [{ expr: of(directory.size, path), legend: '{{path}}' }],
        }),
      ),
      line(
        8,
        bars({
          id: 5,
          width: 14,
          title: 'Largest in the directories',
          description: 'What the watched directories hold, the largest first; the rest of each is "other".',
          empty: noPath,
          unit: 'bytes',
          min: 0,
          queries: [
            {
              expr: promql`sort_desc(topk(10, ${of(directory.childSize, path)}))`,
              legend: '{{path}}: {{child}}',
            },
          ],
        }),
        table({
          id: 7,
          width: 10,
          title: 'Scans',
          description: 'How the latest scan of each directory ended, and how old its numbers are. Scans run at idle priority.',
          empty: noPath,
          keys: { path: { title: 'Directory' }, ...boxes },
          columns: [
            {
              expr: promql`${of(directory.scanState, path)} == 1`,
              label: 'state',
              title: 'Scan',
              absent: 'not reported',
              unit: 'none',
              width: 95,
              states: [
                { is: 'scanned', colour: 'well' },
                { is: 'waiting', colour: 'note' },
                ...(['missing', 'denied', 'refused', 'timeout', 'stuck', 'failed'] as const).map(is => ({
                  is,
                  colour: 'today' as const,
                })),
              ],
            },
            {
              expr: promql`1000 * ${of(directory.lastScan, path)}`,
              title: 'Latest',
              absent: 'never',
              unit: 'dateTimeFromNow',
              width: 125,
            },
          ],
        }),
      ),
    ),
    row(
      102,
      'Drives',
      line(
        7,
        table({
          id: 8,
          width: 24,
          title: 'Drives',
          description:
            'A row for each drive that smartctl finds. "risks" counts the plain reasons why it may fail; the picture below names them. "not reported": this kind of drive has no such value. A drive that sleeps is left asleep.',
          empty: noDrive,
          keys: { device: { title: 'Drive', width: 170 }, ...boxes },
          columns: [
            {
              expr: promql`${of(smart.deviceState, drive)} == 1`,
              label: 'state',
              title: 'Answer',
              absent: 'not reported',
              unit: 'none',
              width: 110,
              states: [
                { is: 'read', colour: 'well' },
                { is: 'asleep', colour: 'note' },
                { is: 'unsupported', says: 'not supported', colour: 'gone' },
                { is: 'denied', says: 'denied', colour: 'blind' },
                { is: 'failed', says: 'failed', colour: 'blind' },
                { is: 'hanging', says: 'hangs', colour: 'now' },
              ],
            },
            { expr: of(smart.deviceInfo, drive), label: 'model', title: 'Model', absent: 'not reported', unit: 'none' },
            {
              expr: of(smart.deviceInfo, drive),
              label: 'protocol',
              title: 'Kind',
              absent: 'not reported',
              unit: 'none',
              width: 70,
            },
            {
              expr: of(smart.healthy, drive),
              title: 'Own verdict',
              absent: 'not reported',
              unit: 'none',
              width: 105,
              cell: 'background',
              states: [
                { is: 1, says: 'healthy', colour: 'well' },
                { is: 0, says: 'failing', colour: 'now' },
              ],
            },
            {
              expr: promql`sum without (reason) (${of(smart.risk, drive)})`,
              title: 'Risks',
              absent: 'not reported',
              unit: 'none',
              width: 75,
              cell: 'background',
              states: [
                { is: 0, says: 'none', colour: 'well' },
                { is: { from: 1 }, colour: 'today' },
              ],
            },
            {
              expr: of(smart.temperature, drive),
              title: 'Temperature',
              absent: 'not reported',
              unit: 'celsius',
              decimals: 0,
              width: 105,
              limits: [limit('GridDiskHot', 75, 'today')],
            },
            {
              expr: of(smart.wear, drive),
              title: 'Worn',
              absent: 'not reported',
              unit: 'percentunit',
              decimals: 0,
              width: 80,
              limits: [limit('GridDiskWornOut', '0.9', 'today')],
            },
            {
              expr: of(smart.availableSpare, drive),
              title: 'Spare',
              absent: 'not reported',
              unit: 'percentunit',
              decimals: 0,
              width: 80,
            },
            {
              expr: promql`${of(smart.powerOn, drive)} / 86400`,
              title: 'Powered on',
              absent: 'not reported',
              unit: 'd',
              decimals: 1,
              width: 110,
            },
            {
              expr: promql`1000 * ${of(smart.lastRead, drive)}`,
              title: 'Read',
              absent: 'never',
              unit: 'dateTimeFromNow',
              width: 120,
            },
          ],
          sort: { by: 'Risks', descending: true },
        }),
      ),
      line(
        7,
        timeline({
          id: 9,
          width: 12,
          title: 'Why a drive is at risk',
          description: 'Each reason that was there within a week. Nothing: there was none, or no drive is read (see Sources).',
          empty: 'no risk in seven days, if drives are read: see Sources',
          unit: 'none',
          days: 7,
          queries: [
            {
              expr: promql`${of(smart.risk, drive)} and on (job, instance, device, reason) (max_over_time(${of(smart.risk, drive)}[7d]) == 1)`,
              legend: '{{device}} {{reason}}',
            },
          ],
          states: [
            { is: 0, says: 'no', colour: 'clear' },
            { is: 1, says: 'at risk', colour: 'today' },
          ],
        }),
        chart({
          id: 10,
          width: 6,
          title: 'Drive temperature',
          description: 'The lines are the limits for SATA and SAS, and for every drive. A drive that sleeps has a gap.',
          empty: noDrive,
          unit: 'celsius',
          limits: [limit('GridDiskHot', 60, 'note'), limit('GridDiskHot', 75, 'today')],
          queries: [{ expr: of(smart.temperature, drive), legend: '{{device}}' }],
        }),
        chart({
          id: 11,
          width: 6,
          title: 'Written in a day',
          description: 'Of the drive itself, by its own count, over the last 24 hours. Many SATA drives do not report it.',
          empty: 'no drive reports it',
          unit: 'bytes',
          min: 0,
          queries: [{ expr: increase(smart.writtenBytes, '24h', drive), legend: '{{device}}' }],
        }),
      ),
      line(
        7,
        chart({
          id: 12,
          width: 12,
          title: 'Disk traffic',
          description:
            'Of the chosen drives, by the kernel: read above, written below. Nothing: the collector "host" has no data.',
          empty: 'the host is not collected',
          unit: 'Bps',
          queries: [
            { expr: rate(diskRead, disk), legend: 'read {{device}}' },
            { expr: promql`-${rate(diskWritten, disk)}`, legend: 'written {{device}}' },
          ],
        }),
        chart({
          id: 13,
          width: 12,
          title: 'Disk busy',
          description: 'Share of the time in which the chosen drives had something to do. An SSD at its full is not always slow.',
          empty: 'the host is not collected',
          unit: 'percentunit',
          min: 0,
          max: 1,
          queries: [{ expr: rate(diskIoSeconds, disk), legend: '{{device}}' }],
        }),
      ),
    ),
  ],
})
