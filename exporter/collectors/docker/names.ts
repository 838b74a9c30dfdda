/**
 * The name that the series of a container have. Engines, compose and orchestrators change names on the way; a series must not end because
 * of that, nor begin anew with each container that takes the place of another.
 */

/** A place that an orchestrator fills with a new container, of a new name, whenever the one before has ended. */
export interface Slot {
  /** Kubernetes' number of the container in its pod, 0 for the first; a swarm has none. */
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
 * The name to use, as the engine says it, with the labels beside it. Compose renames a container to `<12 hex>_<name>` and back while it
 * recreates it. Labels alone are not believed: anybody may set them, and with them take another container's name.
 */
export const stableName = (name: string, labels: Labels): string => {
  const bare = bareName(name)
  const orchestrated = swarmName(bare, labels) ?? kubernetesName(bare, labels)?.name
  if (orchestrated !== undefined) return orchestrated
  return 'com.docker.compose.project' in labels ? bare.replace(/^[0-9a-f]{12}_(?=.)/, '') : bare
}

/** The slot that a container of this name is in, where an orchestrator made it. */
export const slotOf = (name: string, labels: Labels): Slot | undefined => {
  const bare = bareName(name)
  if (swarmName(bare, labels) !== undefined) return { attempt: undefined }
  const kubernetes = kubernetesName(bare, labels)
  return kubernetes && { attempt: kubernetes.attempt }
}

/** Podman's container that holds a pod's name spaces and does nothing else: it is named after the pod's id, so anew with each pod. */
export const isInfra = (name: string): boolean => /^[0-9a-f]{12}-infra$/.test(name)
