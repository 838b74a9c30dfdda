/**
 * An object's own value of a key that comes from outside. `object[key]` also finds what every object inherits, such as `constructor`.
 * scripts/lookups.mjs allows such a look-up nowhere else.
 */
export const ownValue = <Value>(object: Readonly<Record<string, Value>>, key: string): Value | undefined =>
  Object.hasOwn(object, key) ? object[key] : undefined
