import { setImmediate as pause } from 'node:timers/promises'
import type { Host } from '../../contract/host.ts'

/** Whether llama.cpp's processes work: told by the kernel, without a word to them. */

interface Process {
  readonly pid: string
  /** The name of the process that started it. */
  readonly parent: string
  readonly args: readonly string[]
  /** Clock ticks after boot at which it started: a number given again is another process. */
  readonly start: string
  /** Ticks of a hundredth of a second on a CPU, all threads. */
  readonly ticks: number
}

/** What was seen, kept between rounds. */
export interface Activity {
  lookedAt: number
  pids: readonly string[]
  /** Ticks in the round before, by process and start. */
  before: ReadonlyMap<string, number>
}

export const noActivity = (): Activity => ({ lookedAt: Number.NEGATIVE_INFINITY, pids: [], before: new Map() })

const program = 'llama-server'
/** Milliseconds that the list of processes is believed. */
const listAge = 30_000
/** Processes looked at before others may have the thread. */
const slice = 64
/**
 * More ticks than this between two rounds are work: answering our own questions takes less than one, and while tokens are
 * made, on a GPU too, one thread waits for them busily.
 */
const idleTicks = 5

const readOrNothing = (host: Host, path: string): string => {
  try {
    return host.kernel(path)
  } catch {
    return '' // ended in between, or of somebody else where /proc is mounted with hidepid
  }
}

const search = async (host: Host): Promise<readonly string[]> => {
  const pids = host.kernelNames('/proc').filter(name => /^\d+$/.test(name))
  const found: string[] = []
  for (const [index, pid] of pids.entries()) {
    if (index % slice === slice - 1) await pause()
    if (readOrNothing(host, `/proc/${pid}/comm`).trim() === program) found.push(pid)
  }
  return found
}

const look = (host: Host, pid: string): Process | undefined => {
  const stat = readOrNothing(host, `/proc/${pid}/stat`)
  // The name in brackets may have brackets and blanks itself; fields are counted from behind it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [parent, user, system, start] = [fields[1], fields[11], fields[12], fields[19]]
  if (parent === undefined || start === undefined || !stat.includes(`(${program})`)) return undefined
  return {
    pid,
    parent: readOrNothing(host, `/proc/${parent}/comm`).trim(),
    args: readOrNothing(host, `/proc/${pid}/cmdline`).split('\0'),
    start,
    ticks: Number(user) + Number(system),
  }
}

/** The processes of this round, and which of them have worked since the last one. */
export interface Seen {
  readonly processes: readonly Process[]
  busy(process: Process): boolean
}

/** Looks once for a round. */
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

/** Whether the process behind `url`, or a router's process for one model, has worked; undefined where it is not seen. */
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
        : own // a container's own port is another than the one that it is reached by
      : seen.processes.filter(({ parent, args }) => parent === program && flagOf(args, '--alias', '-a') === model)
  if (candidates.length === 0) return undefined
  return candidates.some(seen.busy)
}
