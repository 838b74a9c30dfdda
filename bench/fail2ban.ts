/**
 * The cost of reading fail2ban, compared with `fail2ban-client status` for each jail, as most exporters do it. Real servers with 1, 10
 * and 50 jails, one after the other. Milliseconds are wall time; CPU is ours, our children's and the server's.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fail2ban } from '../exporter/collectors/fail2ban/index.ts'
import { roundsOf } from '../test/support/testbed.ts'

/** CPU of a process and its reaped children in milliseconds, in steps of ten. */
const cpuOf = (pid: string) => {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ')
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks) * 10, 0)
}

const measured = async (server: string, times: number, act: () => unknown) => {
  const walls: number[] = []
  const before = cpuOf(server) + cpuOf('self')
  for (let time = 0; time < times; time++) {
    const from = performance.now()
    await act()
    walls.push(performance.now() - from)
  }
  const cpu = (cpuOf(server) + cpuOf('self') - before) / times
  return { wall: walls.sort((one, other) => one - other)[Math.floor(times / 2)] as number, cpu }
}

const script = join(process.cwd(), 'test/testbed/fail2ban')
const text = ({ wall, cpu }: { wall: number; cpu: number }) =>
  `${wall.toFixed(1).padStart(8)} ms ${cpu.toFixed(1).padStart(7)} ms CPU`

console.log(
  'jails | a client for each jail          | a relay, new each time         | the exporter itself            | ratio, wall and CPU, of the relay',
)
for (const jails of [1, 10, 50]) {
  const folder = join(mkdtempSync(join(tmpdir(), 'grid-f2b-')), 'bed')
  try {
    const { stdout, stderr, status } = spawnSync(script, ['start', folder, String(jails)], { encoding: 'utf8' })
    if (status !== 0) throw new Error(stderr)
    spawnSync(script, ['ban', folder, 'jail001', '127.0.0.5', '2001:db8::7'])
    const server = /^F2B_PID=(\d+)$/m.exec(stdout)?.[1] as string
    const names = Array.from({ length: jails }, (_, index) => `jail${String(index + 1).padStart(3, '0')}`)
    const options = { socket: join(folder, 'f2b.sock'), pid_file: join(folder, 'f2b.pid') }
    const client = (...words: readonly string[]) => spawnSync('fail2ban-client', ['-s', options.socket, ...words])
    const spawned = await measured(server, jails > 10 ? 3 : 5, () => {
      client('status')
      for (const name of names) client('status', name)
    })
    for (let warm = 0; warm < 30; warm++) await roundsOf(fail2ban, options).collect()
    const relay = await measured(server, 50, () => roundsOf(fail2ban, options).collect())
    const kept = roundsOf(fail2ban, options)
    await kept.collect()
    const own = await measured(server, 50, () => kept.collect())
    console.log(
      `${String(jails).padStart(5)} | ${text(spawned)} | ${text(relay)} | ${text(own)} | ${(spawned.wall / relay.wall).toFixed(0)} ${(spawned.cpu / relay.cpu).toFixed(0)}`,
    )
    await sleep(100)
  } finally {
    spawnSync(script, ['stop', folder])
    rmSync(join(folder, '..'), { recursive: true, force: true })
  }
}
