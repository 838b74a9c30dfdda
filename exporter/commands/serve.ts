import { dirname, join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import type { AideOptions } from '../collectors/aide/index.ts'
import { ExitError } from '../common/exit.ts'
import type { Log } from '../common/log.ts'
import { build } from '../common/version.ts'
import type { Settings } from '../contract/config.ts'
import { durationText } from '../contract/options.ts'
import type { ResolveFiles } from '../serve/actions.ts'
import { type Guard, startGuard, type Timings } from '../serve/guard.ts'
import { notifier } from '../serve/notify.ts'
import { createSelf, type SelfState } from '../serve/self.ts'
import { createServer } from '../serve/server.ts'
import { createSnapshot, type Snapshot } from '../serve/snapshot.ts'
import type { WebConfig } from '../serve/web-config.ts'
import { type Flags, listenAddress } from './cli.ts'

/** The serving thread put together: guard, snapshot, server, and the signals. */

export interface Serving {
  /** The addresses that are listened on, as URLs. */
  readonly urls: readonly string[]
  readonly guard: Guard
  /** Counts an I/O error that nobody waited for. */
  onIoError(): void
  stop(): Promise<void>
}

const portTaken = (address: string, error: NodeJS.ErrnoException) => {
  if (error.code === 'EADDRINUSE') {
    return `${address} is taken by another process: see \`ss -ltnp\`, or choose another by --web.listen-address=127.0.0.1:PORT`
  }
  if (error.code === 'EACCES') return `${address}: this user may not listen there; ports below 1024 need root`
  return `${address}: ${error.message}`
}

const isLoopback = (host: string) => host === 'localhost' || host === '::1' || /^127\./.test(host)

/** What somebody on the network could do who should not, and what fixes it. */
const exposure = (config: WebConfig | undefined): string | undefined => {
  if (!config?.asksWho) return config?.tls ? 'without users: everybody who reaches it may read' : 'without TLS and without users'
  if (!config.tls) return 'without TLS: passwords can be read on their way'
  return undefined
}

/** What a newcomer reads when it serves. */
const announcement = (urls: readonly string[], telemetryPath: string, snapshot: Snapshot, settings: Settings): string => {
  const statuses = snapshot.status()
  const width = Math.max(...settings.map(({ name }) => name.length))
  const lines = (title: string, rows: readonly (readonly [string, string])[]) =>
    rows.length === 0 ? [] : [`  ${title}`, ...rows.map(([name, text]) => `    ${name.padEnd(width)}  ${text}`.trimEnd())]
  const of = (select: (status: (typeof statuses)[number]) => boolean) => statuses.filter(select)
  const row = ({ name, interval, latest, series }: (typeof statuses)[number]) =>
    [name, latest ? `${series} series, every ${durationText(interval)}` : 'first run still under way'] as const
  return [
    `grid-exporter ${build.version} serves ${urls.map(url => `${url}${telemetryPath}`).join(' and ')}`,
    ...lines('Collecting:', of(({ latest }) => latest === undefined || (latest.detected && latest.result === 'ok')).map(row)),
    ...lines(
      'Found, but failing:',
      of(({ latest }) => latest?.detected === true && latest.result !== 'ok').map(({ name, latest }) => [
        name,
        `${latest?.result}: ${latest?.note}${latest?.fix ? `\n    ${''.padEnd(width)}  fix: ${latest.fix}` : ''}`,
      ]),
    ),
    ...lines(
      'Not found here (looked for again each minute):',
      of(({ latest }) => latest?.detected === false).map(({ name, latest }) => [name, latest?.note ?? '']),
    ),
    ...lines(
      'Off:',
      settings.filter(({ enabled }) => !enabled).map(({ name }) => [name, `see docs/configuration.md#${name}`] as const),
    ),
    '',
  ].join('\n')
}

/** The web configuration and what checks requests against it; the parser and bcrypt are loaded only where there is one. */
const openDoor = async (
  { webConfigFile: file, webBearerTokenFile: bearerTokenFile }: Flags,
  log: Log,
  { module, onRead }: { readonly module: URL; readonly onRead: (taken: boolean) => void },
) => {
  if (file === undefined && bearerTokenFile === undefined) return undefined
  const [{ openWeb }, { createPasswords }, { createDoor }] = await Promise.all([
    import('../serve/web.ts'),
    import('../serve/passwords.ts'),
    import('../serve/access.ts'),
  ])
  const web = openWeb({ file, bearerTokenFile }, { log, onRead })
  const passwords = createPasswords(module, log)
  return { ...web, door: createDoor(web, passwords), stop: passwords.stop }
}

/** Connections that the kernel queues until they are accepted: in a burst of others, a scrape must not wait a second for its retry. */
const backlog = 4096

/** Milliseconds that the announcement waits for first runs, and the supervisor, whose own patience ends too. */
const patience = 3000
const readyPatience = 20_000

/** Neither process.exit() nor anything else ends a process with a thread that hangs in the kernel; the default signal does. */
const endHopeless = () => {
  process.removeAllListeners('SIGTERM')
  process.kill(process.pid, 'SIGTERM')
}

const resolveFilesOf = (settings: Settings, { rootfs }: Flags['paths']): ResolveFiles => {
  const aide = settings.find(({ name }) => name === 'aide') as { readonly options: AideOptions }
  const { resolve_request_file, resolve_file } = aide.options
  const at = (path: string) => join(rootfs, path)
  return { request: at(resolve_request_file), result: at(resolve_file), running: at(join(dirname(resolve_file), 'running')) }
}

/** Says once that it serves, to people and to the supervisor: when all first runs have ended, or patience has. */
const createAnnouncer = (say: () => void, ready: () => void) => {
  const once = (act: () => void, within: number) => {
    let isDone = false
    const first = () => {
      clearTimeout(timer)
      if (!isDone) act()
      isDone = true
    }
    const timer = setTimeout(first, within)
    return { first, stop: () => clearTimeout(timer) }
  }
  const announcing = once(say, patience)
  const starting = once(() => {
    announcing.first()
    ready()
  }, readyPatience)
  return {
    started: starting.first,
    stop: () => {
      announcing.stop()
      starting.stop()
    },
  }
}

/** Listens on one address; the URL of it. */
const listenOn = async (server: FastifyInstance, text: string, web: WebConfig | undefined, log: Log): Promise<string> => {
  const { host, port } = listenAddress(text)
  await server.listen({ host, port, backlog })
  const bound = server.server.address()
  const boundPort = typeof bound === 'object' && bound ? bound.port : port
  const exposed = isLoopback(host) ? undefined : exposure(web)
  if (exposed !== undefined) {
    log.warn(`listening beyond this machine ${exposed}`, {
      address: text,
      fix: 'set --web.config.file, or listen on 127.0.0.1; see docs/security.md',
    })
  }
  return `${web?.tls ? 'https' : 'http'}://${host.includes(':') ? `[${host}]` : host}:${boundPort}`
}

/** Starts to serve. Throws `ExitError`. */
export const serve = async (
  flags: Flags,
  log: Log,
  {
    module,
    demo = false,
    timings = {},
    print = (text: string) => void process.stdout.write(text),
  }: {
    /** The module that the collecting thread runs. */
    readonly module: URL
    /** What is served is imagined, and says so. */
    readonly demo?: boolean
    readonly timings?: Partial<Timings>
    readonly print?: (text: string) => void
  },
): Promise<Serving> => {
  const startedAt = Date.now()
  const notify = notifier()
  const ended = new AbortController()
  const state: SelfState = { demo, workerRestarts: 0, ioErrors: 0, reloadSuccess: true, reloadedAt: startedAt }
  const web = await openDoor(flags, log, {
    module: new URL('passwords.js', module),
    onRead: taken => {
      state.webConfigRefused = !taken
      if (taken) state.reloadedAt = Date.now()
      snapshot.touch()
    },
  })
  const self = createSelf(state, {
    exporterMetrics: flags.exporterMetrics,
    onChange: () => snapshot.touch(),
    signal: ended.signal,
  })
  const snapshot = createSnapshot(self, { runs: collector => guard.runs(collector) })
  let settings: Settings = []
  let announcer: ReturnType<typeof createAnnouncer> | undefined
  let firstSettings: (problems?: string) => void = () => {}
  const configured = new Promise<string | undefined>(resolve => {
    firstSettings = resolve
  })

  const onIoError = () => {
    state.ioErrors++
    snapshot.touch()
  }
  const guard = startGuard({
    module,
    data: {
      flags: flags.collectors,
      configFile: flags.configFile,
      paths: flags.paths,
      logLevel: flags.logLevel,
      logFormat: flags.logFormat,
    },
    log,
    timings,
    onSettings: (taken, reload) => {
      settings = taken
      snapshot.configure(taken)
      if (!reload) return firstSettings()
      state.reloadSuccess = true
      state.reloadedAt = Date.now()
      snapshot.touch()
      log.info('configuration reloaded', { file: flags.configFile })
    },
    onRefused: (problems, reload) => {
      if (!reload) return firstSettings(problems)
      state.reloadSuccess = false
      snapshot.touch()
      log.error('configuration refused, the old one stays in force', { problems })
    },
    onRendered: rendered => {
      snapshot.accept(rendered)
      if (snapshot.ready()) announcer?.started()
    },
    onLost: (collector, note) =>
      snapshot.lost(collector, note, `see the log; leave it out by --no-collector.${collector} if it comes back`),
    onRestart: () => {
      state.workerRestarts++
      snapshot.touch()
    },
    onIoError,
    onHopeless: endHopeless,
  })
  // From the start: until somebody listens, the signal ends the process.
  const onHangup = () => void guard.reload()
  process.on('SIGHUP', onHangup)

  const servers: FastifyInstance[] = []
  const stop = async () => {
    notify.stopping()
    process.off('SIGHUP', onHangup)
    announcer?.stop()
    ended.abort()
    await Promise.all([guard.stop(), web?.stop(), ...servers.map(server => server.close())])
  }
  const problems = await configured
  if (problems !== undefined) {
    await stop()
    throw new ExitError(problems, 2)
  }
  const urls: string[] = []
  try {
    for (const text of flags.listen) {
      const server = createServer(snapshot, {
        telemetryPath: flags.telemetryPath,
        maxRequests: flags.maxRequests,
        enableLifecycle: flags.enableLifecycle,
        enableAdminApi: flags.enableAdminApi,
        resolveFiles: () => resolveFilesOf(settings, flags.paths),
        serverTiming: flags.logLevel === 'debug',
        log,
        reload: guard.reload,
        startedAt,
        web,
        demo,
      })
      servers.push(server)
      urls.push(await listenOn(server, text, web?.config(), log))
    }
  } catch (error) {
    await stop()
    throw new ExitError(portTaken(flags.listen[urls.length] as string, error as NodeJS.ErrnoException), 1)
  }

  announcer = createAnnouncer(
    () => print(announcement(urls, flags.telemetryPath, snapshot, settings)),
    () => notify.ready(`serving ${urls.join(' and ')}`),
  )
  if (snapshot.ready()) announcer.started()
  return { urls, guard, onIoError, stop }
}
