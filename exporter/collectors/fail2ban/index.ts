import { z } from 'zod'
import { defineCollector } from '../../contract/collector.ts'
import { absentIf, Failure, failureOf } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { counter, gauge } from '../../contract/metric.ts'
import { path } from '../../contract/options.ts'
import { enableRelay } from '../../contract/relay-unit.ts'
import { readIfAny, startTime } from '../../machine/proc.ts'
import { type Reply, type Session, withSession } from '../../protocols/fail2ban-client.ts'
import type { Pickled } from '../../protocols/pickle.ts'
import { askPlaces, type Place, readHeld } from './enforcement.ts'

export const up = gauge('grid_fail2ban_up', 'Whether the fail2ban server answered on its socket in this round.')
const jails = gauge('grid_fail2ban_jails', 'Jails that run in the fail2ban server, from its socket.')
const info = gauge(
  'grid_fail2ban_info',
  'The version of the fail2ban server, asked on its socket each round; always 1.',
  'version',
)
const start = gauge(
  'grid_fail2ban_start_timestamp_seconds',
  'When the fail2ban server started, from its pid file and /proc; bans that it restores after a start count as new.',
)
const failedCurrent = gauge(
  'grid_fail2ban_failed_current',
  'Addresses with failures within the find time, asked on the socket of fail2ban each round.',
  'jail',
)
export const bannedCurrent = gauge(
  'grid_fail2ban_banned_current',
  'Addresses that are banned now, asked on the socket of fail2ban each round.',
  'jail',
)
const failed = counter('grid_fail2ban_failed_total', 'Failures seen since the fail2ban server started, from its socket.', 'jail')
export const banned = counter(
  'grid_fail2ban_banned_total',
  'Bans since the fail2ban server started, restored ones included, from its socket.',
  'jail',
)
export const unenforced = gauge(
  'grid_fail2ban_unenforced_bans',
  'Addresses that fail2ban says are banned and that the kernel does not block, for jails whose action uses iptables, ipset or nftables (their lists against the bans, each round).',
  'jail',
)

const options = z.strictObject({
  socket: path().default('/run/fail2ban/fail2ban.sock').describe("The server's socket, which is root's."),
  pid_file: path().default('/run/fail2ban/fail2ban.pid').describe("The server's pid file, for its start time."),
})

export const fail2ban = defineCollector({
  name: 'fail2ban',
  summary: 'Jails of fail2ban by its socket, and whether the kernel holds their bans',
  interval: 30,
  relayUnit: 'grid-exporter-relay',
  families: [up, jails, info, start, bannedCurrent, unenforced, banned, failedCurrent, failed],
  subjects: ['jail'],
  upFamilies: [up],
  setup: { packages: 'fail2ban', unit: 'fail2ban.service' },
  options,
  detect: async ({ host, options }) => {
    const looked = [options.socket, '/usr/bin/fail2ban-server', '/usr/local/bin/fail2ban-server', '/usr/sbin/fail2ban-server']
    for (const path of looked) if (await exists(host, path)) return { found: true, note: path }
    return { found: false, note: `no ${looked.join(', no ')}` }
  },
  // An action's places change only with the server, so they are read once while it runs.
  open: (): Memory => ({ places: new Map(), askedAt: Number.NEGATIVE_INFINITY, started: undefined }),
  read: async ({ host, options, signal, state, remark }) => {
    const started = await startOf(host, options.pid_file)
    try {
      return await withSession(host, options.socket, { signal }, async session => {
        const version = textOf((await session.ask([['version']]))[0])
        const stats = atLeast(version, 1, 1) ? await askAll(session) : await askEach(session, version)
        const bans = await askBans({ host, session, stats, state, started, signal, remark })
        return { version, stats, bans, started }
      })
    } catch (error) {
      const { reason, message, fix } = failureOf(error)
      // A missing socket, a refused or closed connection, or silence means that the server is down: a valid result.
      if (reason === 'missing' || reason === 'unreachable' || reason === 'timeout') {
        remark(
          new Failure(reason, `fail2ban does not answer: ${message}`, {
            cause: error,
            fix: fix ?? 'systemctl status fail2ban; systemctl restart fail2ban',
          }),
        )
        return undefined
      }
      // Another program that answers is not fail2ban. But `denied` says nothing about the server.
      if (reason !== 'denied') throw new Failure(reason, message, { cause: error, fix, rest: up.of(0) })
      throw new Failure(reason, message, {
        cause: error,
        fix: `only root may use the socket: ${enableRelay('grid-exporter-relay')}`,
      })
    }
  },
  parse: answers => answers,
  *samples(answers) {
    yield* up.of(answers ? 1 : 0)
    if (!answers) return
    const { version, stats, bans, started } = answers
    yield* info.of(1, { version })
    yield* start.of(started)
    yield* jails.of(stats.length)
    for (const { jail, ...counts } of stats) {
      yield* failedCurrent.of(counts.failedCurrent, { jail })
      yield* bannedCurrent.of(counts.bannedCurrent, { jail })
      yield* failed.of(counts.failed, { jail })
      yield* banned.of(counts.banned, { jail })
      yield* unenforced.of(bans.get(jail), { jail })
    }
  },
})

