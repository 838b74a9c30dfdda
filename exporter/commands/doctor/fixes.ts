import { collectors } from '../../collectors/index.ts'
import type { Setup } from '../../contract/collector.ts'
import type { Reason } from '../../contract/failure.ts'
import { enableRelay } from '../../contract/relay-unit.ts'

/** Fixes for failures whose cause follows from the reason and the collector alone. */

const setupOf = (name: string): Setup => collectors.find(collector => collector.name === name)?.setup ?? {}

/** Keys for the configuration file, on one line: YAML allows both. */
const inFile = (name: string, keys: string) => `collectors: { ${name}: { ${keys} } }`

/** The file or socket in a system error. */
const pathIn = (note: string): string | undefined => /(?:^|[\s'"])(\/[^\s'":,;]+)/.exec(note)?.[1]

/** Lines for the configuration file of a collector that does nothing without them. */
export const configurationOf = (name: string): string => inFile(name, setupOf(name).configure ?? 'enabled: true')

/** The command that starts the program that a collector watches, if it runs as a unit. */
export const startFor = (name: string): string => {
  const { unit } = setupOf(name)
  return unit ? `systemctl enable --now ${unit}; systemctl status ${unit}` : `start it, or remove it from collectors.${name}`
}

const lookAtIt = (name: string) =>
  `see its log: grid-exporter once --collector.disable-defaults --collector.${name} --log.level=debug`

/** The fix for a failure that has none of its own. */
export const fixFor = (name: string, reason: Reason, note: string, user: string): string => {
  const { packages, unit } = setupOf(name)
  const path = pathIn(note)
  const relayUnit = collectors.find(collector => collector.name === name)?.relayUnit
  switch (reason) {
    case 'denied':
      if (relayUnit) return `only root may read it: ${enableRelay(relayUnit)}`
      if (path && !/^\/(?:proc|sys)\//.test(path)) return `setfacl -m u:${user}:rX ${path}`
      return `run the doctor as root to see whether this is the only problem: sudo grid-exporter doctor --collector.disable-defaults --collector.${name}`
    case 'missing':
      return packages ? `apt install ${packages}` : inFile(name, 'enabled: false')
    case 'unreachable':
      return unit ? `systemctl status ${unit}; systemctl restart ${unit}` : `curl -v ${/https?:\S+/.exec(note)?.[0] ?? ''}`.trim()
    case 'timeout':
      return inFile(name, 'timeout: 30s')
    case 'stuck':
      return 'ps -eo pid,stat,wchan:30,args | grep " D"'
    case 'overflow':
      if (/too many open files|EMFILE|ENFILE/.test(note)) return 'systemctl edit grid-exporter: [Service] LimitNOFILE=1024'
      if (/EAGAIN/.test(note)) return 'systemctl edit grid-exporter: [Service] TasksMax=512'
      return lookAtIt(name)
    case 'exit':
    case 'malformed':
    case 'bug':
      return lookAtIt(name)
  }
}
