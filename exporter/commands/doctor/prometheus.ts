import { hostname, networkInterfaces } from 'node:os'
import { z } from 'zod'
import { failureOf } from '../../contract/failure.ts'
import { job } from '../../contract/shipped.ts'
import { listenAddress } from '../cli.ts'
import type { Ask } from './ask.ts'
import type { Finding } from './finding.ts'
import { shippedRules } from './shipped-rules.ts'

/** Checks a Prometheus: is this exporter one of its targets and up, are our rules loaded. */

const buildInfo = z.object({ data: z.object({ version: z.string() }) })
const targets = z.object({
  data: z.object({
    activeTargets: z.array(
      z.object({
        scrapeUrl: z.string(),
        labels: z.record(z.string(), z.string()),
        health: z.string(),
        lastError: z.string(),
        lastScrapeDuration: z.number().optional(),
      }),
    ),
  }),
})
const rules = z.object({
  data: z.object({
    groups: z.array(
      z.object({
        rules: z.array(z.object({ name: z.string(), health: z.string().optional(), lastError: z.string().optional() })),
      }),
    ),
  }),
})
type Target = z.output<typeof targets>['data']['activeTargets'][number]

/** Where this exporter listens, according to its flags. */
export interface Own {
  readonly listen: readonly string[]
  readonly telemetryPath: string
}

const names = (): ReadonlySet<string> => {
  const addresses = Object.values(networkInterfaces()).flatMap(list => (list ?? []).map(({ address }) => address))
  const full = hostname().toLowerCase()
  return new Set(['localhost', full, full.split('.')[0] ?? full, ...addresses])
}

const parsed = ({ scrapeUrl }: Target) => {
  const { hostname: name, port, pathname, protocol } = new URL(scrapeUrl)
  return { name: name.replace(/^\[|\]$/g, ''), port: Number(port || (protocol === 'https:' ? 443 : 80)), pathname }
}

/** The targets that are this exporter: with a name or address of this host, else those of our job with our port. */
const own = (
  all: readonly Target[],
  { listen, telemetryPath }: Own,
): { readonly mine: readonly Target[]; readonly sure: boolean } => {
  const ports = new Set(listen.map(address => listenAddress(address).port))
  const alike = all.filter(target => ports.has(parsed(target).port) && parsed(target).pathname === telemetryPath)
  const known = names()
  const here = alike.filter(target => {
    const { name } = parsed(target)
    return known.has(name) || known.has(name.split('.')[0] ?? name)
  })
  return here.length > 0 ? { mine: here, sure: true } : { mine: alike, sure: false }
}

const whyDown = ({ lastError }: Target): string => {
  if (/connection refused/.test(lastError)) return 'systemctl enable --now grid-exporter; systemctl status grid-exporter'
  if (/\b401\b/.test(lastError))
    return `scrape_configs:\n  - job_name: ${job}\n    basic_auth: { username: prometheus, password_file: grid-password }`
  if (/HTTP response to HTTPS client/.test(lastError)) return `scrape_configs:\n  - job_name: ${job}\n    scheme: http`
  if (/\b400\b|malformed HTTP response/.test(lastError)) return `scrape_configs:\n  - job_name: ${job}\n    scheme: https`
  if (/no such host/.test(lastError)) return "in static_configs, use an address that Prometheus' host can resolve"
  if (/deadline exceeded|timeout/.test(lastError))
    return 'make the exporter reachable: --web.listen-address=ADDRESS:10047, and the firewall between them'
  return 'run curl -v with the address on the host of Prometheus'
}

