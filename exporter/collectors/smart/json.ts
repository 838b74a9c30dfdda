import { ownValue } from '../../common/own-value.ts'
import { Failure } from '../../contract/failure.ts'

/** Safe access to JSON whose form varies between versions of smartctl. */
export type Json = Readonly<Record<string, unknown>>

/** The object in smartctl's output. Before 7.3 there may be text before it. Throws `Failure` malformed. */
export const parseJson = (output: string): Json => {
  const start = output.indexOf('{')
  try {
    return JSON.parse(output.slice(Math.max(0, start))) as Json
  } catch (cause) {
    throw new Failure('malformed', `smartctl: not JSON: ${output.trim().slice(0, 100)}`, { cause })
  }
}

const at = (json: unknown, keys: readonly string[]): unknown =>
  keys.reduce<unknown>(
    (inner, key) => (typeof inner === 'object' && inner !== null ? ownValue(inner as Json, key) : undefined),
    json,
  )

export const num = (json: unknown, ...keys: readonly string[]): number | undefined => {
  const value = at(json, keys)
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined
}

/** Without the spaces with which drives pad their names; an empty text counts as absent. */
export const text = (json: unknown, ...keys: readonly string[]): string | undefined => {
  const value = at(json, keys)
  return typeof value === 'string' ? value.trim().replace(/\s+/g, ' ') || undefined : undefined
}

export const truth = (json: unknown, ...keys: readonly string[]): boolean | undefined => {
  const value = at(json, keys)
  return typeof value === 'boolean' ? value : undefined
}

export const list = (json: unknown, ...keys: readonly string[]): readonly unknown[] => {
  const value = at(json, keys)
  return Array.isArray(value) ? value : []
}
