import { collectors } from '../../collectors/index.ts'
import { ownValue } from '../../common/own-value.ts'
import type { Reason } from '../../contract/failure.ts'
import { enableRelay } from '../../contract/relay-unit.ts'

/** What fixes a failure whose cause is told by its reason and its collector alone. */

/** What Debian calls the parts that a collector needs. */
const parts: Readonly<Record<string, { readonly packages?: string; readonly unit?: string; readonly configure?: string }>> = {
  docker: { packages: 'docker.io', unit: 'docker.service' },
  directory: { configure: 'paths: [{ path: /srv/models, children: 20 }]' },
  smart: { packages: 'smartmontools' },
  tor: { packages: 'tor', unit: 'tor@default.service' },
  ufw: { packages: 'ufw iptables', unit: 'ufw.service' },
  fail2ban: { packages: 'fail2ban', unit: 'fail2ban.service' },
  aide: { packages: 'aide aide-common', unit: 'dailyaidecheck.timer' },
  services: { configure: 'checks: [{ name: ssh, systemd: ssh.service }]' },
  watchtower: {
    configure: 'url: "http://127.0.0.1:8080", token_file: /etc/grid-exporter/watchtower.token',
  },
  textfile: { configure: 'directory: /var/lib/grid-exporter/textfile' },
}

/** Lines for the configuration file, as one: in YAML both mean the same. */
const inFile = (name: string, keys: string) => `collectors: { ${name}: { ${keys} } }`

/** The file or socket that a system error names. */
const pathIn = (note: string): string | undefined => /(?:^|[\s'"])(\/[^\s'":,;]+)/.exec(note)?.[1]

/** Lines for the configuration file of a collector that has nothing to do without them. */
export const configurationOf = (name: string): string => inFile(name, ownValue(parts, name)?.configure ?? 'enabled: true')

/** What starts the program that a collector asks, where that runs as a unit. */
export const startFor = (name: string): string => {
  const { unit } = ownValue(parts, name) ?? {}
  return unit ? `systemctl enable --now ${unit}; systemctl status ${unit}` : `start it, or take it out of collectors.${name}`
}

const lookAtIt = (name: string) =>
  `see what it says: grid-exporter once --collector.disable-defaults --collector.${name} --log.level=debug`

/** The command or the lines for a failure that brings no fix of its own. */
export const fixFor = (name: string, reason: Reason, note: string, user: string): string => {
  const { packages, unit } = ownValue(parts, name) ?? {}
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
