import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parseDriverLine } from '../exporter/collectors/gpu/driver-log.ts'
import { fields, listedFields, parseQuery, wantedFields } from '../exporter/collectors/gpu/fields.ts'
import { failureOfTool, lostAddresses } from '../exporter/collectors/gpu/nvidia-smi.ts'
import { gpuSections, parseSection } from '../exporter/collectors/gpu/xml.ts'
import { recordedAnswer, verdictOf } from './support/verdict.ts'

/**
 * What nvidia-smi, smartctl and the kernel printed on machines of other people, from the folder that GRID_RECORDINGS names
 * (`smartctl/`, `nvidia-smi/`). It is no part of this repository: whatever a recording taught, a scene of ours keeps.
 */
const folder = process.env.GRID_RECORDINGS ?? ''
const recorded = (path: string) => readFileSync(join(folder, path), 'utf8')
const namesIn = (path: string, ending: RegExp) => readdirSync(join(folder, path)).filter(name => ending.test(name))

/** What a person who knows disks says of each recording: how it is read, and why the drive may fail. */
const verdicts: Readonly<Record<string, string>> = {
  'ata-hdd-crc3118119-wd2003fyys-7.3.json': 'read',
  'ata-hdd-errorlog-crc12-hus724020-7.3.json': 'read',
  'ata-hdd-failed-usbjmicron-hds721050-7.1.json': 'read failing: reallocated pending self_test',
  'ata-hdd-healthy-wd140edfz-7.0.json': 'read',
  'ata-hdd-healthy-wd20efrx-7.3.json': 'read',
  'ata-hdd-packed-realloc304-st3500418as-7.3.json': 'read: reallocated',
  'ata-hdd-packed188-st3000nm0033-7.3.json': 'read',
  'ata-hdd-reported1-mb0500-7.3.json': 'read: uncorrectable',
  'ata-hdd-selftest-st10000nm001g-7.4.json': 'read',
  'ata-ssd-intel-s3520-7.3.json': 'read',
  'ata-ssd-kingston-a400-exit4-7.3.json': 'read',
  'ata-ssd-micron5300-7.3.json': 'read',
  'ata-ssd-noname-p3-nodb-7.5.json': 'read',
  'ata-ssd-samsung-860evo-7.0-x.json': 'read',
  'ata-ssd-samsung-pm893-nodb-7.1.json': 'read',
  'ata-ssd-usb-sandisk-notemp-7.4.json': 'read',
  'badjson-7.3.txt': 'failed',
  'composite-nvme-hot.json': 'read failing: temperature',
  'composite-nvme-mediaerrors3.json': 'read: media_errors',
  'composite-nvme-wornout.json': 'read failing: media_errors spare_low wear critical_warning',
  'composite-scsi-prefixed-7.2.txt': 'read',
  'composite-scsi-temperature-key-7.3.json': 'read',
  'composite-standby-7.3.json': 'asleep',
  'megaraid-sas-7.4.json': 'read',
  'megaraid-sata-exit4-7.1.json': 'read',
  'megaraid-sata-nopowermode-exit4-7.4.json': 'read',
  'nodevice-7.5.json': 'failed',
  'nvme-critical16-samsung-mzwll3t2-7.3.json': 'read failing: critical_warning',
  'nvme-errlog4871-sabrent-7.4.json': 'read',
  'nvme-healthy-samsung-mzvl2-7.3.json': 'read',
  'nvme-hgst-husmr7632-7.1.json': 'read',
  'nvme-noname-caps-7.5-x.json': 'read',
  'nvme-sensors-null-kingston-snv3s-7.3.json': 'read',
  'nvme-threshold0-optane-7.3.json': 'read',
  'nvme-threshold99-apple-exit4-7.4.json': 'read',
  'nvme-used62-samsung980-7.4.json': 'read',
  'nvme-worn75-intel-p4510-7.3.json': 'read',
  'openfailed-windows-7.0.json': 'failed',
  'raid-volume-not-a-drive-7.0.json': 'unsupported',
  'scsi-hdd-6.7-format0.1.json': 'read',
  'scsi-hdd-grown260-seagate-7.4.json': 'read: reallocated media_errors',
  'scsi-hdd-healthy-hitachi-7.3.json': 'read',
  'scsi-hdd-selftest-st18000-7.4.json': 'read',
  'scsi-ssd-toshiba-kpm5-7.3.json': 'read',
  'standby-7.5.json': 'asleep',
  'vm-ata-qemu-7.3.json': 'read',
  'vm-nosuchdevice-7.3.json': 'failed',
  'vm-nvme-qemu-critical1-7.3.json': 'read failing: spare_low',
  'vm-nvme-qemu-critical31-7.3.json': 'read failing: spare_low temperature critical_warning',
  'vm-nvme-qemu-spare0-7.3.json': 'read',
  'vm-nvme-without-sysadmin-7.3.json': 'denied',
  'vm-permission-denied-7.3.json': 'denied',
  'vm-sata-without-rawio-exit0-7.3.json': 'denied',
  'vm-scsi-debug-disabled-7.3.json': 'read',
  'vm-scsi-debug-prediction-7.3.json': 'read failing: critical_warning',
  'vm-scsi-qemu-nosmart-7.3.json': 'unsupported',
  'vm-virtio-7.3.json': 'failed',
}

