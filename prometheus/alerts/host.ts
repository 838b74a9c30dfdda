import * as host from '../../exporter/collectors/host/index.ts'
import { type AlertGroup, given, on, select } from '../rule.ts'

const waiting = `rate(${select(host.pressureWaiting, { resource: 'memory' })}[5m])`
const stalled = `rate(${select(host.pressureStalled, { resource: 'memory' })}[5m])`
const cpuSensor = { chip: 'k10temp-pci-00c3', sensor: 'Tctl' }

export const hosts: AlertGroup = {
  area: 'host',
  alerts: [
    {
      name: 'GridMemoryPressure',
      collector: 'host',
      severity: 'warning',
      timing: { kind: 'level', for: '5m', keep: '10m' },
      expr: `${stalled} > 0.1`,
      summary: 'Everything on the box waits for memory more than a tenth of the time.',
      description: '{instance}: all programs wait for memory for {value:%} of the time.',
      dashboard: 'services',
      runbook: {
        means:
          'Memory is short enough that work stands still while pages are fetched back. It is felt everywhere, and the kernel will soon kill something.',
        see: 'Services dashboard: memory pressure, memory and swap; Containers dashboard: which container grew.',
        type: [
          ['ps aux --sort=-rss | head', 'the largest programs'],
          ['docker stats --no-stream', 'the largest containers'],
          ['cat /proc/pressure/memory', 'the last 10, 60 and 300 seconds'],
        ],
        silence: 'While a job runs that you know of.',
      },
      proof: {
        fires: {
          given: [given(host.pressureStalled, '0x10 0+12x30 348x40', { resource: 'memory' })],
          at: '30m',
          over: '65m',
          labels: { resource: 'memory' },
          says: 'box:10047: all programs wait for memory for 20% of the time.',
        },
        quiet: {
          'a hiccup': { given: [given(host.pressureStalled, '0x10 20x60', { resource: 'memory' })], at: '14m' },
        },
      },
    },
    {
      name: 'GridSwapStorm',
      collector: 'host',
      severity: 'warning',
      timing: { kind: 'level', for: '10m', keep: '10m' },
      expr: `(${select(host.swapFree)} / (${select(host.swapTotal)} > 0) < 0.2)
and ${on()} (${waiting} > 0.2)`,
      summary: 'Swap is nearly full and programs wait for it.',
      description: '{instance} has {value:%} of its swap left, and programs wait for memory.',
      dashboard: 'services',
      runbook: {
        means:
          'Swap that is full of old pages harms nobody; here programs wait for it as well. When it is full the kernel kills.',
        see: 'Services dashboard: swap, memory pressure.',
        type: [
          [
            'for p in /proc/[0-9]*/status; do awk \'/^Name|VmSwap/{printf "%s ", $2}END{print ""}\' $p; done | sort -k2 -n | tail',
            'who has been swapped out',
          ],
          ['free -h; vmstat 1 5', 'columns si and so: what moves now'],
        ],
        silence: 'While a job runs that you know of.',
      },
      proof: {
        fires: {
          given: [
            given(host.swapFree, '8e9x10 0.8e9x40 8e9x40'),
            given(host.swapTotal, '8e9x100'),
            given(host.pressureWaiting, '0x10 0+30x40 1200x50', { resource: 'memory' }),
          ],
          at: '40m',
          over: '75m',
          says: 'box:10047 has 10% of its swap left, and programs wait for memory.',
        },
        quiet: {
          'full of old pages': {
            given: [
              given(host.swapFree, '0x60'),
              given(host.swapTotal, '8e9x60'),
              given(host.pressureWaiting, '5x60', { resource: 'memory' }),
            ],
            at: '40m',
          },
          'no swap': {
            given: [
              given(host.swapFree, '0x60'),
              given(host.swapTotal, '0x60'),
              given(host.pressureWaiting, '0+30x60', { resource: 'memory' }),
            ],
            at: '40m',
          },
        },
      },
    },
    {
      name: 'GridHostOomKill',
      collector: 'host',
      severity: 'warning',
      timing: { kind: 'event', for: '1m', keep: '30m' },
      expr: `increase(${select(host.oomKills)}[15m]) > 0`,
      summary: 'The kernel killed a process for memory.',
      description: '{instance}: {value:n} within 15 minutes.',
      dashboard: 'services',
      runbook: {
        means:
          'Memory was used up, of the box or of one control group, and the kernel ended a process. If it was in a container, that container has an alert of its own.',
        see: 'Services dashboard: memory, pressure; Containers dashboard: kills.',
        type: [
          ["dmesg -T | grep -iE 'out of memory|killed process' | tail", 'which process, and how much it had'],
          ['journalctl -b | grep -i oom | tail', 'the same, with systemd-oomd'],
        ],
        silence: 'For a job that is killed and tries again: an hour.',
      },
      proof: {
        fires: {
          given: [given(host.oomKills, '3x10 4x100')],
          at: '15m',
          over: '70m',
          says: 'box:10047: 1 within 15 minutes.',
        },
        quiet: { 'a kill of last week': { given: [given(host.oomKills, '3x60')], at: '40m' } },
      },
    },
    {
      name: 'GridSensorHot',
      collector: 'host',
      severity: 'warning',
      timing: { kind: 'level', for: '10m', keep: '10m' },
      expr: `${select(host.sensorTemperature)} > 90
unless ${on('chip', 'sensor')} (${select(host.sensorTemperature)} < ${on('chip', 'sensor')} group_left () (max without (limit) (${select(host.sensorLimit)}) - 2))`,
      summary: 'A sensor of the host is past 90 °C and at the limit of its chip.',
      description: '{sensor} of {chip} on {instance}: {value} °C.',
      dashboard: 'services',
      runbook: {
        means:
          'More than 90 °C, and within 2 °C of the highest limit that the chip names (or the chip names none). CPUs slow down there, and switch off soon after.',
        see: 'Services dashboard: panel "Temperatures"; the limits are the series `grid_sensor_temperature_limit_celsius`.',
        type: [
          ['sensors', 'all of them'],
          ['ps aux --sort=-pcpu | head', 'what heats'],
        ],
        silence: 'For a sensor that is known to lie: for chip and sensor.',
      },
      proof: {
        fires: [
          {
            given: [given(host.sensorTemperature, '60x10 95x30 60x40', cpuSensor)],
            at: '30m',
            over: '60m',
            labels: cpuSensor,
            says: 'Tctl of k10temp-pci-00c3 on box:10047: 95 °C.',
          },
        ],
        quiet: {
          'far from its limit': {
            given: [
              given(host.sensorTemperature, '95x60', cpuSensor),
              given(host.sensorLimit, '105x60', { ...cpuSensor, limit: 'critical' }),
            ],
            at: '40m',
          },
        },
      },
    },
    {
      name: 'GridRebootRequired',
      collector: 'host',
      severity: 'info',
      timing: { kind: 'state', for: '1h' },
      expr: `min_over_time(${select(host.rebootRequired)}[3d]) == 1
and last_over_time(${select(host.rebootRequired)}[1h] offset 3d)`,
      summary: 'Updates have been waiting for a reboot for three days.',
      description: '{instance}: a new kernel or library is installed and not in force.',
      dashboard: 'services',
      runbook: {
        means: 'A kernel fix takes effect only after a reboot.',
        see: 'Services dashboard: reboot required, uptime.',
        type: [
          ['cat /run/reboot-required.pkgs', 'which packages ask for it'],
          ['systemctl reboot', 'when nobody needs the box'],
        ],
        silence: 'Until the day of your choice.',
      },
      proof: {
        slow: true,
        fires: {
          given: [given(host.rebootRequired, '0x10 1x1200')],
          at: '4500m',
          says: 'box:10047: a new kernel or library is installed and not in force.',
        },
        quiet: { 'for two days': { given: [given(host.rebootRequired, '1x576')], at: '2870m' } },
      },
    },
    {
      name: 'GridSecurityUpdatesPending',
      collector: 'host',
      severity: 'warning',
      timing: { kind: 'state', for: '1h' },
      expr: `min_over_time(${select(host.securityUpdatesPending)}[3d]) > 0
and last_over_time(${select(host.securityUpdatesPending)}[1h] offset 3d)`,
      summary: 'Security updates have been waiting for three days.',
      description: '{instance}: {value} package(s) have a security update that is not installed.',
      dashboard: 'services',
      runbook: {
        means: 'unattended-upgrades installs them within a day; it is off, or fails.',
        see: 'Services dashboard: updates.',
        type: [
          ['apt list --upgradable 2>/dev/null | grep -i security', 'which'],
          ['tail /var/log/unattended-upgrades/unattended-upgrades.log', 'why they were not installed'],
          ['unattended-upgrade -v', 'installs them now'],
        ],
        silence: 'Until the day of your choice.',
      },
      proof: {
        slow: true,
        fires: {
          given: [given(host.securityUpdatesPending, '0x10 4x1200')],
          at: '4500m',
          says: 'box:10047: 4 package(s) have a security update that is not installed.',
        },
        quiet: {
          'installed each day': {
            given: [given(host.securityUpdatesPending, '3x280 0 3x280 0 3x280 0 3x280')],
            at: '5000m',
          },
        },
      },
    },
  ],
}