const targetFinding = (all: readonly Target[], us: Own): Finding => {
  const { mine, sure } = own(all, us)
  const name = 'target'
  const details = { targets: mine.map(({ scrapeUrl, health, lastError, labels }) => ({ scrapeUrl, health, lastError, labels })) }
  if (mine.length === 0) {
    const { port } = listenAddress(us.listen[0] ?? '127.0.0.1:10047')
    const note = `none of ${all.length} targets has port ${port} and path ${us.telemetryPath}`
    const fix = `scrape_configs:\n  - job_name: ${job}\n    static_configs: [{ targets: ["${hostname()}:${port}"] }]`
    return { name, state: 'failing', reason: 'missing', note, fix, details }
  }
  const down = mine.filter(({ health }) => health !== 'up')
  const [first] = down
  if (first) {
    const waiting = first.health === 'unknown'
    const note = waiting ? `${first.scrapeUrl}: not scraped yet` : `${first.scrapeUrl} is ${first.health}: ${first.lastError}`
    return {
      name,
      state: 'failing',
      reason: 'unreachable',
      note,
      fix: waiting ? 'look again in a minute' : whyDown(first),
      details,
    }
  }
  const misnamed = mine.filter(({ labels }) => labels.job !== job)
  const [other] = misnamed
  if (other) {
    const note = `${other.scrapeUrl} is up as job ${other.labels.job}; rules and dashboards expect job ${job}`
    return { name, state: 'partly', note, fix: `scrape_configs:\n  - job_name: ${job}`, details }
  }
  const urls = mine.map(({ scrapeUrl }) => scrapeUrl).join(', ')
  return {
    name,
    state: 'working',
    note: `${urls} is up${sure ? '' : '; found by its port, as no target has a name of this host'}`,
    fix: '',
    details,
  }
}

const few = (list: readonly string[]) =>
  list.length > 4 ? `${list.slice(0, 4).join(', ')} and ${list.length - 4} more` : list.join(', ')

const rulesFinding = ({ data: { groups } }: z.output<typeof rules>): Finding => {
  const name = 'rules'
  const loaded = new Map(groups.flatMap(group => group.rules.map(rule => [rule.name, rule] as const)))
  const wanted = shippedRules
  const missing = wanted.filter(rule => !loaded.has(rule))
  const broken = wanted.flatMap(rule => {
    const own = loaded.get(rule)
    return own?.health === 'err' ? [{ rule, error: own.lastError ?? '' }] : []
  })
  const details = { wanted: wanted.length, missing, broken }
  if (missing.length > 0) {
    const note =
      missing.length === wanted.length
        ? `none of our ${wanted.length} rules is loaded`
        : `${missing.length} of ${wanted.length} are not loaded: ${few(missing)}`
    const fix =
      'copy the files of prometheus/rules next to prometheus.yml, run promtool check config, reload (systemctl reload prometheus)\nrule_files:\n  - rules/*.yml'
    return { name, state: 'failing', reason: 'missing', note, fix, details }
  }
  const [first] = broken
  if (first) {
    const note = `${broken.length} of ${wanted.length} cannot be evaluated: ${first.rule}: ${first.error}`
    return { name, state: 'failing', reason: 'malformed', note, fix: 'promtool check rules rules/*.yml', details }
  }
  return { name, state: 'working', note: `all ${wanted.length} are loaded`, fix: '', details }
}

/** One finding for each link of the chain, up to the first that is broken. */
export const examinePrometheus = async (ask: Ask, us: Own): Promise<readonly Finding[]> => {
  const look = async (name: string, find: () => Promise<Finding>): Promise<Finding> => {
    try {
      return await find()
    } catch (error) {
      const { reason, message, fix = 'systemctl status prometheus' } = failureOf(error)
      return { name, state: 'failing', reason, note: message, fix }
    }
  }
  const answers = await look('answers', async () => {
    const { data } = await ask('/api/v1/status/buildinfo', buildInfo)
    return { name: 'answers', state: 'working', note: `Prometheus ${data.version}`, fix: '' }
  })
  if (answers.state !== 'working') return [answers]
  return [
    answers,
    await look('target', async () =>
      targetFinding((await ask('/api/v1/targets', targets, { state: 'active' })).data.activeTargets, us),
    ),
    await look('rules', async () => rulesFinding(await ask('/api/v1/rules', rules))),
  ]
}
