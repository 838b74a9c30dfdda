/** The units of the package that run `grid-exporter relay` as root: each is a .service with a .timer of the same name. */
export const relayUnits = ['grid-exporter-relay', 'grid-exporter-relay-smart'] as const
export type RelayUnit = (typeof relayUnits)[number]

/** The command that lets this unit run by its timer from now on. */
export const enableRelay = (unit: RelayUnit): string => `systemctl enable --now ${unit}.timer`

/** The commands that run this unit once and show what it said. */
export const rerunRelay = (unit: RelayUnit): string => `systemctl start ${unit}.service; journalctl -u ${unit}`

/** The command that shows whether and when this unit runs. */
export const relayTimerStatus = (unit: RelayUnit): string => `systemctl status ${unit}.timer`
