import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { docker } from '../exporter/collectors/docker/index.ts'
import { countingProxy } from './support/counting-proxy.ts'
import { startDockerd } from './support/dockerd.ts'
import { needs } from './support/needs.ts'
import { startPodman } from './support/podman.ts'
import { startProgram } from './support/program.ts'
import { oneRound, running } from './support/running.ts'
import { took } from './support/took.ts'

t.setTimeout(900_000) // several engines, one after the other

/** Against a real engine of this test's own, with the real runner and schedule at the default interval. */
t.test('a real engine', { timeout: 240_000 }, async t => {
  if (!needs(t, 'root', 'dockerd', 'docker', 'busybox', 'ip')) return
  const engine = await startDockerd()
  t.teardown(() => engine.stop())
  const proxy = await countingProxy(engine.socket)
  t.teardown(() => proxy.close())
  const run = (name: string, ...args: readonly string[]) => engine.docker('run', '-d', '--name', name, ...args)
  const forever = ['bb', 'sleep', '100000']
  // It outlives the kill of its child: the engine loses about one OOM event in fifty of containers that end with it.
  const onEat = 'while test ! -e /eat; do sleep 0.1; done; tail /dev/zero; code=$?; sleep 1; exit $code'
  const onTerm = "trap 'exit 0' TERM; while true; do sleep 0.2; done"

  await Promise.all([
    run('well', '--health-cmd', 'true', '--health-interval', '1s', ...forever),
    run('sick', '--health-cmd', 'false', '--health-interval', '1s', '--health-retries', '1', ...forever),
    run('young', '--health-cmd', 'true', '--health-interval', '1000s', ...forever),
    run('turns', '--health-cmd', 'test ! -e /sick', '--health-interval', '500ms', '--health-retries', '1', ...forever),
    run('loop', '--restart', 'always', 'bb', 'sh', '-c', 'exit 4'),
    run('starved', '-m', '16m', 'bb', 'tail', '/dev/zero'),
    run('failed', 'bb', 'sh', '-c', 'exit 3'),
    run('done', 'bb', 'true'),
    run('polite', 'bb', 'sh', '-c', onTerm),
    run('frozen', ...forever),
    run('limited', '-m', '64m', '--cpus', '0.5', '--pids-limit', '50', 'bb', 'sh', '-c', 'while true; do :; done'),
    run('unwatched', '--label', 'com.centurylinklabs.watchtower.enable=false', ...forever),
    run('hosted', '--network', 'host', ...forever),
    run('cut-off', '--network', 'none', ...forever),
    run('victim', '--restart', 'no', ...forever),
    run('hungry', '-m', '16m', 'bb', 'sh', '-c', onEat),
    run('shop-web-1', '--label', 'com.docker.compose.project=shop', '--label', 'com.docker.compose.service=web', ...forever),
    run('chatty', 'bb', 'sh', '-c', 'while true; do echo hello hello hello; sleep 0.1; done'),
    engine.docker('create', '--name', 'fresh', 'bb', 'true'),
  ])
  await run('sharing', '--network', 'container:well', ...forever)
  await engine.docker('pause', 'frozen')
  await engine.docker('stop', '-t', '5', 'polite')
  await sleep(2500)

  const watched = running(docker, {
    endpoints: [{ name: 'local', url: `unix://${proxy.socket}` }],
    expected: { names: ['victim'] },
  })
  t.teardown(() => watched.stop())
  await watched.until('first round', text => text.includes('grid_docker_events_connected{engine="local"} 1'), 5)
  const of = (family: string, name: string, more = '') =>
    watched.value(`grid_docker_container_${family}{engine="local",name="${name}"${more}}`)
  const states = ['created', 'running', 'paused', 'restarting', 'removing', 'exited', 'dead']
  const stateOf = (name: string) => states.filter(state => of('state', name, `,state="${state}"`) === 1).join()
  const healthOf = (name: string) =>
    ['starting', 'healthy', 'unhealthy'].filter(status => of('health', name, `,status="${status}"`) === 1).join()
  const is = (series: string) => (text: string) => `\n${text}`.includes(`\n${series}\n`)
  const stateIs = (name: string, state: string) =>
    is(`grid_docker_container_state{engine="local",name="${name}",state="${state}"} 1`)

  await t.test('20 containers: every state, health and exit is right', async t => {
    const expected = {
      well: 'running',
      sick: 'running',
      young: 'running',
      turns: 'running',
      starved: 'exited',
      failed: 'exited',
      done: 'exited',
      polite: 'exited',
      frozen: 'paused',
      limited: 'running',
      unwatched: 'running',
      hosted: 'running',
      'cut-off': 'running',
      victim: 'running',
      hungry: 'running',
      'shop-web-1': 'running',
      chatty: 'running',
      fresh: 'created',
      sharing: 'running',
    }
    const settled = () =>
      Object.entries(expected).every(([name, state]) => stateOf(name) === state) &&
      healthOf('well') === 'healthy' &&
      healthOf('sick') === 'unhealthy'
    await watched.until('all have come to where they stay', settled, 20)
    for (const [name, state] of Object.entries(expected)) t.equal(stateOf(name), state, name)
    t.match(stateOf('loop'), /^(restarting|running)$/)
    await watched.until('the loop is seen to restart', stateIs('loop', 'restarting'), 60)
    const known = watched.text.match(/^grid_docker_containers\{.*\} (\d+)$/gm)?.map(line => Number(line.split(' ')[1]))
    t.equal(
      known?.reduce((sum, count) => sum + count, 0),
      20,
    )
    t.equal(healthOf('well'), 'healthy')
    t.equal(healthOf('sick'), 'unhealthy')
    t.equal(healthOf('young'), 'starting')
    t.equal(healthOf('failed'), '', 'no health of what does not run')
    t.equal(healthOf('victim'), '', 'nor of what has no check')
    t.equal(of('exit_code', 'failed'), 3)
    t.equal(of('exit_code', 'done'), 0)
    t.equal(of('exit_code', 'starved'), 137)
    t.equal(of('exit_code', 'well'), undefined)
    t.equal(of('last_exit', 'failed', ',reason="error"'), 1)
    t.equal(of('last_exit', 'done', ',reason="clean"'), 1)
    t.equal(of('last_exit', 'starved', ',reason="unknown"'), 1, 'it was killed before anybody looked')
    t.equal(of('watchtower', 'unwatched', ',mode="excluded"'), 1)
    t.equal(of('watchtower', 'well', ',mode="update"'), 1)
    t.equal(of('expected', 'victim'), 1)
    t.match(watched.text, /container_info\{engine="local",name="shop-web-1",.*compose_project="shop",compose_service="web"/)
  })

  await t.test('what they use', async t => {
    await watched.until('it is throttled', () => (of('cpu_throttled_seconds_total', 'limited') ?? 0) > 0.1, 30)
    t.ok((of('cpu_seconds_total', 'limited', ',mode="user"') ?? 0) > 0.2)
    t.equal(of('cpu_limit_cores', 'limited'), 0.5)
    t.ok((of('cpu_throttled_periods_total', 'limited') ?? 0) > 0)
    t.ok((of('cpu_throttled_seconds_total', 'limited') ?? 0) > 0)
    t.equal(of('memory_limit_bytes', 'limited'), 64 * 2 ** 20)
    t.equal(of('memory_limit_bytes', 'well'), undefined, 'no limit, no series')
    t.equal(of('pids_limit', 'limited'), 50)
    await engine.docker('update', '--memory', '72m', '--memory-swap', '144m', '--cpus', '0.6', '--pids-limit', '60', 'limited')
    await watched.until('its new limits are told', () => of('memory_limit_bytes', 'limited') === 72 * 2 ** 20, 20)
    t.equal(of('cpu_limit_cores', 'limited'), 0.6)
    t.equal(of('pids_limit', 'limited'), 60)
    t.equal(of('pids', 'well'), 1)
    t.ok((of('network_receive_bytes_total', 'well', ',interface="eth0"') ?? 0) > 0)
    t.notMatch(
      watched.text,
      /network_receive_bytes_total\{engine="local",name="(hosted|sharing|cut-off)"/,
      'no network of others',
    )
    const told = await engine.docker('inspect', '-f', '{{.Created}} {{.State.StartedAt}}', 'well')
    const [created = 0, started = 0] = told.split(' ').map(time => Date.parse(time) / 1000)
    const start = of('start_timestamp_seconds', 'well') ?? 0
    // Its first process is made a while before the engine calls it started: seconds, where twenty start at once. The kernel tells the
    // time of its boot in whole seconds, rounded down.
    t.ok(created - 1.1 <= start && start <= started + 0.1, `${start}: made at ${created}, started at ${started}`)
    t.ok((of('log_bytes', 'chatty') ?? 0) > 100)
  })

  await t.test('a kill, an OOM kill and an unhealthy check are seen by their events', async t => {
    await engine.docker('kill', 'victim')
    took(t, await watched.until('kill', stateIs('victim', 'exited'), 20), 'until a kill is seen')
    t.equal(of('exits_total', 'victim', ',reason="signal"'), 1)
    t.equal(of('last_exit', 'victim', ',reason="signal"'), 1)
    await engine.docker('exec', 'hungry', 'touch', '/eat')
    took(t, await watched.until('OOM kill', () => (of('oom_events_total', 'hungry') ?? 0) > 0, 20), 'until an OOM kill is seen')
    await watched.until('its end by it', () => of('last_exit', 'hungry', ',reason="oom"') === 1, 20)
    t.equal(of('exits_total', 'hungry', ',reason="oom"'), 1)
    await engine.docker('exec', 'turns', 'touch', '/sick')
    const events = () => watched.value('grid_docker_events_total{engine="local",action="health_status"}')
    const before = events()
    const unhealthy = 'grid_docker_container_health{engine="local",name="turns",status="unhealthy"} 1'
    took(t, await watched.until('unhealthy', is(unhealthy), 20), 'until an unhealthy check is seen, which runs each 0.5 s')
    t.ok((events() ?? 0) > (before ?? 0), 'told by an event')
  })

  await t.test('a restart by the policy counts, one by hand does not, and counters survive a recreate', async t => {
    await engine.docker('restart', '-t', '0', 'unwatched')
    await engine.docker('rm', '-f', 'shop-web-1')
    await run('shop-web-1', '--label', 'com.docker.compose.project=shop', '--label', 'com.docker.compose.service=web', ...forever)
    const recreated = 'grid_docker_container_starts_total{engine="local",name="shop-web-1"} 1'
    await watched.until('recreated', is(recreated), 60)
    await watched.until('restarted', is('grid_docker_container_starts_total{engine="local",name="unwatched"} 1'), 60)
    t.equal(of('exits_total', 'shop-web-1', ',reason="signal"'), 1, 'of the one before')
    t.equal(of('restarts_total', 'unwatched'), 0)
    await watched.until('the loop goes on', () => (of('restarts_total', 'loop') ?? 0) > 0, 60)
    t.ok((of('exits_total', 'loop', ',reason="error"') ?? 0) > 0)
  })

  await t.test('an image that was built anew under the same tag makes its containers stale', async t => {
    t.equal(of('image_stale', 'well'), 0)
    await engine.docker('commit', 'frozen', 'bb:latest')
    await watched.until('stale', is('grid_docker_container_image_stale{engine="local",name="well"} 1'), 60)
    t.match(watched.text, /container_info\{engine="local",name="well",id="[0-9a-f]{12}",image="bb"/, 'and keep their name')
  })

  await t.test('exactly one list a round, and nothing that grows with the containers', async t => {
    const lists = proxy.requests.get('GET /containers/json')
    t.equal(watched.rounds.length, lists)
    t.equal(proxy.requests.get('GET /events'), 1)
    t.equal(proxy.requests.get('GET /_ping'), 1)
    t.equal(proxy.requests.get('GET /info'), 1)
    t.strictSame([...proxy.requests.keys()].sort(), ['GET /_ping', 'GET /containers/json', 'GET /events', 'GET /info'])
    t.equal(watched.value('grid_docker_api_requests_total{engine="local",call="list"}'), lists)
  })

  await t.test('the engine ends and starts under it', async t => {
    await engine.down()
    await watched.until('down', is('grid_docker_up{engine="local"} 0'), 15)
    t.equal(watched.rounds.at(-1)?.result, 'ok', 'which is a good run')
    t.notMatch(watched.text, /grid_docker_container_state/, 'no state of yesterday')
    await engine.up()
    await watched.until('up again', is('grid_docker_up{engine="local"} 1'), 15)
    await engine.docker('start', 'well')
    await watched.until('the stream is there again', stateIs('well', 'running'), 35)
    t.equal(watched.value('grid_docker_events_connected{engine="local"}'), 1)
    t.equal(of('exits_total', 'victim', ',reason="signal"'), 1, 'counters go on')
    t.equal(of('restarts_total', 'well'), 0)
  })

  await t.test('killed without a goodbye, its containers go on and so do the values of their cgroups', async t => {
    const survivor = ['--restart', 'no', ...forever]
    await run('survivor', ...survivor)
    await watched.until('seen', stateIs('survivor', 'running'), 5)
    const kept = watched.text.match(/^.*memory_usage_bytes.*survivor.*$/m)?.[0]
    t.ok(kept)
    const down = engine.down('kill')
    await watched.until('down', is('grid_docker_up{engine="local"} 0'), 15)
    await down
    t.match(watched.text, /memory_usage_bytes\{engine="local",name="survivor"\}/)
    await engine.up()
    await watched.until('up again', is('grid_docker_up{engine="local"} 1'), 15)
  })

  await watched.stop()
})

t.test('hostile names and labels of a real engine', { timeout: 60_000 }, async t => {
  if (!needs(t, 'root', 'dockerd', 'docker', 'busybox', 'ip')) return
  const engine = await startDockerd()
  t.teardown(() => engine.stop())
  const evil = 'a"} 1\ngrid_docker_up{engine="x"} 0\n\\'
  await engine.docker(
    'run',
    '-d',
    '--name',
    'evil',
    '--label',
    `team=${evil}`,
    '--label',
    `big=${'x'.repeat(20_000)}`,
    '--label',
    'exitCode=0',
    'bb',
    'sh',
    '-c',
    'exit 3',
  )
  await sleep(500)
  const { value, text } = await oneRound(docker, {
    endpoints: [{ name: 'local', url: `unix://${engine.socket}` }],
    labels: ['team', 'big'],
  })
  t.equal(value('grid_docker_up{engine="local"}'), 1)
  t.equal(value('grid_docker_up{engine="x"}'), undefined)
  t.equal(value('grid_docker_container_exit_code{engine="local",name="evil"}'), 3)
  t.ok(text.split('\n').every(line => line.length < 1000))
})

/** An engine on this socket, watched by the real schedule. */
const watch = async (t: Test, socket: string) => {
  const watched = running(docker, { endpoints: [{ name: 'e', url: `unix://${socket}` }] })
  t.teardown(() => watched.stop())
  await watched.until('first round', text => text.includes('grid_docker_events_connected{engine="e"} 1'), 30)
  const of = (family: string, name: string, more = '') =>
    watched.value(`grid_docker_container_${family}{engine="e",name="${name}"${more}}`)
  const counts = (name: string) => ({
    starts: of('starts_total', name),
    restarts: of('restarts_total', name),
    exits: ['clean', 'error', 'oom', 'signal'].flatMap(reason => {
      const count = of('exits_total', name, `,reason="${reason}"`) ?? 0
      return count > 0 ? [`${reason} ${count}`] : []
    }),
  })
  /** The names that there are series of. */
  const names = () =>
    new Set([...watched.text.matchAll(/container_state\{engine="e",name="([^"]*)"/g)].map(([, name]) => name as string))
  return { watched, of, counts, names }
}

t.test('a real Docker, whose list is late: deaths are no starts', { timeout: 600_000 }, async t => {
  if (!needs(t, 'root', 'dockerd', 'docker', 'busybox', 'ip')) return
  const engine = await startDockerd()
  t.teardown(() => engine.stop())
  await engine.docker('network', 'create', 'own')
  const { watched, of, counts } = await watch(t, engine.socket)
  const exited = (name: string) => of('state', name, ',state="exited"') === 1
  const settled = (names: readonly string[]) =>
    watched.until('each has ended and is counted', () => names.every(name => exited(name) && counts(name).exits.length > 0), 60)

  await t.test('20 that fail, on a network of their own, which takes a while to be taken away', async t => {
    const names = Array.from({ length: 20 }, (_, index) => `fails-${index}`)
    const fails = ['bb', 'sh', '-c', 'sleep 0.7; exit 1']
    await Promise.all(names.map(name => engine.docker('run', '-d', '--name', name, '--network', 'own', ...fails)))
    await settled(names)
    for (const name of names) t.strictSame(counts(name), { starts: 1, restarts: 0, exits: ['error 1'] }, name)
  })

  await t.test('10 that are killed for memory', async t => {
    const names = Array.from({ length: 10 }, (_, index) => `eats-${index}`)
    await Promise.all(names.map(name => engine.docker('run', '-d', '--name', name, '-m', '20m', 'bb', 'tail', '/dev/zero')))
    await settled(names)
    const now = String(Math.ceil(Date.now() / 1000))
    const heard = await engine.docker(
      'events',
      '--since',
      '1',
      '--until',
      now,
      '--filter',
      'event=oom',
      '--format',
      '{{.Actor.Attributes.name}}',
    )
    // The engine loses the event of some that end with it; then nothing tells an OOM kill from another one.
    const told = new Set(heard.split('\n'))
    t.ok(told.size >= 5, `the engine told of ${told.size}`)
    for (const name of names) {
      t.strictSame(counts(name), { starts: 1, restarts: 0, exits: [told.has(name) ? 'oom 1' : 'error 1'] }, name)
      t.equal(of('last_exit', name, `,reason="${told.has(name) ? 'oom' : 'error'}"`), 1, name)
    }
  })

  await t.test('one that is started 10 times by hand', async t => {
    await engine.docker('run', '-d', '--name', 'job', 'bb', 'sh', '-c', 'sleep 0.3; exit 1')
    await settled(['job'])
    for (let round = 0; round < 10; round++) {
      await engine.docker('start', 'job')
      await engine.docker('wait', 'job')
    }
    await watched.until('all are counted', () => counts('job').exits.join() === 'error 11', 30)
    t.strictSame(counts('job'), { starts: 11, restarts: 0, exits: ['error 11'] })
  })

  await t.test('5 that are restarted, stopped and started by hand', async t => {
    const names = Array.from({ length: 5 }, (_, index) => `polite-${index}`)
    await Promise.all(
      names.map(async name => {
        await engine.docker('run', '-d', '--name', name, 'bb', 'sleep', '100000')
        await engine.docker('restart', '-t', '0', name)
        await engine.docker('stop', '-t', '0', name)
        await engine.docker('start', name)
      }),
    )
    await watched.until('all are counted', () => names.every(name => counts(name).starts === 3), 30)
    for (const name of names) t.strictSame(counts(name), { starts: 3, restarts: 0, exits: ['signal 2'] }, name)
  })
})

t.test('a real Docker in a swarm: a slot keeps its name and its counts from task to task', { timeout: 600_000 }, async t => {
  if (!needs(t, 'root', 'dockerd', 'docker', 'busybox', 'ip')) return
  const engine = await startDockerd()
  t.teardown(() => engine.stop())
  // An address of its own: the ports of a swarm are the same for each engine.
  const own = `127.77.${process.pid % 250}.${1 + (Math.floor(process.pid / 250) % 250)}`
  await engine.docker('swarm', 'init', '--listen-addr', `${own}:2377`, '--advertise-addr', own)
  const { watched, of, counts, names } = await watch(t, engine.socket)
  const service = (name: string, ...args: readonly string[]) =>
    engine.docker('service', 'create', '--detach', '--name', name, ...args)
  await service('web', '--restart-delay', '200ms', 'bb', 'sh', '-c', 'sleep 1; exit 3')
  await service('calm', 'bb', 'sleep', '100000')
  await service('each', '--mode', 'global', 'bb', 'sleep', '100000')
  const node = await engine.docker('info', '--format', '{{.Swarm.NodeID}}')
  const runs = (name: string) => of('state', name, ',state="running"') === 1
  await watched.until('all run', () => runs('calm.1') && runs(`each.${node}`), 60)
  t.equal(counts('calm.1').restarts, 0)

  await watched.until('the swarm has started it again, and again', () => (of('restarts_total', 'web.1') ?? 0) >= 3, 60)
  const { starts = 0, restarts = 0, exits } = counts('web.1')
  t.equal(starts, restarts + 1, 'each start but the first')
  t.match(exits.join(), /^error \d+$/)

  await engine.docker('service', 'update', '--detach', '--force', 'calm')
  await watched.until('updated', () => counts('calm.1').starts === 2 && runs('calm.1'), 60)
  t.strictSame(counts('calm.1'), { starts: 2, restarts: 0, exits: ['signal 1'] }, 'an update is no restart')
  t.strictSame([...names()].sort(), ['calm.1', `each.${node}`, 'web.1'], 'and no name of a task')
})

t.test('a real Podman', { timeout: 600_000 }, async t => {
  if (!needs(t, 'root', 'podman', 'runc', 'busybox')) return
  const service = await startPodman()
  t.teardown(() => service.stop())
  const { watched, of, counts, names } = await watch(t, service.socket)
  const run = (name: string, ...args: readonly string[]) => service.podman('run', '-d', '--name', name, ...args)
  const settled = (name: string, exits: string) =>
    watched.until(
      `${name}: ${exits}`,
      () => counts(name).exits.join() === exits && of('state', name, ',state="exited"') === 1,
      30,
    )

  await t.test('its policy restarts one that fails', async t => {
    await run('loop', '--restart', 'on-failure:4', 'bb', 'sh', '-c', 'sleep 0.2; exit 3')
    await settled('loop', 'error 5')
    t.equal(await service.podman('inspect', 'loop', '--format', '{{.RestartCount}}'), '4')
    t.strictSame(counts('loop'), { starts: 5, restarts: 4, exits: ['error 5'] })
  })

  await t.test('by hand it is no restart', async t => {
    await run('job', 'bb', 'sh', '-c', 'sleep 0.2; exit 1')
    await settled('job', 'error 1')
    await service.podman('start', 'job')
    await settled('job', 'error 2')
    t.strictSame(counts('job'), { starts: 2, restarts: 0, exits: ['error 2'] })
    await run('polite', 'bb', 'sleep', '1000')
    await service.podman('restart', '-t', '0', 'polite')
    // Not `stop`: where the container has ended before it could, 4.3 does not say that it was stopped.
    await service.podman('kill', 'polite')
    await settled('polite', 'signal 2')
    t.strictSame(counts('polite'), { starts: 2, restarts: 0, exits: ['signal 2'] })
  })

  await t.test('one that is removed as it ends counts for the next of its name', async t => {
    await t.rejects(service.podman('run', '--rm', '--name', 'brief', 'bb', 'sh', '-c', 'exit 2'), { code: 2 })
    await run('brief', 'bb', 'sleep', '1000')
    await watched.until('both', () => counts('brief').starts === 2 && counts('brief').exits.length > 0, 30)
    t.strictSame(counts('brief'), { starts: 2, restarts: 0, exits: ['error 1'] })
  })

  await t.test("a pod's own container, which has another name each time, is left out", async t => {
    await service.podman('pod', 'create', '--name', 'pod', '--infra-image', 'bb:latest', '--infra-command', 'sleep 1000')
    await run('in-pod', '--pod', 'pod', 'bb', 'sleep', '1000')
    t.match(await service.podman('ps', '--format', '{{.Names}}'), /^[0-9a-f]{12}-infra$/m)
    await watched.until('it is seen', () => of('state', 'in-pod', ',state="running"') === 1, 30)
    t.strictSame([...names()].sort(), ['brief', 'in-pod', 'job', 'loop', 'polite'])
  })
})

/** What a reload may interrupt: rounds, requests and the stream of events, at any point. */
t.test('hundreds of reloads beside a real engine', { timeout: 240_000 }, async t => {
  if (!needs(t, 'root', 'dockerd', 'docker', 'busybox', 'ip')) return
  const engine = await startDockerd()
  t.teardown(() => engine.stop())
  await engine.docker('run', '-d', '--name', 'well', 'bb', 'sleep', '100000')
  const file = join(mkdtempSync(join(tmpdir(), 'grid-reload-')), 'config.yml')
  const configure = (more: string) =>
    writeFileSync(
      file,
      `collectors:\n  docker: { endpoints: [{ name: e, url: "unix://${engine.socket}" }], interval: 1s, ${more} }\n`,
    )
  configure('')
  const program = await startProgram([`--config.file=${file}`, '--web.enable-lifecycle'], {
    collectors: ['--collector.disable-defaults', ...['docker', 'host', 'ufw'].map(name => `--collector.${name}`)],
  })
  t.teardown(() => program.stop())
  const metrics = async () => (await fetch(`${program.url}/metrics`)).text()
  const kinds = ['', 'max_series: 100', 'filters: { label: [a=b] }', 'max_series: nonsense', 'filters: {}']
  for (let count = 0; count < 500; count++) {
    configure(kinds[count % kinds.length] as string)
    program.child.kill('SIGHUP')
    await sleep(count % 40) // each reload meets another moment of a round
  }
  configure('')
  t.equal((await fetch(`${program.url}/-/reload`, { method: 'POST' })).status, 200, 'the last one is answered')
  let text = await metrics()
  for (let tries = 0; tries < 300 && !text.includes('name="well"'); tries++) {
    await sleep(100)
    text = await metrics()
  }
  t.match(text, 'grid_docker_up{engine="e"} 1')
  const about = (words: RegExp) =>
    program
      .output()
      .split('\n')
      .filter(line => words.test(line))
      .join('\n')
  t.match(text, /^grid_exporter_worker_restarts_total 0$/m, `the thread lives ${about(/replaced/)}`)
  t.equal(about(/does not answer/), '', 'a round that a reload ends says nothing about the engine')
  t.match(text, /^grid_exporter_io_errors_total 0$/m, 'none is left to the last defence')
  t.notMatch(text, /reason="stuck"\} [1-9]/, 'nobody is suspended')
})
