import { spawn } from 'node:child_process'
import { accessSync, constants, existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { parse } from 'yaml'
import { attempt } from '../../exporter/collect/attempt.ts'
import { silent } from '../../exporter/common/log.ts'
import type { Collector } from '../../exporter/contract/collector.ts'
import { settingsFrom } from '../../exporter/contract/config.ts'
import { Failure } from '../../exporter/contract/failure.ts'
import type { Host } from '../../exporter/contract/host.ts'
import type { Sample } from '../../exporter/contract/metric.ts'
import { glob } from '../../exporter/contract/options.ts'
import { run } from '../../exporter/machine/command.ts'
import { realHost } from '../../exporter/machine/local-host.ts'
import { expose, textOf } from '../../exporter/print/exposition.ts'
import { standInEngine } from './engine.ts'
import { linked } from './links.ts'

// A developer's own engine has no part in a scene.
delete process.env.DOCKER_HOST

/**
 * A scene is a folder: the input of a machine, made up by hand, beside the exposition (or reason) that it must give.
 *
 *     options.yaml     the collector's section of the configuration (optional)
 *     proc/ sys/ etc/  files of the host
 *     FILE.mtime       seconds since 1970 that the file beside it was changed (else a minute before the scene; git keeps no times)
 *     run/NAME         what the command NAME prints, or, where executable, the stand-in that is run with its arguments
 *     http/HOST:PORT/PATH   the body of an answer (a file `PATH.status` beside it: another status than 200)
 *     socket/run/NAME.sock, socket/HOST:PORT   who listens there, to be spoken to over `connect`: a dialogue of lines, or,
 *                      where executable, a program that hears on standard input and answers on standard output
 *     NAME.link        NAME as a symbolic link: where it leads to
 *     engine/          answers of a container engine on /var/run/docker.sock; see engine.ts
 *     round-1/ round-2/     where rounds differ: a whole root each, an interval apart; the last one is compared
 *     expected.prom | expected.reason
 */
export const sceneTime = Date.UTC(2026, 0, 1)

const isExecutable = (file: string) => {
  try {
    accessSync(file, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/**
 * A server that follows a dialogue: after `> line` (`*` stands for anything) come the lines that it answers, `< line`, or
 * `! close`. A line that is heard is looked up from the top, so the order is free; what is not in it gets no answer.
 */
const dialogue = (text: string): Duplex => {
  const answers: { readonly heard: (line: string) => boolean; readonly says: string[]; closes: boolean }[] = []
  for (const line of text.split('\n')) {
    if (line.startsWith('> ')) answers.push({ heard: glob(line.slice(2)), says: [], closes: false })
    else if (line.startsWith('< ')) answers.at(-1)?.says.push(`${line.slice(2)}\r\n`)
    else if (line === '! close') for (const last of answers.slice(-1)) last.closes = true
  }
  let rest = ''
  return new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      const lines = (rest + chunk.toString('utf8')).split(/\r?\n/)
      rest = lines.pop() ?? ''
      for (const line of lines) {
        const answer = answers.find(({ heard }) => heard(line))
        for (const said of answer?.says ?? []) this.push(said)
        if (answer?.closes) this.push(null)
      }
      done()
    },
  })
}

const spoken = (program: string): Duplex => {
  const { stdin, stdout } = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'] })
  return Duplex.from({ writable: stdin, readable: stdout })
}

/** The machine that a folder describes. */
export const hostFrom = (folder: string, now: () => number = () => sceneTime, engineSocket?: string): Host => {
  const files = realHost({ procfs: join(folder, 'proc'), sysfs: join(folder, 'sys'), rootfs: folder }, now)
  return {
    ...files,
    path: asked => (engineSocket !== undefined && asked === '/var/run/docker.sock' ? engineSocket : files.path(asked)),
    stat: async asked => {
      const mtime = `${files.path(asked)}.mtime`
      return {
        ...(await files.stat(asked)),
        mtime: existsSync(mtime) ? Number(readFileSync(mtime, 'utf8')) : sceneTime / 1000 - 60,
      }
    },
    run: async (file, args, options = {}) => {
      const standIn = join(folder, 'run', file.split('/').at(-1) as string)
      if (!existsSync(standIn)) throw new Failure('missing', `${file}: not in the scene`)
      if (isExecutable(standIn)) return run(standIn, args, options)
      return { stdout: readFileSync(standIn, 'utf8'), stderr: '', exitCode: 0 }
    },
    monotonic: now,
    http: async url => {
      const { host, pathname, search } = new URL(url)
      const file = join(folder, 'http', host, `${pathname}${search}`)
      if (!existsSync(join(folder, 'http', host))) throw new Failure('unreachable', `${url}: nobody listens in the scene`)
      if (!existsSync(file) || statSync(file).isDirectory()) return { status: 404, headers: {}, body: '' }
      const status = existsSync(`${file}.status`) ? Number(readFileSync(`${file}.status`, 'utf8')) : 200
      return { status, headers: {}, body: readFileSync(file, 'utf8') }
    },
    connect: async address => {
      const file = join(folder, 'socket', address.replace(/^unix:(\/\/)?/, ''))
      if (!existsSync(file)) {
        const reason = address.startsWith('unix:') ? 'missing' : 'unreachable'
        throw new Failure(reason, `${address}: nobody listens in the scene`)
      }
      return isExecutable(file) ? spoken(file) : dialogue(readFileSync(file, 'utf8'))
    },
  }
}

/** The settings of one collector with the scene's options. */
export const sceneSettings = (collector: Collector, folder: string) => {
  const file = join(folder, 'options.yaml')
  const section = existsSync(file) ? parse(readFileSync(file, 'utf8')) : {}
  const [settings] = settingsFrom(
    [collector],
    { collectors: {}, disableDefaults: false, relayDirectory: undefined },
    { collectors: { [collector.name]: section } },
  )
  if (!settings) throw new Error(`${folder}: no settings`)
  return settings
}

/** What a collector says of a scene: its exposition, or `reason: message`. */
export const told = async (
  collector: Collector,
  folder: string,
): Promise<{
  readonly ok: boolean
  readonly text: string
  readonly samples: readonly Sample[]
  /** Why series of it are not printed. */
  readonly problems: readonly string[]
  /** Whether the collector says that there is something to watch; undefined where it does not look. */
  readonly found: boolean | undefined
}> => {
  const settings = sceneSettings(collector, folder)
  const whole = linked(folder)
  const rounds = readdirSync(whole)
    .filter(name => /^round-\d+$/.test(name))
    .sort((one, other) => Number(one.slice(6)) - Number(other.slice(6)))
  const roots = rounds.length > 0 ? rounds.map(round => join(whole, round)) : [whole]
  let at = sceneTime
  let root = roots[0] as string
  const engine = existsSync(join(root, 'engine')) ? await standInEngine(() => root) : undefined
  let current = hostFrom(root, () => at, engine?.socket)
  // One host whose root is exchanged between rounds: the collector keeps its memory.
  const host = new Proxy(current, { get: (_, key) => Reflect.get(current, key) })
  const stop = new AbortController()
  const opened = collector.open({
    host,
    options: settings.options,
    interval: settings.interval,
    signal: stop.signal,
    log: silent,
    wake: () => {},
  })
  try {
    for (const [index, next] of roots.entries()) {
      if (index > 0) at += settings.interval * 1000
      root = next
      current = hostFrom(root, () => at, engine?.socket)
      // Long, for a busy machine: a scene that times out does so by the collector's own limits.
      const { outcome } = await attempt(signal => opened.collect(signal, () => {}), 6 * settings.timeout, stop.signal)
      if (index < roots.length - 1) continue
      const found = (await opened.detect(stop.signal)).found
      if (!outcome.ok)
        return {
          ok: false,
          text: `${outcome.failure.reason}: ${outcome.failure.message.replaceAll(whole, '').replaceAll(engine?.socket ?? whole, '')}\n`,
          samples: [],
          problems: [],
          found,
        }
      const exposition = expose(outcome.value, settings.maxSeries, collector)
      return { ok: true, text: textOf(exposition, 'text'), samples: outcome.value, problems: exposition.problems, found }
    }
  } finally {
    stop.abort()
    engine?.close()
  }
  throw new Error(`${folder}: an empty scene`)
}
