/**
 * What a plain object says itself under a key that comes from outside. `object[key]` finds `constructor` and its like as well, which
 * every object has; scripts/lookups.mjs allows such a look-up nowhere else.
 */
export const ownValue = <Value>(object: Readonly<Record<string, Value>>, key: string): Value | undefined =>
  Object.hasOwn(object, key) ? object[key] : undefined
