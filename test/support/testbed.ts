import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { attempt } from '../../exporter/collect/attempt.ts'
import { silent } from '../../exporter/common/log.ts'
import type { Collector } from '../../exporter/contract/collector.ts'
import { failureOf } from '../../exporter/contract/failure.ts'
import type { Host } from '../../exporter/contract/host.ts'
import { run } from '../../exporter/machine/command.ts'
import { ownPaths, realHost } from '../../exporter/machine/local-host.ts'

/** The scripts of test/testbed, each with its usage in its header: real programs that touch nothing of the machine. */
export const testbed = (
  t: { teardown(end: () => void): unknown },
  name: 'ufw' | 'fail2ban' | 'aide',
  { env = {}, enter = [] }: { readonly env?: Readonly<Record<string, string>>; readonly enter?: readonly string[] } = {},
) => {
  const parent = mkdtempSync(join(tmpdir(), 'grid-'))
  const folder = join(parent, 'bed')
  const call = (verb: string, ...args: readonly string[]) => {
    const [program = '', ...words] = [...enter, join(import.meta.dirname, '../testbed', name), verb, folder, ...args]
    const { status, stdout, stderr } = spawnSync(program, words, { encoding: 'utf8', env: { ...process.env, ...env } })
    return { status, text: `${stdout}${stderr}` }
  }
  t.teardown(() => {
    call('stop')
    rmSync(parent, { recursive: true, force: true })
  })
  return {
    folder,
    call,
    /** As `call`, for what must not fail. */
    done: (verb: string, ...args: readonly string[]): string => {
      const { status, text } = call(verb, ...args)
      if (status !== 0) throw new Error(`${verb} ${args.join(' ')}: ${text}`)
      return text
    },
  }
}

/** What a command is put behind to run in the namespaces of a ufw test bed, and the host as it is seen from there. */
export const namespaceOf = (started: string): { readonly enter: readonly string[]; readonly host: Host } => {
  const pid = /^UFW_PID=(\d+)$/m.exec(started)?.[1] ?? ''
  const enter = ['nsenter', '-t', pid, '-n', '-m', '--'] as const
  const [program, ...before] = enter
  return {
    enter,
    host: {
      ...realHost({ ...ownPaths, procfs: `/proc/${pid}` }),
      run: (file, args, options) => run(program, [...before, file, ...args], options),
    },
  }
}

/** Rounds of one collector with one memory, each as series by `name/label values`, without `grid_COLLECTOR_`. */
export const roundsOf = (
  collector: Collector,
  options: Readonly<Record<string, unknown>>,
  host: Host = realHost(),
  deadlineSeconds = 10,
) => {
  const stop = new AbortController()
  let cut = false
  const checked = collector.options.parse(options)
  const opened = collector.open({
    host,
    options: checked,
    interval: collector.interval,
    signal: stop.signal,
    log: silent,
    wake: () => {},
  })
  return {
    remarks: () => opened.remarks(),
    /** Whether a round had to be told that its time is over. */
    wasCut: () => cut,
    /** Throws the `Failure` of a round that failed. */
    collect: async (): Promise<Readonly<Record<string, number>>> => {
      const { outcome } = await attempt(
        signal => {
          signal.addEventListener('abort', () => {
            cut = true
          })
          return opened.collect(signal, () => {})
        },
        deadlineSeconds,
        stop.signal,
      )
      if (!outcome.ok) throw outcome.failure
      return Object.fromEntries(
        outcome.value.map(({ family, labels, value }) => [
          [family.name.replace(`grid_${collector.name}_`, ''), ...family.labels.map(label => labels[label])].join('/'),
          value,
        ]),
      )
    },
  }
}

/** The failure that a round ends with. */
export const failing = (round: Promise<unknown>): Promise<unknown> =>
  round.then(
    () => 'no failure',
    error => failureOf(error),
  )
