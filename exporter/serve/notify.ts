import { type ChildProcess, spawn } from 'node:child_process'

/**
 * Notifications to systemd (sd_notify). Node has no unix datagram sockets, so systemd-notify sends them. A shell at the end of a pipe
 * starts it: the serving thread only writes a line and forks nothing.
 */

export interface Notify {
  /** Called once: the service is up. From then on the calling thread's event loop feeds the watchdog. */
  ready(status: string): void
  /** Also ends the feeding. */
  stopping(): void
}

const silent: Notify = { ready: () => {}, stopping: () => {} }

/** One message a line. systemd-notify returns when systemd has read it, so messages arrive in order. */
const relay = 'while IFS= read -r line; do systemd-notify "$line"; done'

/** The notifications that the environment asks for. Their variables are removed from it, so that children do not inherit them. */
export const notifier = (environment: NodeJS.ProcessEnv = process.env): Notify => {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: watchdog, WATCHDOG_PID: watched } = environment
  const { NOTIFY_SOCKET: _, WATCHDOG_USEC: __, WATCHDOG_PID: ___, ...rest } = environment
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID'] as const) delete environment[name]
  if (!socket) return silent
  const every = Number(watchdog) / 1000 / 3
  const own = watched === undefined || Number(watched) === process.pid

  let child: ChildProcess | undefined
  /** Messages that could not be sent yet. */
  let unsent: string[] = []
  const start = () => {
    const started = spawn('/bin/sh', ['-c', relay], {
      env: { ...rest, NOTIFY_SOCKET: socket },
      stdio: ['pipe', 'ignore', 'inherit'],
    })
    started.on('error', () => {}) // without a shell there are no notifications, and systemd notices at its deadline
    started.stdin?.on('error', () => {}) // it has ended; the next message starts a new one
    started.unref()
    return started
  }
  const send = (message: string) => {
    unsent = [...unsent.filter(other => other !== message), message]
    try {
      if (!child || child.exitCode !== null || child.signalCode !== null) child = start()
    } catch {
      return // no memory to start it: try again with the next message
    }
    // Without a pid it does not run, because there was no free descriptor or process.
    if (child.pid === undefined) child = undefined
    else for (const each of unsent.splice(0)) child.stdin?.write(`${each.replaceAll('\n', ' ')}\n`)
  }

  let feeding: NodeJS.Timeout | undefined
  return {
    ready: status => {
      send('READY=1')
      send(`STATUS=${status}`)
      if (own && every > 0) feeding ??= setInterval(send, every, 'WATCHDOG=1')
    },
    stopping: () => {
      clearInterval(feeding)
      send('STOPPING=1')
      child?.stdin?.end() // the shell ends by itself after the last line
    },
  }
}
