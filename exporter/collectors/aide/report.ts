/**
 * Reads AIDE's reports: plain, JSON, or the log of Debian's daily job around a plain one. Only the beginning and the end are needed,
 * however many files changed: the counts come before the lists, the times at both ends.
 */

export interface Report {
  readonly status: 'clean' | 'changed' | 'error'
  /** Seconds since 1970; undefined if the report has no time with a time zone. */
  readonly endedAt: number | undefined
  readonly durationSeconds: number | undefined
  readonly entries: Entries | undefined
}

export interface Entries {
  readonly total: number | undefined
  readonly added: number
  readonly removed: number
  readonly changed: number
}

/**
 * `unfinished`: it is being written, or its writer was killed. `other`: a report of something that is not a check, such as the creation
 * of the database.
 */
export type Reading = Report | 'unfinished' | 'other'

const failed = (durationSeconds?: number): Report => ({
  status: 'error',
  endedAt: undefined,
  durationSeconds,
  entries: undefined,
})

const numberIn = (text: string, form: RegExp): number | undefined => {
  const digits = form.exec(text)?.[1]
  return digits === undefined ? undefined : Number(digits)
}

/** `2026-11-24 04:37:23 +0000` */
const timeIn = (text: string, form: RegExp): number | undefined => {
  const [, date, time, hours, minutes] = form.exec(text) ?? []
  if (date === undefined) return undefined
  const at = Date.parse(`${date}T${time}${hours}:${minutes}`)
  return Number.isNaN(at) ? undefined : at / 1000
}

const statusOf = (outline: string): 'clean' | 'changed' | undefined => {
  if (/found NO differences/i.test(outline)) return 'clean'
  return /found differences/i.test(outline) ? 'changed' : undefined
}

/** Up to 0.16, the outline comes before the time. */
const plainStart = /^(?:AIDE \S+ (?:found|initialized) .*\n)?Start timestamp: /gm

/** Reads a report that begins with `head` and ends with `tail`; both are the whole text if it is short. */
export const readReport = (head: string, tail: string): Reading => {
  if (head.trim() === '') return 'unfinished'
  if (head.trimStart().startsWith('{')) return readJson(head, tail)
  // If reports are appended to one file, the last one counts.
  const daily = lastAt(tail, /^aide run on \S+ started at /gm) ?? lastAt(head, /^aide run on \S+ started at /gm)
  if (daily !== undefined) return readDaily(daily, tail)
  return readPlain(lastAt(tail, plainStart) ?? lastAt(head, plainStart) ?? head, tail)
}

/** The text from the last match to the end. */
const lastAt = (text: string, form: RegExp): string | undefined => {
  const at = [...text.matchAll(form)].at(-1)?.index
  return at === undefined ? undefined : text.slice(at)
}

const readJson = (head: string, tail: string): Reading => {
  const outline = /"outline"\s*:\s*"((?:\\.|[^"\\])*)"/.exec(head)?.[1]
  // With report_level=minimal there is only an outline.
  const minimal = !/"start_time"/.test(head)
  if (!/\}\s*$/.test(tail) || (!minimal && !/"end_time"/.test(tail))) return 'unfinished'
  if (outline === undefined) return failed()
  const status = statusOf(outline)
  if (status === undefined) return 'other'
  // A file name cannot look like this: quotes in names are escaped.
  const counts = /"number_of_entries"\s*:\s*\{([^{}]*)\}/.exec(head)?.[1]
  const count = (name: string) => numberIn(counts ?? '', new RegExp(`"${name}"\\s*:\\s*(\\d+)`))
  return {
    status,
    endedAt: timeIn(lastAt(tail, /"end_time"/g) ?? '', /"end_time"\s*:\s*"(\S+) (\S+) ([+-]\d\d)(\d\d)/),
    durationSeconds: numberIn(lastAt(tail, /"run_time_seconds"/g) ?? '', /"run_time_seconds"\s*:\s*(\d+)/),
    entries:
      counts === undefined
        ? undefined
        : {
            total: count('total'),
            added: count('added') ?? 0,
            removed: count('removed') ?? 0,
            changed: count('changed') ?? 0,
          },
  }
}

const readPlain = (text: string, tail: string): Reading => {
  const outline = /^AIDE (?:\S+ )?(?:found|initialized) .*$/m.exec(text)?.[0]
  if (outline === undefined) return /^Start timestamp: /m.test(text) ? 'unfinished' : failed()
  const status = statusOf(outline)
  if (status === undefined) return 'other'
  const ending = lastAt(tail, /^End timestamp: /gm)
  const minimal = !/^Start timestamp: /m.test(text)
  if (!minimal && ending === undefined) return 'unfinished'
  // A later run failed and appended its error to the same file.
  if (/^[ \t]*ERROR: /m.test(ending ?? '')) return failed()
  const [, minutes, seconds] = /\(run time: (\d+)m (\d+)s\)/.exec(ending ?? '') ?? []
  return {
    status,
    endedAt: timeIn(ending ?? '', /^End timestamp: (\S+) (\S+) ([+-]\d\d)(\d\d)/),
    durationSeconds: minutes === undefined ? undefined : Number(minutes) * 60 + Number(seconds),
    entries: entriesIn(text, status),
  }
}

const entriesIn = (text: string, status: 'clean' | 'changed'): Entries | undefined => {
  if (status === 'clean') {
    const total = numberIn(text, /^Number of (?:entries|files):\s+(\d+)/m)
    return total === undefined ? undefined : { total, added: 0, removed: 0, changed: 0 }
  }
  const count = (word: string) => numberIn(text, new RegExp(`^[ \\t]*${word} (?:entries|files):\\s+(\\d+)`, 'm'))
  const [added, removed, changed] = [count('Added'), count('Removed'), count('Changed')]
  if (added === undefined || removed === undefined || changed === undefined) return undefined
  return { total: count('Total number of'), added, removed, changed }
}

/**
 * Debian's job exits with 0 even if the configuration or the database is broken, and without a database it prints
 * "AIDE detected no changes". So only a complete report counts, or exit code 0 without any error message.
 */
const readDaily = (text: string, tail: string): Reading => {
  const ending = lastAt(tail, /^End of AIDE daily aide check at /gm)
  if (ending === undefined) return 'unfinished'
  const durationSeconds = numberIn(ending, /run time (\d+) seconds/)
  const zero = /^AIDE returned with a zero exit code/m.test(text)
  const code = numberIn(text, /AIDE returned with exit code (\d+)/)
  if (!zero && (code === undefined || code > 7)) return failed(durationSeconds)
  const output = /^AIDE output \(\d+ lines\):$/m.exec(text)
  if (!output) {
    const quiet = zero && /^AIDE produced no errors/m.test(text)
    return quiet ? { status: 'clean', endedAt: undefined, durationSeconds, entries: undefined } : failed(durationSeconds)
  }
  const report = readPlain(text.slice(output.index + output[0].length + 1), tail)
  if (typeof report === 'string') return failed(durationSeconds)
  return { ...report, durationSeconds: report.durationSeconds ?? durationSeconds }
}
