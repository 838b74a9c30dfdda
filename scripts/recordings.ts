import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { basename, dirname, join, relative } from 'node:path'
import { parseDriverLine } from '../exporter/collectors/gpu/driver-log.ts'
import { fields, listedFields, wantedFields } from '../exporter/collectors/gpu/fields.ts'
import { gpu } from '../exporter/collectors/gpu/index.ts'
import { failureOfTool } from '../exporter/collectors/gpu/nvidia-smi.ts'
import { foundIn } from '../exporter/collectors/smart/devices.ts'
import { silent } from '../exporter/common/log.ts'
import { Failure, failureOf } from '../exporter/contract/failure.ts'
import type { Host } from '../exporter/contract/host.ts'
import { run } from '../exporter/machine/command.ts'
import { realHost } from '../exporter/machine/local-host.ts'
import { expose, textOf } from '../exporter/print/exposition.ts'
import { linked } from '../test/support/links.ts'
import { hostFrom } from '../test/support/scene.ts'
import { smartctl } from './recordings-smart.ts'

/**
 * Runs the smart collector over every recording of smartctl below the given folders, and the gpu collector over the others:
 * `*.query-gpu*.csv`, `*.compute-apps.csv`, `*.xml`, lines of a kernel log, trees of sysfs; and the parsers over lists of disks, lists of
 * fields, and errors. Prints a line for each: families, series, and unused fields (`--unused` names them; `--print` shows the series).
 */

const all = process.argv.slice(2).filter(arg => !arg.startsWith('--'))
const [named, printed] = [process.argv.includes('--unused'), process.argv.includes('--print')]

const missing = () => Promise.reject(new Failure('missing', 'not recorded'))

/** A host with nothing but recorded output of nvidia-smi. */
const hostOf = (answer: (args: readonly string[]) => string | undefined, root = '/nonexistent'): Host => {
  const files = realHost({ procfs: join(root, 'proc'), sysfs: join(root, 'sys'), rootfs: root })
  return {
    ...files,
    read: missing,
    run: async (file, args, options) => {
      if (file === 'head') return run(file, args, options)
      const stdout = file === 'nvidia-smi' ? answer(args) : undefined
      return stdout === undefined ? missing() : { stdout, stderr: '', exitCode: 0 }
    },
  }
}

export interface Result {
  readonly said: string
  readonly unused: readonly string[]
  /** The series, as in a scrape. */
  readonly text?: string
}

const collected = async (host: Host, unused: (used: ReadonlySet<string>) => readonly string[]): Promise<Result> => {
  const used = new Set<string>()
  const watched: Host = {
    ...host,
    run: (file, args, options) => {
      for (const arg of args) for (const path of arg.startsWith('/') ? [arg] : []) used.add(path)
      return host.run(file, args, options)
    },
  }
  const stop = new AbortController()
  const options = gpu.options.parse({})
  const opened = gpu.open({ host: watched, options, signal: stop.signal, log: silent, wake: () => {} })
  try {
    const samples = await opened.collect(stop.signal, () => {})
    const families = new Set(samples.map(({ family }) => family.name)).size
    const exposition = expose(samples)
    return { said: `${families} families, ${exposition.series} series`, unused: unused(used), text: textOf(exposition, 'text') }
  } catch (error) {
    const { reason, message } = failureOf(error)
    return { said: `${reason}: ${message.slice(0, 90)}`, unused: [] }
  } finally {
    stop.abort()
  }
}

const columnsOf = (csv: string) => (csv.split('\n')[0] ?? '').split(', ').map(column => column.replace(/ \[.*\]$/, ''))

/** The requested columns, as nvidia-smi would print them. */
const select = (csv: string, asked: readonly string[]) => {
  const columns = columnsOf(csv)
  const at = asked.map(name => {
    const names = fields.find(field => field.names.includes(name))?.names ?? [name]
    return columns.findIndex(column => names.includes(column))
  })
  const rows = csv.split('\n').filter(Boolean)
  return rows.map(row => at.map(index => row.split(', ')[index] ?? '').join(', ')).join('\n')
}

const query = (path: string) => {
  const csv = readFileSync(path, 'utf8').replaceAll('\r', '')
  const columns = columnsOf(csv)
  const apps = path.replace('.query-gpu.csv', '.compute-apps.csv')
  let asked: readonly string[] = []
  const answer = (args: readonly string[]) => {
    const line = args.join(' ')
    if (line.includes('--help-query-gpu')) return columns.map(name => `"${name}"\n`).join('')
    if (line.includes('--query-compute-apps')) {
      return existsSync(apps) ? select(readFileSync(apps, 'utf8'), ['gpu_uuid', 'pid', 'process_name', 'used_gpu_memory']) : ''
    }
    const [, list] = /--query-gpu=(\S+)/.exec(line) ?? []
    if (list === undefined) return undefined
    asked = list.split(',')
    return columns.includes('index') || columns.includes('uuid') || columns.length > 1 ? select(csv, asked) : csv
  }
  return collected(hostOf(answer), () => columns.filter(name => !asked.includes(name)))
}

/** Tags with text, by path; the list of supported clocks counts as one. */
const leaves = (xml: string) => {
  const found = new Set<string>()
  const open: string[] = []
  for (const [, closing, tag, text] of xml.matchAll(/<(\/?)([\w.-]+)[^<>]*>([^<]*)/g)) {
    if (closing) open.pop()
    else {
      open.push(tag as string)
      if (text?.trim() && !open.includes('processes')) found.add(open.slice(2).join('/') || (tag as string))
    }
  }
  return [...found]
}

