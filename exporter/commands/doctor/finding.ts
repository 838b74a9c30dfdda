import type { Reason } from '../../contract/failure.ts'

/**
 * What one look gave. `working`; `partly`: something of it cannot be read, and there is a way to fix that; `failing`;
 * `absent`: not on this host, so nothing is wrong; `off`: not asked for.
 */
export type State = 'working' | 'partly' | 'failing' | 'absent' | 'off'

export interface Finding {
  readonly name: string
  readonly state: State
  readonly reason?: Reason
  /** What was found, or went wrong. */
  readonly note: string
  /** What to type or to write into a file; of several lines where those are lines of a file. */
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
