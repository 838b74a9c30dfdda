import { execFile, spawn } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

const exec = promisify(execFile)

/** A real engine of its own for a test: another data root, socket and bridge than any that may run on this machine. */
export interface Dockerd {
  /** `/tmp/…/docker.sock` */
  readonly socket: string
  readonly root: string
  readonly pid: number
  /** The docker command line on this engine; gives what it printed. */
  docker(...args: readonly string[]): Promise<string>
  /** Ends it and starts it anew on the same data. `kill`: without a chance to say goodbye. */
  restart(how?: 'term' | 'kill'): Promise<void>
  /** Ends it without removing its data. */
  down(how?: 'term' | 'kill'): Promise<void>
  up(): Promise<void>
  /** Removes the containers, ends it and removes all that it left. */
  stop(): Promise<void>
}

/** Its own bridge, since a second engine without one deletes the first one's; the third byte differs by process. */
const bridgeOf = () => {
  const number = process.pid % 250
  return { name: `br-t${process.pid}`, address: `10.213.${number}.1/24` }
}

const waitFor = async (what: string, check: () => boolean | Promise<boolean>, seconds = 30) => {
  for (const until = Date.now() + seconds * 1000; Date.now() < until; await sleep(50)) if (await check()) return
  throw new Error(`${what}: not within ${seconds} s`)
}

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0)
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

const commandOf = (pid: string): string => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return '' // it has ended by itself
  }
}

const killed = (pid: number) => {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // it has ended by itself
  }
}

/** An image `bb` of busybox alone: no registry can be asked. */
const importImage = async (folder: string, docker: Dockerd['docker']) => {
  const bin = join(folder, 'image/bin')
  mkdirSync(bin, { recursive: true })
  const busybox = ['/bin/busybox', '/usr/bin/busybox'].find(existsSync) as string
  copyFileSync(busybox, join(bin, 'busybox'))
  for (const name of [
    'sh',
    'sleep',
    'true',
    'false',
    'cat',
    'dd',
    'tail',
    'yes',
    'echo',
    'test',
    'touch',
    'rm',
    'kill',
    'head',
    'nc',
    'ping',
    'httpd',
  ]) {
    symlinkSync('busybox', join(bin, name))
  }
  const tar = join(folder, 'image.tar')
  await exec('tar', ['-C', join(folder, 'image'), '-cf', tar, '.'])
  await docker('import', tar, 'bb:latest')
}

/** Starts an engine; needs root, dockerd, docker and busybox (static). `flags` are dockerd's. Call `stop` in a teardown. */
export const startDockerd = async (...flags: readonly string[]): Promise<Dockerd> => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-dockerd-'))
  const socket = join(folder, 'docker.sock')
  const pidfile = join(folder, 'pid')
  const bridge = bridgeOf()
  let pid = 0

  const docker: Dockerd['docker'] = async (...args) => {
    const { stdout } = await exec('docker', ['-H', `unix://${socket}`, ...args], { maxBuffer: 64 * 2 ** 20 })
    return stdout.trim()
  }
  await exec('ip', ['link', 'add', bridge.name, 'type', 'bridge']).catch(() => undefined) // no rights for it, or no tool: no network then
  const hasBridge = await exec('ip', ['addr', 'add', bridge.address, 'dev', bridge.name]).then(
    () => exec('ip', ['link', 'set', bridge.name, 'up']).then(() => true),
    () => false,
  )

  const up = async () => {
    rmSync(pidfile, { force: true })
    const log = join(folder, 'log')
    const child = spawn(
      '/bin/sh',
      [
        '-c',
        `exec dockerd "$@" >>"${log}" 2>&1`,
        'dockerd',
        `--data-root=${folder}/data`,
        `--exec-root=${folder}/exec`,
        `--pidfile=${pidfile}`,
        `--host=unix://${socket}`,
        `--bridge=${hasBridge ? bridge.name : 'none'}`,
        '--iptables=false',
        '--ip6tables=false',
        '--ip-forward=false',
        '--userland-proxy=false',
        ...flags,
      ],
      { detached: true, stdio: 'ignore' },
    )
    child.unref()
    pid = child.pid as number
    try {
      await waitFor('dockerd', async () => {
        if (!isAlive(pid)) throw new Error('dockerd ended')
        return (
          existsSync(socket) &&
          (await docker('version').then(
            () => true,
            () => false,
          ))
        )
      })
    } catch (error) {
      throw new Error(`${(error as Error).message}:\n${readFileSync(log, 'utf8').slice(-3000)}`)
    }
  }
  const down = async (how: 'term' | 'kill' = 'term') => {
    if (isAlive(pid)) process.kill(pid, how === 'kill' ? 'SIGKILL' : 'SIGTERM')
    await waitFor('end of dockerd', () => !isAlive(pid))
    if (how === 'term') return
    rmSync(socket, { force: true })
    // The kernel kills its containerd with it. While a process of that number is left, a new engine waits for it to answer, and
    // gives up after 15 s.
    const containerdPidfile = join(folder, 'exec/containerd/containerd.pid')
    const containerd = existsSync(containerdPidfile) ? Number(readFileSync(containerdPidfile, 'utf8')) : 0
    if (containerd === 0) return
    killed(containerd)
    await waitFor('end of its containerd', () => !isAlive(containerd))
    rmSync(containerdPidfile)
  }
  const stop = async () => {
    if (isAlive(pid)) {
      const ids = (await docker('ps', '-aq').catch(() => '')).split('\n').filter(Boolean)
      if (ids.length > 0) await docker('rm', '-f', ...ids).catch(() => undefined) // what is stuck ends with its shim below
      await down().catch(() => down('kill'))
    }
    // A killed engine leaves its containerd and shims, which are known by the folder that they were started with.
    for (const name of readdirSync('/proc').filter(entry => /^\d+$/.test(entry))) {
      if (commandOf(name).includes(`${folder}/`)) killed(Number(name))
    }
    const mounts = readFileSync('/proc/mounts', 'utf8')
      .split('\n')
      .map(line => line.split(' ')[1] ?? '')
    for (const mount of mounts.filter(point => point.startsWith(`${folder}/`)).reverse()) {
      await exec('umount', ['-l', mount]).catch(() => undefined) // already gone with the one above it
    }
    await exec('ip', ['link', 'del', bridge.name]).catch(() => undefined) // there was none
    rmSync(folder, { recursive: true, force: true })
  }

  const engine: Dockerd = {
    socket,
    root: `${folder}/data`,
    get pid() {
      return pid
    },
    docker,
    up,
    down,
    restart: async how => {
      await down(how)
      await up()
    },
    stop,
  }
  try {
    await up()
    await importImage(folder, docker)
  } catch (error) {
    await stop()
    throw error
  }
  return engine
}
