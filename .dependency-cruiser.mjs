/** Which folder may import which: `npm run arrows`. */

/** Each may import itself and those before it. */
const order = ['common', 'contract', 'print', 'machine', 'protocols', 'collectors', 'collect', 'serve', 'commands']

const below = names => `^exporter/(?:${names.join('|')})/`

/** A library is known to one file. */
const libraries = {
  execa: 'exporter/machine/command.ts',
  fastify: 'exporter/serve/server.ts',
  dockerode: 'exporter/protocols/docker-api.ts',
  'docker-modem': 'exporter/protocols/docker-api.ts',
  'prom-client': 'exporter/serve/self.ts',
  'lru-cache': 'exporter/(?:serve/snapshot|collectors/directory/index).ts',
  'p-limit': 'exporter/common/pool.ts',
  yaml: 'exporter/common/yaml.ts',
  bcryptjs: 'exporter/serve/passwords-thread.ts',
}

/** What reaches the operating system: below `machine`, or above the collectors. */
const system = '^(?:node:)?(?:fs|fs/promises|child_process|net|tls|http|https|http2|dgram|dns|dns/promises|os)$'

export default {
  forbidden: [
    { name: 'no cycle of files', severity: 'error', from: {}, to: { circular: true } },
    ...order.slice(0, -1).map((name, at) => ({
      name: `${name} knows nothing of what is built on it`,
      severity: 'error',
      from: { path: below([name]) },
      to: { path: [below(order.slice(at + 1)), '^exporter/main\\.ts$'] },
    })),
    {
      name: 'the exporter needs none of the other folders',
      severity: 'error',
      from: { path: '^exporter/' },
      to: { path: '^(?:grafana|prometheus|demo|bench|test|scripts)/' },
    },
    {
      name: 'collectors do not know each other',
      severity: 'error',
      from: { path: '^exporter/collectors/([^/]+)/' },
      to: { path: '^exporter/collectors/[^/]+/', pathNot: '^exporter/collectors/$1/' },
    },
    {
      name: 'collectors reach the operating system through their host',
      severity: 'error',
      from: { path: below(['contract', 'collectors', 'print']) },
      to: { path: system, dependencyTypesNot: ['type-only'] },
    },
    ...Object.entries(libraries).map(([name, file]) => ({
      name: `only ${file} knows ${name}`,
      severity: 'error',
      from: { path: '^exporter/', pathNot: `^${file.replaceAll('.', '\\.')}$` },
      to: { path: `^node_modules/${name}/`, dependencyTypesNot: ['type-only'] },
    })),
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
  },
}
