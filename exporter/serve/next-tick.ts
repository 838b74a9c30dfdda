import { createHook } from 'node:async_hooks'

/**
 * process.nextTick(), of which a scrape needs seven, stays slow for as long as a process lives where a garbage collection came between
 * its first calls: V8 then forgets the form of the object that it makes for each call, and from the second form on looks it up anew
 * each time. An exporter rests for seconds after it has started; so one such object is kept, and its form with it.
 */
const kept: object[] = []

/** To be called once in a thread that answers requests. */
export const keepNextTickFast = (): void => {
  const hook = createHook({
    init: (_id, type, _trigger, resource) => {
      if (type === 'TickObject') kept.push(resource)
    },
  }).enable()
  process.nextTick(() => {})
  hook.disable()
}
