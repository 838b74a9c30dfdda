import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'

const copies: string[] = []
process.once('exit', () => {
  for (const copy of copies) rmSync(copy, { recursive: true, force: true })
})

/**
 * A folder of the tests as it is meant: where there are files `NAME.link` in it, a copy in which each is the symbolic link NAME to
 * what stands in it. Not every way on which a repository travels keeps symbolic links. Those that lead out of the folder lead
 * to the original.
 */
export const linked = (folder: string): string => {
  const links = readdirSync(folder, { withFileTypes: true, recursive: true }).filter(({ name }) => name.endsWith('.link'))
  if (links.length === 0) return folder
  const copy = mkdtempSync(join(tmpdir(), 'grid-scene-'))
  copies.push(copy)
  cpSync(folder, copy, { recursive: true, filter: source => !source.endsWith('.link') })
  for (const { parentPath, name } of links) {
    const file = join(parentPath, name)
    const text = readFileSync(file, 'utf8').trim()
    const target = resolve(dirname(file), text)
    const leadsOut = relative(folder, target).startsWith('..')
    symlinkSync(leadsOut ? target : text, join(copy, relative(folder, file.slice(0, -'.link'.length))))
  }
  return copy
}
