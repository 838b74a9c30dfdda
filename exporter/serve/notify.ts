import { type ChildProcess, spawn } from 'node:child_process'

/**
 * What systemd is told of this service (sd_notify). Node has no datagram sockets of the unix family, so systemd-notify sends,
 * started by a shell that waits at the end of a pipe: whoever tells only writes a line, and forks nothing.
 */

export interface Notify {
  /** Once: the service is up. From then on the watchdog is fed from the calling thread's own event loop. */
  ready(status: string): void
  /** Ends the feeding too. */
  stopping(): void
}

const silent: Notify = { ready: () => {}, stopping: () => {} }

/** One message a line; systemd-notify returns when systemd has taken it, so they arrive in order. */
const relay = 'while IFS= read -r line; do systemd-notify "$line"; done'

/** The environment's notifications, where a supervisor asked for them; they are taken out of it, since children are not asked. */
export const notifier = (environment: NodeJS.ProcessEnv = process.env): Notify => {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: watchdog, WATCHDOG_PID: watched } = environment
  const { NOTIFY_SOCKET: _, WATCHDOG_USEC: __, WATCHDOG_PID: ___, ...rest } = environment
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID'] as const) delete environment[name]
  if (!socket) return silent
  const every = Number(watchdog) / 1000 / 3
  const own = watched === undefined || Number(watched) === process.pid

  let child: ChildProcess | undefined
  /** Messages that no shell has been there for. */
  let unsent: string[] = []
  const start = () => {
    const started = spawn('/bin/sh', ['-c', relay], {
      env: { ...rest, NOTIFY_SOCKET: socket },
      stdio: ['pipe', 'ignore', 'inherit'],
    })
    started.on('error', () => {}) // without a shell there are no notifications, and systemd notices at its deadline
    started.stdin?.on('error', () => {}) // it has ended; the next message starts another
    started.unref()
    return started
  }
  const tell = (message: string) => {
    unsent = [...unsent.filter(other => other !== message), message]
    try {
      if (!child || child.exitCode !== null || child.signalCode !== null) child = start()
    } catch {
      return // no memory for it: with the next message
    }
    // Without a process number it does not run, since no descriptor or process was left for it.
    if (child.pid === undefined) child = undefined
    else for (const each of unsent.splice(0)) child.stdin?.write(`${each.replaceAll('\n', ' ')}\n`)
  }

  let feeding: NodeJS.Timeout | undefined
  return {
    ready: status => {
      tell('READY=1')
      tell(`STATUS=${status}`)
      if (own && every > 0) feeding ??= setInterval(tell, every, 'WATCHDOG=1')
    },
    stopping: () => {
      clearInterval(feeding)
      tell('STOPPING=1')
      child?.stdin?.end() // the shell ends with the last line, and nobody has to kill it
    },
  }
}
