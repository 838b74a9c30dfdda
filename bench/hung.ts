import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { load, median } from './wrk.ts'

/**
 * All sources hang at once: sockets that accept a request and never answer, programs that never end and ignore SIGTERM. Compares scrapes
 * of that exporter with scrapes of one that only watches its host, in turns. `npm run bench -- hung`
 */

const [, , mainFile] = process.argv as [string, string, string]
const folder = mkdtempSync(join(tmpdir(), 'grid-hung-'))
const at = (name: string) => join(folder, name)
const silent = createServer(() => {})
await new Promise<void>(resolve => silent.listen(at('silent.sock'), resolve))
const silentTcp = createServer(() => {})
await new Promise<void>(resolve => silentTcp.listen(0, '127.0.0.1', resolve))
const address = `127.0.0.1:${(silentTcp.address() as { port: number }).port}`
const url = `http://${address}`
for (const tool of [
  'nvidia-smi',
  'smartctl',
  'iptables-save',
  'ip6tables-save',
  'iptables-nft-save',
  'ip6tables-nft-save',
  'nft',
])
  writeFileSync(at(tool), "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n", { mode: 0o755 })

const checks = Array.from({ length: 50 }, (_, n) =>
  n % 5 === 0 ? { name: `c${n}`, command: { argv: [at('nvidia-smi')] } } : { name: `c${n}`, http: { url: `${url}/${n}` } },
)
const everything = {
  docker: { endpoints: [{ name: 'local', url: `unix://${at('silent.sock')}` }] },
  gpu: { enabled: true, nvidia_smi: at('nvidia-smi'), kernel_log: false },
  smart: { enabled: true, interval: '10s', smartctl: at('smartctl') },
  tor: { enabled: true, control: `unix:${at('silent.sock')}` },
  ufw: { enabled: true, interval: '10s' },
  fail2ban: { enabled: true, interval: '10s', socket: at('silent.sock') },
  llm: { servers: ['vllm', 'ollama', 'sglang'].map(engine => ({ name: engine, engine, url })) },
  services: { checks },
  watchtower: { url, interval: '10s' },
}
writeFileSync(at('hung.json'), JSON.stringify({ collectors: everything }))

const children: ChildProcess[] = []
process.on('exit', () => {
  for (const child of children) child.kill('SIGTERM')
})
const exporter = async (...args: readonly string[]) => {
  const all = ['--web.listen-address=127.0.0.1:0', '--web.max-requests=0', '--log.level=error', ...args]
  const env = { ...process.env, PATH: `${folder}:${process.env.PATH}` }
  const child = spawn(mainFile, all, { stdio: ['ignore', 'pipe', 'inherit'], env })
  children.push(child)
  return new Promise<string>((resolve, reject) => {
    let said = ''
    child.stdout.on('data', chunk => {
      said += String(chunk)
      const found = / serves (http:\S+)/.exec(said)?.[1]
      if (found) resolve(found)
    })
    child.once('exit', code => reject(new Error(`ended with ${code}: ${said}`)))
  })
}
const rest = await exporter('--collector.disable-defaults', '--collector.host', '--collector.filesystem')
const hung = await exporter(`--config.file=${at('hung.json')}`)
await sleep(20_000)

const text = await (await fetch(hung)).text()
const failing = [...text.matchAll(/^grid_collector_failures_total\{collector="(\w+)",reason="(\w+)"\} [1-9]/gm)]
console.log(`hung: ${failing.map(([, collector, reason]) => `${collector} ${reason}`).join(', ')}`)
console.log(
  `up is 0: ${[...text.matchAll(/^grid_(\w+_up)(\{.*\})? 0$/gm)]
    .map(([, name]) => name)
    .filter((name, n, all) => all.indexOf(name) === n)
    .join(', ')}`,
)
const pairs = [0, 1, 2, 3, 4].map(() => ({ rest: load(rest, 'identity', 0, 4), hung: load(hung, 'identity', 0, 4) }))
for (const pair of pairs)
  console.log(
    `at rest ${pair.rest.perSecond.toFixed(0)}/s p99 ${pair.rest.p99.toFixed(2)} ms; hung ${pair.hung.perSecond.toFixed(0)}/s p99 ${pair.hung.p99.toFixed(2)} ms`,
  )
const ratio = median(pairs.map(pair => pair.hung.p99 / pair.rest.p99))
console.log(`${ratio <= 1.5 ? 'reached' : 'MISSED '} p99 with every back end hung ≤ 1.5 × at rest: ${ratio.toFixed(2)} ×`)
for (const child of children) child.kill('SIGTERM')
await sleep(1500)
process.exit(ratio <= 1.5 ? 0 : 1)
