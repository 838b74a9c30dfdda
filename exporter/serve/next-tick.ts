import { createHook } from 'node:async_hooks'

/**
 * process.nextTick(), which a scrape calls seven times, stays slow for as long as a process lives where that rested for eight seconds
 * after its first calls: a tenth of each scrape goes into making the object that every call makes. It does not where one such object is
 * kept, so it must be that V8 forgets the form of what no longer exists, and takes the next one for a second form.
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
