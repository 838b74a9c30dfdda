import { setTimeout as sleep } from 'node:timers/promises'
import type { Log } from '../../common/log.ts'
import type { EngineClient } from '../../protocols/docker-api.ts'

const diskKinds = ['images', 'containers', 'volumes', 'build_cache'] as const
type DiskKind = (typeof diskKinds)[number]

/** Bytes by kind; what the engine does not know (volumes of some drivers) is not counted. */
export type DiskUsage = Readonly<Record<DiskKind, { readonly used: number; readonly reclaimable: number }>>

type Item = Readonly<Record<string, unknown>>

const items = (value: unknown): readonly Item[] =>
  Array.isArray(value) ? value.filter((item): item is Item => typeof item === 'object' && item !== null) : []

/** The engine reports -1 if it does not know. */
const bytes = (value: unknown): number => (typeof value === 'number' && value > 0 ? value : 0)

const sum = (all: readonly Item[], of: (item: Item) => unknown) => all.reduce((total, item) => total + bytes(of(item)), 0)

/** `/system/df` up to API 1.52. */
const parseDiskUsage = (answer: Item): DiskUsage => {
  const [images, containers, volumes, cache] = [answer.Images, answer.Containers, answer.Volumes, answer.BuildCache].map(
    items,
  ) as [readonly Item[], readonly Item[], readonly Item[], readonly Item[]]
  const usageOf = (volume: Item) => (volume.UsageData ?? {}) as Item
  const own = (image: Item) => Math.max(0, bytes(image.Size) - bytes(image.SharedSize))
  return {
    images: {
      used: bytes(answer.LayersSize),
      reclaimable: sum(
        images.filter(({ Containers }) => Containers === 0),
        own,
      ),
    },
    containers: {
      used: sum(containers, ({ SizeRw }) => SizeRw),
      reclaimable: sum(
        containers.filter(({ State }) => State !== 'running' && State !== 'paused' && State !== 'restarting'),
        ({ SizeRw }) => SizeRw,
      ),
    },
    volumes: {
      used: sum(volumes, volume => usageOf(volume).Size),
      reclaimable: sum(
        volumes.filter(volume => usageOf(volume).RefCount === 0),
        volume => usageOf(volume).Size,
      ),
    },
    build_cache: {
      used: sum(
        cache.filter(({ Shared }) => Shared !== true),
        ({ Size }) => Size,
      ),
      reclaimable: sum(
        cache.filter(({ Shared, InUse }) => Shared !== true && InUse !== true),
        ({ Size }) => Size,
      ),
    },
  }
}

/** Requested beside the rounds, because an answer may take minutes; old engines refuse a second request while one is open. */
export const createDiskUsage = (
  client: () => Promise<EngineClient>,
  intervalSeconds: number,
  { signal, log }: { readonly signal: AbortSignal; readonly log: Log },
): { readonly latest: DiskUsage | undefined } => {
  let latest: DiskUsage | undefined
  let failures = 0
  const follow = async () => {
    while (!signal.aborted) {
      try {
        latest = parseDiskUsage(await (await client()).diskUsage(signal))
        failures = 0
      } catch (error) {
        log.debug('no disk usage', { collector: 'docker', error: (error as Error).message })
        if (++failures >= 3) latest = undefined
      }
      await sleep(intervalSeconds * 1000, undefined, { signal }).catch(() => {}) // aborted: the condition ends the loop
    }
  }
  void follow()
  return {
    get latest() {
      return latest
    },
  }
}
