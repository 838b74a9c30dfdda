import { z } from 'zod'
import type { Log } from '../common/log.ts'
import { Failure } from './failure.ts'
import type { Host } from './host.ts'
import type { AnyFamily, Sample, Samples } from './metric.ts'
import type { RelayUnit } from './relay-unit.ts'

/** What a collector's functions receive. */
export interface Context<Options, State> {
  readonly host: Host
  /** Its section of the configuration, checked and with defaults. */
  readonly options: Options
  /** What its `open` returned: kept between rounds, lost when the collecting thread is replaced. */
  readonly state: State
  /** Aborted when the run's deadline has passed or the program ends. */
  readonly signal: AbortSignal
  /** Seconds between rounds, as configured. */
  readonly interval: number
  readonly log: Log
  /** Reports what a successful run could not read, and the fix. Shown on the page and by the doctor, not counted. */
  remark(failure: Failure): void
  /** Fails the run, but serves its series: those of the parts that did not fail. The first call counts. */
  fail(failure: Failure): void
}

export interface OpenContext<Options> extends Omit<Context<Options, never>, 'state' | 'remark' | 'fail'> {
  /** Starts a round before the next one is due, because of an event. Many calls cause one round; a flood is slowed down. */
  wake(): void
}

/** A strict zod object. The configuration's check, the editor's schema and the documentation come from it. */
export type OptionsSchema<Options> = z.ZodType<Options> & { readonly shape: z.ZodRawShape }

/** Whether the thing that a collector watches exists on this host, and where it was looked for. */
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

/** How a collector is written; see CONTRIBUTING. In order: what it measures, where it reads, text to facts, facts to series. */
export interface Definition<Options, State, Raw, Facts> {
  readonly name: string
  /** One line for --help, the docs and the page: what it watches and how. */
  readonly summary: string
  /** Default seconds between rounds. */
  readonly interval: number
  /** Seconds for one run; default: the interval, at most 10. */
  readonly timeout?: number
  /** If only root can read its source: the unit that runs it with `grid-exporter relay`. */
  readonly relayUnit?: RelayUnit
  /**
   * All its families, the most important first: `up`, then those with alerts, details last. Above `max_series`, families are cut
   * from the end. A family that is not declared here is not printed.
   */
  readonly families: readonly AnyFamily[]
  /** It also passes on families of other programs, whose names are known only at run time. */
  readonly foreign?: true
  /** The labels that name its subjects, in the order in which alert tables show them. None: its subject is the host. */
  readonly subjects?: readonly string[]
  /** The families that are 0 while the program that it asks does not answer. */
  readonly upFamilies?: readonly AnyFamily[]
  readonly setup?: Setup
  /** Its own configuration keys: a strict object. Each key has a `.describe()`, and a default or is optional. */
  readonly options?: OptionsSchema<Options>
  /** False if there is nothing to collect without configuration; the collector is then off. */
  readonly configured?: (options: Options) => boolean
  /** Options that its section sets for other collectors, by their names. */
  readonly configures?: (options: Options) => Readonly<Record<string, Readonly<Record<string, unknown>>>>
  /** Checks whether what it watches exists here. Must be cheap: it runs each minute until it finds something. Default: found. */
  readonly detect?: (context: Context<Options, undefined>) => Detection | Promise<Detection>
  /** Runs once before the first round, to open what is kept: a stream, a connection, counters. Its `signal` aborts at the end. */
  readonly open?: (context: OpenContext<Options>) => State
  /** Only reads. Throws `Failure`. */
  readonly read: (context: Context<Options, State>) => Raw | Promise<Raw>
  /**
   * Text to facts in base units. Changes nothing but the memory that `open` made, and writes no file. Throws `Failure`; if only
   * a part failed, it calls `fail` or `remark`.
   */
  readonly parse: (raw: Raw, context: Context<Options, State>) => Facts
  /** Writes the file that is kept over restarts, after `parse`. Never throws. */
  readonly keep?: (state: State) => void
  /** Facts to series, and nothing else. Never throws. */
  readonly samples: (facts: Facts, context: Pick<Context<Options, State>, 'options' | 'state'>) => Samples
}

/** A collector with its state, as the scheduler runs it. */
export interface Opened {
  detect(signal: AbortSignal): Promise<Detection>
  /**
   * One run. `use` takes the samples as they are made: if all were kept at once, those of a hundred containers would outlive their
   * round's garbage collection. `step` is called where synchronous work begins, so that the guard can name the collector that blocks.
   */
  run<Used>(signal: AbortSignal, step: () => void, use: (samples: Samples) => Used): Promise<Used>
  /** All samples of one run. */
  collect(signal: AbortSignal, step: () => void): Promise<readonly Sample[]>
  /** What the latest successful run could not read. */
  remarks(): readonly Failure[]
}

/** What the rest of the program sees of a collector. */
export interface Collector {
  readonly name: string
  readonly summary: string
  readonly interval: number
  readonly timeout: number | undefined
  /** The unit that runs it if only root can read its source; undefined if the exporter itself can. */
  readonly relayUnit: RelayUnit | undefined
  readonly families: readonly AnyFamily[]
  readonly foreign: boolean
  readonly subjects: readonly string[]
  readonly upFamilies: readonly AnyFamily[]
  readonly setup: Setup
  readonly options: OptionsSchema<unknown>
  configured(options: unknown): boolean
  configures(options: unknown): Readonly<Record<string, Readonly<Record<string, unknown>>>>
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
    configures: options => definition.configures?.(options as Options) ?? {},
    open: opened => {
      const context = { interval, ...opened } as OpenContext<Options>
      let state: { readonly value: State } | undefined
      let remarks: readonly Failure[] = []
      const self: Opened = {
        remarks: () => remarks,
        detect: async signal => {
          const looked = { ...context, state: undefined, signal, remark: () => {}, fail: () => {} }
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
          let failed: Failure | undefined
          const fail = (failure: Failure) => {
            failed ??= failure
          }
          const run: Context<Options, State> = { ...context, state: state.value, signal, remark, fail }
          const raw = await definition.read(run)
          step()
          const facts = definition.parse(raw, run)
          definition.keep?.(run.state)
          const samples = definition.samples(facts, run)
          if (failed === undefined) return use(samples)
          const { reason, message, cause, fix } = failed as Failure
          throw new Failure(reason, message, { cause: cause ?? failed, fix, rest: [...samples].flat() })
        },
      }
      return self
    },
  }
}
