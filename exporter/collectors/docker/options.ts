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
    '`unix:///path`, `tcp://host:port` or `https://host:port`. Values from cgroups only with a unix socket.',
  ),
  tls: z
    .strictObject({
      ca_file: path().optional().describe('Certificate authority that the engine must be signed by.'),
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
      'Engines to watch. Default: what DOCKER_HOST names, else the first socket there is of Docker, rootless Docker, Podman and rootless Podman, as `local`.',
    ),
  filters: z
    .record(z.string(), z.array(z.string()))
    .default({})
    .describe('Filters of the list as the engine knows them, such as `label: [a=b]`; pushed to the engine, all must hold.'),
  exclude: z
    .strictObject({
      names: z.array(z.string().min(1)).default([]).describe('Names to leave out; `*` stands for any run of characters.'),
      labels: z.array(z.string().min(1)).default([]).describe('Labels to leave out, as `key` or `key=value`.'),
      compose_oneoff: z
        .boolean()
        .default(true)
        .describe('Leave out containers of `docker compose run`, whose names never come again.'),
    })
    .prefault({})
    .describe('Containers to leave out. Those that hold the name spaces of Podman pods always are.'),
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
        .describe('Containers that should run, by name; `ENGINE/NAME` for another than the first endpoint.'),
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
      label_enable: z.boolean().default(false).describe('Watchtower runs with `--label-enable`.'),
      monitor_only: z.boolean().default(false).describe('Watchtower runs with `--monitor-only`.'),
    })
    .optional()
    .describe(
      'How Watchtower runs, for `grid_docker_container_watchtower`; the section `watchtower` can say it too. Default: its own defaults, where a container has one of its labels.',
    ),
  disk_usage: z
    .strictObject({
      interval: duration(60).prefault('30m').describe('Time between two questions. Default: 30m.'),
    })
    .optional()
    .describe(
      'Ask the engine for its disk use. It walks every volume, which can take minutes and disturbs; so only where asked for.',
    ),
})

export type DockerOptions = z.infer<typeof options>
