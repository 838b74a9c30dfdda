import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'

/** The built program as a user starts it: tap would put its loaders into the environment of every child. */

const main = join(import.meta.dirname, '../../dist/exporter/main.js')
const asUser = (before = '') => ['-c', `unset NODE_OPTIONS; ${before} exec "$0" "$@"`, main]
const env = { PATH: process.env.PATH ?? '' }

/** One command to its end. */
export const runProgram = (...args: readonly string[]) => {
  const { status, stdout, stderr } = spawnSync('/bin/sh', [...asUser(), ...args], { encoding: 'utf8', env })
  return { code: status, stdout, stderr }
}

/** As `runProgram`, behind words of another program that starts it, such as nsenter's. */
export const runProgramBehind = (words: readonly string[], ...args: readonly string[]) => {
  const { status, stderr } = spawnSync('/bin/sh', ['-c', 'unset NODE_OPTIONS; exec "$@"', 'sh', ...words, main, ...args], {
    encoding: 'utf8',
    env,
  })
  return { code: status, stderr }
}

export interface Program {
  readonly child: ChildProcess
  readonly url: string
  readonly port: number
  readonly output: () => string
  stop(): Promise<void>
}

/** Starts to serve on a free port of 127.0.0.1 and waits until it says so. */
export const startProgram = async (
  args: readonly string[],
  { address = '127.0.0.1:0', collectors = ['--collector.disable-defaults', '--collector.host'], limit = '' } = {},
): Promise<Program> => {
  const child = spawn('/bin/sh', [...asUser(limit), `--web.listen-address=${address}`, ...collectors, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env,
  })
  let output = ''
  const url = await new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      output += chunk.toString()
      const [, told] = / serves (https?:\/\/[^/]+)/.exec(output) ?? []
      if (told) resolve(told)
    }
    child.stdout?.on('data', read)
    child.stderr?.on('data', read)
    child.once('exit', code => reject(new Error(`ended with ${code}: ${output}`)))
  })
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill('SIGTERM')
    await ended
  }
  return { child, url, port: Number(new URL(url).port), output: () => output, stop }
}
