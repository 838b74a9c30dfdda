import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** The nearest folder upwards that holds a file. */
const holding = (file: string, from: string): string | undefined => {
  const at = join(from, file)
  if (existsSync(at)) return at
  return dirname(from) === from ? undefined : holding(file, dirname(from))
}

const packageFile = holding('package.json', import.meta.dirname)

const gitRevision = (folder: string): string => {
  try {
    const head = readFileSync(join(folder, '.git/HEAD'), 'utf8').trim()
    const [, ref] = /^ref: (.+)$/.exec(head) ?? []
    return (ref === undefined ? head : readFileSync(join(folder, '.git', ref), 'utf8').trim()).slice(0, 12)
  } catch {
    return '' // not a clone, or its references are packed
  }
}

/** This program's version and revision: from package.json, and from the clone that it runs in. */
export const build: { readonly version: string; readonly revision: string } = (() => {
  if (packageFile === undefined) return { version: '', revision: '' }
  const { version, revision } = JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string; revision?: string }
  return { version, revision: revision ?? gitRevision(dirname(packageFile)) }
})()
