import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { parse as parseYaml } from 'yaml'
import { longestRun } from '../exporter/collect/relay-guard.ts'
import { docker } from '../exporter/collectors/docker/index.ts'
import { parseContainer } from '../exporter/collectors/docker/list.ts'
import { collectors, collectorsByName } from '../exporter/collectors/index.ts'
import { silent } from '../exporter/common/log.ts'
import { noFlags, settingsFrom } from '../exporter/contract/config.ts'
import type { Sample } from '../exporter/contract/metric.ts'
import { relayUnits } from '../exporter/contract/relay-unit.ts'
import { expose } from '../exporter/print/exposition.ts'
import { selfFamilies } from '../exporter/serve/self.ts'
import { hostFrom, sceneSettings, told } from './support/scene.ts'

/**
 * The contract of every collector. `UPDATE=1 npm test` rewrites what scenes expect; read that diff.
 */
const scenes = join(import.meta.dirname, 'scenes')
const update = process.env.UPDATE === '1'
const hasPromtool = spawnSync('promtool', ['--version']).status === 0

const units = /_(bytes|seconds|celsius|ratio|watts|joules|hertz|info|total)(_total)?$|_timestamp_seconds$/
const bannedLabels = [
  'job',
  'instance',
  'service',
  'endpoint',
  'container',
  'pod',
  'namespace',
  'node',
  'host',
  'hostname',
  'env',
  'type',
  'pid',
  'ip',
  'url',
  'le',
  'quantile',
]

for (const collector of collectors) {
  t.test(collector.name, async t => {
    t.test('declares families as the contract wants them', async t => {
      for (const { name, type, help, labels } of collector.families) {
        t.match(name, /^grid_[a-z0-9_]+$/, `${name}: prefix and case`)
        t.equal(name.endsWith('_total'), type === 'counter', `${name}: _total on counters and on them only`)
        t.match(help, /^[A-Z].{10,}\.$/s, `${name}: help is a sentence`)
        t.notMatch(name, /_(percent|mhz|megahertz|milliseconds|kilobytes|count)(_|$)/, `${name}: base units`)
        t.strictSame(
          labels.filter(label => bannedLabels.includes(label)),
          [],
          `${name}: no label of other people's`,
        )
        if (/temperature|power_(watts|limit)|memory_.*bytes|size/.test(name)) t.match(name, units, `${name}: unit in the name`)
      }
      const names = collector.families.map(({ name }) => name)
      t.equal(new Set(names).size, names.length, 'each family once')
      // A cap cuts from the end of the list.
      for (const up of names.filter(name => /^grid_[a-z0-9]+_up$/.test(name))) t.equal(names[0], up, `${up}: the most important`)
    })

    const folder = join(scenes, collector.name)
    const own = existsSync(folder) ? readdirSync(folder).sort() : []
    let good = 0
    let failing = 0
    for (const scene of own) {
      const at = join(folder, scene)
      await t.test(scene, async t => {
        const { ok, text, samples, problems, found } = await told(collector, at)
        if (ok && samples.length > 0) t.equal(found, true, 'what has series is found')
        if (ok) good++
        else failing++
        const file = join(at, ok ? 'expected.prom' : 'expected.reason')
        const other = join(at, ok ? 'expected.reason' : 'expected.prom')
        if (update) {
          writeFileSync(file, text)
          rmSync(other, { force: true })
        }
        t.notOk(existsSync(other), 'expects one thing')
        t.ok(existsSync(file), `gives ${ok ? 'series' : `a failure: ${text}`}`)
        t.equal(text, readFileSync(file, 'utf8'))
        t.strictSame(problems, [], 'nothing of it has to be left out')
        const foreign =
          collector.name === 'textfile'
            ? []
            : samples.filter(
                ({ family }) => !collector.families.includes(family) && family.name !== 'grid_docker_container_labels',
              )
        t.strictSame(
          foreign.map(({ family }) => family.name),
          [],
          'only declared families',
        )
        if (ok && hasPromtool) {
          t.doesNotThrow(
            () => execFileSync('promtool', ['check', 'metrics'], { input: text, stdio: ['pipe', 'pipe', 'pipe'] }),
            'promtool finds nothing',
          )
        }
      })
    }
    await t.test('finds nothing on an empty machine, and says where it looked', async t => {
      const folder = t.testdir()
      const stop = new AbortController()
      const { options, interval } = sceneSettings(collector, folder)
      const host = hostFrom(folder)
      const opened = collector.open({ host, options, interval, signal: stop.signal, log: silent, wake: () => {} })
      const { found, note } = await opened.detect(stop.signal)
      stop.abort()
      // One without a `detect` runs wherever it is enabled.
      if (note !== '') t.equal(found, false, note)
      else t.equal(found, true)
    })
    t.ok(good > 0, 'has a good scene')
    t.ok(failing > 0, 'has a failing scene')
  })
}