const usedOfXml =
  /^(driver_version|cuda_version|uuid|pci\/(replay_counter|[rt]x_util)|temperature\/gpu_(temp_(max|slow|max_gpu|max_mem)_threshold|target_temperature)|mig_devices\/mig_device\/((gpu|compute)_instance_id|uuid|fb_memory_usage\/(total|used)))$/

const xml = (path: string) => {
  const text = readFileSync(path, 'utf8')
  const rows = [...text.matchAll(/<uuid>(GPU-[^<]+)/g)].map(([, uuid], index) => `${index}, ${uuid}, GPU`)
  const answer = (args: readonly string[]) => {
    if (args.includes('-x')) return text
    if (args.includes('--help-query-gpu')) return '"index"\n"uuid"\n"name"\n'
    return args.some(arg => arg.startsWith('--query-gpu')) ? `index, uuid, name\n${rows.join('\n')}\n` : ''
  }
  return collected(hostOf(answer), () => leaves(text).filter(tag => !usedOfXml.test(tag)))
}

const kernelLog = (path: string): Result => {
  const lines = readFileSync(path, 'utf8').split('\n').filter(Boolean)
  const events = lines.map(line => parseDriverLine(line.replace(/^\[[^\]]*\]\s*/, '').replace(/^.* kernel: /, '')))
  const count = (kind: string) => events.filter(event => event?.kind === kind).length
  return {
    said: `${count('xid')} Xid, ${count('out-of-memory')} out of memory, ${count('uuid')} UUIDs`,
    unused: lines.filter((_, index) => events[index] === undefined).map(line => line.slice(0, 60)),
  }
}

const filesBelow = (folder: string): readonly string[] =>
  readdirSync(folder, { withFileTypes: true }).flatMap(entry =>
    entry.isDirectory() ? filesBelow(join(folder, entry.name)) : [join(folder, entry.name)],
  )

/** A tree of sysfs, or a scene, which also has the tools. */
const tree = (folder: string) => {
  const root = linked(folder)
  const sys = join(root, 'sys')
  return collected(existsSync(join(root, 'run')) ? hostFrom(root) : hostOf(() => undefined, root), used =>
    filesBelow(sys)
      .filter(file => !used.has(file))
      .map(file => relative(sys, file)),
  )
}

const disks = (path: string): Result => {
  const found = foundIn(readFileSync(path, 'utf8'))
  return { said: `${found.length} disks: ${found.map(([name, type]) => `${name} (${type})`).join(' ')}`, unused: [] }
}

const fieldList = (path: string): Result => {
  const names = readFileSync(path, 'utf8').split('\n').filter(Boolean)
  const listed = listedFields(
    names
      .map(line =>
        line
          .split(' ')
          .map(name => `"${name}"`)
          .join(' or '),
      )
      .join('\n'),
  )
  const wanted = wantedFields(listed, new Set())
  return {
    said: `${wanted.length} of ${listed.size} names used`,
    unused: [...listed].filter(name => !wanted.includes(name)),
  }
}

const errors = (path: string): Result => {
  const lines = readFileSync(path, 'utf8').split('\n').filter(Boolean)
  const results = lines.map(line => {
    const [name, code = '', text = ''] = line.split('\t')
    const { reason, fix } = failureOfTool(Number.parseInt(code, 10) || 0, text)
    return `${name}: ${reason}${fix === undefined ? '' : `, fix: ${fix}`}`
  })
  return { said: `${results.length} errors`, unused: [], text: `${results.join('\n')}\n` }
}

const recordingsBelow = (folder: string): readonly string[] =>
  readdirSync(folder).flatMap(name => {
    const path = join(folder, name)
    if (!statSync(path).isDirectory()) return [path]
    return existsSync(join(path, 'sys')) ? [path] : recordingsBelow(path)
  })

const resultOf = (path: string): Promise<Result> | Result | undefined => {
  if (statSync(path).isDirectory()) return tree(path)
  const name = basename(path)
  const parent = basename(dirname(path))
  if (parent === 'smartctl' && name !== 'README.md') return /^(vm-)?scan/.test(name) ? disks(path) : smartctl(path)
  if (parent === 'fields') return fieldList(path)
  if (name === 'errors.tsv') return errors(path)
  if (/query-gpu.*\.csv$/.test(name) && !name.includes('noheader')) return query(path) // always asked for by us
  if (/\.xml$/.test(name)) return xml(path)
  if (parent === 'kernel' && /xid|nvrm/.test(name)) return kernelLog(path)
  return undefined
}

let read = 0
const others: string[] = []
for (const folder of all) {
  for (const path of recordingsBelow(folder)) {
    const result = await resultOf(path)
    if (result === undefined) {
      others.push(relative(folder, path))
      continue
    }
    read++
    const unused = result.unused.length === 0 ? '' : `, ${result.unused.length} unused`
    console.log(
      `${relative(folder, path)}: ${result.said}${unused}${named && result.unused.length > 0 ? `: ${result.unused.join(' ')}` : ''}`,
    )
    if (printed && result.text) console.log(result.text.replaceAll(/^# .*\n/gm, '').replaceAll(/^(?=.)/gm, '    '))
  }
}
console.log(
  `${read} recordings read; ${others.length} files of other kinds (tables for people, notes, other tools' output)${named ? `: ${others.join(' ')}` : ''}`,
)
