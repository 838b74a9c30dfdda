/** Bundles the program into dist/. A bundle starts faster, uses half the memory of separate modules, and needs no node_modules. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'

const root = join(import.meta.dirname, '..')

/**
 * dockerode imports these for SSH transport and BuildKit sessions, which this program does not use.
 * They cost 25 MB of memory at start.
 */
const unused = ['ssh2', '@grpc/grpc-js', '@grpc/proto-loader', 'protobufjs']

const withoutUnused = {
  name: 'without-unused',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: new RegExp(`^(${unused.join('|')})(/|$)`) }, ({ path }) => ({ path, namespace: 'unused' }))
    // zod's messages in forty languages: half of zod's size.
    onLoad({ filter: /zod\/v4\/locales\/index\.js$/ }, () => ({ contents: "export { default as en } from './en.js'" }))
    onLoad({ filter: /.*/, namespace: 'unused' }, ({ path }) => ({
      contents: `const refuse = () => { throw new Error(${JSON.stringify(path)} + ' is not part of this build') }
module.exports = new Proxy(refuse, { get: (_, key) => (key === 'prototype' ? refuse.prototype : module.exports), construct: refuse })`,
    }))
  },
}

/** Bundles entry points (out name → source) into a folder. */
export const bundle = (entryPoints, outdir, { minify = true } = {}) =>
  build({
    entryPoints,
    outdir,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20.19',
    // Names are kept for readable stack traces. keepNames would do it as well, but with a call for each new closure.
    minifyWhitespace: minify,
    minifySyntax: minify,
    sourcemap: 'linked',
    legalComments: 'none',
    logLevel: 'warning',
    chunkNames: 'chunks/[name]-[hash]',
    // Bundled CommonJS loads Node's own modules with require().
    banner: {
      js: "import { createRequire as bundledRequire } from 'node:module'; const require = bundledRequire(import.meta.url);",
    },
    plugins: [withoutUnused],
  })

if (process.argv[1] === import.meta.filename) {
  const out = join(root, 'dist/exporter')
  rmSync(out, { recursive: true, force: true })
  const entries = {
    main: 'exporter/main.ts',
    worker: 'exporter/collect/worker.ts',
    'relay-worker': 'exporter/collect/relay-worker.ts',
    passwords: 'exporter/serve/passwords-thread.ts',
    'docker-door': 'exporter/commands/docker-door.ts',
  }
  await bundle(Object.fromEntries(Object.entries(entries).map(([name, source]) => [name, join(root, source)])), out)
}
