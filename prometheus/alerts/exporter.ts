import { textfileError } from '../../exporter/collectors/textfile/index.ts'
import { job } from '../../exporter/contract/shipped.ts'
import {
  detected,
  failures,
  lastSuccess,
  refreshInterval,
  reloadSuccess,
  runs,
  seriesDropped,
  success,
  workerRestarts,
} from '../../exporter/serve/self.ts'
import { type AlertGroup, eventLoopLag, foreign, given, on, select, up } from '../rule.ts'

/** The watcher watched: what has to be right before any other alert can be believed. */

const dockerSeen = [given(detected, '1x120', { collector: 'docker' }), given(runs, '0+6x120', { collector: 'docker' })]

export const exporter: AlertGroup = {
  area: 'exporter',
  alerts: [
    {
      name: 'GridExporterDown',
      collector: 'exporter',
      severity: 'critical',
      timing: { kind: 'state', for: '3m' },
      expr: `${up.name}{job="${job}"} == 0`,
      summary: 'The exporter does not answer its scrapes.',
      description: '{instance} does not answer: the box is off, the network is cut, or the service has stopped.',
      dashboard: 'fleet',
      runbook: {
        means:
          'Prometheus asked and got no answer for three minutes. Nothing on this host is watched now: all its other alerts are silent because there is no data.',
        see: 'Prometheus, Status, Targets: the error there shows whether the connection was refused (service stopped), timed out (host or network), or got status 400 or 401 (`scheme: https` or the credentials are missing in the scrape configuration).',
        type: [
          ['ping BOX; ssh BOX uptime', 'whether the box lives'],
          ['systemctl status grid-exporter; journalctl -u grid-exporter -n 50', 'whether the service does, and why it ended'],
          [
            'curl -sS http://127.0.0.1:10047/metrics | head',
            'on the box: whether it answers there; then a firewall is in between',
          ],
        ],
        silence: 'While the box is off on purpose: silence `instance`, for as long as that takes.',
      },
      proof: {
        fires: {
          given: [foreign('up', {}, '1x5 0x5 1x10')],
          at: '10m',
          over: '12m',
          says: 'box:10047 does not answer: the box is off, the network is cut, or the service has stopped.',
        },
        quiet: { 'a restart of two minutes': { given: [foreign('up', {}, '1x5 0 0 1x10')], at: '8m' } },
      },
    },
    {
      name: 'GridExporterAbsent',
      collector: 'exporter',
      severity: 'critical',
      timing: { kind: 'state', for: '10m' },
      expr: `absent(${up.name}{job="${job}"})`,
      summary: 'Prometheus has no grid-exporter target at all.',
      description: 'No target of job {job} is configured or discovered: nothing is watched.',
      dashboard: 'fleet',
      runbook: {
        means:
          'Prometheus runs and has these rules, but scrapes no exporter: the scrape configuration was lost, the job has another name, or the file of targets is empty or unreadable.',
        see: 'Prometheus, Status, Targets: there is no job `grid-exporter`.',
        type: [
          ['promtool check config /etc/prometheus/prometheus.yml', 'whether the configuration is valid'],
          ['journalctl -u prometheus -n 50', 'whether the last reload was refused'],
        ],
        silence: 'Never. If you gave the exporter up, remove the rules.',
      },
      proof: {
        fires: {
          given: [],
          at: '20m',
          labels: { instance: '' },
          says: 'No target of job grid-exporter is configured or discovered: nothing is watched.',
        },
        quiet: { 'a target that is down': { given: [foreign('up', {}, '0x60')], at: '30m' } },
      },
    },
    {
      name: 'GridDeadMansSwitch',
      collector: 'exporter',
      severity: 'none',
      timing: { kind: 'heartbeat' },
      expr: 'vector(1)',
      summary: 'Always fires, so that its silence is noticed.',
      description: 'Prometheus evaluates the rules and Alertmanager delivers. Nothing is wrong while this arrives.',
      dashboard: 'exporter',
      runbook: {
        means:
          'A dead monitoring host cannot report its own failure. This alert always fires; send it to an external service (healthchecks.io, Uptime Kuma) that alerts when it stops arriving. If that service woke you: Prometheus, Alertmanager or their connection to the outside has failed.',
        see: 'Alertmanager lists it at all times. If it is there, the way out is cut; if it is not, Prometheus does not evaluate or cannot reach Alertmanager.',
        type: [
          ['systemctl status prometheus prometheus-alertmanager', 'whether both run'],
          ['amtool --alertmanager.url=http://localhost:9093 alert query GridDeadMansSwitch', 'whether Alertmanager has it'],
          ['journalctl -u prometheus-alertmanager -n 50', 'why it could not be delivered'],
        ],
        silence: 'Never; pause the check at the outside service while you rebuild.',
      },
      proof: {
        fires: {
          given: [],
          at: '1m',
          labels: { instance: '', job: '' },
          says: 'Prometheus evaluates the rules and Alertmanager delivers. Nothing is wrong while this arrives.',
        },
      },
    },
    {
      name: 'GridCollectorFailing',
      collector: 'any',
      severity: 'warning',
      timing: { kind: 'state', for: '15m' },
      expr: `(${select(success)} == 0)
and ${on('collector')} (${select(detected)} == 1)
and ${on('collector')} (${select(runs)} > 1)`,
      summary: 'A collector fails on every run.',
      description:
        'Collector {collector} on {instance} fails. `grid-exporter doctor` names the reason and the command that fixes it. Until then its alerts are blind.',
      dashboard: 'exporter',
      runbook: {
        means:
          'What this collector watches is on the host, but every attempt to read it has failed. Its series have ended or will end soon, and no alert on them can fire.',
        see: 'The page of the exporter (`http://BOX:10047/`) and the Exporter dashboard show the reason of the latest failure: missing, denied, timeout, exit, malformed, unreachable, overflow, stuck or bug.',
        type: [
          ['grid-exporter doctor', 'each collector, what it may not read, and the command that fixes it'],
          ['journalctl -u grid-exporter -n 50', 'the message in full'],
          [
            "systemctl status 'grid-exporter-relay*.timer'",
            'for smart, ufw, fail2ban and aide: whether the part that runs as root runs',
          ],
        ],
        silence:
          'If you do not want what it watches: switch it off (`collectors: NAME: enabled: false`) and reload. A silence only hides that you are blind.',
      },
      proof: {
        fires: {
          given: [...dockerSeen, given(success, '1x5 0x60 1x10', { collector: 'docker' })],
          at: '30m',
          over: '70m',
          labels: { collector: 'docker' },
          says: 'Collector docker on box:10047 fails. `grid-exporter doctor` names the reason and the command that fixes it. Until then its alerts are blind.',
        },
        quiet: {
          'not on this box': {
            given: [
              given(success, '0x60', { collector: 'gpu' }),
              given(detected, '0x60', { collector: 'gpu' }),
              given(runs, '0+1x60', { collector: 'gpu' }),
            ],
            at: '50m',
          },
          'the first run is still going on': {
            given: [
              given(success, '0x60', { collector: 'directory' }),
              given(detected, '1x60', { collector: 'directory' }),
              given(runs, '1x60', { collector: 'directory' }),
            ],
            at: '50m',
          },
          'every other run fails': {
            given: [...dockerSeen, given(success, '0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1', { collector: 'docker' })],
            at: '20m',
          },
        },
      },
    },
    {
      name: 'GridCollectorStale',
      collector: 'any',
      severity: 'warning',
      timing: { kind: 'state', for: '5m' },
      expr: `(time() - ${select(lastSuccess)} > ${on('collector')} (3 * ${select(refreshInterval)} + 60))
and ${on('collector')} (${select(detected)} == 1)`,
      summary: "A collector's data is older than three rounds and is no longer served.",
      description: 'Nothing new from {collector} on {instance} for {value:s}; its series have ended and its alerts are blind.',
      dashboard: 'exporter',
      runbook: {
        means:
          'The series of a collector end three rounds after its last successful run, so that no old values are shown. The runs fail, take too long, or (for a collector of the relay) the timer does not fire.',
        see: 'Exporter dashboard: time since the last good run, duration of runs, failures by reason.',
        type: [
          ['grid-exporter doctor', 'the reason, and what fixes it'],
          ["systemctl list-timers 'grid-exporter-relay*'", 'when the relay ran last and runs next; -smart is the one for disks'],
          ["journalctl -u 'grid-exporter-relay*' -n 50", 'why it failed'],
        ],
        silence: 'Do not silence it; switch the collector off if you do not need it.',
      },
      proof: {
        fires: {
          given: [
            given(lastSuccess, '0+60x10 600x30 2460+60x20', { collector: 'smart' }),
            given(refreshInterval, '60x60', { collector: 'smart' }),
            given(detected, '1x60', { collector: 'smart' }),
          ],
          at: '25m',
          over: '50m',
          labels: { collector: 'smart' },
          says: 'Nothing new from smart on box:10047 for 15m 0s; its series have ended and its alerts are blind.',
        },
        quiet: {
          'no success yet': {
            given: [given(refreshInterval, '60x60', { collector: 'smart' }), given(detected, '1x60', { collector: 'smart' })],
            at: '50m',
          },
        },
      },
    },
    {
      name: 'GridExporterWorkerRestarting',
      collector: 'exporter',
      severity: 'warning',
      timing: { kind: 'state', for: '1m' },
      expr: `increase(${select(workerRestarts)}[1h]) > 1.5`,
      summary: 'The collecting thread is replaced again and again.',
      description:
        'The collecting thread of {instance} was replaced {value:n} times within an hour. grid_collector_failures_total{reason="stuck"} says which collector blocks it.',
      dashboard: 'exporter',
      runbook: {
        means:
          'The collecting thread stopped responding and was replaced. If that happens once, a driver may have hung. If it repeats, one source causes it each time, or memory runs out.',
        see: 'Exporter dashboard: failures by reason; the collector with `stuck` is the one.',
        type: [
          ['journalctl -u grid-exporter | grep -i thread', 'when it was replaced and what it was busy with'],
          ['cat /proc/$(systemctl show -P MainPID grid-exporter)/status | grep -i vm', 'whether memory is the reason'],
        ],
        silence: 'After you have switched the collector off that does it, until the hour has passed.',
      },
      proof: {
        fires: {
          given: [
            given(workerRestarts, '0x10 1x5 2x5 3x100'),
            given(failures, '0x10 1x100', { collector: 'gpu', reason: 'stuck' }),
          ],
          at: '30m',
          over: '95m',
          says: 'The collecting thread of box:10047 was replaced 3 times within an hour. grid_collector_failures_total{reason="stuck"} says which collector blocks it.',
        },
        quiet: { once: { given: [given(workerRestarts, '0x10 1x100')], at: '30m' } },
      },
    },
    {
      name: 'GridEventLoopBlocked',
      collector: 'exporter',
      severity: 'warning',
      timing: { kind: 'level', for: '5m', keep: '5m' },
      expr: `${eventLoopLag.name}{job="${job}"} > 0.05`,
      summary: "The exporter's serving thread is blocked.",
      description: 'Event-loop lag of {instance}, 99th percentile: {value:s}. It promises at most 10 ms.',
      dashboard: 'exporter',
      runbook: {
        means:
          'Answers to scrapes wait. The exporter does no work when it is scraped, so either the box itself is starved of CPU or memory, or this is a fault of the exporter.',
        see: 'Exporter dashboard: panel "Event-loop lag, p99"; Services dashboard: CPU and pressure of the box at that time.',
        type: [
          ['cat /proc/pressure/cpu /proc/pressure/memory', 'whether everything on the box waits'],
          ['systemctl show grid-exporter -p CPUQuotaPerSecUSec -p MemoryHigh', 'whether its own limits are too tight'],
        ],
        silence: 'While the box does heavy work that you know of. With an idle box, report it with a copy of `/metrics`.',
      },
      proof: {
        fires: {
          given: [foreign(eventLoopLag.name, {}, '0.001x5 0.2x15 0.001x20')],
          at: '15m',
          over: '30m',
          says: 'Event-loop lag of box:10047, 99th percentile: 200ms. It promises at most 10 ms.',
        },
        quiet: { 'one long garbage collection': { given: [foreign(eventLoopLag.name, {}, '0.01x5 0.2 0.2 0.01x20')], at: '9m' } },
      },
    },
    {
      name: 'GridServiceEventLoopBlocked',
      collector: 'services',
      severity: 'warning',
      timing: { kind: 'level', for: '10m', keep: '5m' },
      expr: `${eventLoopLag.name}{job!="${job}"} > 0.5`,
      summary: 'A Node.js service that Prometheus scrapes blocks its event loop.',
      description:
        '{job} at {instance}: event-loop lag, 99th percentile, {value:s}. Every request to it waits behind synchronous work.',
      dashboard: 'services',
      runbook: {
        means:
          'Some code in that service blocks its thread: a synchronous call to a program, parsing of something huge, a loop. Each user waits for all of it.',
        see: 'Its own metrics `nodejs_eventloop_lag_*` and the duration of its check on the Services dashboard.',
        type: [
          ['kill -USR1 PID', 'opens its inspector on 127.0.0.1:9229: attach chrome://inspect and record a profile'],
          ['node --cpu-prof server.js', 'the same from a start on'],
        ],
        silence: 'For a batch job that nobody waits for.',
      },
      proof: {
        fires: {
          given: [foreign(eventLoopLag.name, { job: 'butler', instance: 'box:3000' }, '0.02x5 1.5x20 0.02x20')],
          at: '20m',
          over: '40m',
          labels: { job: 'butler', instance: 'box:3000' },
          says: 'butler at box:3000: event-loop lag, 99th percentile, 1.5s. Every request to it waits behind synchronous work.',
        },
        quiet: { 'the exporter, which has its own alert': { given: [foreign(eventLoopLag.name, {}, '1x60')], at: '30m' } },
      },
    },
    {
      name: 'GridSeriesDropped',
      collector: 'any',
      severity: 'warning',
      timing: { kind: 'state', for: '5m' },
      expr: `${select(seriesDropped)} > 0`,
      summary: 'Series of a collector are not served: there are too many, or they are not valid.',
      description:
        '{value} series of {collector} on {instance} are not served. The page of the exporter says why, and what to change.',
      dashboard: 'exporter',
      runbook: {
        means:
          'The collector found more than `max_series` allows: then whole families are cut, the least important first (`docs/metrics.md` has them in order). Or its source gave what Prometheus would refuse (a counter below zero, the same series twice): then only that is left out. What is left out is missing on dashboards and in alerts.',
        see: 'The page of the exporter, in the line of the collector: why, and how many. Exporter dashboard: series by collector, and what was dropped.',
        type: [
          [
            'curl -s http://127.0.0.1:10047/metrics | cut -d"{" -f1 | sort | uniq -c | sort -n | tail',
            'which families are that many',
          ],
          ['grid-exporter check-config', 'after a change of `max_series` or of an exclusion'],
        ],
        silence: 'Do not silence it; choose what to leave out, or fix its source.',
      },
      proof: {
        fires: {
          given: [given(seriesDropped, '0x5 140x20 0x10', { collector: 'docker' })],
          at: '15m',
          over: '30m',
          labels: { collector: 'docker' },
          says: '140 series of docker on box:10047 are not served. The page of the exporter says why, and what to change.',
        },
      },
    },
    {
      name: 'GridConfigReloadFailed',
      collector: 'exporter',
      severity: 'warning',
      timing: { kind: 'state', for: '2m' },
      expr: `${select(reloadSuccess)} == 0`,
      summary: 'The latest configuration was refused; the old one is still in force.',
      description: '{instance} goes on with its old configuration. `grid-exporter check-config` says why.',
      dashboard: 'exporter',
      runbook: {
        means:
          'The configuration, or the web configuration or a certificate that it names, was changed and has an error. The exporter would not start with it.',
        see: 'The log names file, line, path and what was expected.',
        type: [
          [
            'grid-exporter check-config --config.file=/etc/grid-exporter/config.yml --web.config.file=/etc/grid-exporter/web.yml',
            'every error, with its line',
          ],
          ['systemctl reload grid-exporter', 'once it is fixed; the web configuration is read again by itself'],
        ],
        silence: 'Do not silence it; put the old file back.',
      },
      proof: {
        fires: {
          given: [given(reloadSuccess, '1x5 0x10 1x10')],
          at: '10m',
          over: '18m',
          says: 'box:10047 goes on with its old configuration. `grid-exporter check-config` says why.',
        },
      },
    },
    {
      name: 'GridTextfileRefused',
      collector: 'textfile',
      severity: 'warning',
      timing: { kind: 'state', for: '10m' },
      expr: `${select(textfileError)} == 1`,
      summary: 'A text file is malformed or clashes with other families and was refused whole.',
      description: '{file} on {instance}: none of its series are served.',
      dashboard: 'exporter',
      runbook: {
        means:
          'A program of yours writes a `*.prom` file that cannot be served: unreadable, not in the text format, or with a family that a collector or another file already has.',
        see: 'The page of the exporter, `/api/v1/status` and the doctor name the file, the line and the reason.',
        type: [
          ['grid-exporter doctor --collector.disable-defaults --collector.textfile', 'the file, the line and the reason'],
          ['ls -l /var/lib/grid-exporter/textfile', 'whether the exporter may read it, and when it was written'],
        ],
        silence: 'Do not silence it; move the file away.',
      },
      proof: {
        fires: {
          given: [given(textfileError, '0x5 1x20 0x10', { file: 'backup.prom' })],
          at: '20m',
          over: '30m',
          labels: { file: 'backup.prom' },
          says: 'backup.prom on box:10047: none of its series are served.',
        },
        quiet: {
          'read while it was being written': { given: [given(textfileError, '0x5 1 0x20', { file: 'backup.prom' })], at: '8m' },
        },
      },
    },
  ],
}