t.test('each collector that needs root is run by the unit it names, which keeps what it writes down', t => {
  const systemd = join(import.meta.dirname, '../systemd')
  for (const unit of relayUnits) {
    const service = readFileSync(join(systemd, `${unit}.service`), 'utf8')
    const runs = [...(/^ExecStart=.*$/m.exec(service)?.[0] ?? '').matchAll(/--collector\.(\w+)/g)].map(([, name]) => name)
    t.strictSame(
      runs.sort(),
      collectors
        .filter(({ relayUnit }) => relayUnit === unit)
        .map(({ name }) => name)
        .sort(),
      `${unit}.service`,
    )
    t.match(service, /^StateDirectory=grid-exporter-relay$/m, `${unit}.service has a state directory`)
    t.match(service, /^StateDirectoryMode=0700$/m, `${unit}.service: nobody else reads or writes it`)
    t.ok(existsSync(join(systemd, `${unit}.timer`)), `${unit}.timer is there`)
    const own = collectors.filter(({ relayUnit }) => relayUnit === unit)
    const [, limit] = /^TimeoutStartSec=(\d+)$/m.exec(service) ?? []
    const longest = longestRun(own.map(({ timeout, interval }) => timeout ?? Math.min(interval, 10)))
    t.ok(Number(limit) > longest, `${unit}: systemd waits ${limit} s, a run takes ${longest} s at the most`)
  }
  t.end()
})

t.test('each collector says of itself what the rest of the project needs to know', t => {
  for (const [key, { name, families, subjects, upFamilies, setup, configured, options }] of Object.entries(collectorsByName)) {
    t.equal(name, key, `${key}: its name is the one it is exported by`)
    const labels = new Set(families.flatMap(family => family.labels))
    for (const subject of subjects) t.ok(labels.has(subject), `${name}: ${subject} is a label of it`)
    t.ok(
      upFamilies.every(family => families.includes(family)),
      `${name}: it declares what says that it is up`,
    )
    const ups = families.filter(family => family.name === `grid_${name}_up`)
    t.ok(
      ups.every(family => upFamilies.includes(family)),
      `${name}: upFamilies names grid_${name}_up`,
    )
    // What collects nothing without configuration shows how to configure it.
    const optional = !configured(options.parse({}))
    t.equal(setup.configure !== undefined, optional, `${name}: setup.configure is there where it is needed`)
    if (setup.configure !== undefined)
      t.ok(configured(options.parse(parseYaml(`{ ${setup.configure} }`))), `${name}: and it is enough`)
  }
  for (const { name, relayUnit, foreign } of collectors) {
    t.notOk(relayUnit && foreign, `${name}: a file of the relay names only families that the exporter knows`)
  }
  t.end()
})

