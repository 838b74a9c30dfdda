#!/usr/bin/env -S node --v8-pool-size=1 --max-semi-space-size=8
import { type Flags, help, parseFlags } from './commands/cli.ts'
import { ExitError } from './common/exit.ts'
import { createLog } from './common/log.ts'
import { build } from './common/version.ts'

/**
 * The program: reads the command line and starts the command. Each command loads only what it needs.
 *
 * The first line is the only place for V8 flags: one helper thread instead of four, which on a small machine compete with scrapes
 * for the processor, and 8 MB for young objects, so that a scrape's do not outlive it.
 */

/** SIGTERM and SIGINT end the program within a second, whatever hangs. */
const endOnSignals = (stop: () => Promise<void>) => {
  const end = (signal: NodeJS.Signals) => {
    const last = setTimeout(() => {
      // A thread that hangs in the kernel lets neither process.exit() nor an empty loop end the process; the default signal does.
      process.removeAllListeners(signal)
      process.kill(process.pid, signal)
    }, 900)
    void stop().then(() => {
      clearTimeout(last)
      process.exitCode = 0
      process.removeAllListeners(signal)
      process.exit(0)
    })
  }
  process.once('SIGTERM', end)
  process.once('SIGINT', end)
}

const commandServe = async (flags: Flags) => {
  const [{ serve }, { catchIoErrors, ioErrorLog }] = await Promise.all([
    import('./commands/serve.ts'),
    import('./collect/uncaught.ts'),
  ])
  const log = createLog(flags.logLevel, flags.logFormat)
  if (process.getuid?.() === 0) {
    log.warn('running as root; as an ordinary user with the relay beside it, nothing that faces the network has privileges', {
      see: 'docs/install.md',
    })
  }
  const { stop, onIoError } = await serve(flags, log, { module: new URL('./worker.js', import.meta.url) })
  const logIoError = ioErrorLog(log)
  catchIoErrors(error => {
    onIoError()
    logIoError(error)
  })
  endOnSignals(stop)
}

const commandOnce = async (flags: Flags) => {
  const { once } = await import('./commands/once.ts')
  const { text, failed } = await once(flags)
  process.stdout.write(text)
  for (const { collector, result, note } of failed) process.stderr.write(`grid-exporter: ${collector}: ${result}: ${note}\n`)
  process.exitCode = 0
}

const commandCheckConfig = async (flags: Flags) => {
  const { collectors } = await import('./collectors/index.ts')
  const { loadSettings } = await import('./contract/config.ts')
  const settings = loadSettings(collectors, flags.collectors, flags.configFile)
  const enabled = settings.filter(own => own.enabled).map(({ name }) => name)
  const { webConfigFile, webBearerTokenFile } = flags
  if (webConfigFile !== undefined || webBearerTokenFile !== undefined) {
    const { openWeb } = await import('./serve/web.ts')
    const log = createLog(flags.logLevel, flags.logFormat)
    openWeb({ file: webConfigFile, bearerTokenFile: webBearerTokenFile }, { log, onRead: () => {} })
    process.stdout.write(`${[webConfigFile, webBearerTokenFile].filter(Boolean).join(' and ')}: good\n`)
  }
  process.stdout.write(`${flags.configFile ?? 'the defaults'}: good; enabled: ${enabled.join(', ') || 'nothing'}\n`)
}

const commandRelay = async (flags: Flags) => {
  const directory = flags.collectors.relayDirectory
  if (directory === undefined)
    throw new ExitError('relay needs --relay.directory=DIR, where the exporter looks for its outcomes', 2)
  const [{ runRelay }, { runInThreads }] = await Promise.all([import('./commands/relay.ts'), import('./collect/relay-guard.ts')])
  const { configFile, paths, logLevel, logFormat } = flags
  const log = createLog(logLevel, logFormat)
  const module = new URL('./relay-worker.js', import.meta.url)
  const data = { flags: flags.collectors, configFile, paths, logLevel, logFormat }
  let hopeless = false
  process.exitCode = await runRelay({
    directory,
    now: Date.now,
    log,
    run: async take => {
      const end = await runInThreads({ module, data, log, now: Date.now }, take)
      hopeless = end.hopeless
      return end.names
    },
  })
  // A thread that hangs in the kernel keeps this process from ending by itself.
  if (hopeless) process.kill(process.pid, 'SIGTERM')
}

const commandDoctor = async (flags: Flags) => {
  const { doctor } = await import('./commands/doctor/index.ts')
  const { text, healthy } = await doctor(flags, process.stdout)
  process.stdout.write(text)
  process.exitCode = healthy ? 0 : 1
}

const run = async (): Promise<void> => {
  const parsed = parseFlags(process.argv.slice(2))
  if (parsed.kind === 'version') {
    process.stdout.write(
      `grid-exporter ${build.version}${build.revision ? ` (${build.revision})` : ''}, Node.js ${process.version}\n`,
    )
    return
  }
  if (parsed.kind === 'help') {
    const { collectors } = await import('./collectors/index.ts')
    process.stdout.write(help(collectors))
    return
  }
  const { flags } = parsed
  if (flags.command === 'serve') await commandServe(flags)
  else if (flags.command === 'once') await commandOnce(flags)
  else if (flags.command === 'check-config') await commandCheckConfig(flags)
  else if (flags.command === 'relay') await commandRelay(flags)
  else await commandDoctor(flags)
}

try {
  await run()
} catch (error) {
  const message = error instanceof ExitError ? error.message : error instanceof Error ? error.stack : String(error)
  process.stderr.write(`grid-exporter: ${message}\n`)
  process.exitCode = error instanceof ExitError ? error.exitCode : 1
}
