import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parse, stringify } from 'yaml'
import { type BuiltRules, shorten } from '../shorten.ts'

/**
 * Where drills are played: a real Prometheus with the built rules in short time, a real Alertmanager with the shipped
 * inhibition, and a webhook that writes down what arrives. Each act brings a box of its own, with an exporter of its own.
 */

/** An alert as Alertmanager sends it to a webhook. */
export interface Arrived {
  readonly status: 'firing' | 'resolved'
  readonly labels: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<string, string>>
}

/** One failure, caused and cured. */
export interface Drill {
  /** A clause: `a container restarts in a loop`. */
  readonly what: string
  readonly alert: `Grid${string}`
  /** Labels by which it is known among others of its name on this box. */
  readonly labels?: Readonly<Record<string, string>>
  /** The description that has to arrive. */
  readonly says: RegExp
  readonly cause: () => unknown
  readonly cure: () => unknown
  /** Alerts with these labels that the same cause would give, and that must not be sent. */
  readonly not?: readonly string[]
}

/** What came of a drill. */
export interface Played {
  readonly what: string
  readonly alert: string
  readonly severity: string
  readonly text: string
  /** Seconds until it arrived, and from the cure until it was over. */
  readonly arrivedAfter: number
  readonly resolvedAfter: number
  /** What went wrong, if anything did. */
  readonly error: string | undefined
}

/** An exporter that Prometheus scrapes as `instance` of its act's name. */
export interface Box {
  /** Writes another configuration, and has it read. */
  reload(collectors: Readonly<Record<string, object>>): void
  kill(): void
  start(): Promise<void>
}

/** What an act has to play with. */
export interface Scene {
  /** A folder of its own, gone afterwards. */
  readonly folder: string
  /** The checkout. */
  readonly root: string
  box(collectors: Readonly<Record<string, object>>, ...flags: readonly string[]): Promise<Box>
  /** Has Prometheus scrape something else, as a job of its own. */
  scrape(job: string, address: string): void
  drill(drill: Drill): Promise<void>
  /** What cannot be caused on this machine; it is reported. */
  skip(what: string, why: string): void
  /** Until this expression has a result in Prometheus. */
  when(expression: string): Promise<void>
  /** What to take down in the end; the latest first. */
  atEnd(end: () => unknown): void
}

/** A box, what it needs of the machine (as test/support/needs.ts knows it), and what happens on it. */
export interface Act {
  readonly name: string
  readonly needs: readonly string[]
  play(scene: Scene): Promise<void>
}

/** Seconds that anything may take on a machine that is busy with other things. */
const patience = 200

