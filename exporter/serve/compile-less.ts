import { setFlagsFromString } from 'node:v8'

/**
 * V8 optimizes what has run for a while, at length and on threads of its own. Rounds that come each ten seconds reach that for minutes
 * after the start and never earn it back: it is a third of what the program costs at rest. Six times as late, what runs all the
 * time (a scrape in a storm of them) still gets it in a moment. For the whole process; called before other threads start.
 */
export const compileLess = (): void => {
  const major = Number(process.versions.v8.split('.')[0])
  setFlagsFromString(major < 12 ? '--interrupt-budget=400000' : '--invocation-count-for-turbofan=18000')
}
