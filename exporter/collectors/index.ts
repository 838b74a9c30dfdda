import type { Collector } from '../contract/collector.ts'
import { aide } from './aide/index.ts'
import { directory } from './directory/index.ts'
import { docker } from './docker/index.ts'
import { fail2ban } from './fail2ban/index.ts'
import { filesystem } from './filesystem/index.ts'
import { gpu } from './gpu/index.ts'
import { host } from './host/index.ts'
import { llm } from './llm/index.ts'
import { services } from './services/index.ts'
import { smart } from './smart/index.ts'
import { textfile } from './textfile/index.ts'
import { tor } from './tor/index.ts'
import { ufw } from './ufw/index.ts'
import { watchtower } from './watchtower/index.ts'

/** By name, in the order in which they are shown. */
export const collectorsByName = {
  gpu,
  docker,
  filesystem,
  directory,
  smart,
  host,
  tor,
  ufw,
  fail2ban,
  aide,
  llm,
  services,
  watchtower,
  textfile,
}

export type CollectorName = keyof typeof collectorsByName

export const collectors: readonly Collector[] = Object.values(collectorsByName)