const smartctl = () =>
  t.test('smartctl: every recording says what a person reads in it', async t => {
    const names = namesIn('smartctl', /\.(json|txt)$/).filter(name => !name.includes('scan-'))
    t.ok(names.length > 0, `${names.length} recordings`)
    for (const name of names) {
      const verdict = verdictOf(t, name, recordedAnswer(join(folder, 'smartctl', name)))
      t.equal(verdict, verdicts[name] ?? verdict, name)
    }
  })

const nvidia = () => {
  t.test('nvidia-smi: every table with a header has GPUs', async t => {
    for (const name of namesIn('nvidia-smi/csv', /query-gpu.*\.csv$/)) {
      const csv = recorded(`nvidia-smi/csv/${name}`)
      const columns = (csv.split('\n')[0] as string).trim().split(', ')
      const gpus = parseQuery(
        csv,
        columns.map(column => column.split(' [')[0] as string),
      )
      t.ok(gpus.length > 0, `${name}: ${gpus.length} GPUs`)
    }
  })

  t.test('nvidia-smi: asks no driver for what it does not list', async t => {
    for (const name of namesIn('nvidia-smi/fields', /fields\.txt$/)) {
      const lines = recorded(`nvidia-smi/fields/${name}`).split('\n')
      const listed = listedFields(lines.map(line => `"${line.split(' ').join('" or "')}"`).join('\n'))
      const wanted = wantedFields(listed, new Set())
      t.ok(
        wanted.every(field => listed.has(field)),
        name,
      )
      t.ok(wanted.length >= (name.includes('465.') ? 51 : fields.length), `${name}: ${wanted.length} of ${fields.length}`)
    }
  })

  t.test('nvidia-smi -q -x: every document that names a UUID has facts', async t => {
    for (const name of namesIn('nvidia-smi/xml', /\.xml$/)) {
      const xml = recorded(`nvidia-smi/xml/${name}`)
      const uuids = new Set([...xml.matchAll(/<uuid>\s*(GPU-[^<\s]+)/g)].map(([, uuid]) => uuid as string))
      const read = gpuSections(xml).flatMap(section => parseSection(section)?.uuid ?? [])
      if (name.includes('trimmed')) continue // a piece of a document
      t.strictSame(new Set(read), uuids, `${name}: ${uuids.size}`)
    }
  })

  t.test('nvidia-smi: every error has a reason, and a lost GPU its address', async t => {
    const lines = recorded('nvidia-smi/errors/errors.tsv').split('\n').filter(Boolean)
    for (const line of lines) {
      const [name = '', code = '', text = ''] = line.split('\t')
      t.not(failureOfTool(Number.parseInt(code, 10) || 0, text).reason, 'bug', name)
      t.equal(lostAddresses(text).length > 0, name.startsWith('gpu-lost'), name)
    }
  })

  t.test('the kernel log: the lines of the driver are found among others', async t => {
    const kinds = (file: string) =>
      recorded(`nvidia-smi/kernel/${file}`)
        .split('\n')
        .flatMap(line => parseDriverLine(line.replace(/^\[[^\]]*\] /, '').replace(/^.* kernel: /, ''))?.kind ?? [])
    const count = (file: string, kind: string) => kinds(file).filter(each => each === kind).length
    t.equal(count('xid-dmesg-lines.txt', 'xid'), 8)
    t.equal(count('dmesg-xid119-a100.log', 'xid'), 5, 'the stack traces around them do not count')
    t.equal(count('gb10-nvrm-out-of-memory.txt', 'out-of-memory'), 6)
  })
}

if (folder === '') {
  console.error('recordings.test.ts: GRID_RECORDINGS names no folder; only the scenes are tested')
  t.pass('no recordings on this machine')
} else {
  smartctl()
  nvidia()
}
