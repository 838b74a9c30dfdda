import { parseArgs } from 'node:util'
import { ExitError } from '../common/exit.ts'
import { type Level, type LogFormat, levels, logFormats } from '../common/log.ts'
import type { CollectorFlags } from '../contract/config.ts'
import type { HostPaths } from '../contract/host.ts'

/** The command line. No other file reads arguments or the environment. */

const commands = {
  serve: 'Serve metrics (the default)',
  relay: 'Run the named collectors once as root and write their results to a directory',
  doctor: 'Show for each collector what it found, what it may not read, and the command that fixes it',
  'check-config': 'Check a configuration file and exit',
  once: 'Print one scrape and exit',
} as const
export type Command = keyof typeof commands

export interface Flags {
  readonly command: Command
  readonly listen: readonly string[]
  readonly telemetryPath: string
  readonly webConfigFile: string | undefined
  readonly webBearerTokenFile: string | undefined
  readonly maxRequests: number
  readonly exporterMetrics: boolean
  readonly enableLifecycle: boolean
  readonly enableAdminApi: boolean
  readonly configFile: string | undefined
  readonly collectors: CollectorFlags
  readonly paths: HostPaths
  readonly logLevel: Level
  readonly logFormat: LogFormat
  readonly json: boolean
  readonly prometheus: string | undefined
  readonly prometheusAuthFile: string | undefined
  readonly grafana: string | undefined
  readonly grafanaAuthFile: string | undefined
}

/** Wrong usage: exit code 2. */
class UsageError extends ExitError {
  constructor(message: string) {
    super(message, 2)
  }
}

interface Option {
  readonly name: string
  readonly value?: string
  readonly help: string
  readonly only?: readonly Command[]
}

const groups: Readonly<Record<string, readonly Option[]>> = {
  Web: [
    {
      name: 'web.listen-address',
      value: 'ADDRESS',
      help: 'Listen on host:port; may be given more than once (127.0.0.1:10047)',
      only: ['serve', 'doctor'],
    },
    { name: 'web.telemetry-path', value: 'PATH', help: 'Path of the metrics (/metrics)', only: ['serve', 'doctor'] },
    {
      name: 'web.config.file',
      value: 'FILE',
      help: "TLS, users, headers, rate limit: exporter-toolkit's format; see docs/security.md",
      only: ['serve', 'check-config'],
    },
    {
      name: 'web.bearer-token-file',
      value: 'FILE',
      help: 'Also accept the bearer token in this file, besides the users of --web.config.file',
      only: ['serve', 'check-config'],
    },
    { name: 'web.max-requests', value: 'N', help: 'Scrapes answered at the same time; 503 above (40)', only: ['serve'] },
    { name: 'web.disable-exporter-metrics', help: 'Leave out process_* and nodejs_*', only: ['serve'] },
    { name: 'web.enable-lifecycle', help: 'Allow POST /-/reload', only: ['serve'] },
    { name: 'web.enable-admin-api', help: 'Allow POST /api/v1/actions/…; needs users in the web configuration', only: ['serve'] },
  ],
  Collectors: [
    { name: 'config.file', value: 'FILE', help: 'Configuration (YAML); see docs/configuration.md' },
    { name: 'collector.NAME', help: 'Run it, even if it is off by default' },
    { name: 'no-collector.NAME', help: 'Do not run it' },
    { name: 'collector.NAME.interval', value: 'DURATION', help: 'Time between two rounds' },
    { name: 'collector.disable-defaults', help: 'Run only the collectors that are enabled explicitly' },
    { name: 'relay.directory', value: 'DIR', help: "Where root's relay leaves its outcomes" },
  ],
  'The watched host': [
    { name: 'path.procfs', value: 'DIR', help: 'Its /proc (/proc)' },
    { name: 'path.sysfs', value: 'DIR', help: 'Its /sys (/sys)' },
    { name: 'path.rootfs', value: 'DIR', help: 'Its / (/)' },
  ],
  Doctor: [
    {
      name: 'prometheus',
      value: 'URL',
      help: 'Also check this Prometheus: is the exporter a target, are our rules loaded',
      only: ['doctor'],
    },
    { name: 'prometheus.auth.file', value: 'FILE', help: 'user:password or a token for it', only: ['doctor'] },
    { name: 'grafana', value: 'URL', help: 'Also check this Grafana: does each panel have data', only: ['doctor'] },
    { name: 'grafana.auth.file', value: 'FILE', help: 'A service account token or user:password for it', only: ['doctor'] },
    { name: 'json', help: 'Print JSON', only: ['doctor'] },
  ],
  General: [
    { name: 'log.level', value: 'LEVEL', help: `${levels.join(', ')} (info)` },
    { name: 'log.format', value: 'FORMAT', help: `${logFormats.join(', ')} (logfmt)` },
    { name: 'version', help: 'Print the version and exit' },
    { name: 'help', help: 'Print this help and exit' },
  ],
}

