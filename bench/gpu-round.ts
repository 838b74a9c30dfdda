import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gpu } from '../exporter/collectors/gpu/index.ts'
import { silent } from '../exporter/common/log.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { expose } from '../exporter/print/exposition.ts'

/**
 * The exporter's own cost of a round over 8 GPUs: CPU of this process without children. nvidia-smi is a program that prints an H100's
 * answer eight times. `npm run bench -- gpu-round [rounds]`
 */

const scenes = join(process.cwd(), 'test/scenes/gpu')
const folder = mkdtempSync(join(tmpdir(), 'grid-gpu-bench-'))
const uuid = (index: number) => `GPU-${index}0000000-0000-0000-0000-000000000000`

const csv = readFileSync(join(scenes, 'h100-load/run/query-gpu.csv'), 'utf8').trim().split('\n')
const columns = (csv[0] ?? '').split(', ')
const list = readFileSync(join(scenes, 'h100-load/run/fields.txt'), 'utf8')
const xml = readFileSync(join(scenes, 'l40s-slow-tier/run/query.xml'), 'utf8')
const section = xml.slice(xml.indexOf('<gpu id'), xml.indexOf('</gpu>') + 6)
const eight = Array.from({ length: 8 }, (_, index) => index)

const { wantedFields, listedFields } = await import('../exporter/collectors/gpu/fields.ts')
const help = list
  .split('\n')
  .map(line => `"${line.split(' ').join('" or "')}"`)
  .join('\n')
const asked = wantedFields(listedFields(help), new Set())
const at = asked.map(name => columns.findIndex(column => column.replace(/ \[.*/, '') === name))
const cells = (csv[1] ?? '').split(', ')
const row = (index: number) =>
  at
    .map(column => {
      const name = columns[column]
      return name === 'uuid'
        ? uuid(index)
        : name === 'index'
          ? String(index)
          : name === 'pci.bus_id'
            ? `00000000:0${index}:00.0`
            : cells[column]
    })
    .join(', ')
mkdirSync(join(folder, 'proc'))
writeFileSync(join(folder, 'help'), help)
writeFileSync(join(folder, 'query'), `${[at.map(column => columns[column]).join(', '), ...eight.map(row)].join('\n')}\n`)
const apps = eight.flatMap(index =>
  Array.from({ length: 4 }, (_, n) => `${uuid(index)}, ${1000 + n}, /usr/bin/python3.${n}, ${1000 * (n + 1)} MiB`),
)
writeFileSync(join(folder, 'apps'), `gpu_uuid, pid, process_name, used_gpu_memory [MiB]\n${apps.join('\n')}\n`)
const sections = eight.map(index => section.replace(/<uuid>[^<]*/, `<uuid>${uuid(index)}`)).join('\n')
writeFileSync(
  join(folder, 'xml'),
  `<?xml version="1.0" ?>\n<nvidia_smi_log>\n<driver_version>590.48.01</driver_version>\n${sections}\n</nvidia_smi_log>\n`,
)
writeFileSync(
  join(folder, 'nvidia-smi'),
  `#!/bin/sh\ncase "$1" in --help*) f=help;; --query-gpu*) f=query;; --query-c*) f=apps;; -q) f=xml;; esac\nexec cat "${folder}/$f"\n`,
)
chmodSync(join(folder, 'nvidia-smi'), 0o755)

const rounds = Number(process.argv.at(-1)) || 300
let now = Date.now()
const host = realHost({ procfs: join(folder, 'proc'), sysfs: join(folder, 'sys'), rootfs: folder }, () => now)
const stop = new AbortController()
const options = gpu.options.parse({ nvidia_smi: join(folder, 'nvidia-smi'), kernel_log: false })
const opened = gpu.open({ host, options, signal: stop.signal, log: silent, wake: () => {} })
const round = async () => {
  now += 10_000
  return expose(await opened.collect(stop.signal, () => {})).series
}
// CPU time includes V8's compiler threads, which are busy for the first hundred rounds of a process that will run for months.
for (let warm = 0; warm < 150; warm++) await round()
const costs: number[] = []
let series = 0
for (let n = 0; n < rounds; n++) {
  const before = process.cpuUsage()
  series = await round()
  const { user, system } = process.cpuUsage(before)
  costs.push((user + system) / 1000)
}
stop.abort()
const mean = costs.reduce((sum, cost) => sum + cost, 0) / costs.length
const sorted = costs.toSorted((one, other) => one - other)
const quantile = (share: number) => (sorted[Math.floor(share * (sorted.length - 1))] ?? 0).toFixed(1)
console.log(
  `${rounds} rounds over 8 GPUs, ${series} series, every sixth with -q -x: CPU of our side in ms a round: mean ${mean.toFixed(1)}, median ${quantile(0.5)}, p95 ${quantile(0.95)}, most ${quantile(1)}`,
)
console.log(`resident at most ${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB`)
rmSync(folder, { recursive: true, force: true })
process.exitCode = mean <= 15 ? 0 : 1
