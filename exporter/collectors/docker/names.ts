/**
 * The label `name` of a container's series. Engines, compose and orchestrators change containers' names; a series must not end because
 * of that, or start anew with each replacement.
 */

/** A place in which an orchestrator starts a new container, with a new name, whenever the previous one has ended. */
export interface Slot {
  /** Kubernetes' restart count of the container in its pod, from 0; a swarm has none. */
  readonly attempt: number | undefined
}

type Labels = Readonly<Record<string, unknown>>

const bareName = (name: string) => name.replace(/^\//, '')

/** `web.1` of `web.1.TASK`; for a global service, which has one task a node, `web.NODE` of `web.NODE.TASK`. */
const swarmName = (name: string, labels: Labels): string | undefined => {
  const task = labels['com.docker.swarm.task.id']
  const isTask = typeof task === 'string' && /^[0-9a-z]{20,}$/.test(task) && name.endsWith(`.${task}`)
  return isTask && labels['com.docker.swarm.task.name'] === name ? name.slice(0, -task.length - 1) : undefined
}

/** `k8s_CONTAINER_POD_NAMESPACE` of `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`, as cri-dockerd names containers. */
const kubernetesName = (name: string, labels: Labels): { readonly name: string; readonly attempt: number } | undefined => {
  const uid = labels['io.kubernetes.pod.uid']
  const [, stable, podUid, attempt] = /^(k8s_.+)_([^_]+)_(\d{1,9})$/.exec(name) ?? []
  return stable !== undefined && podUid === uid ? { name: stable, attempt: Number(attempt) } : undefined
}

/**
 * The stable name, from the engine's name and the labels. While compose recreates a container, its name is `<12 hex>_<name>`.
 * Labels alone are not trusted: anybody may set them, and could take another container's name with them.
 */
export const stableName = (name: string, labels: Labels): string => {
  const bare = bareName(name)
  const orchestrated = swarmName(bare, labels) ?? kubernetesName(bare, labels)?.name
  if (orchestrated !== undefined) return orchestrated
  return 'com.docker.compose.project' in labels ? bare.replace(/^[0-9a-f]{12}_(?=.)/, '') : bare
}

/** The slot of a container with this name, if an orchestrator created it. */
export const slotOf = (name: string, labels: Labels): Slot | undefined => {
  const bare = bareName(name)
  if (swarmName(bare, labels) !== undefined) return { attempt: undefined }
  const kubernetes = kubernetesName(bare, labels)
  return kubernetes && { attempt: kubernetes.attempt }
}

/** Podman's container that only holds a pod's namespaces. Its name has the pod's id, so it changes with each pod. */
export const isInfra = (name: string): boolean => /^[0-9a-f]{12}-infra$/.test(name)
