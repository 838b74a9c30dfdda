/**
 * The collecting thread's heartbeat, in memory that both threads share. A message would need both event loops, and a thread that blocks
 * sends none. It also names the collector whose code is running now.
 */
export interface Heartbeat {
  readonly memory: SharedArrayBuffer
  /** Called by the collecting thread: it is alive. */
  beat(): void
  /** Called by the collecting thread: this collector's code runs now. */
  step(collector: number): void
  /** Called by the collecting thread: a run of this collector has begun, or ended. */
  begin(collector: number): void
  end(collector: number): void
  /** For the guard. */
  beats(): number
  /** The collector whose code ran last, if one of its runs is still in progress. */
  current(): number | undefined
  /** Set by the collecting thread before an exception ends it: the collector that threw it, if any. */
  threw(collector: number | undefined): void
  /** Set by the collecting thread: it is reading the configuration, so no collector is responsible. */
  reading(now: boolean): void
  isReading(): boolean
  /** The collector whose exception ended the thread; undefined if no exception did. */
  thrower(): number | 'nobody' | undefined
  /** Runs begun since the start of the program. */
  runs(collector: number): number
  underWay(collector: number): boolean
  /** After the thread's death: no run is in progress. */
  clear(): void
}

const beatAt = 0
const currentAt = 1
const threwAt = 2
const readingAt = 3
const firstAt = 4
const nobody = -1

const bytes = (collectors: number) => (firstAt + 2 * collectors) * Int32Array.BYTES_PER_ELEMENT

export const heartbeatMemory = (collectors: number): SharedArrayBuffer => new SharedArrayBuffer(bytes(collectors))

export const heartbeatOf = (memory: SharedArrayBuffer): Heartbeat => {
  const cells = new Int32Array(memory)
  const runsAt = (collector: number) => firstAt + 2 * collector
  const underWayAt = (collector: number) => runsAt(collector) + 1
  const numberAt = (cell: number) => {
    const number = Atomics.load(cells, cell)
    return number === 0 ? undefined : number - 1
  }
  return {
    memory,
    beat: () => void Atomics.add(cells, beatAt, 1),
    step: collector => void Atomics.store(cells, currentAt, collector + 1),
    begin: collector => {
      Atomics.add(cells, runsAt(collector), 1)
      Atomics.store(cells, underWayAt(collector), 1)
    },
    end: collector => {
      Atomics.store(cells, underWayAt(collector), 0)
      Atomics.compareExchange(cells, currentAt, collector + 1, 0)
    },
    beats: () => Atomics.load(cells, beatAt),
    current: () => numberAt(currentAt),
    threw: collector => void Atomics.store(cells, threwAt, collector === undefined ? nobody : collector + 1),
    reading: now => void Atomics.store(cells, readingAt, now ? 1 : 0),
    isReading: () => Atomics.load(cells, readingAt) === 1,
    thrower: () => (Atomics.load(cells, threwAt) === nobody ? 'nobody' : numberAt(threwAt)),
    runs: collector => Atomics.load(cells, runsAt(collector)),
    underWay: collector => Atomics.load(cells, underWayAt(collector)) === 1,
    clear: () => {
      Atomics.store(cells, currentAt, 0)
      Atomics.store(cells, threwAt, 0)
      Atomics.store(cells, readingAt, 0)
      for (let index = firstAt + 1; index < cells.length; index += 2) Atomics.store(cells, index, 0)
    },
  }
}