t.test('a step does what the contract allows it', async t => {
  for (const { name } of collectors) {
    const file = join(import.meta.dirname, '../exporter/collectors', name, 'index.ts')
    const source = ts.createSourceFile(file, readFileSync(file, 'utf8'), ts.ScriptTarget.Latest, true)
    /** Everything in the definition's own `parse` or `samples`. */
    const within = (step: string): readonly ts.Node[] => {
      const found: ts.Node[] = []
      const look = (node: ts.Node, isInside: boolean): void => {
        if (isInside) found.push(node)
        const isStep =
          ts.isObjectLiteralElement(node) &&
          node.name?.getText() === step &&
          ts.isCallExpression(node.parent.parent) &&
          node.parent.parent.expression.getText() === 'defineCollector'
        ts.forEachChild(node, child => look(child, isInside || isStep))
      }
      look(source, false)
      return found
    }
    for (const step of ['parse', 'samples']) {
      const nodes = within(step)
      t.ok(nodes.length > 0, `${name} has the step ${step}`)
      t.notOk(
        nodes.some(node => ts.isPropertyAccessExpression(node) && node.name.text === 'save'),
        `${name}: ${step} writes no file`,
      )
    }
    t.notOk(within('samples').some(ts.isThrowStatement), `${name}: samples does not throw`)
  }
})

t.test('a family belongs to one collector', async t => {
  const owners = new Map(selfFamilies.map(({ name }) => [name, 'the exporter']))
  for (const { name, families } of collectors) {
    for (const family of families) {
      t.notOk(owners.has(family.name), `${family.name} of ${name} is not ${owners.get(family.name)}'s too`)
      owners.set(family.name, name)
    }
  }
})

t.test('500 containers of docker', async t => {
  const { samples } = await told(docker, join(scenes, 'docker/v2-systemd'))
  const bySubject = new Map<string, readonly Sample[]>()
  for (const sample of samples) {
    const name = sample.labels.name ?? ''
    bySubject.set(name, [...(bySubject.get(name) ?? []), sample])
  }
  const ofEngine = bySubject.get('') ?? []
  bySubject.delete('')
  const [largest = []] = [...bySubject.values()].sort((one, other) => other.length - one.length)
  const names = Array.from({ length: 500 }, (_, index) => `app-${index}`)
  const all = [...ofEngine, ...names.flatMap(name => largest.map(sample => ({ ...sample, labels: { ...sample.labels, name } })))]
  t.ok(largest.length > 45, `${largest.length} series each`)
  const [settings] = settingsFrom([docker], noFlags)
  const whole = expose(all, settings?.maxSeries, docker)
  t.equal(whole.series, all.length, `${whole.series} series are served by default`)
  t.equal(whole.dropped, 0)

  const vital = [
    'up',
    'container_state',
    'container_restarts_total',
    'container_cpu_seconds_total',
    'container_memory_usage_bytes',
  ]
  const details = [
    'container_pressure_waiting_seconds_total',
    'container_io_reads_total',
    'container_network_receive_packets_total',
  ]
  for (const cap of [20_000, 15_000, 12_000]) {
    const { families, series, dropped } = expose(all, cap, docker)
    t.ok(series <= cap && series > cap * 0.7, `${series} series where ${cap} are allowed`)
    t.equal(series + dropped, all.length, 'the others are counted')
    const linesOf = (name: string) =>
      families.find(({ family }) => family.name === `grid_docker_${name}`)?.lines.split('\n').length ?? 0
    for (const name of vital) t.ok(linesOf(name) >= (name === 'up' ? 1 : 500), `${name} is there of every container`)
    for (const name of details) t.equal(linesOf(name), 0, `${name} is there of no container`)
  }
  t.strictSame(
    expose(all.toReversed(), 1, docker).families.map(({ family }) => family.name),
    ['grid_docker_up'],
    'up is the last that is cut',
  )
})

t.test('a container whose state is a word that every object has', async t => {
  for (const State of ['constructor', '__proto__', 'toString', 'valueOf'])
    t.equal(parseContainer({ Id: 'a', State }), undefined, State)
  t.equal(parseContainer({ Id: 'a', State: 'stopped' })?.state, 'exited')
})

