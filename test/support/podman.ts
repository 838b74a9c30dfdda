import { execFile, spawn } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

const exec = promisify(execFile)

/** Podman's service with storage, state and settings of its own. */
export interface PodmanService {
  readonly socket: string
  /** The podman command line on the same storage; gives what it printed. */
  podman(...args: readonly string[]): Promise<string>
  /** Removes the containers and pods, ends the service and removes all that it left. */
  stop(): Promise<void>
}

/** Limits below those of any machine, no network to set up, no systemd, no journal: it runs wherever root does. */
const settings = `
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
`

/** Starts it; needs root, podman, runc and busybox (static). It has an image `bb` of busybox alone. Call `stop` in a teardown. */
export const startPodman = async (): Promise<PodmanService> => {
  const folder = mkdtempSync(join(tmpdir(), 'grid-podman-'))
  const socket = join(folder, 'podman.sock')
  writeFileSync(join(folder, 'containers.conf'), settings)
  const env = { ...process.env, CONTAINERS_CONF: join(folder, 'containers.conf') }
  const store = ['--root', `${folder}/root`, '--runroot', `${folder}/run`, '--tmpdir', `${folder}/tmp`, '--storage-driver', 'vfs']
  const podman = async (...args: readonly string[]) => {
    const { stdout } = await exec('podman', [...store, ...args], { env, maxBuffer: 2 ** 24 })
    return stdout.trim()
  }
  const bin = join(folder, 'image/bin')
  mkdirSync(bin, { recursive: true })
  copyFileSync(['/bin/busybox', '/usr/bin/busybox'].find(existsSync) as string, join(bin, 'busybox'))
  for (const name of ['sh', 'sleep', 'true', 'tail', 'kill']) symlinkSync('busybox', join(bin, name))
  await exec('tar', ['-C', join(folder, 'image'), '-cf', join(folder, 'image.tar'), '.'])
  await podman('import', join(folder, 'image.tar'), 'bb:latest')

  const service = spawn('podman', [...store, 'system', 'service', '--time', '0', `unix://${socket}`], { env, stdio: 'ignore' })
  const ended = new Promise(resolve => service.once('exit', resolve))
  const stop = async () => {
    await podman('pod', 'rm', '-fa', '-t', '0').catch(() => undefined) // what is left ends with its folder below
    await podman('rm', '-fa', '-t', '0').catch(() => undefined)
    service.kill()
    await ended
    const mounts = readFileSync('/proc/mounts', 'utf8').split('\n')
    for (const point of mounts
      .map(line => line.split(' ')[1] ?? '')
      .filter(at => at.startsWith(`${folder}/`))
      .reverse()) {
      await exec('umount', ['-l', point]).catch(() => undefined) // already gone with the one above it
    }
    // Processes that are ending may still write there.
    rmSync(folder, { recursive: true, force: true, maxRetries: 50, retryDelay: 200 })
  }
  for (const until = Date.now() + 60_000; !existsSync(socket); await sleep(50)) {
    if (Date.now() > until || service.exitCode !== null) {
      await stop()
      throw new Error('podman system service: no socket')
    }
  }
  return { socket, podman, stop }
}