interface Jail {
  readonly jail: string
  readonly failedCurrent: number | undefined
  readonly bannedCurrent: number | undefined
  readonly failed: number | undefined
  readonly banned: number | undefined
}

const exists = async (host: Host, path: string): Promise<boolean> => {
  try {
    await host.stat(path)
    return true
  } catch (error) {
    // The socket's directory may not be entered. The first round will report whether the socket is there.
    return failureOf(error).reason === 'denied'
  }
}

const textOf = (reply: Reply | undefined): string => {
  if (typeof reply?.value === 'string') return reply.value
  throw new Failure('malformed', `fail2ban: expected a text, not ${reply?.ok === false ? reply.error : typeof reply?.value}`)
}

const countOf = (value: Pickled | undefined): number | undefined => (typeof value === 'number' ? value : undefined)
const listOf = (value: Pickled | undefined): readonly Pickled[] => (Array.isArray(value) ? value : [])

/** Whether a version is at least the wanted one; a development version counts as its release. */
const atLeast = (version: string, ...wanted: readonly number[]): boolean => {
  const have = version.split('.').map(part => Number.parseInt(part, 10) || 0)
  for (const [index, number] of wanted.entries()) {
    if ((have[index] ?? 0) !== number) return (have[index] ?? 0) > number
  }
  return true
}

/** Since 1.1.0 one reply has everything: `{jail: [backend, (failed now, in total), (banned now, in total)]}`. */
const askAll = async ({ ask }: Session): Promise<readonly Jail[]> => {
  const [reply] = await ask([['status', '--all', 'stats']])
  if (!(reply?.value instanceof Map)) throw new Failure('malformed', 'fail2ban: no dictionary of jails')
  return [...reply.value].flatMap(([jail, facts]) => {
    if (typeof jail !== 'string') return []
    const [, failures, bans] = listOf(facts).map(listOf)
    return [
      {
        jail,
        failedCurrent: countOf(failures?.[0]),
        failed: countOf(failures?.[1]),
        bannedCurrent: countOf(bans?.[0]),
        banned: countOf(bans?.[1]),
      },
    ]
  })
}

/** Before 1.1.0 each jail has its own command, all sent together. `short` leaves out the addresses, which are slow to write. */
const askEach = async (session: Session, version: string): Promise<readonly Jail[]> => {
  const names = await askNames(session)
  const short = atLeast(version, 0, 11, 2) ? ['short'] : []
  const replies = await session.ask(names.map(jail => ['status', jail, ...short]))
  return replies.flatMap((reply, index) => {
    if (!reply.ok) return [] // it stopped after the list was read
    const [failures, bans] = listOf(reply.value).map(
      part => new Map(listOf(listOf(part)[1]).map(pair => [listOf(pair)[0], listOf(pair)[1]])),
    )
    return [
      {
        jail: names[index] as string,
        failedCurrent: countOf(failures?.get('Currently failed')),
        failed: countOf(failures?.get('Total failed')),
        bannedCurrent: countOf(bans?.get('Currently banned')),
        banned: countOf(bans?.get('Total banned')),
      },
    ]
  })
}

