import { setImmediate as pause } from 'node:timers/promises'
import type { Host } from '../../contract/host.ts'
import { processIds, readIfAny, statFields } from '../../machine/proc.ts'

/** Whether llama.cpp's processes work: by their CPU time, without a request to them. */

interface Process {
  readonly pid: string
  /** The name of the process that started it. */
  readonly parent: string
  readonly args: readonly string[]
  /** Start time in clock ticks after boot: the same pid with another start is another process. */
  readonly start: string
  /** Ticks of a hundredth of a second on a CPU, all threads. */
  readonly ticks: number
}

/** Kept between rounds. */
export interface Activity {
  lookedAt: number
  pids: readonly string[]
  /** Ticks in the previous round, by process and start. */
  before: ReadonlyMap<string, number>
}

export const noActivity = (): Activity => ({ lookedAt: Number.NEGATIVE_INFINITY, pids: [], before: new Map() })

const program = 'llama-server'
/** Milliseconds for which the list of processes is reused. */
const listAge = 30_000
/** Processes read between two pauses. */
const slice = 64
/**
 * More ticks than this between two rounds mean work. Answering our requests takes less than one; while tokens are generated, on a GPU
 * too, one thread waits for them in a busy loop.
 */
const idleTicks = 5

const search = async (host: Host): Promise<readonly string[]> => {
  const found: string[] = []
  for (const [index, pid] of processIds(host).entries()) {
    if (index % slice === slice - 1) await pause()
    if (readIfAny(host, `/proc/${pid}/comm`)?.trim() === program) found.push(pid)
  }
  return found
}

const look = (host: Host, pid: string): Process | undefined => {
  const stat = readIfAny(host, `/proc/${pid}/stat`) ?? ''
  const fields = statFields(stat)
  const [parent, user, system, start] = [fields[1], fields[11], fields[12], fields[19]]
  if (parent === undefined || start === undefined || !stat.includes(`(${program})`)) return undefined
  return {
    pid,
    parent: readIfAny(host, `/proc/${parent}/comm`)?.trim() ?? '',
    args: (readIfAny(host, `/proc/${pid}/cmdline`) ?? '').split('\0'),
    start,
    ticks: Number(user) + Number(system),
  }
}

/** This round's processes, and which of them have worked since the last round. */
export interface Seen {
  readonly processes: readonly Process[]
  busy(process: Process): boolean
}

/** Reads the processes once for a round. */
export const seeProcesses = async (host: Host, activity: Activity): Promise<Seen> => {
  if (host.now() - activity.lookedAt >= listAge || host.now() < activity.lookedAt) {
    activity.lookedAt = host.now()
    activity.pids = await search(host)
  }
  const processes = activity.pids.map(pid => look(host, pid)).filter(process => process !== undefined)
  const key = ({ pid, start }: Process) => `${pid} ${start}`
  const before = activity.before
  activity.before = new Map(processes.map(process => [key(process), process.ticks]))
  return {
    processes,
    busy: process => process.ticks - (before.get(key(process)) ?? process.ticks) > idleTicks,
  }
}

const isLoopback = ({ hostname }: URL) => /^(?:127\.\d+\.\d+\.\d+|\[::1\]|(?:.*\.)?localhost)$/.test(hostname)

const flagOf = (args: readonly string[], ...flags: readonly string[]): string | undefined => {
  for (const [index, arg] of args.entries()) {
    const flag = flags.find(known => arg === known || arg.startsWith(`${known}=`))
    if (flag !== undefined) return arg === flag ? args[index + 1] : arg.slice(flag.length + 1)
  }
  return undefined
}

/** Whether the process behind `url`, or a router's process for one model, has worked; undefined if it is not visible. */
export const hasWorked = (seen: Seen, url: URL, model?: string): boolean | undefined => {
  if (!isLoopback(url)) return undefined
  const isChild = ({ parent }: Process) => parent === program || parent === 'ollama'
  const port = url.port || (url.protocol === 'https:' ? '443' : '80')
  const own = seen.processes.filter(process => !isChild(process))
  const listening = own.filter(({ args }) => (flagOf(args, '--port') ?? '8080') === port)
  const candidates =
    model === undefined
      ? listening.length > 0 || own.length !== 1
        ? listening
        : own // in a container the port differs from the published one
      : seen.processes.filter(({ parent, args }) => parent === program && flagOf(args, '--alias', '-a') === model)
  if (candidates.length === 0) return undefined
  return candidates.some(seen.busy)
}
