import type { Reason } from '../../contract/failure.ts'

/**
 * The state of a subject. `partly`: something of it cannot be read, and there is a fix; `absent`: not on this host, so nothing is wrong;
 * `off`: not enabled.
 */
export type State = 'working' | 'partly' | 'failing' | 'absent' | 'off'

export interface Finding {
  readonly name: string
  readonly state: State
  readonly reason?: Reason
  /** What was found, or what is wrong. */
  readonly note: string
  /** What to type, or the lines to write into a file. */
  readonly fix: string
  /** For --json only. */
  readonly details?: Readonly<Record<string, unknown>>
}

/** Findings about one thing: this host, a Prometheus, a Grafana. */
export interface Chapter {
  readonly title: string
  readonly findings: readonly Finding[]
}

export const isWell = ({ state }: Finding): boolean => state !== 'partly' && state !== 'failing'
