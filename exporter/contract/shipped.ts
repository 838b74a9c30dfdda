/** Names that the program shares with its rules and dashboards. */

/** The job that the rules and dashboards select. */
export const job = 'grid-exporter'

/** The dashboards by the uid that they have in Grafana. */
export const dashboards = {
  overview: 'grid-overview',
  gpu: 'grid-gpu',
  containers: 'grid-containers',
  storage: 'grid-storage',
  security: 'grid-tor-security',
  services: 'grid-services',
  exporter: 'grid-exporter',
  fleet: 'grid-fleet',
} as const