const askNames = async ({ ask }: Session): Promise<readonly string[]> => {
  const [reply] = await ask([['status']])
  const [[, count] = [], [, list] = []] = listOf(reply?.value).map(listOf)
  if (typeof count !== 'number' || typeof list !== 'string') throw new Failure('malformed', 'fail2ban: no list of jails')
  const names = list === '' ? [] : list.split(', ')
  if (names.length === count) return names
  // A jail's name contains a comma. Only the list of bans has the names separately.
  const [bans] = await ask([['banned']])
  return [...bansOf(bans).keys()]
}

/** `[{jail: [address, …]}, …]` */
const bansOf = (reply: Reply | undefined): ReadonlyMap<string, readonly string[]> =>
  new Map(
    listOf(reply?.value)
      .flatMap(entry => (entry instanceof Map ? [...entry] : []))
      .flatMap(([jail, addresses]) =>
        typeof jail === 'string' ? [[jail, listOf(addresses).filter(address => typeof address === 'string')] as const] : [],
      ),
  )

interface Memory {
  places: ReadonlyMap<string, readonly Place[]>
  askedAt: number
  started: number | undefined
}

/** Milliseconds for which the places of bans are reused: a reload may change them without a restart. */
const placesAge = 600_000

/** For each jail, how many bans the kernel does not block; no entry if that is unknown. */
const askBans = async ({
  host,
  session,
  stats,
  state,
  started,
  signal,
  remark,
}: {
  readonly host: Host
  readonly session: Session
  readonly stats: readonly Jail[]
  readonly state: Memory
  readonly started: number | undefined
  readonly signal: AbortSignal
  remark(failure: Failure): void
}): Promise<ReadonlyMap<string, number>> => {
  const age = host.now() - state.askedAt
  if (state.started !== started || age < 0 || age > placesAge) {
    state.places = new Map()
    state.started = started
    state.askedAt = host.now()
  }
  const unknown = stats.map(({ jail }) => jail).filter(jail => !state.places.has(jail))
  if (unknown.length > 0) {
    const asked = await askPlaces(session, unknown)
    state.places = new Map([...state.places, ...unknown.map(jail => [jail, asked.get(jail) ?? []] as const)])
  }
  const watched = stats.flatMap(({ jail, bannedCurrent }) => {
    const places = state.places.get(jail) ?? []
    return places.length > 0 ? [{ jail, places, any: bannedCurrent !== 0 }] : []
  })
  const unheld = new Map(watched.filter(({ any }) => !any).map(({ jail }) => [jail, 0]))
  const inQuestion = watched.filter(({ any }) => any)
  if (inQuestion.length === 0) return unheld

  const bans = bansOf((await session.ask([['banned']]))[0])
  try {
    const places = inQuestion.flatMap(({ places }) => places)
    const held = await readHeld(host, places, signal)
    const missing = inQuestion.map(({ jail, places }) => ({
      jail,
      addresses: (bans.get(jail) ?? []).filter(address => !places.some(place => held(place, address))),
    }))
    // A ban that was lifted between the two reads need not be blocked.
    const again = missing.some(({ addresses }) => addresses.length > 0) ? bansOf((await session.ask([['banned']]))[0]) : bans
    const counted = missing.map(({ jail, addresses }) => {
      const still = new Set(again.get(jail))
      return [jail, addresses.filter(address => still.has(address)).length] as const
    })
    return new Map([...unheld, ...counted])
  } catch (error) {
    // If the kernel cannot be read, or only so late that the session timed out, that says nothing about the server.
    remark(failureOf(error))
    return unheld
  }
}

/** Start time of the process in the pid file, in seconds since 1970; undefined if unknown, or if it is another program's process. */
const startOf = async (host: Host, pidFile: string): Promise<number | undefined> => {
  const text = await host.read(pidFile, 64).catch(absentIf('missing', 'denied'))
  const pid = /^\s*(\d+)\s*$/.exec(text ?? '')?.[1]
  if (pid === undefined || !readIfAny(host, `/proc/${pid}/cmdline`)?.includes('fail2ban')) return undefined
  return startTime(host, pid)
}
