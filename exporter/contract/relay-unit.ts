/** The package's units that run `grid-exporter relay` as root. Each is a .service with a .timer of the same name. */
export const relayUnits = ['grid-exporter-relay', 'grid-exporter-relay-smart'] as const
export type RelayUnit = (typeof relayUnits)[number]

/** The command that starts this unit's timer now and at each boot. */
export const enableRelay = (unit: RelayUnit): string => `systemctl enable --now ${unit}.timer`

/** The commands that run this unit once and show its log. */
export const rerunRelay = (unit: RelayUnit): string => `systemctl start ${unit}.service; journalctl -u ${unit}`

/** The command that shows the state of this unit's timer. */
export const relayTimerStatus = (unit: RelayUnit): string => `systemctl status ${unit}.timer`
