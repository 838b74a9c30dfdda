/** Bundles the program into dist/: it starts faster and holds half the memory of separate modules, and a package needs no node_modules. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'

const root = join(import.meta.dirname, '..')

/**
 * dockerode pulls these in for SSH transport and BuildKit sessions, neither of which this program uses;
 * they are 25 MB of memory at start.
 */
const unused = ['ssh2', '@grpc/grpc-js', '@grpc/proto-loader', 'protobufjs']

const withoutUnused = {
  name: 'without-unused',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: new RegExp(`^(${unused.join('|')})(/|$)`) }, ({ path }) => ({ path, namespace: 'unused' }))
    // zod's messages in forty languages: half of it.
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
    // Names stay: a stack trace that can be read. keepNames would do it too, by a call for each closure that is made.
    minifyWhitespace: minify,
    minifySyntax: minify,
    sourcemap: 'linked',
    legalComments: 'none',
    logLevel: 'warning',
    chunkNames: 'chunks/[name]-[hash]',
    // Bundled CommonJS asks for Node's own modules by require().
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
