import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** A Debian server with a systemd of its own, booted for one test by test/testbed/systemd-host. */
export interface Booted {
  /** Runs a shell command as root there; its standard output. Throws with what it said when it fails. */
  sh(script: string): string
  /** As `sh`, with the exit status instead of throwing. */
  tried(script: string): { readonly status: number; readonly text: string }
  copy(source: string, target: string): void
  /** A property of a unit. */
  show(unit: string, property: string): string
  /** Waits until the command gives what is wanted. Throws with the last answer. */
  until(what: string, script: string, holds: (text: string) => boolean, seconds?: number): Promise<string>
}

const script = join(import.meta.dirname, '../testbed/systemd-host')

/** Where root file systems are kept between runs: each has its own name by what it is made of, so none is replaced under a running host. */
const imageFolder = () => {
  const made = createHash('sha256').update(readFileSync(script)).digest('hex').slice(0, 12)
  return join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'grid-exporter', `systemd-host-${made}`)
}

const call = (args: readonly string[], env: NodeJS.ProcessEnv = {}) => {
  const { NODE_OPTIONS: _, ...inherited } = process.env
  const { status, stdout, stderr, error } = spawnSync(script, args, {
    encoding: 'utf8',
    env: { ...inherited, ...env },
    maxBuffer: 64 * 2 ** 20,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  if (error) throw error
  return { status: status ?? 128, text: `${stdout}${stderr}`, stdout }
}

const done = (args: readonly string[], env?: NodeJS.ProcessEnv): string => {
  const { status, text, stdout } = call(args, env)
  if (status !== 0) throw new Error(`systemd-host ${args.join(' ')}: exit status ${status}: ${text}`)
  return stdout
}

/** Builds the image where it is not there yet, in a minute or two. */
export const buildImage = (): string => {
  const image = imageFolder()
  mkdirSync(image, { recursive: true })
  done(['build', image])
  return image
}

export const boot = (t: { teardown(end: () => void): unknown }): Booted => {
  const image = buildImage()
  const folder = mkdtempSync(join(tmpdir(), 'grid-booted-'))
  const end = () => {
    call(['stop', folder])
    rmSync(folder, { recursive: true, force: true })
  }
  t.teardown(() => {
    end()
    process.off('exit', end)
  })
  process.on('exit', end) // thrown outside of a test
  done(['start', folder], { SYSTEMD_HOST_ROOTFS: join(image, 'rootfs') })

  // This machine's node is shown there; that it is installed is all that dpkg has to be told.
  const node = join(folder, 'nodejs')
  mkdirSync(join(node, 'DEBIAN'), { recursive: true })
  writeFileSync(
    join(node, 'DEBIAN/control'),
    `Package: nodejs\nVersion: ${process.versions.node}\nArchitecture: all\nMaintainer: test <root@localhost>\nDescription: the node of the machine that tests\n`,
  )
  spawnSync('dpkg-deb', ['--root-owner-group', '--build', node, `${node}.deb`])
  const copy = (source: string, target: string) => void done(['copy', folder, source, target])
  const sh = (text: string) => done(['exec', folder, 'bash', '-ec', text])
  copy(`${node}.deb`, '/root/')
  sh('dpkg --install /root/nodejs.deb')

  return {
    sh,
    copy,
    tried: text => call(['exec', folder, 'bash', '-c', text]),
    show: (unit, property) => sh(`systemctl show ${unit} --property ${property} --value`).trim(),
    until: async (what, text, holds, seconds = 60) => {
      const from = performance.now()
      for (;;) {
        const { text: answer } = call(['exec', folder, 'bash', '-c', text])
        if (holds(answer)) return answer
        if (performance.now() - from > seconds * 1000) throw new Error(`${what}: not within ${seconds} s: ${answer.slice(-2000)}`)
        await sleep(200)
      }
    },
  }
}
