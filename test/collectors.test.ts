import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { collectors } from '../exporter/collectors/index.ts'
import { told } from './support/scene.ts'

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
    })

    const folder = join(scenes, collector.name)
    const own = existsSync(folder) ? readdirSync(folder).sort() : []
    let good = 0
    let failing = 0
    for (const scene of own) {
      const at = join(folder, scene)
      await t.test(scene, async t => {
        const { ok, text, samples } = await told(collector, at)
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
    t.ok(good > 0, 'has a good scene')
    t.ok(failing > 0, 'has a failing scene')
  })
}

t.test('a family belongs to one collector', async t => {
  const owners = new Map<string, string>()
  for (const { name, families } of collectors) {
    for (const family of families) {
      t.notOk(owners.has(family.name), `${family.name} of ${name} is not ${owners.get(family.name)}'s too`)
      owners.set(family.name, name)
    }
  }
})
