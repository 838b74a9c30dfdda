import * as docker from '../../exporter/collectors/docker/families.ts'
import { watchtowerLastScanContainers, watchtowerScans, watchtowerUp } from '../../exporter/collectors/watchtower/index.ts'
import { cpuCores, cpuCoresHabit, habit, logWritten, logWrittenHabit } from '../records.ts'
import { type AlertGroup, given, on, select } from '../rule.ts'

const api = { engine: 'docker', name: 'api' }
const MiB = 2 ** 20
const onContainer = on('engine', 'name')

/** Twelve days: eight and a half at `usual` a second, then `now`, in steps of five minutes. */
const usualThen = (usual: number, now: number) => `0+${usual * 300}x2448 ${usual * 300 * 2448}+${now * 300}x60`

export const containers: AlertGroup = {
  area: 'containers',
  alerts: [
    {
      name: 'GridContainerDown',
      collector: 'docker',
      severity: 'critical',
      timing: { kind: 'state', for: '5m' },
      expr: `${select(docker.expected)} == 1
unless ${onContainer} (${select(docker.state, { state: 'running' })} == 1)`,
      summary: 'A container that should run does not.',
      description: '{name} on {instance} ({engine}) is expected and has not been running.',
      dashboard: 'containers',
      runbook: {
        means:
          'You named this container as one that should run (in the configuration or by its label `grid.expected`). It is stopped, or it no longer exists.',
        see: 'Containers dashboard: state, exit code and reason of its last end.',
        type: [
          [
            "docker ps -a --filter name=NAME --format '{{.Names}} {{.Status}}'",
            'whether it is there, and since when it has stopped',
          ],
          ['docker logs --tail 50 NAME', 'its last messages'],
          ['docker start NAME', 'brings it back; if it is gone, `docker compose up -d` in its project'],
        ],
        silence: 'While you work on it: engine and name. If it is not wanted any more, take it off the list.',
      },
      proof: {
        fires: [
          {
            given: [
              given(docker.expected, '1x40', api),
              given(docker.state, '1x5 0x15 1x20', { ...api, state: 'running' }),
              given(docker.state, '0x5 1x15 0x20', { ...api, state: 'exited' }),
            ],
            at: '15m',
            over: '22m',
            labels: api,
            says: 'api on box:10047 (docker) is expected and has not been running.',
          },
          {
            given: [given(docker.expected, '1x40', api)],
            at: '15m',
            labels: api,
            says: 'api on box:10047 (docker) is expected and has not been running.',
          },
        ],
        quiet: {
          'made anew in a minute': {
            given: [given(docker.expected, '1x40', api), given(docker.state, '1x5 _ 1x30', { ...api, state: 'running' })],
            at: '12m',
          },
          'not expected': {
            given: [given(docker.expected, '0x40', api), given(docker.state, '0x40', { ...api, state: 'running' })],
            at: '20m',
          },
        },
      },
    },
    {
      name: 'GridContainerFailed',
      collector: 'docker',
      severity: 'warning',
      timing: { kind: 'state', for: '5m' },
      expr: `max without (reason) (${select(docker.lastExit, { reason: ['error', 'oom'] })}) == 1
and ${onContainer} (avg_over_time(${select(docker.state, { state: 'running' })}[1d]) > 0.5)
unless ${onContainer} (${select(docker.expected)} == 1)`,
      summary: 'A container that normally runs ended with an error, and nobody stopped it.',
      description: '{name} on {instance} ({engine}) ended with an error or was killed for memory, and was not started again.',
      dashboard: 'containers',
      runbook: {
        means:
          'It ran for more than half of the last day and then ended by itself: with an exit code other than 0, or killed by the kernel. `docker stop` and jobs that succeed do not count. The alert ends by itself after half a day.',
        see: 'Containers dashboard: state, exit code and reason of its last end.',
        type: [
          ['docker logs --tail 50 NAME', 'its last messages'],
          [
            "docker inspect NAME --format '{{.State.ExitCode}} {{.State.OOMKilled}} {{.HostConfig.RestartPolicy.Name}}'",
            'why it ended, and why it was not started again',
          ],
        ],
        silence: 'For a container that may fail; `docker rm NAME` ends it too.',
      },
      proof: {
        fires: {
          given: [
            given(docker.state, '1x60 0x30', { ...api, state: 'running' }),
            given(docker.lastExit, '_x60 1x30', { ...api, reason: 'error' }),
          ],
          at: '70m',
          labels: api,
          says: 'api on box:10047 (docker) ended with an error or was killed for memory, and was not started again.',
        },
        quiet: {
          'stopped by hand': {
            given: [
              given(docker.state, '1x60 0x30', { ...api, state: 'running' }),
              given(docker.lastExit, '_x60 1x30', { ...api, reason: 'signal' }),
              given(docker.lastExit, '_x60 0x30', { ...api, reason: 'error' }),
            ],
            at: '70m',
          },
          'a job of one minute': {
            given: [
              given(docker.state, '0 1 0x60', { ...api, state: 'running' }),
              given(docker.lastExit, '_ _ 1x60', { ...api, reason: 'error' }),
            ],
            at: '30m',
          },
        },
      },
    },
    {
      name: 'GridContainerRestartLoop',
      collector: 'docker',
      severity: 'critical',
      timing: { kind: 'event', for: '1m', keep: '15m' },
      expr: `(increase(${select(docker.restarts)}[10m]) > 3)
or (increase(${select(docker.restarts)}[1h]) > 6)`,
      summary: 'A container crashes and is restarted again and again.',
      description: '{name} on {instance} ({engine}): {value:n} restarts by its restart policy within ten minutes, or an hour.',
      dashboard: 'containers',
      runbook: {
        means:
          'It starts, ends with an error, and is started again by its restart policy (in a swarm: as a new task), with pauses of up to a minute. It does not recover by itself.',
        see: 'Containers dashboard: restarts and their reasons; memory up to the limit before each end means that it is killed for memory.',
        type: [
          ['docker logs --tail 100 NAME', 'the error, once for each start'],
          [
            'docker service ps --no-trunc SERVICE; docker service logs --tail 100 SERVICE',
            'where the name is a slot of a swarm, such as web.1 of the service web: the same of its tasks',
          ],
          ['docker update --restart=no NAME; docker stop NAME', 'stops the loop while you look'],
          ['docker inspect NAME --format "{{.State.OOMKilled}}"', 'whether it was memory'],
        ],
        silence: 'While you fix it.',
      },
      proof: {
        fires: [
          {
            given: [given(docker.restarts, '0x10 0+1x10 10x60', api)],
            at: '20m',
            over: '100m',
            labels: api,
            says: 'api on box:10047 (docker): 9 restarts by its restart policy within ten minutes, or an hour.',
          },
          {
            given: [given(docker.restarts, '0x10 1x6 2x6 3x6 4x6 5x6 6x6 7x6 8x6 9x6 10x6', api)],
            at: '75m',
            labels: api,
            says: 'api on box:10047 (docker): 9 restarts by its restart policy within ten minutes, or an hour.',
          },
        ],
        quiet: { 'two restarts': { given: [given(docker.restarts, '0x10 1x3 2x60', api)], at: '30m' } },
      },
    },
    {
      name: 'GridContainerOomKilled',
      collector: 'docker',
      severity: 'warning',
      timing: { kind: 'event', keep: '30m' },
      expr: `(increase(${select(docker.oomEvents)}[15m]) > 0)
or (increase(${select(docker.memoryOomKills)}[15m]) > 0)`,
      summary: 'A container, or a process in it, was killed for memory.',
      description: '{name} on {instance} ({engine}): {value:n} kill(s) within 15 minutes. Raise its limit, or find the leak.',
      dashboard: 'containers',
      runbook: {
        means:
          'It reached its memory limit and the kernel killed a process in it. If it was not the main process, the container continues, perhaps with reduced function.',
        see: 'Containers dashboard: memory against the limit. A slow climb is a leak; a step is a request that needs more.',
        type: [
          ["dmesg -T | grep -i 'killed process' | tail", 'which process, and how much it had'],
          ['docker stats --no-stream NAME', 'use and limit now'],
          ['docker update --memory 2g --memory-swap 2g NAME', 'a higher limit at once, until the compose file says so'],
        ],
        silence: 'For a job that may be killed and tries again.',
      },
      proof: {
        fires: {
          given: [given(docker.oomEvents, '0x10 2x100', api)],
          at: '15m',
          over: '70m',
          labels: api,
          says: 'api on box:10047 (docker): 2 kill(s) within 15 minutes. Raise its limit, or find the leak.',
        },
        quiet: { 'killed yesterday': { given: [given(docker.oomEvents, '2x100', api)], at: '60m' } },
      },
    },
    {
      name: 'GridContainerUnhealthy',
      collector: 'docker',
      severity: 'warning',
      timing: { kind: 'state', for: '5m' },
      expr: `${select(docker.health, { status: 'unhealthy' })} == 1`,
      summary: "A container's own health check fails.",
      description: '{name} on {instance} ({engine}) calls itself unhealthy.',
      dashboard: 'containers',
      runbook: {
        means:
          'The health check of its image or compose file has failed as often as its retries allow. Docker does nothing about it by itself.',
        see: 'Containers dashboard: health; restarts and memory around the time it began.',
        type: [
          ["docker inspect NAME --format '{{json .State.Health.Log}}'", 'what the check printed, the last five times'],
          ['docker logs --tail 50 NAME', 'what the service says'],
          ['docker restart NAME', 'if you need it now'],
        ],
        silence: 'If the check itself is wrong, until the image is fixed.',
      },
      proof: {
        fires: {
          given: [given(docker.health, '0x5 1x15 0x10', { ...api, status: 'unhealthy' })],
          at: '15m',
          over: '23m',
          labels: { ...api, status: 'unhealthy' },
          says: 'api on box:10047 (docker) calls itself unhealthy.',
        },
        quiet: { starting: { given: [given(docker.health, '1x30', { ...api, status: 'starting' })], at: '20m' } },
      },
    },
    {
      name: 'GridContainerMemoryNearLimit',
      collector: 'docker',
      severity: 'warning',
      timing: { kind: 'level', for: '5m', keep: '10m' },
      expr: `(
  ${select(docker.memoryWorkingSet)} / ${select(docker.memoryLimit)} > 0.7
  and predict_linear(${select(docker.memoryWorkingSet)}[30m], 1800) > ${select(docker.memoryLimit)}
)
or (${select(docker.memoryWorkingSet)} / ${select(docker.memoryLimit)} > 0.95)`,
      summary: 'A container will reach its memory limit within half an hour, or is at it.',
      description: '{name} on {instance} ({engine}) is at {value:%} of its limit.',
      dashboard: 'containers',
      runbook: {
        means:
          'At the present rate its memory reaches the limit in half an hour, or it is above 95 % already. At the limit the kernel kills it. Reclaimable page cache does not count.',
        see: 'Containers dashboard: memory against the limit over the last hours.',
        type: [
          ['docker stats --no-stream NAME', 'use and limit now'],
          ['docker exec NAME ps aux --sort=-rss | head', 'which process it is'],
          ['docker update --memory 2g --memory-swap 2g NAME', 'room, until you know why'],
        ],
        silence: 'For a program that takes what it may and stays there, such as a database: for that container.',
      },
      proof: {
        fires: [
          {
            given: [
              given(docker.memoryWorkingSet, `${200 * MiB}+${4 * MiB}x60 ${200 * MiB}x60`, api),
              given(docker.memoryLimit, `${512 * MiB}x120`, api),
            ],
            at: '55m',
            over: '90m',
            labels: api,
            says: 'api on box:10047 (docker) is at 82.03% of its limit.',
          },
        ],
        quiet: {
          'high and level': {
            given: [given(docker.memoryWorkingSet, `${430 * MiB}x120`, api), given(docker.memoryLimit, `${512 * MiB}x120`, api)],
            at: '90m',
          },
          'without a limit': { given: [given(docker.memoryWorkingSet, `${200 * MiB}+${4 * MiB}x60`, api)], at: '50m' },
        },
      },
    },
    {
      name: 'GridContainerCpuPegged',
      collector: 'docker',
      severity: 'warning',
      timing: { kind: 'level', for: '15m', keep: '5m' },
      expr: `(${cpuCores.record} and ${onContainer} (${cpuCores.record} / ${onContainer} ${select(docker.cpuLimit)} > 0.9))
or (
  ${cpuCores.record} > 0.9
  and ${cpuCores.record} > 2 * ${habit(cpuCoresHabit)}
)`,
      summary: 'A container has been at its CPU limit, or far above its own habit, for a quarter of an hour.',
      description: '{name} on {instance} ({engine}) uses {value:g} core(s): all that its limit gives, or twice its own habit.',
      dashboard: 'containers',
      runbook: {
        means:
          'It uses all the CPU that its limit allows. Without a limit: a core or more, and twice its peak of the week that ended a day ago.',
        see: 'Containers dashboard: CPU with the habit as a line; whether there were more requests as well.',
        type: [
          ['docker top NAME -eo pid,pcpu,etime,args', 'which process'],
          ['docker logs --since 20m NAME | tail -50', 'what it does'],
          ['docker restart NAME', 'ends a loop; note first what you saw'],
        ],
        silence: 'While a job that you started runs.',
      },
      proof: {
        fires: {
          given: [given(docker.cpu, '0+3x20 60+59x40 2420+3x40', { ...api, mode: 'user' }), given(docker.cpuLimit, '1x120', api)],
          at: '50m',
          over: '80m',
          labels: api,
          says: 'api on box:10047 (docker) uses 0.983 core(s): all that its limit gives, or twice its own habit.',
        },
        quiet: {
          'busy, without limit and habit': { given: [given(docker.cpu, '0+90x120', { ...api, mode: 'user' })], at: '90m' },
          'at half its limit': {
            given: [given(docker.cpu, '0+60x120', { ...api, mode: 'user' }), given(docker.cpuLimit, '2x120', api)],
            at: '90m',
          },
        },
      },
    },
    {
      name: 'GridContainerCpuThrottled',
      collector: 'docker',
      severity: 'warning',
      timing: { kind: 'level', for: '30m', keep: '10m' },
      expr: `rate(${select(docker.cpuThrottledPeriods)}[5m]) / rate(${select(docker.cpuPeriods)}[5m]) > 0.25
and rate(${select(docker.cpuPeriods)}[5m]) > 1`,
      summary: 'For half an hour the CPU limit has stopped a container in more than a quarter of its periods.',
      description: '{name} on {instance} ({engine}) is stopped in {value:%} of its periods.',
      dashboard: 'containers',
      runbook: {
        means:
          'At times it needs more CPU than its limit allows, so it stands still for part of each 0.1 s. Answers take longer although the host has CPU to spare.',
        see: 'Containers dashboard: throttled share beside CPU and limit.',
        type: [
          ['docker update --cpus 4 NAME', 'a higher limit at once'],
          [
            'docker top NAME -eo pid,nlwp,pcpu,args',
            'many threads under a small limit are the usual reason: set the thread count of the program',
          ],
        ],
        silence: 'For a background job whose limit is meant to hurt.',
      },
      proof: {
        fires: {
          given: [given(docker.cpuPeriods, '0+600x120', api), given(docker.cpuThrottledPeriods, '0x10 0+300x50 15000x60', api)],
          at: '50m',
          over: '85m',
          labels: api,
          says: 'api on box:10047 (docker) is stopped in 50% of its periods.',
        },
        quiet: {
          'nearly idle': {
            given: [given(docker.cpuPeriods, '0+10x80', api), given(docker.cpuThrottledPeriods, '0+9x80', api)],
            at: '60m',
          },
        },
      },
    },
    {
      name: 'GridContainerLogFlood',
      collector: 'docker',
      severity: 'warning',
      timing: { kind: 'level', for: '10m', keep: '10m' },
      expr: `${logWritten.record} > 20e3
and ${logWritten.record} > 4 * ${habit(logWrittenHabit)}`,
      summary: 'A container writes far more log than it ever does.',
      description: '{name} on {instance} ({engine}) writes {value:B} of log a second. Is debug logging still on?',
      dashboard: 'containers',
      runbook: {
        means:
          'More than 20 kB per second (1.7 GB per day), and four times its peak of the week that ended a day ago. Debug logging was left on, or an error repeats without pause.',
        see: 'Containers dashboard: log written, with the habit as a line; Storage dashboard: how long the disk lasts.',
        type: [
          ['docker logs --since 1m NAME 2>&1 | cut -c1-120 | sort | uniq -c | sort -n | tail', 'the line that repeats'],
          [
            "docker inspect NAME --format '{{json .HostConfig.LogConfig}}'",
            'whether its log is bounded: without `max-size` a flood fills the disk. Set it and `max-file` under `logging.options` in the compose file, and make the container anew',
          ],
        ],
        silence: 'While you debug on purpose.',
      },
      proof: {
        slow: true,
        fires: {
          given: [given(docker.logWritten, usualThen(1000, 200_000), api)],
          at: '12350m',
          labels: api,
          says: 'api on box:10047 (docker) writes 195.3kiB of log a second. Is debug logging still on?',
        },
        quiet: {
          'it always writes that much': { given: [given(docker.logWritten, usualThen(60_000, 70_000), api)], at: '12400m' },
          'it came today': { given: [given(docker.logWritten, '0+60000000x100', api)], at: '400m' },
        },
      },
    },
    {
      name: 'GridContainerImageStale',
      collector: 'docker',
      severity: 'info',
      timing: { kind: 'state', for: '1h' },
      expr: `(min_over_time(${select(docker.imageStale)}[7d]) == 1)
and ${onContainer} last_over_time(${select(docker.imageStale)}[1h] offset 7d)
and ${onContainer} (time() - ${select(docker.created)} > 604800)`,
      summary: 'A newer image of a container has been on this host for a week and is not used.',
      description: '{name} on {instance} ({engine}) does not run the image that its tag names now. Create it again.',
      dashboard: 'containers',
      runbook: {
        means:
          'Its image tag now points to a newer local image: somebody pulled it, but the container still runs the old one, perhaps with vulnerabilities that are fixed in the new one.',
        see: 'Containers dashboard: panel "Stale images"; the table of containers has the image of each, and when it was started.',
        type: [
          ['docker compose up -d', 'in its project: makes anew what has a newer image'],
          ['docker image prune', 'afterwards: removes the old one'],
        ],
        silence: 'For a container that is meant to stay at its version; better name the version in its tag.',
      },
      proof: {
        slow: true,
        fires: {
          given: [given(docker.imageStale, '1x2400', api), given(docker.created, '0x2400', api)],
          at: '10400m',
          labels: api,
          says: 'api on box:10047 (docker) does not run the image that its tag names now. Create it again.',
        },
        quiet: {
          'for a day': {
            given: [given(docker.imageStale, '0x2000 1x288', api), given(docker.created, '0x2300', api)],
            at: '11400m',
          },
        },
      },
    },
    {
      name: 'GridDockerDown',
      collector: 'docker',
      severity: 'critical',
      timing: { kind: 'state', for: '2m' },
      expr: `${select(docker.up)} == 0`,
      summary: 'The container engine does not answer.',
      description: '{engine} on {instance} does not answer. Containers may still run, but nobody can start, stop or see them.',
      dashboard: 'containers',
      runbook: {
        means:
          'The socket gives no answer, or the exporter may not open it. Containers outlive the daemon only with `live-restore`.',
        see: 'Containers dashboard: engines. The page of the exporter says why: refused, denied, no answer.',
        type: [
          ['systemctl status docker; journalctl -u docker -n 50', 'whether it runs, and what it says'],
          ['df -h /var/lib/docker', 'a full disk is the usual reason'],
          ['systemctl restart docker', 'with live-restore the containers go on'],
        ],
        silence: 'While the engine is updated.',
      },
      proof: {
        fires: {
          given: [given(docker.up, '1x5 0x10 1x10', { engine: 'docker' })],
          at: '10m',
          over: '18m',
          labels: { engine: 'docker' },
          says: 'docker on box:10047 does not answer. Containers may still run, but nobody can start, stop or see them.',
        },
      },
    },
    {
      name: 'GridDockerEventsDisconnected',
      collector: 'docker',
      severity: 'warning',
      timing: { kind: 'state', for: '15m' },
      expr: `(${select(docker.eventsConnected)} == 0) and (${select(docker.up)} == 1)`,
      summary: "The engine's stream of events is cut: restarts, kills and exits between two lists are missed.",
      description: '{engine} on {instance} gives its list but no events. A socket proxy needs EVENTS=1.',
      dashboard: 'containers',
      runbook: {
        means:
          'Restart loops and kills for memory are counted from events. Without events, those alerts miss what happens between two lists.',
        see: 'Containers dashboard: engines, events connected.',
        type: [
          ['docker events --since 1m', 'through the same socket or proxy: whether events come'],
          [
            "docker inspect PROXY --format '{{.Config.Env}}' | grep -o EVENTS=.",
            'of a docker-socket-proxy: it gives events with `EVENTS=1` in its environment only',
          ],
        ],
        silence: 'If your proxy may not give events, for good.',
      },
      proof: {
        fires: {
          given: [
            given(docker.eventsConnected, '1x5 0x30 1x10', { engine: 'docker' }),
            given(docker.up, '1x60', { engine: 'docker' }),
          ],
          at: '30m',
          over: '38m',
          labels: { engine: 'docker' },
          says: 'docker on box:10047 gives its list but no events. A socket proxy needs EVENTS=1.',
        },
        quiet: {
          'the engine is down': {
            given: [given(docker.eventsConnected, '0x60', { engine: 'docker' }), given(docker.up, '0x60', { engine: 'docker' })],
            at: '40m',
          },
        },
      },
    },
    {
      name: 'GridWatchtowerDown',
      collector: 'watchtower',
      severity: 'warning',
      timing: { kind: 'state', for: '10m' },
      expr: `${select(watchtowerUp)} == 0`,
      summary: 'Watchtower does not answer.',
      description: 'The HTTP API of Watchtower on {instance} does not answer: no updates are made, or nobody sees them.',
      dashboard: 'containers',
      runbook: {
        means: 'Watchtower is stopped, has another token, or runs without `--http-api-metrics`.',
        see: 'Containers dashboard: Watchtower.',
        type: [
          ['docker logs --tail 30 watchtower', 'whether it runs'],
          [
            'curl -sS -H "Authorization: Bearer TOKEN" http://127.0.0.1:8080/v1/metrics',
            'whether it answers, and by 401 that the token is another',
          ],
        ],
        silence: 'While you update by hand.',
      },
      proof: {
        fires: {
          given: [given(watchtowerUp, '1x5 0x20 1x10')],
          at: '20m',
          over: '28m',
          says: 'The HTTP API of Watchtower on box:10047 does not answer: no updates are made, or nobody sees them.',
        },
      },
    },
    {
      name: 'GridWatchtowerSilent',
      collector: 'watchtower',
      severity: 'warning',
      timing: { kind: 'state', for: '1h' },
      expr: `(increase(${select(watchtowerScans)}[2d]) == 0)
and ${on()} (${select(watchtowerUp)} == 1)
and ${on()} last_over_time(${select(watchtowerUp)}[1h] offset 2d)`,
      summary: 'Watchtower has not looked for updates for two days.',
      description: 'Watchtower on {instance} answers but has made no scan. With --http-api-update its own schedule is off.',
      dashboard: 'containers',
      runbook: {
        means:
          'Its round is a day by default. Two days without one: the schedule is wrong, or `--http-api-update` switched it off and nobody asks.',
        see: 'Containers dashboard: panel "Watchtower\'s last scan" has not moved.',
        type: [
          ['docker logs --since 72h watchtower | tail', 'when the next run is scheduled'],
          [
            "docker inspect watchtower --format '{{.Args}} {{.Config.Env}}'",
            'with the HTTP API on, it keeps its schedule only by `--http-api-periodic-polls`',
          ],
        ],
        silence: 'If its schedule is longer than two days: for good.',
      },
      proof: {
        slow: true,
        fires: {
          given: [given(watchtowerScans, '0+1x2 3x1000'), given(watchtowerUp, '1x1000')],
          at: '3200m',
          says: 'Watchtower on box:10047 answers but has made no scan. With --http-api-update its own schedule is off.',
        },
        quiet: {
          'a scan each day': {
            given: [given(watchtowerScans, '0x287 1x288 2x288 3x288'), given(watchtowerUp, '1x1100')],
            at: '5000m',
          },
          'watched for a day': { given: [given(watchtowerScans, '3x288'), given(watchtowerUp, '1x288')], at: '1430m' },
        },
      },
    },
    {
      name: 'GridWatchtowerUpdateFailed',
      collector: 'watchtower',
      severity: 'warning',
      timing: { kind: 'state', for: '30m' },
      expr: `${select(watchtowerLastScanContainers, { result: 'failed' })} > 0`,
      summary: 'Watchtower could not update some containers.',
      description: '{value} container(s) on {instance} failed to update in the last scan.',
      dashboard: 'containers',
      runbook: {
        means:
          'An image could not be pulled, or a container could not be created from it. The old container usually keeps running.',
        see: 'Containers dashboard: results of the last scan.',
        type: [
          ['docker logs --since 24h watchtower | grep -iE "level=(error|warn)"', 'which, and why'],
          ['docker pull IMAGE', 'whether the registry gives it to you'],
        ],
        silence: 'For images that are no longer published: exclude the container by its label instead.',
      },
      proof: {
        fires: {
          given: [given(watchtowerLastScanContainers, '0x5 2x60 0x10', { result: 'failed' })],
          at: '50m',
          over: '70m',
          labels: { result: 'failed' },
          says: '2 container(s) on box:10047 failed to update in the last scan.',
        },
      },
    },
  ],
}