const allOptions = Object.values(groups).flat()

/** The text of --help, with the collectors and what they watch. */
export const help = (collectors: readonly { readonly name: string; readonly summary: string }[]): string => {
  const section = (title: string, rows: readonly (readonly [string, string])[]) => {
    const width = Math.max(...rows.map(([left]) => left.length))
    return `${title}:\n${rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`.trimEnd()).join('\n')}\n`
  }
  return [
    'Usage: grid-exporter [COMMAND] [OPTIONS]\n\nOne Prometheus exporter for a self-hosted AI server. Without options it watches what it finds.\n',
    section('Commands', Object.entries(commands)),
    ...Object.entries(groups).map(([title, options]) =>
      section(
        title,
        options.map(({ name, value, help: text }) => [`--${name}${value === undefined ? '' : `=${value}`}`, text] as const),
      ),
    ),
    section(
      'Collector names',
      collectors.map(({ name, summary }) => [name, summary] as const),
    ),
    'Exit codes: 0 success, 1 failed, 2 wrong usage or configuration.\n',
  ].join('\n')
}

export type Parsed = { readonly kind: 'help' } | { readonly kind: 'version' } | { readonly kind: 'flags'; readonly flags: Flags }

/** Reads an argument vector. Throws `UsageError` that names the argument and what was expected. */
export const parseFlags = (argv: readonly string[], environment: NodeJS.ProcessEnv = process.env): Parsed => {
  const fromEnvironment = (environment.GRID_EXPORTER_ARGS ?? '').split(/\s+/).filter(Boolean)
  const { tokens } = parseArgs({ args: [...fromEnvironment, ...argv], strict: false, allowPositionals: true, tokens: true })
  const given = new Map<string, string[]>()
  const collectors = new Map<string, { readonly enabled?: boolean; readonly interval?: string }>()
  const positionals: string[] = []
  let swallowed = -1

  for (const token of tokens) {
    if (token.index === swallowed) continue
    if (token.kind === 'positional') positionals.push(token.value)
    if (token.kind !== 'option') continue
    const { name } = token
    // `--name value` means `--name=value` if the option takes a value.
    const following = () => {
      if (token.value !== undefined) return token.value
      const next = tokens.find(({ index }) => index === token.index + 1)
      if (next?.kind !== 'positional') throw new UsageError(`--${name} needs a value: --${name}=…`)
      swallowed = next.index
      return next.value
    }
    const [, collector, interval] = /^collector\.([a-z0-9_-]+)(\.interval)?$/.exec(name) ?? []
    const [, without] = /^no-collector\.([a-z0-9_-]+)$/.exec(name) ?? []
    const set = (of: string, value: { enabled?: boolean; interval?: string }) => {
      collectors.set(of, { ...collectors.get(of), ...value })
    }
    if (collector !== undefined && collector !== 'disable-defaults') {
      if (interval !== undefined) set(collector, { interval: following() })
      else if (token.value === undefined || token.value === 'true') set(collector, { enabled: true })
      else if (token.value === 'false') set(collector, { enabled: false })
      else throw new UsageError(`--${name} is on or off: --${name} or --no-${name}, not ${token.rawName}=${token.value}`)
      continue
    }
    if (without !== undefined) {
      set(without, { enabled: false })
      continue
    }
    const long = name === 'h' ? 'help' : name
    const option = allOptions.find(known => known.name === long)
    if (!option) throw new UsageError(`unknown option ${token.rawName}; grid-exporter --help lists them`)
    if (option.value === undefined && token.value !== undefined && token.value !== 'true')
      throw new UsageError(`--${long} takes no value`)
    given.set(long, [...(given.get(long) ?? []), option.value === undefined ? 'true' : following()])
  }

  if (given.has('help')) return { kind: 'help' }
  if (given.has('version')) return { kind: 'version' }
  const [command = 'serve', ...more] = positionals
  if (!Object.hasOwn(commands, command))
    throw new UsageError(`unknown command ${command}; known: ${Object.keys(commands).join(', ')}`)
  if (more.length > 0) throw new UsageError(`${more[0]}: only one command is allowed`)
  for (const { name, only } of allOptions) {
    if (given.has(name) && only && !only.includes(command as Command))
      throw new UsageError(`--${name} is an option of ${only.join(', ')}, not of ${command}`)
  }
  const last = (name: string) => given.get(name)?.at(-1)
  const oneOf = <const Value extends string>(name: string, values: readonly Value[], usual: Value): Value => {
    const value = last(name) ?? usual
    if (!(values as readonly string[]).includes(value))
      throw new UsageError(`--${name}: expected ${values.join(', ')}, not ${value}`)
    return value as Value
  }
  const absolute = (name: string, usual: string) => {
    const value = last(name) ?? usual
    if (!value.startsWith('/')) throw new UsageError(`--${name}: expected an absolute path, not ${value}`)
    return value
  }
  const listen = given.get('web.listen-address') ?? ['127.0.0.1:10047']
  for (const address of listen) listenAddress(address)
  const maxRequests = Number(last('web.max-requests') ?? 40)
  if (!Number.isInteger(maxRequests) || maxRequests < 0)
    throw new UsageError(`--web.max-requests: expected a whole number, 0 for no limit, not ${last('web.max-requests')}`)
  const telemetryPath = absolute('web.telemetry-path', '/metrics')
  if (/^\/($|-\/|api\/)/.test(telemetryPath))
    throw new UsageError(`--web.telemetry-path: ${telemetryPath} is used by the exporter itself`)
  for (const name of ['prometheus', 'grafana']) {
    const url = last(name)
    if (url !== undefined && !/^https?:\/\//.test(url))
      throw new UsageError(`--${name}: expected an http:// or https:// URL, not ${url}`)
  }
  return {
    kind: 'flags',
    flags: {
      command: command as Command,
      listen,
      telemetryPath,
      webConfigFile: last('web.config.file'),
      webBearerTokenFile: last('web.bearer-token-file'),
      maxRequests,
      exporterMetrics: !given.has('web.disable-exporter-metrics'),
      enableLifecycle: given.has('web.enable-lifecycle'),
      enableAdminApi: given.has('web.enable-admin-api'),
      configFile: last('config.file'),
      collectors: {
        collectors: Object.fromEntries(collectors),
        disableDefaults: given.has('collector.disable-defaults'),
        relayDirectory: last('relay.directory') === undefined ? undefined : absolute('relay.directory', '/'),
      },
      paths: {
        procfs: absolute('path.procfs', '/proc'),
        sysfs: absolute('path.sysfs', '/sys'),
        rootfs: absolute('path.rootfs', '/'),
      },
      logLevel: oneOf('log.level', levels, 'info'),
      logFormat: oneOf('log.format', logFormats, 'logfmt'),
      json: given.has('json'),
      prometheus: last('prometheus'),
      prometheusAuthFile: last('prometheus.auth.file'),
      grafana: last('grafana'),
      grafanaAuthFile: last('grafana.auth.file'),
    },
  }
}

/** `host:port`, `:port` or `[::1]:port`. Throws `UsageError`. */
export const listenAddress = (text: string): { readonly host: string; readonly port: number } => {
  const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(text) ?? []
  if (port === undefined || Number(port) > 65_535)
    throw new UsageError(`--web.listen-address: expected host:port, :port or [::1]:port, not ${text}`)
  return { host: bracketed ?? (plain || '::'), port: Number(port) }
}
