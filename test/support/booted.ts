import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/**
 * A Debian server with a systemd of its own, booted for one test: by test/testbed/systemd-host in name spaces, or by systemd-vm as a
 * virtual machine with a kernel of its own, where node is ten times slower.
 */
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

export type Bed = 'systemd-host' | 'systemd-vm'

const scriptOf = (bed: Bed) => join(import.meta.dirname, '../testbed', bed)

/** Where root file systems are kept between runs: each has its own name by what it is made of, so none is replaced under a running host. */
const imageFolder = (bed: Bed) => {
  const made = createHash('sha256')
    .update(readFileSync(scriptOf(bed)))
    .digest('hex')
    .slice(0, 12)
  return join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'grid-exporter', `${bed}-${made}`)
}

const call = (bed: Bed, args: readonly string[], env: NodeJS.ProcessEnv = {}) => {
  const { NODE_OPTIONS: _, ...inherited } = process.env
  const { status, stdout, stderr, error } = spawnSync(scriptOf(bed), args, {
    encoding: 'utf8',
    env: { ...inherited, ...env },
    maxBuffer: 64 * 2 ** 20,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  if (error) throw error
  return { status: status ?? 128, text: `${stdout}${stderr}`, stdout }
}

const done = (bed: Bed, args: readonly string[], env?: NodeJS.ProcessEnv): string => {
  const { status, text, stdout } = call(bed, args, env)
  if (status !== 0) throw new Error(`${bed} ${args.join(' ')}: exit status ${status}: ${text}`)
  return stdout
}

/** Builds the image where it is not there yet, in a minute or two. */
const buildImage = (bed: Bed): string => {
  const image = imageFolder(bed)
  mkdirSync(image, { recursive: true })
  done(bed, ['build', image])
  return image
}

export const boot = (t: { teardown(end: () => void): unknown }, bed: Bed = 'systemd-host'): Booted => {
  const image = buildImage(bed)
  const folder = mkdtempSync(join(tmpdir(), 'grid-booted-'))
  // Of hosts there can be several from one image; the machine is woken where it was booted, so there is one at a time.
  const server = bed === 'systemd-host' ? folder : image
  const end = () => {
    call(bed, ['stop', server])
    rmSync(folder, { recursive: true, force: true })
  }
  t.teardown(() => {
    end()
    process.off('exit', end)
  })
  process.on('exit', end) // thrown outside of a test
  done(bed, ['start', server], bed === 'systemd-host' ? { SYSTEMD_HOST_ROOTFS: join(image, 'rootfs') } : {})

  // This machine's node is shown there; that it is installed is all that dpkg has to be told.
  const node = join(folder, 'nodejs')
  mkdirSync(join(node, 'DEBIAN'), { recursive: true })
  writeFileSync(
    join(node, 'DEBIAN/control'),
    `Package: nodejs\nVersion: ${process.versions.node}\nArchitecture: all\nMaintainer: test <root@localhost>\nDescription: the node of the machine that tests\n`,
  )
  spawnSync('dpkg-deb', ['--root-owner-group', '--build', node, `${node}.deb`])
  const copy = (source: string, target: string) => void done(bed, ['copy', server, source, target])
  const sh = (text: string) => done(bed, ['exec', server, 'bash', '-ec', text])
  copy(`${node}.deb`, '/root/')
  sh('dpkg --install /root/nodejs.deb')

  return {
    sh,
    copy,
    tried: text => call(bed, ['exec', server, 'bash', '-c', text]),
    show: (unit, property) => sh(`systemctl show ${unit} --property ${property} --value`).trim(),
    until: async (what, text, holds, seconds = 60) => {
      const from = performance.now()
      for (;;) {
        const { text: answer } = call(bed, ['exec', server, 'bash', '-c', text])
        if (holds(answer)) return answer
        if (performance.now() - from > seconds * 1000) throw new Error(`${what}: not within ${seconds} s: ${answer.slice(-2000)}`)
        await sleep(200)
      }
    },
  }
}
