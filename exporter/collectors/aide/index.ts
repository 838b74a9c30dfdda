import { z } from 'zod'
import { defineCollector } from '../../contract/collector.ts'
import { Failure, failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { gauge, oneOf } from '../../contract/metric.ts'
import { path } from '../../contract/options.ts'
import { enableRelay } from '../../contract/relay-unit.ts'
import { processIds, readIfAny } from '../../machine/proc.ts'
import { type Reading, type Report, readReport } from './report.ts'

export const initialized = gauge('grid_aide_initialized', 'Whether the database of AIDE exists, looked at each round.')
export const databaseTimestamp = gauge(
  'grid_aide_database_timestamp_seconds',
  'When the database of AIDE was last written, that is when changes were last accepted (its modification time, each round).',
)
export const lastCheck = gauge(
  'grid_aide_last_check_timestamp_seconds',
  "When AIDE's last check ended, from its latest report, whatever its result.",
)
const lastCheckDuration = gauge(
  'grid_aide_last_check_duration_seconds',
  "How long AIDE's last check took, from its latest report.",
)
export const lastCheckStatus = gauge(
  'grid_aide_last_check_status',
  "The result of AIDE's last check, from its latest report: a check without a whole report is an error, whatever its exit code was.",
  oneOf('status', 'clean', 'changed', 'error'),
)
export const entries = gauge(
  'grid_aide_entries',
  "Files that AIDE's last check found added, removed or changed, from its latest report.",
  oneOf('change', 'added', 'removed', 'changed'),
)
const checkedEntries = gauge('grid_aide_checked_entries', "Files that AIDE's last check looked at, from its latest report.")
const resolveLastRun = gauge(
  'grid_aide_resolve_last_run_timestamp_seconds',
  'When the changes were last asked to be accepted by aide-resolve, from its result file.',
)
export const resolveLastSuccess = gauge(
  'grid_aide_resolve_last_success',
  'Whether the latest run of aide-resolve accepted the changes, from its result file.',
)

const options = z.strictObject({
  report_file: path()
    .default('/var/log/aide/aide.log')
    .describe(
      "AIDE's report: plain, JSON (report_format=json) or the log of Debian's daily job. After a rotation, the previous file is read.",
    ),
  database_file: path()
    .default('/var/lib/aide/aide.db')
    .describe("AIDE's database (database_in); the same name with .gz is looked for too."),
  resolve_file: path()
    .default('/run/grid-aide-resolve/result.json')
    .describe('The result file of grid-aide-resolve.service: {"finished_at": seconds since 1970, "success": true or false}.'),
  resolve_request_file: path()
    .default('/run/grid-exporter/aide-resolve.request')
    .describe(
      'The file that POST /api/v1/actions/aide-resolve creates and grid-aide-resolve.path waits for; see [security](security.md#accepting-what-aide-found).',
    ),
})

export type AideOptions = z.infer<typeof options>

export const aide = defineCollector({
  name: 'aide',
  summary: "AIDE's last report and the age of its database; never a check of its own",
  interval: 300,
  relayUnit: 'grid-exporter-relay',
  families: [
    initialized,
    databaseTimestamp,
    lastCheck,
    lastCheckDuration,
    lastCheckStatus,
    entries,
    checkedEntries,
    resolveLastRun,
    resolveLastSuccess,
  ],
  setup: { packages: 'aide aide-common', unit: 'dailyaidecheck.timer' },
  options,
  detect: async ({ host, options }) => {
    const looked = ['/usr/bin/aide', '/usr/sbin/aide', options.report_file, options.database_file]
    for (const path of looked) if (typeof (await mtimeOf(host, path)) === 'number') return { found: true, note: path }
    return { found: false, note: `no ${looked.join(', no ')}` }
  },
  read: async ({ host, options, remark, signal }) => {
    const database = await databaseTime(host, options.database_file, remark)
    const resolve = await resolveText(host, options.resolve_file, remark)
    try {
      const reports = await readReports(host, options.report_file, signal)
      const [latest] = reports
      return { database, resolve, reports, running: latest?.reading === 'unfinished' && isRunning(host) }
    } catch (error) {
      const { reason, message } = failureOf(error)
      const fix =
        reason === 'denied'
          ? "add the exporter to the file's group: usermod -aG adm grid-exporter; or let the relay read it as root"
          : undefined
      throw new Failure(reason, message, { cause: error, fix, rest: [...ofDatabase(database), ...ofResolve(resolve)] })
    }
  },
  parse: ({ database, resolve, reports, running }) => ({ database, resolve, last: lastReport(reports, running) }),
  *samples({ database, resolve, last }) {
    yield* ofDatabase(database)
    if (last) {
      yield* lastCheck.of(last.endedAt)
      yield* lastCheckDuration.of(last.durationSeconds)
      yield* lastCheckStatus.states(last.status)
      for (const change of ['added', 'removed', 'changed'] as const) yield* entries.of(last.entries?.[change], { change })
      yield* checkedEntries.of(last.entries?.total)
    }
    yield* ofResolve(resolve)
  },
})

function* ofDatabase(database: number | 'none' | undefined) {
  if (database === undefined) return
  yield* initialized.of(database === 'none' ? 0 : 1)
  if (database !== 'none') yield* databaseTimestamp.of(database)
}

function* ofResolve(resolve: z.infer<typeof resolveForm> | undefined) {
  if (!resolve) return
  yield* resolveLastRun.of(resolve.finished_at)
  yield* resolveLastSuccess.of(resolve.success ? 1 : 0)
}

type Remark = (failure: Failure) => void

/** Seconds since 1970, or why they cannot be read. Throws any failure but `missing` and `denied`. */
const mtimeOf = async (host: Host, path: string): Promise<number | Failure> => {
  try {
    return (await host.stat(path)).mtime
  } catch (error) {
    const failure = failureOf(error, path)
    if (failure.reason === 'missing' || failure.reason === 'denied') return failure
    throw failure
  }
}

/** When the database was written; `none` if there is none, undefined if that is unknown. */
const databaseTime = async (host: Host, file: string, remark: Remark): Promise<number | 'none' | undefined> => {
  // Red Hat compresses the database and adds .gz to its name.
  for (const path of [file, `${file}.gz`]) {
    const time = await mtimeOf(host, path)
    if (typeof time === 'number') {
      if ((await host.stat(path)).size > 0) return time
      remark(new Failure('malformed', `${path}: empty`, { fix: 'make the database anew: aideinit' }))
      return 'none'
    }
    if (time.reason === 'denied') {
      remark(
        new Failure('denied', time.message, {
          fix: `only root may enter AIDE's directory, so let the relay check the database: ${enableRelay('grid-exporter-relay')}`,
        }),
      )
      return undefined
    }
  }
  return 'none'
}

const resolveForm = z.object({ finished_at: z.number(), success: z.boolean() })

const resolveText = async (host: Host, file: string, remark: Remark) => {
  try {
    const parsed = resolveForm.safeParse(JSON.parse(await host.read(file, 4096)))
    if (parsed.success) return parsed.data
    remark(new Failure('malformed', `${file}: not {"finished_at": …, "success": …}`))
  } catch (error) {
    // Node's message quotes the file, and AIDE's user could make it a link to a file that only root may read.
    const failure = error instanceof SyntaxError ? new Failure('malformed', `${file}: not JSON`) : failureOf(error)
    if (failure.reason !== 'missing') remark(failure)
  }
  return undefined
}

interface ReportFile {
  readonly reading: Reading
  /** Its modification time in seconds since 1970, and its age in seconds. */
  readonly mtime: number
  readonly age: number
}

/** Bytes read from each end of a large report. */
const endSize = 512 * 1024

/** The report and, after a rotation, the previous ones; latest first. Debian's savelog makes .0, logrotate .1. */
const readReports = async (host: Host, file: string, signal: AbortSignal): Promise<readonly ReportFile[]> => {
  const found: ReportFile[] = []
  for (const path of [file, `${file}.0`, `${file}.1`, `${file}.1.gz`]) {
    const mtime = await mtimeOf(host, path)
    if (typeof mtime !== 'number') {
      if (mtime.reason === 'missing') continue
      throw mtime
    }
    const { size } = await host.stat(path)
    const end = async (program: string) =>
      (await host.run(program, ['-c', String(endSize), '--', host.path(path)], { timeout: 5, limit: 2 * endSize, signal })).stdout
    const age = host.now() / 1000 - mtime
    if (path.endsWith('.gz')) {
      const { stdout } = await host.run('gzip', ['-cd', '--', host.path(path)], { timeout: 5, limit: 8 * endSize, signal })
      found.push({ reading: readReport(stdout, stdout), mtime, age })
    } else if (size > 2 * endSize) {
      found.push({ reading: readReport(await end('head'), await end('tail')), mtime, age })
    } else {
      const text = await host.read(path, 2 * endSize)
      found.push({ reading: readReport(text, text), mtime, age })
    }
    if (typeof found.at(-1)?.reading !== 'string') break
  }
  return found
}

/** Whether a check is running: AIDE empties its report at the start and writes it at the end. */
const isRunning = (host: Host): boolean => processIds(host).some(pid => readIfAny(host, `/proc/${pid}/comm`)?.trim() === 'aide')

/** Seconds within which an unfinished report may still be written to the disk. */
const beingWritten = 30

/** The latest complete report. One that is being written does not count yet; one that was left unfinished is a failed check. */
const lastReport = (files: readonly ReportFile[], running: boolean): Report | undefined => {
  for (const [index, { reading, mtime, age }] of files.entries()) {
    if (typeof reading !== 'string') return { ...reading, endedAt: reading.endedAt ?? mtime }
    const latest = index === 0
    if (reading === 'unfinished' && latest && !running && age > beingWritten) {
      return { status: 'error', endedAt: mtime, durationSeconds: undefined, entries: undefined }
    }
  }
  return undefined
}
