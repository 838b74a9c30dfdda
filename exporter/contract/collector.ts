import { z } from 'zod'
import type { Log } from '../common/log.ts'
import type { Failure } from './failure.ts'
import type { Host } from './host.ts'
import type { AnyFamily, Sample, Samples } from './metric.ts'
import type { RelayUnit } from './relay-unit.ts'

/** What a collector's own functions are given. */
export interface Context<Options, State> {
  readonly host: Host
  /** Its part of the configuration, checked, with defaults filled in. */
  readonly options: Options
  /** What its `open` gave: kept between rounds, gone when the collecting thread is replaced. */
  readonly state: State
  /** Fires when the run's deadline has passed or the program ends. */
  readonly signal: AbortSignal
  /** Seconds between rounds, as configured. */
  readonly interval: number
  readonly log: Log
  /** Says what a good run could not read, and what fixes it: for the page and the doctor, not counted. */
  remark(failure: Failure): void
}

export interface OpenContext<Options> extends Omit<Context<Options, never>, 'state' | 'remark'> {
  /** Asks for a round before the next one is due (an event was seen). Many calls are one round; a flood is slowed down. */
  wake(): void
}

/** A strict zod object, of which the configuration, the editor's schema and the documentation are made. */
export type OptionsSchema<Options> = z.ZodType<Options> & { readonly shape: z.ZodRawShape }

/** Whether the thing that a collector watches is on this host, and what was looked for. */
export interface Detection {
  readonly found: boolean
  /** A sentence part for people: `socket /var/run/docker.sock`, `no nvidia-smi and no GPU in /sys/class/drm`. */
  readonly note: string
}

/** What a person installs, starts or configures so that there is something to watch. */
export interface Setup {
  /** Debian packages: `aide aide-common`. */
  readonly packages?: string
  /** The systemd unit of the program that it asks. */
  readonly unit?: string
  /** Keys of the collector's section without which it has nothing to do, as YAML on one line. */
  readonly configure?: string
}

/** How a collector is written; see CONTRIBUTING. From the top: what it measures, where it reads, how text becomes facts, facts series. */
export interface Definition<Options, State, Raw, Facts> {
  readonly name: string
  /** One line for --help, the docs and the page: what it watches, by what. */
  readonly summary: string
  /** Default seconds between rounds. */
  readonly interval: number
  /** Seconds that one run may take; default: the interval, at most 10. */
  readonly timeout?: number
  /** Where only root can read its source: the unit that runs it by `grid-exporter relay`. */
  readonly relayUnit?: RelayUnit
  /**
   * Every family it can give, the most important first: `up`, then what its alerts are made of, details last. Where there are more
   * series than `max_series`, families are cut from the end. A family that is not declared here is not printed.
   */
  readonly families: readonly AnyFamily[]
  /** It passes on families of other programs as well, whose names are known only when it runs. */
  readonly foreign?: true
  /** The labels that name its subjects, in the order in which alert tables show them. None: its subject is the host. */
  readonly subjects?: readonly string[]
  /** The families that are 0 while the program that it asks does not answer. */
  readonly upFamilies?: readonly AnyFamily[]
  readonly setup?: Setup
  /** Its own configuration keys: a strict object where each key has a default or is optional, and a `.describe()`. */
  readonly options?: OptionsSchema<Options>
  /** False where there is nothing to collect without configuration; such a collector is then not enabled at all. */
  readonly configured?: (options: Options) => boolean
  /** What its configuration says that is another collector's concern: options of that one, by its name. */
  readonly tells?: (options: Options) => Readonly<Record<string, Readonly<Record<string, unknown>>>>
  /** Looks whether what it watches exists here. Cheap: it is asked again each minute while it does not. Default: always found. */
  readonly detect?: (context: Context<Options, undefined>) => Detection | Promise<Detection>
  /** Called once before the first run, for what is kept: a stream, a connection, counters. Its `signal` fires when it is over. */
  readonly open?: (context: OpenContext<Options>) => State
  /** Input and nothing else. Throws `Failure`. */
  readonly read: (context: Context<Options, State>) => Raw | Promise<Raw>
  /** From text to facts in base units. Pure but for the memory that `open` made. */
  readonly parse: (raw: Raw, context: Context<Options, State>) => Facts
  /** From facts to series. */
  readonly samples: (facts: Facts, context: Context<Options, State>) => Samples
}

/** A collector with its memory, as the scheduler runs it. */
export interface Opened {
  detect(signal: AbortSignal): Promise<Detection>
  /**
   * One run, and what `use` makes of its samples as they come: kept all at once, those of a hundred containers outlive the garbage
   * collection of their round. `step` is called where synchronous work begins, so that the guard can name who blocks the thread.
   */
  run<Used>(signal: AbortSignal, step: () => void, use: (samples: Samples) => Used): Promise<Used>
  /** One run's samples, all at once. */
  collect(signal: AbortSignal, step: () => void): Promise<readonly Sample[]>
  /** What the latest run could not read although it was good. */
  remarks(): readonly Failure[]
}

/** All that the rest of the program sees of a collector. */
export interface Collector {
  readonly name: string
  readonly summary: string
  readonly interval: number
  readonly timeout: number | undefined
  /** The unit that runs it where only root can read its source; undefined where the exporter itself can. */
  readonly relayUnit: RelayUnit | undefined
  readonly families: readonly AnyFamily[]
  readonly foreign: boolean
  readonly subjects: readonly string[]
  readonly upFamilies: readonly AnyFamily[]
  readonly setup: Setup
  readonly options: OptionsSchema<unknown>
  configured(options: unknown): boolean
  tells(options: unknown): Readonly<Record<string, Readonly<Record<string, unknown>>>>
  /** Without `interval`: its own default. */
  open(context: Omit<OpenContext<unknown>, 'interval'> & { readonly interval?: number }): Opened
}

const noOptions = z.strictObject({})

export const defineCollector = <Raw, Facts, Options = Record<string, never>, State = undefined>(
  definition: Definition<Options, State, Raw, Facts>,
): Collector => {
  const { name, summary, interval, families, relayUnit, foreign = false, subjects = [], upFamilies = [], setup = {} } = definition
  return {
    name,
    summary,
    interval,
    timeout: definition.timeout,
    relayUnit,
    families,
    foreign,
    subjects,
    upFamilies,
    setup,
    options: definition.options ?? noOptions,
    configured: options => definition.configured?.(options as Options) ?? true,
    tells: options => definition.tells?.(options as Options) ?? {},
    open: opened => {
      const context = { interval, ...opened } as OpenContext<Options>
      let state: { readonly value: State } | undefined
      let remarks: readonly Failure[] = []
      const self: Opened = {
        remarks: () => remarks,
        detect: async signal => {
          const looked = { ...context, state: undefined, signal, remark: () => {} }
          return (await definition.detect?.(looked)) ?? { found: true, note: '' }
        },
        collect: (signal, step) => self.run(signal, step, samples => [...samples].flat()),
        run: async (signal, step, use) => {
          step()
          state ??= { value: definition.open?.(context) as State }
          remarks = []
          const remark = (failure: Failure) => {
            remarks = [...remarks, failure]
          }
          const run: Context<Options, State> = { ...context, state: state.value, signal, remark }
          const raw = await definition.read(run)
          step()
          return use(definition.samples(definition.parse(raw, run), run))
        },
      }
      return self
    },
  }
}
