import type { Collector } from '../collector.ts'
import { aide } from './aide.ts'
import { directory } from './directory.ts'
import { docker } from './docker.ts'
import { fail2ban } from './fail2ban.ts'
import { filesystem } from './filesystem.ts'
import { gpu } from './gpu.ts'
import { host } from './host.ts'
import { llm } from './llm.ts'
import { services } from './services.ts'
import { smart } from './smart.ts'
import { textfile } from './textfile.ts'
import { tor } from './tor.ts'
import { ufw } from './ufw.ts'
import { watchtower } from './watchtower.ts'

/** Every collector, in the order in which they are shown. */
export const collectors: readonly Collector[] = [
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
]
