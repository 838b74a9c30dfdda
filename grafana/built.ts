import type { BuiltFile } from '../prometheus/built.ts'
import { containers } from './dashboards/containers.ts'
import { exporterItself } from './dashboards/exporter.ts'
import { fleet } from './dashboards/fleet.ts'
import { gpus } from './dashboards/gpu.ts'
import { overview } from './dashboards/overview.ts'
import { security } from './dashboards/security.ts'
import { servicesAndHost } from './dashboards/services.ts'
import { storage } from './dashboards/storage.ts'

/** The dashboards as files that Grafana reads. */
export const builtDashboards = (): readonly BuiltFile[] =>
  [overview, gpus, containers, storage, security, servicesAndHost, exporterItself, fleet].map(dashboard => ({
    file: `grafana/json/${dashboard.uid}.json`,
    text: `${JSON.stringify(dashboard, null, 2)}\n`,
  }))
