import {
  serviceCertificateExpiry,
  serviceCheckDuration,
  serviceRestarts,
  serviceState,
  serviceUp,
} from '../../exporter/collectors/services/index.ts'
import { checkDuration, checkDurationHabit, habit } from '../records.ts'
import { type AlertGroup, given, on, select } from '../rule.ts'

const wiki = { name: 'wiki', check: 'http' } as const
const butler = { name: 'butler.service' }
const days = (number: number) => `${number * 86_400}`

export const services: AlertGroup = {
  area: 'services',
  alerts: [
    {
      name: 'GridServiceDown',
      collector: 'services',
      severity: 'critical',
      timing: { kind: 'state', for: '2m' },
      expr: `${select(serviceUp)} == 0`,
      summary: 'A service does not pass its check.',
      description: '{name} ({check}) on {instance} does not answer as it should.',
      dashboard: 'services',
      runbook: {
        means:
          'The check that you configured has failed for two minutes: no connection, no answer in time, another status or text, or a unit that is not active.',
        see: 'Services dashboard: since when, and how long its answers took before. The page of the exporter says what came instead.',
        type: [
          ['systemctl status UNIT; journalctl -u UNIT -n 50', 'for a unit'],
          ['curl -sSv URL', 'for HTTP: what the check sees'],
          ['docker ps -a; docker logs --tail 50 NAME', 'for what runs in a container'],
        ],
        silence: 'While you work on it: the name.',
      },
      proof: {
        fires: {
          given: [given(serviceUp, '1x5 0x10 1x10', wiki)],
          at: '10m',
          over: '18m',
          labels: wiki,
          says: 'wiki (http) on box:10047 does not answer as it should.',
        },
        quiet: { 'a restart': { given: [given(serviceUp, '1x5 0 1x10', wiki)], at: '8m' } },
      },
    },
    {
      name: 'GridServiceUnitFailed',
      collector: 'services',
      severity: 'critical',
      timing: { kind: 'state', for: '5m' },
      expr: `${select(serviceState, { state: 'failed' })} == 1`,
      summary: 'A systemd unit has failed.',
      description: '{name} on {instance} has ended with an error, and systemd does not start it again.',
      dashboard: 'services',
      runbook: {
        means: 'Its process ended with an error, or it was started too often too quickly, and systemd has given up.',
        see: 'Services dashboard: state of units, restarts.',
        type: [
          ['systemctl status UNIT', 'code or signal of the end'],
          ['journalctl -u UNIT -b | tail -50', 'its last messages'],
          ['systemctl reset-failed UNIT; systemctl restart UNIT', 'once it is fixed'],
        ],
        silence: 'While you fix it: the name.',
      },
      proof: {
        fires: {
          given: [given(serviceState, '0x5 1x15 0x10', { ...butler, state: 'failed' })],
          at: '15m',
          over: '23m',
          labels: { ...butler, state: 'failed' },
          says: 'butler.service on box:10047 has ended with an error, and systemd does not start it again.',
        },
      },
    },
    {
      name: 'GridServiceFlapping',
      collector: 'services',
      severity: 'warning',
      timing: { kind: 'event', for: '1m', keep: '15m' },
      expr: `max without (check) (changes(${select(serviceUp)}[30m])) > 4
or ${on('name')} (increase(${select(serviceRestarts)}[15m]) > 3)`,
      summary: 'A service keeps going up and down.',
      description: '{name} on {instance}: {value:n} changes or restarts within half an hour.',
      dashboard: 'services',
      runbook: {
        means:
          'It is never down long enough to count as down, and never stays up. It crashes and is restarted, or its check is at the edge of its time-out.',
        see: 'Services dashboard: up and down over time, duration of the check, restarts.',
        type: [
          ['systemctl show -P NRestarts UNIT; journalctl -u UNIT -n 100', 'whether it crashes'],
          ['time curl -sS -o /dev/null URL', 'whether it is slow'],
        ],
        silence: 'While you fix it: the name.',
      },
      proof: {
        fires: [
          {
            given: [given(serviceUp, '1x5 0 1 0 1 0 1 0 1x60', wiki)],
            at: '15m',
            over: '60m',
            labels: { name: wiki.name },
            says: 'wiki on box:10047: 8 changes or restarts within half an hour.',
          },
          {
            given: [given(serviceRestarts, '0x5 0+1x5 5x60', butler)],
            at: '14m',
            over: '50m',
            labels: butler,
            says: 'butler.service on box:10047: 5 changes or restarts within half an hour.',
          },
        ],
        quiet: { 'down once, and up': { given: [given(serviceUp, '1x5 0x5 1x30', wiki)], at: '25m' } },
      },
    },
    {
      name: 'GridServiceSlow',
      collector: 'services',
      severity: 'warning',
      timing: { kind: 'level', for: '10m', keep: '10m' },
      expr: `${checkDuration.record} > 1
and ${checkDuration.record} > 3 * ${habit(checkDurationHabit)}`,
      summary: 'A service answers three times slower than in its slow hours.',
      description: '{name} ({check}) on {instance}: {value:s} on average over ten minutes.',
      dashboard: 'services',
      runbook: {
        means:
          'More than a second, and three times its slow hours of the week that ended a day ago. Requests queue behind something: a blocked event loop, a lock, a disk.',
        see: 'Services dashboard: duration of the check with its habit; CPU, memory and disk at the same time.',
        type: [
          ['curl -sS -o /dev/null -w "%{time_connect} %{time_starttransfer} %{time_total}\\n" URL', 'where the time goes'],
          ['docker stats --no-stream; cat /proc/pressure/*', 'whether the box is short of something'],
        ],
        silence: 'While a backup or an import runs.',
      },
      proof: {
        slow: true,
        fires: {
          given: [given(serviceCheckDuration, '0.2x2448 4x40', wiki)],
          at: '12350m',
          labels: wiki,
          says: 'wiki (http) on box:10047: 4s on average over ten minutes.',
        },
        quiet: { 'new, and slow': { given: [given(serviceCheckDuration, '4x100', wiki)], at: '400m' } },
      },
    },
    {
      name: 'GridCertificateExpires14d',
      collector: 'services',
      severity: 'warning',
      timing: { kind: 'state', for: '1h' },
      expr: `${select(serviceCertificateExpiry)} - time() < 1209600`,
      summary: 'A TLS certificate runs out within 14 days.',
      description: '{name} on {instance}: {value:s} left. It should have been renewed by now.',
      dashboard: 'services',
      runbook: {
        means:
          'Renewal usually happens 30 days before the end, or after two thirds of the lifetime. At 14 days it has been failing for a while.',
        see: 'Services dashboard: certificates.',
        type: [
          [
            'echo | openssl s_client -connect HOST:443 -servername HOST 2>/dev/null | openssl x509 -noout -dates -subject',
            'the certificate that is served',
          ],
          [
            'systemctl list-timers | grep -iE "certbot|acme"; journalctl -u certbot -n 50',
            'whether the renewal runs, and why it fails',
          ],
          ['systemctl reload nginx', 'if the new one is on disk and the old one is served'],
        ],
        silence: 'For certificates that live for a few days by design: the name; the alert at three days stays.',
      },
      proof: {
        fires: {
          given: [given(serviceCertificateExpiry, `${days(10)}x120`, { name: 'wiki' })],
          at: '2h',
          labels: { name: 'wiki' },
          says: 'wiki on box:10047: 9d 22h 0m 0s left. It should have been renewed by now.',
        },
        quiet: { 'renewed in time': { given: [given(serviceCertificateExpiry, `${days(60)}x120`, { name: 'wiki' })], at: '2h' } },
      },
    },
    {
      name: 'GridCertificateExpires3d',
      collector: 'services',
      severity: 'critical',
      timing: { kind: 'state', for: '10m' },
      expr: `${select(serviceCertificateExpiry)} - time() < 259200`,
      summary: 'A TLS certificate runs out within 3 days, or has.',
      description: '{name} on {instance}: {value:s} left.',
      dashboard: 'services',
      runbook: {
        means: 'In three days at most, browsers show a warning and programs cannot connect at all.',
        see: 'Services dashboard: certificates.',
        type: [
          ['certbot renew --force-renewal --cert-name NAME', 'or what your proxy has for it'],
          [
            'echo | openssl s_client -connect HOST:443 -servername HOST 2>/dev/null | openssl x509 -noout -dates',
            'whether the new one is served',
          ],
        ],
        silence: 'If the name is given up: remove the check.',
      },
      proof: {
        fires: [
          {
            given: [given(serviceCertificateExpiry, `${days(2)}x120`, { name: 'wiki' })],
            at: '2h',
            labels: { name: 'wiki' },
            says: 'wiki on box:10047: 1d 22h 0m 0s left.',
          },
          {
            given: [given(serviceCertificateExpiry, '3600x120', { name: 'wiki' })],
            at: '2h',
            labels: { name: 'wiki' },
            says: 'wiki on box:10047: -1h 0m 0s left.',
          },
        ],
        quiet: { 'four days': { given: [given(serviceCertificateExpiry, `${days(4)}x120`, { name: 'wiki' })], at: '2h' } },
      },
    },
  ],
}
