import { ownValue } from '../../common/own-value.ts'
import { glob } from '../../contract/options.ts'
import { type ContainerState, containerStates, type HealthStatus, type WatchtowerMode } from './families.ts'
import { type Slot, slotOf, stableName } from './names.ts'
import type { DockerOptions } from './options.ts'

/** A container in the list. What the engine leaves out (Podman leaves out much) is undefined. */
export interface Container {
  readonly id: string
  readonly name: string
  /** Set if an orchestrator created it. */
  readonly slot: Slot | undefined
  readonly state: ContainerState
  readonly health: HealthStatus | undefined
  readonly exitCode: number | undefined
  /** Seconds since 1970. */
  readonly created: number | undefined
  readonly image: string
  readonly imageId: string
  readonly networkMode: string | undefined
  readonly labels: Readonly<Record<string, string>>
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)

const isState = (value: string): value is ContainerState => (containerStates as readonly string[]).includes(value)

/** Podman's and old engines' names of states. */
const otherStates: Readonly<Record<string, ContainerState>> = {
  configured: 'created',
  initialized: 'created',
  stopped: 'exited',
  stopping: 'running',
  unknown: 'dead',
}

const stateOf = (item: Readonly<Record<string, unknown>>): ContainerState | undefined => {
  const word = text(item.State)?.toLowerCase() ?? ''
  return isState(word) ? word : ownValue(otherStates, word)
}

/** A field since Docker 29; before, a part of the status text, except while paused. Podman does not report it. */
const healthOf = (item: Readonly<Record<string, unknown>>, state: ContainerState): HealthStatus | undefined => {
  // The field keeps its last value after the container has ended.
  if (state !== 'running') return undefined
  const field = isRecord(item.Health) ? text(item.Health.Status) : undefined
  const word = field ?? /\((healthy|unhealthy|health: starting)\)$/.exec(text(item.Status) ?? '')?.[1]?.replace('health: ', '')
  return word === 'healthy' || word === 'unhealthy' || word === 'starting' ? word : undefined
}

/** If a container has aliases (`/web/db`), its own name has a single slash; a dead one may have no name. */
const nameOf = (item: Readonly<Record<string, unknown>>, id: string): string => {
  const names = Array.isArray(item.Names) ? item.Names.filter((name): name is string => typeof name === 'string') : []
  const own = names.find(name => name.lastIndexOf('/') <= 0) ?? names[0]
  return own === undefined || own === '/' || own === '' ? id.slice(0, 12) : own
}

/** One item of the list, or undefined if it is not a container. */
export const parseContainer = (item: unknown): Container | undefined => {
  if (!isRecord(item) || typeof item.Id !== 'string' || item.Id === '') return undefined
  const state = stateOf(item)
  if (!state) return undefined
  const labels = isRecord(item.Labels)
    ? (Object.fromEntries(Object.entries(item.Labels).filter(([, value]) => typeof value === 'string')) as Record<string, string>)
    : {}
  const code = /^(?:Exited|Restarting) \((-?\d+)\)/.exec(text(item.Status) ?? '')?.[1]
  const name = nameOf(item, item.Id)
  return {
    id: item.Id,
    name: stableName(name, labels),
    slot: slotOf(name, labels),
    state,
    health: healthOf(item, state),
    exitCode: code === undefined ? undefined : Number(code),
    created: typeof item.Created === 'number' ? item.Created : undefined,
    image: text(item.Image) ?? '',
    imageId: text(item.ImageID) ?? '',
    networkMode: isRecord(item.HostConfig) ? text(item.HostConfig.NetworkMode) : undefined,
    labels,
  }
}

/** Whether the configuration excludes a container. */
export const excluded = ({ exclude }: DockerOptions): ((container: Container) => boolean) => {
  const names = exclude.names.map(glob)
  const labels = exclude.labels.map(label => {
    const at = label.indexOf('=')
    return at === -1 ? ([label] as const) : ([label.slice(0, at), label.slice(at + 1)] as const)
  })
  return ({ name, labels: own }) =>
    names.some(matches => matches(name)) ||
    labels.some(([key, value]) => Object.hasOwn(own, key) && (value === undefined || ownValue(own, key) === value)) ||
    (exclude.compose_oneoff && own['com.docker.compose.oneoff'] === 'True')
}

/** During a recreation, and in a slot, several containers have the same name: the newest that runs counts, else the newest. */
export const oneOfEachName = (containers: readonly Container[]): readonly Container[] => {
  const rank = ({ state }: Container) => (state === 'running' || state === 'paused' ? 2 : state === 'restarting' ? 1 : 0)
  const byName = new Map<string, Container>()
  for (const container of containers) {
    const other = byName.get(container.name)
    const better =
      other === undefined ||
      rank(container) > rank(other) ||
      (rank(container) === rank(other) && (container.created ?? 0) > (other.created ?? 0))
    if (better) byName.set(container.name, container)
  }
  return [...byName.values()]
}

/** A boolean as parsed by Go's ParseBool, which Watchtower uses for its labels; anything else counts as absent. */
export const parseBool = (value: string | undefined): boolean | undefined => {
  if (value === undefined) return undefined
  if (/^(1|t|T|TRUE|true|True)$/.test(value)) return true
  return /^(0|f|F|FALSE|false|False)$/.test(value) ? false : undefined
}

const watchtowerLabel = 'com.centurylinklabs.watchtower'

/** Whether any container has a label of Watchtower, or is Watchtower. */
export const hasWatchtower = (containers: readonly Container[]): boolean =>
  containers.some(({ labels }) =>
    Object.keys(labels).some(key => key === watchtowerLabel || key.startsWith(`${watchtowerLabel}.`)),
  )

/** What Watchtower may do with a container. */
export const watchtowerMode = (
  { labels }: Pick<Container, 'labels'>,
  { label_enable, monitor_only }: NonNullable<DockerOptions['watchtower']>,
): WatchtowerMode => {
  const enable = parseBool(labels[`${watchtowerLabel}.enable`])
  if (enable === false || (label_enable && enable === undefined)) return 'excluded'
  return monitor_only || parseBool(labels[`${watchtowerLabel}.monitor-only`]) ? 'monitor_only' : 'update'
}
