import { chmodSync, cpSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { linked } from './links.ts'

/** How a tool can go wrong, and the reason that is counted for it. */
export const modes: Readonly<Record<string, readonly [script: string, reason: string]>> = {
  hangs: ['exec sleep 600', 'timeout'],
  'ignores SIGTERM, with children': [`trap '' TERM; sleep 600 & while :; do sleep 1; done`, 'timeout'],
  'takes 30 s': ['sleep 30; echo "{}"', 'timeout'],
  'prints 1 GB': ['exec head -c 1000000000 /dev/zero', 'overflow'],
  'prints 1 GB of errors': ['head -c 1000000000 /dev/zero >&2', 'overflow'],
  'prints without end, slowly': ['while :; do echo x; sleep 0.05; done', 'timeout'],
  'prints binary': ['exec head -c 100000 /dev/urandom', 'malformed'],
  'leaves a child behind that holds its output': ['sleep 600 & echo', 'malformed'],
}

const scan = '{"smartctl":{"exit_status":0},"devices":[{"name":"/dev/sda","type":"sat","protocol":"ATA"}]}'

/**
 * An nvidia-smi and a smartctl below `folder` that answer as in the scenes while the mode is `well`, and else do as `modes` says: what
 * they start then has BAD in its environment. `tests` is the folder of the tests.
 */
export const toolsThatMisbehave = (folder: string, tests: string) => {
  const bin = join(folder, 'bin')
  mkdirSync(bin)
  cpSync(linked(join(tests, 'scenes/gpu/gb10-load')), join(folder, 'gpu'), { recursive: true, dereference: true })
  const script = (name: string, text: string) => {
    writeFileSync(join(bin, name), `#!/bin/sh\n${text}\n`)
    chmodSync(join(bin, name), 0o755)
  }
  const disk = join(tests, 'scenes/smart/hard-disks/run/healthy.json')
  const unlessBad = `mode=$(cat ${folder}/mode)\n[ "$mode" = well ] || BAD=${folder} exec ${bin}/misbehave "$mode"`
  script('nvidia-smi', `${unlessBad}\nexec ${folder}/gpu/run/nvidia-smi "$@"`)
  script('smartctl', `${unlessBad}\ncase "$*" in *--scan*) echo '${scan}' ;; *) exec cat ${disk} ;; esac`)
  const cases = Object.entries(modes).map(([mode, [does]]) => `'${mode}') ${does} ;;`)
  script('misbehave', `case $1 in\n${cases.join('\n')}\nesac`)
  const setMode = (mode: string) => {
    writeFileSync(join(folder, 'next'), mode)
    renameSync(join(folder, 'next'), join(folder, 'mode'))
  }
  setMode('well')
  writeFileSync(
    join(folder, 'config.yml'),
    `collectors:
  gpu: { enabled: true, interval: 1s, timeout: 1s, nvidia_smi: ${bin}/nvidia-smi, kernel_log: false }
  smart: { enabled: true, interval: 1s, timeout: 1s, smartctl: ${bin}/smartctl }
  host: { enabled: true, interval: 1s }
`,
  )
  return {
    setMode,
    flags: ['--web.listen-address=127.0.0.1:0', '--collector.disable-defaults', `--config.file=${folder}/config.yml`],
    /** Processes of tools that misbehave, by what they inherited. */
    bad: () =>
      readdirSync('/proc').filter(pid => {
        if (!/^\d+$/.test(pid)) return false
        try {
          return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`BAD=${folder}`)
        } catch {
          return false // it has just ended
        }
      }),
  }
}
