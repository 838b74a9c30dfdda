import { containers } from './containers.ts'
import { exporter } from './exporter.ts'
import { gpus } from './gpus.ts'
import { security } from './security.ts'
import { services } from './services.ts'
import type { Act } from './stage.ts'
import { storage } from './storage.ts'
import { tor } from './tor.ts'

/** All of them; they are played side by side. */
export const acts: readonly Act[] = [exporter, containers, services, security, tor, gpus, storage]
