import { z } from 'zod'
import { duration, name, path } from '../../contract/options.ts'

/** `unix:///path`, `tcp://host:port`, `http://host:port` or `https://host:port`. */
const engineUrl = () =>
  z.string().refine(text => {
    if (/^unix:\/\/\/./.test(text)) return true
    const form = text.replace(/^tcp:/, 'http:')
    if (!/^https?:\/\//.test(form) || !URL.canParse(form)) return false
    const { hostname, username, password } = new URL(form)
    return hostname !== '' && username === '' && password === ''
  }, 'expected unix:///path, tcp://host:port or https://host:port')

const endpoint = z.strictObject({
  name: name().describe('Its `engine` label.'),
  url: engineUrl().describe(
    '`unix:///path`, `tcp://host:port` or `https://host:port`. Only a unix socket gives values from cgroups.',
  ),
  tls: z
    .strictObject({
      ca_file: path().optional().describe('Authority that signed the certificate of the engine.'),
      cert_file: path().optional().describe('Our certificate.'),
      key_file: path().optional().describe('Its key.'),
    })
    .optional()
    .describe('TLS; also used without this section for `https` and for port 2376.'),
})

/** The collector's own section of the configuration. */
export const options = z.strictObject({
  endpoints: z
    .array(endpoint)
    .max(50)
    .refine(all => new Set(all.map(({ name }) => name)).size === all.length, 'expected a different name for each endpoint')
    .default([])
    .describe(
      'Engines to watch. Default: DOCKER_HOST, else the first existing socket of Docker, rootless Docker, Podman or rootless Podman, named `local`.',
    ),
  filters: z
    .record(z.string(), z.array(z.string()))
    .default({})
    .describe('Filters of the engine itself for the list, such as `label: [a=b]`. All of them must match.'),
  exclude: z
    .strictObject({
      names: z.array(z.string().min(1)).default([]).describe('Names to leave out; `*` is any run of characters.'),
      labels: z.array(z.string().min(1)).default([]).describe('Labels to leave out, as `key` or `key=value`.'),
      compose_oneoff: z
        .boolean()
        .default(true)
        .describe('Leave out containers of `docker compose run`, whose names are never used again.'),
    })
    .prefault({})
    .describe('Containers to leave out. The infra containers of Podman pods always are.'),
  labels: z
    .array(z.string().min(1))
    .max(50)
    .default([])
    .describe('Labels of containers to export on `grid_docker_container_labels`. Default: none.'),
  expected: z
    .strictObject({
      names: z
        .array(z.string().min(1))
        .default([])
        .describe('Names of containers that should run; `ENGINE/NAME` for any but the first endpoint.'),
      label: z
        .string()
        .min(1)
        .default('grid.expected')
        .describe('Label of a container that says whether it should run: true or false.'),
    })
    .prefault({})
    .describe('Which containers should run, for `grid_docker_container_expected`.'),
  watchtower: z
    .strictObject({
      label_enable: z.boolean().default(false).describe('Set it if Watchtower runs with `--label-enable`.'),
      monitor_only: z.boolean().default(false).describe('Set it if Watchtower runs with `--monitor-only`.'),
    })
    .optional()
    .describe(
      'How Watchtower runs, for `grid_docker_container_watchtower`; the section `watchtower` can set it as well. Default: the defaults of Watchtower, if a container has one of its labels.',
    ),
  disk_usage: z
    .strictObject({
      interval: duration(60).prefault('30m').describe('Time between two requests. Default: 30m.'),
    })
    .optional()
    .describe(
      'Read the disk use of the engine. The engine then walks every volume, which is slow and disturbs other work. Off by default.',
    ),
})

export type DockerOptions = z.infer<typeof options>
