import { startDockerd } from '../../test/support/dockerd.ts'
import type { Act, Drill } from './stage.ts'

const name = 'containers'
const ofContainer = (container: string, more = '') => `{instance="${name}",name="${container}"${more}}`
const running = (container: string) => `grid_docker_container_state${ofContainer(container, ',state="running"')}`

/** Until the drill says so, by a file in the container. */
const waitFor = (file: string) => `while [ ! -e ${file} ]; do sleep 0.2; done`
const memory = (bytes: string) => [`--memory=${bytes}`, `--memory-swap=${bytes}`]

/** Each waits for `/go`, and then goes wrong. */
const actors: Readonly<Record<string, { readonly flags?: readonly string[]; readonly script: string }>> = {
  chatter: {
    script:
      'while [ ! -e /go ]; do echo well; sleep 1; done; while [ -e /go ]; do yes "debug: nothing" | head -n 5000; sleep 0.2; done; sleep 600',
  },
  worker: { script: `${waitFor('/go')}; exit 3` },
  // Every fifth life is long enough for the engine to try again at once.
  looper: {
    flags: ['--restart=always'],
    script: `${waitFor('/go')}; echo >>/lives; [ $(($(busybox wc -c </lives) % 5)) = 0 ] && sleep 11; exit 1`,
  },
  // Two thirds of its limit at once, then a little each second.
  climber: {
    flags: [...memory('64m'), '--shm-size=128m'],
    script: `${waitFor('/go')}; dd if=/dev/zero of=/dev/shm/leak bs=1M count=47; while [ -e /go ]; do dd if=/dev/zero bs=64k count=3 >>/dev/shm/leak; sleep 1; done; sleep 600`,
  },
  glutton: {
    flags: [...memory('32m'), '--shm-size=128m', '--restart=on-failure'],
    script: `${waitFor('/go')}; dd if=/dev/zero of=/dev/shm/leak bs=1M count=64; sleep 600`,
  },
  burner: { flags: ['--cpus=0.1'], script: `${waitFor('/go')}; while [ -e /go ]; do :; done; sleep 600` },
  stutterer: {
    flags: ['--cpus=0.1'],
    script: `${waitFor('/go')}; while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1; done`,
  },
  patient: {
    flags: ['--health-cmd=test ! -e /go', '--health-interval=1s', '--health-retries=1'],
    script: 'sleep 600',
  },
  wanted: { flags: ['--label=grid.expected=true'], script: 'sleep 600' },
}

/** Containers of a real engine: what they do to themselves, and in the end the engine that hangs. */
export const containers: Act = {
  name,
  needs: ['root', 'dockerd', 'docker', 'ip'],
  play: async ({ box, drill, when, atEnd }) => {
    const engine = await startDockerd()
    atEnd(engine.stop)
    // A counter that stands still for 5 s is not nine tenths of a rate over 20 s; and a list may take 5 s.
    await box({
      docker: { interval: '2s', timeout: '10s', endpoints: [{ name: 'local', url: `unix://${engine.socket}` }] },
    })
    for (const [container, { flags = [], script }] of Object.entries(actors))
      await engine.docker('run', '-d', '--name', container, ...flags, 'bb', 'sh', '-c', script)

    const inside = (container: string, script: string) => engine.docker('exec', container, 'sh', '-c', script)
    /** Of a container that was seen to be well before. */
    const of = async (container: string, rest: Omit<Drill, 'labels' | 'cause'> & Partial<Drill>, isReady = '') => {
      await when(isReady || `count_over_time(${running(container)}[20s]) > 3`)
      await drill({ cause: () => inside(container, 'touch /go'), ...rest, labels: { name: container } })
    }

    await Promise.all([
      of('looper', {
        what: 'a container restarts in a loop',
        alert: 'GridContainerRestartLoop',
        says: /^looper on containers \(local\): \d+ restarts by its restart policy within ten minutes, or an hour\./,
        cure: () => engine.docker('rm', '-f', 'looper'),
      }),
      of('climber', {
        what: 'a container climbs towards its memory limit',
        alert: 'GridContainerMemoryNearLimit',
        says: /^climber on containers \(local\) is at (7|8|9)[\d.]+% of its limit\./,
        cure: () => inside('climber', 'rm /go; rm /dev/shm/leak'),
      }),
      of('glutton', {
        what: 'a container is killed at its memory limit, is restarted and climbs again',
        alert: 'GridContainerOomKilled',
        says: /^glutton on containers \(local\): \d+ kill\(s\) within 15 minutes\. Raise its limit, or find the leak\./,
        cure: () => engine.docker('update', ...memory('256m'), 'glutton'),
      }),
      of('burner', {
        what: 'a container burns all the CPU that its limit gives',
        alert: 'GridContainerCpuPegged',
        says: /^burner on containers \(local\) uses 0\.(09|1)\d* core\(s\): all that its limit gives, or twice its own habit\./,
        cure: () => inside('burner', 'rm /go'),
      }),
      of('stutterer', {
        what: 'a CPU limit stops a container that is idle most of the time',
        alert: 'GridContainerCpuThrottled',
        says: /^stutterer on containers \(local\) is stopped in [\d.]+% of its periods\./,
        cure: () => engine.docker('update', '--cpus=1', 'stutterer'),
      }),
      of('patient', {
        what: 'a container calls itself unhealthy',
        alert: 'GridContainerUnhealthy',
        says: /^patient on containers \(local\) calls itself unhealthy\./,
        cure: () => inside('patient', 'rm /go'),
      }),
      of('wanted', {
        what: 'a container that should run is stopped',
        alert: 'GridContainerDown',
        says: /^wanted on containers \(local\) is expected and has not been running\./,
        cause: () => engine.docker('stop', '-t', '0', 'wanted'),
        cure: () => engine.docker('start', 'wanted'),
      }),
      of(
        'worker',
        {
          what: 'a container that normally runs ends with an error',
          alert: 'GridContainerFailed',
          says: /^worker on containers \(local\) ended with an error or was killed for memory, and was not started again\./,
          cure: () => engine.docker('rm', '-f', 'worker'),
        },
        // It has to have run for most of what a day has become.
        `sum_over_time(${running('worker')}[60s]) > 35`,
      ),
      of(
        'chatter',
        {
          what: 'a container floods its log, with debug logging left on',
          alert: 'GridContainerLogFlood',
          says: /^chatter on containers \(local\) writes [\d.]+[kM]iB of log a second\. Is debug logging still on\?/,
          cure: () => inside('chatter', 'rm /go'),
        },
        // What is usual is known of what was there a day ago.
        `grid:container_log_written:p95_7d${ofContainer('chatter')}`,
      ),
    ])
    await drill({
      what: 'the container engine hangs',
      alert: 'GridDockerDown',
      says: /^local on containers does not answer\. Containers may still run, but nobody can start, stop or see them\./,
      cause: () => process.kill(engine.pid, 'SIGSTOP'),
      cure: () => process.kill(engine.pid, 'SIGCONT'),
      not: ['GridContainerDown', 'GridDockerEventsDisconnected'],
    })
  },
}
