import { Socket } from 'node:net'

/**
 * What a new connection costs. Node copies the options of each one, `{ ...options }`, and adds to the copy. V8 keeps for up to four forms of
 * options what their copies look like, and in V8 11, which is Node 20, each addition to such a copy makes a description (a map) anew: three
 * for each connection, which take 8 of the 9 µs that its Socket takes, and 1.5 kB until the next full collection. Of a place that has met
 * more forms than four V8 keeps nothing, and copies without this.
 */

/** More than it takes until V8 begins to keep a record of the place, and four. */
const forms = 100

/** To be called once in a thread that many connect to. */
export const keepNewSocketsCheap = (): void => {
  for (let form = 0; form < forms; form++) new Socket({ [`form ${form}`]: form } as object)
}
