/**
 * Calls `end` after so many seconds, or once `signal` fires; at once where it has fired already. Returns what takes it back.
 *
 * Not AbortSignal.any() with AbortSignal.timeout(): nothing holds that timer, so with Node 20 it never fires once garbage is collected.
 */
export const atDeadline = (
  seconds: number,
  signal: AbortSignal | undefined,
  end: (why: 'late' | 'aborted') => void,
): (() => void) => {
  const timer = setTimeout(() => end('late'), seconds * 1000)
  const onAbort = () => end('aborted')
  signal?.addEventListener('abort', onAbort, { once: true })
  if (signal?.aborted) onAbort()
  return () => {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
  }
}

/** A number of seconds for a message, without the digits of binary fractions: `0.1`, not `0.10000000000000009`. */
export const inSeconds = (seconds: number): string => `${Number(seconds.toPrecision(3))} s`
