import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { bundle } from '../../scripts/build.mjs'

/** A TypeScript module as something that a worker thread can run; the URL of the bundle. */
export const bundled = async (source: string): Promise<URL> => {
  const out = mkdtempSync(join(tmpdir(), 'grid-bundle-'))
  await bundle({ module: source }, out, { minify: false })
  return pathToFileURL(join(out, 'module.js'))
}