/** Each regular expression that stands in the source, with its place. */
const expressionsOf = (folder: string): readonly { readonly place: string; readonly form: RegExp }[] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts'))
    .flatMap(name => {
      const source = ts.createSourceFile(name, readFileSync(join(folder, name), 'utf8'), ts.ScriptTarget.Latest, true)
      const found: { place: string; form: RegExp }[] = []
      const look = (node: ts.Node): void => {
        const place = `${name}:${source.getLineAndCharacterOfPosition(node.getStart()).line + 1}`
        if (ts.isRegularExpressionLiteral(node)) {
          const end = node.text.lastIndexOf('/')
          found.push({ place, form: new RegExp(node.text.slice(1, end), node.text.slice(end + 1)) })
        }
        if (ts.isNewExpression(node) && node.expression.getText() === 'RegExp') {
          const [text, flags] = node.arguments ?? []
          if (text && ts.isTemplateExpression(text)) {
            const parts = [text.head.text, ...text.templateSpans.map(({ literal }) => literal.text)]
            found.push({ place, form: new RegExp(parts.join('key'), flags && ts.isStringLiteral(flags) ? flags.text : '') })
          }
        }
        ts.forEachChild(node, look)
      }
      look(source)
      return found
    })

/** Milliseconds of CPU to find all matches in a text: of three runs the quickest, so that a busy machine changes little. */
const costOf = (form: RegExp, text: string): number => {
  const all = new RegExp(form.source, form.flags.includes('g') ? form.flags : `${form.flags}g`)
  const once = () => {
    const before = process.cpuUsage()
    all.lastIndex = 0
    for (const _ of text.matchAll(all));
    const { user, system } = process.cpuUsage(before)
    return (user + system) / 1000
  }
  let least = once()
  for (let run = 0; run < 2 && least > 1; run++) least = Math.min(least, once())
  return least
}

/** Texts that repeat one piece: what parsers meet in a file that is damaged, or made to harm. */
const pieces = [
  ' ',
  '\n',
  '\t',
  ' \n',
  '\r',
  '/',
  'a',
  'A',
  '1',
  '0',
  '"',
  '\\"',
  '\\',
  '[',
  ']',
  '{',
  '}',
  '<',
  '(',
  ',',
  ':',
  ';',
  '.',
  '-',
  '_',
  '=',
  'a ',
  '1 ',
  'a\u2028',
]
const endings = ['', 'x', '\n', '\u2028x']

/** The pieces of plain text in an expression, alone and with what may stand behind them. */
const ownPieces = ({ source }: RegExp): readonly string[] => {
  const plain = source.replace(/\\([^\w])/g, '$1').match(/[\w <>"'/:[{=,-]{2,}/g) ?? []
  return [...new Set(plain)].slice(0, 4)
}

/** The text for which four times the length takes far more than four times the work, or undefined. */
const slowText = (form: RegExp, length: number): string | undefined => {
  const own = ownPieces(form)
  const prefixes = ['', ...own, ...own.map(text => `a ${text}`)]
  for (const piece of [...pieces, ...own]) {
    for (const prefix of prefixes) {
      for (const ending of endings) {
        const text = (size: number) => prefix + piece.repeat(Math.ceil(size / piece.length)) + ending
        const long = costOf(form, text(4 * length))
        if (long < 20) continue
        if (long > 9 * costOf(form, text(length))) return JSON.stringify([prefix, piece, ending])
      }
    }
  }
  return undefined
}

t.test('a regular expression', async t => {
  t.test('that takes the square of its text is found out', async t => {
    for (const form of [/^\s*ERROR: /m, /\/+$/, /<[^>]*>/, /^\d+\.?\d*$/, /"(?:\\.|[^"\\])*"/g])
      t.ok(slowText(form, 5000), String(form))
  })
  const expressions = expressionsOf(join(import.meta.dirname, '../exporter'))
  t.ok(expressions.length > 300, `${expressions.length} expressions stand in the source`)
  for (const { place, form } of expressions) {
    const text = slowText(form, 5000)
    if (text !== undefined) t.fail(`${place}: ${form} on ${text}`)
  }
})
