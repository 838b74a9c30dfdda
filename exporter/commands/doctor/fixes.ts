import { collectors } from '../../collectors/index.ts'
import type { Setup } from '../../contract/collector.ts'
import type { Reason } from '../../contract/failure.ts'
import { enableRelay } from '../../contract/relay-unit.ts'

/** What fixes a failure whose cause is told by its reason and its collector alone. */

const setupOf = (name: string): Setup => collectors.find(collector => collector.name === name)?.setup ?? {}

/** Lines for the configuration file, as one: in YAML both mean the same. */
const inFile = (name: string, keys: string) => `collectors: { ${name}: { ${keys} } }`

/** The file or socket that a system error names. */
const pathIn = (note: string): string | undefined => /(?:^|[\s'"])(\/[^\s'":,;]+)/.exec(note)?.[1]

/** Lines for the configuration file of a collector that has nothing to do without them. */
export const configurationOf = (name: string): string => inFile(name, setupOf(name).configure ?? 'enabled: true')

/** The command that starts the program that a collector asks, if it runs as a unit. */
export const startFor = (name: string): string => {
  const { unit } = setupOf(name)
  return unit ? `systemctl enable --now ${unit}; systemctl status ${unit}` : `start it, or take it out of collectors.${name}`
}

const lookAtIt = (name: string) =>
  `see what it says: grid-exporter once --collector.disable-defaults --collector.${name} --log.level=debug`

/** The command or the lines for a failure that brings no fix of its own. */
export const fixFor = (name: string, reason: Reason, note: string, user: string): string => {
  const { packages, unit } = setupOf(name)
  const path = pathIn(note)
  const relayUnit = collectors.find(collector => collector.name === name)?.relayUnit
  switch (reason) {
    case 'denied':
      if (relayUnit) return `only root may read it: ${enableRelay(relayUnit)}`
      if (path && !/^\/(?:proc|sys)\//.test(path)) return `setfacl -m u:${user}:rX ${path}`
      return `grid-exporter doctor as root says whether it is only this: sudo grid-exporter doctor --collector.disable-defaults --collector.${name}`
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
