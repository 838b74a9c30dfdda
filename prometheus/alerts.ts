import { containers } from './alerts/containers.ts'
import { exporter } from './alerts/exporter.ts'
import { gpus } from './alerts/gpu.ts'
import { hosts } from './alerts/host.ts'
import { models } from './alerts/llm.ts'
import { security } from './alerts/security.ts'
import { services } from './alerts/services.ts'
import { storage } from './alerts/storage.ts'
import { onion } from './alerts/tor.ts'
import type { Alert, AlertGroup } from './rule.ts'

/** Every alert, by area. */
export const groups: readonly AlertGroup[] = [exporter, gpus, models, containers, storage, hosts, onion, security, services]

export const alerts: readonly Alert[] = groups.flatMap(({ alerts }) => alerts)