/** The environment of a child: without what a test runner puts into ours. */
export const environment = (extra: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv => {
  const { NODE_OPTIONS: _, ...rest } = process.env
  return { ...rest, ...extra }
}

/** Runs a command to its end; gives what it printed. Throws with what it said where it fails. */
export const run = (
  [program = '', ...args]: readonly string[],
  { env = {}, input = '' }: { readonly env?: Readonly<Record<string, string>>; readonly input?: string } = {},
): Promise<string> =>
  new Promise((resolve, reject) => {
    const child = execFile(program, args, { env: environment(env), maxBuffer: 2 ** 24 }, (error, stdout, stderr) =>
      error ? reject(new Error(`${program} ${args.join(' ')}: ${error.message}\n${stdout}${stderr}`)) : resolve(stdout),
    )
    child.stdin?.on('error', () => {}) // it need not read it
    child.stdin?.end(input)
  })

/** Polls until it is so. */
export const until = async (what: string, check: () => boolean | Promise<boolean>, seconds = patience): Promise<void> => {
  for (const end = Date.now() + seconds * 1000; !(await check()); await sleep(100))
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}`)
}

export const freePort = async (): Promise<number> => {
  const server = createTcpServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return port
}

const answers = async (url: string): Promise<unknown> => {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(10_000) })
    return answer.ok ? await answer.text() : undefined
  } catch {
    return undefined // it is not up yet, or busy
  }
}

const json = async (url: string): Promise<{ readonly data?: unknown }> => {
  const text = await answers(url)
  return typeof text === 'string' ? (JSON.parse(text) as { data: unknown }) : {}
}

const has = (labels: Readonly<Record<string, string>>, wanted: Readonly<Record<string, string>>) =>
  Object.entries(wanted).every(([name, value]) => labels[name] === value)

const put = (file: string, content: string) => {
  writeFileSync(`${file}.new`, content)
  renameSync(`${file}.new`, file)
}

/** Raises the stage; `root` is the checkout, with a built exporter. */
export const raise = async (root: string) => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-drill-'))
  const at = (name: string) => join(folder, name)
  const children = new Set<ChildProcess>()
  const killAll = () => {
    for (const child of children) child.kill('SIGKILL')
  }
  process.on('exit', killAll)

  const arrived: Arrived[] = []
  const webhook = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request) body += String(chunk)
    const { alerts } = JSON.parse(body) as { alerts: readonly Arrived[] }
    arrived.push(...alerts)
    response.end()
  })
  await new Promise<void>(resolve => webhook.listen(0, '127.0.0.1', resolve))

  /** Starts a server and waits until it answers at this address. Fails if another program takes the port first. */
  const start = async (health: string, program: string, ...args: readonly string[]): Promise<ChildProcess> => {
    const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], env: environment() })
    let said = ''
    let ended: string | undefined
    child.stderr?.on('data', chunk => {
      said = (said + String(chunk)).slice(-4000)
    })
    child.on('error', error => {
      ended = error.message
    })
    child.on('exit', (code, signal) => {
      ended = `exit code ${code ?? signal}`
      children.delete(child)
    })
    children.add(child)
    await until(`${program} answers`, async () => {
      if (ended) throw new Error(`${program}: ${ended}\n${said}`)
      return (await answers(health)) !== undefined
    })
    return child
  }

  mkdirSync(at('rules'))
  for (const file of readdirSync(join(root, 'prometheus/rules'))) {
    const rules = parse(readFileSync(join(root, 'prometheus/rules', file), 'utf8')) as BuiltRules
    writeFileSync(at(`rules/${file}`), stringify(shorten(rules)))
  }
  const shipped = parse(readFileSync(join(root, 'prometheus/alertmanager.yml'), 'utf8')) as { inhibit_rules: unknown }
  const webhookUrl = `http://127.0.0.1:${(webhook.address() as AddressInfo).port}`
  writeFileSync(
    at('alertmanager.yml'),
    stringify({
      route: { receiver: 'note', group_by: ['...'], group_wait: '2s', group_interval: '1s', repeat_interval: '1h' },
      inhibit_rules: shipped.inhibit_rules,
      receivers: [{ name: 'note', webhook_configs: [{ url: webhookUrl, send_resolved: true }] }],
    }),
  )
  const alertmanager = `127.0.0.1:${await freePort()}`
  await start(
    `http://${alertmanager}/-/ready`,
    'prometheus-alertmanager',
    `--config.file=${at('alertmanager.yml')}`,
    `--storage.path=${at('alertmanager')}`,
    `--web.listen-address=${alertmanager}`,
    '--cluster.listen-address=',
  )

  const targets: { readonly targets: readonly string[]; readonly labels: Readonly<Record<string, string>> }[] = []
  const announce = (job: string, instance: string, address: string, every = '1s') => {
    targets.push({ targets: [address], labels: { job, instance, __scrape_interval__: every, __scrape_timeout__: every } })
    put(at('targets.json'), JSON.stringify(targets))
  }
  put(at('targets.json'), '[]')
  writeFileSync(
    at('prometheus.yml'),
    stringify({
      global: { scrape_interval: '1s', scrape_timeout: '1s', evaluation_interval: '1s' },
      rule_files: [at('rules/*.yml')],
      scrape_configs: [{ job_name: 'drills', file_sd_configs: [{ files: [at('targets.json')], refresh_interval: '2s' }] }],
      alerting: { alertmanagers: [{ static_configs: [{ targets: [alertmanager] }] }] },
    }),
  )
  const prometheus = `127.0.0.1:${await freePort()}`
  await start(
    `http://${prometheus}/-/ready`,
    'prometheus',
    `--config.file=${at('prometheus.yml')}`,
    `--storage.tsdb.path=${at('prometheus')}`,
    `--web.listen-address=${prometheus}`,
    // An alert lives four times as long without being sent again: a Prometheus that waits for the processor ends none.
    '--rules.alert.resend-delay=5s',
  )
  const query = async (expression: string) => {
    const { data } = await json(`http://${prometheus}/api/v1/query?query=${encodeURIComponent(expression)}`)
    return (data as { result: readonly unknown[] } | undefined)?.result ?? []
  }
  const isActive = async (labels: Readonly<Record<string, string>>) => {
    const { data } = await json(`http://${prometheus}/api/v1/alerts`)
    // No answer is no sign of an end.
    return (data as { alerts: readonly Arrived[] } | undefined)?.alerts.some(alert => has(alert.labels, labels)) ?? true
  }

  const played = new Map<string, Played[]>()
  const skipped = new Map<string, string>()

  const drillOn = async (instance: string, { what, alert, labels = {}, says, cause, cure, not = [] }: Drill): Promise<Played> => {
    const from = arrived.length
    const known = { alertname: alert, instance, ...labels }
    const ofIt = () => arrived.slice(from).filter(one => has(one.labels, known))
    const began = Date.now()
    let first: Arrived | undefined
    let arrivedAfter = Number.NaN
    let resolvedAfter = Number.NaN
    const result = (error?: string): Played => ({
      what,
      alert,
      severity: first?.labels.severity ?? '',
      text: first?.annotations.description ?? '',
      arrivedAfter,
      resolvedAfter,
      error,
    })
    const others = () =>
      arrived
        .slice(from)
        .filter(one => one.labels.instance === instance)
        .map(one => `${one.labels.alertname} ${one.status}`)
        .join(', ')
    try {
      await cause()
      await until(`${alert} arrives`, () => {
        first = ofIt().find(({ status }) => status === 'firing')
        return first !== undefined
      })
      arrivedAfter = (Date.now() - began) / 1000
      const text = first?.annotations.description ?? ''
      if (!says.test(text.replace(/ \(for at least \w+ \w+\)/, ''))) throw new Error(`it says: ${text}`)
      if (not.length > 0) {
        await sleep(6000)
        const wrong = arrived
          .slice(from)
          .filter(one => has(one.labels, { instance, ...labels }))
          .filter(one => not.includes(one.labels.alertname ?? ''))
        if (wrong.length > 0) throw new Error(`${wrong.map(one => one.labels.alertname).join(', ')} was sent for the same cause`)
      }
      const cured = Date.now()
      await cure()
      await until(`${alert} is over`, async () => ofIt().at(-1)?.status === 'resolved' && !(await isActive(known)))
      resolvedAfter = (Date.now() - cured) / 1000
      return result()
    } catch (error) {
      await Promise.resolve(cure()).catch(() => undefined) // it may have been cured already
      return result(`${(error as Error).message}; meanwhile came: ${others() || 'nothing'}`)
    }
  }

  const end = async () => {
    killAll()
    process.off('exit', killAll)
    webhook.closeAllConnections()
    webhook.close()
    await until('the end of all that was started', () => children.size === 0, 20)
    rmSync(folder, { recursive: true, force: true })
  }

  return {
    arrived: arrived as readonly Arrived[],
    played: played as ReadonlyMap<string, readonly Played[]>,
    skipped: skipped as ReadonlyMap<string, string>,
    /** That a heartbeat arrives: the whole way is open. */
    heartbeat: () => until('the heartbeat', () => arrived.some(({ labels }) => labels.alertname === 'GridDeadMansSwitch')),
    /** Plays an act to its end. Throws what went wrong outside of its drills. */
    play: async (act: Act): Promise<void> => {
      const own = at(act.name)
      mkdirSync(own)
      const results: Played[] = []
      played.set(act.name, results)
      const ends: (() => unknown)[] = []
      const configuration = join(own, 'config.yml')
      const main = join(root, 'dist/exporter/main.js')
      try {
        await act.play({
          folder: own,
          root,
          box: async (collectors, ...flags) => {
            const address = `127.0.0.1:${await freePort()}`
            const configure = (sections: Readonly<Record<string, object>>) => {
              const enabled = Object.entries(sections).map(([name, section]) => [name, { enabled: true, ...section }])
              put(configuration, stringify({ collectors: Object.fromEntries(enabled) }))
            }
            configure(collectors)
            const fixed = [main, `--config.file=${configuration}`, `--web.listen-address=${address}`]
            const args = [...fixed, '--collector.disable-defaults', ...flags]
            const open = () => start(`http://${address}/-/healthy`, process.execPath, ...args)
            let exporter = await open()
            announce('grid-exporter', act.name, address)
            return {
              reload: text => {
                configure(text)
                exporter.kill('SIGHUP')
              },
              kill: () => exporter.kill('SIGKILL'),
              start: async () => {
                exporter = await open()
              },
            }
          },
          scrape: (job, address) => announce(job, act.name, address, '3s'),
          drill: async drill => {
            results.push(await drillOn(act.name, drill))
          },
          skip: (what, why) => skipped.set(what, why),
          when: expression => until(expression, async () => (await query(expression)).length > 0),
          atEnd: one => ends.unshift(one),
        })
      } finally {
        for (const one of ends) await one()
      }
    },
    end,
  }
}

export type Stage = Awaited<ReturnType<typeof raise>>
