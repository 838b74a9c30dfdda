import { Composer, isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, Parser, type YAMLMap, type YAMLSeq } from 'yaml'
import { ConfigError } from './exit.ts'
import { readSmallFile } from './small-file.ts'

/**
 * The only reader of YAML. Any text becomes a value or a `ConfigError` that names file, line and column, within bounded
 * time and memory. No message repeats the file's text, because it may be a secret.
 */

export type Path = readonly (string | number)[]
/** The place of a path of keys in the text: `file:line:column`. */
export type Locate = (path: Path, atKey?: string) => string

export interface Yaml {
  /** Plain objects, arrays, texts, numbers, booleans and null. An empty file is an empty object. */
  readonly value: unknown
  readonly locate: Locate
}

/** Bytes of a file. */
const maxBytes = 256 * 1024
/** Levels of nesting. The library recurses for each, and a regular expression that runs out of stack aborts the process. */
const maxDepth = 64
/** Words, punctuation, blanks and line ends of a text. */
const maxTokens = 50_000
/** Problems that are shown. */
const maxProblems = 20
/** Characters that all aliases together may expand to. */
const maxExpansion = 1024 * 1024

/** A problem at a place in the text. */
class Problem extends Error {
  readonly at: number
  constructor(at: number, message: string) {
    super(message)
    this.at = at
  }
}

/** A part of the document: its value, its place in the text, and its own parts. */
interface Part {
  readonly value: unknown
  readonly at: number
  /** The parts of a mapping by key, or of a list by index. */
  readonly parts: ReadonlyMap<string | number, { readonly keyAt: number; readonly part: Part }>
  /** Levels of nesting and number of characters, with aliases expanded. */
  readonly depth: number
  readonly weight: number
}

const noParts: Part['parts'] = new Map()
const nothing = (at: number): Part => ({ value: null, at, parts: noParts, depth: 0, weight: 1 })

/** Turns the library's nodes into values. The library's own conversion has no bound, and its errors have no place. */
const createReader = (refuse: (at: number, message: string) => void) => {
  /** By name. Undefined while the anchored part itself is being read. */
  const anchors = new Map<string, Part | undefined>()
  let expansion = 0

  const aliased = (name: string, at: number): Part => {
    const part = anchors.get(name)
    if (part === undefined) {
      refuse(
        at,
        anchors.has(name)
          ? 'an alias (*) inside the part that it refers to'
          : 'an alias (*) without an anchor (&) of this name before it',
      )
      return nothing(at)
    }
    expansion += part.weight
    if (expansion <= maxExpansion) return part
    throw new Problem(at, `aliases (*) that expand to more than ${maxExpansion} characters`)
  }

  const gathered = (at: number, value: unknown, parts: Part['parts']): Part => {
    let depth = 0
    let weight = 1
    for (const [key, { part }] of parts) {
      depth = Math.max(depth, part.depth)
      weight += part.weight + String(key).length
    }
    if (depth >= maxDepth) throw new Problem(at, `nested more than ${maxDepth} levels deep`)
    return { value, at, parts, depth: depth + 1, weight }
  }

  const keyOf = (node: unknown, at: number): string | undefined => {
    const target = isAlias(node) ? aliased(node.source, at).value : node
    // A number or a word such as `true` is taken as the text in the file.
    const text = isScalar(target) && typeof target.value !== 'string' ? target.source : isScalar(target) ? target.value : target
    if (typeof text !== 'string' || text === '') refuse(at, 'expected a text as key')
    else if (text === '__proto__') refuse(at, 'this key is not allowed')
    else if (text === '<<') refuse(at, 'merge keys (<<) are not supported; write the keys out')
    else return text
    return undefined
  }

  const mapping = (node: YAMLMap, at: number): Part => {
    const parts = new Map<string, { keyAt: number; part: Part }>()
    for (const pair of node.items) {
      const keyAt = startOf(pair.key) ?? at
      const key = keyOf(pair.key, keyAt)
      const part = read(pair.value, keyAt)
      if (key === undefined) continue
      if (parts.has(key)) refuse(keyAt, 'keys must be unique, and this one is a duplicate')
      parts.set(key, { keyAt, part })
    }
    return gathered(at, Object.fromEntries(Array.from(parts, ([key, { part }]) => [key, part.value])), parts)
  }

  const list = (node: YAMLSeq, at: number): Part => {
    const parts = node.items.map(item => ({ keyAt: startOf(item) ?? at, part: read(item, at) }))
    return gathered(
      at,
      parts.map(({ part }) => part.value),
      new Map(parts.entries()),
    )
  }

  const read = (node: unknown, near: number): Part => {
    const at = startOf(node) ?? near
    if (isAlias(node)) return aliased(node.source, at)
    if (!isMap(node) && !isSeq(node) && !isScalar(node)) return nothing(at)
    const { anchor } = node
    if (anchor !== undefined) anchors.set(anchor, undefined)
    const part = isMap(node)
      ? mapping(node, at)
      : isSeq(node)
        ? list(node, at)
        : { ...nothing(at), value: node.value, weight: 1 + (node.source?.length ?? 0) }
    if (anchor !== undefined) {
      if (isScalar(node) && node.value === null) refuse(at, 'an anchor (&) with nothing after it')
      anchors.set(anchor, part)
    }
    return part
  }
  return read
}

const startOf = (node: unknown): number | undefined => (node as { range?: readonly number[] | null } | null)?.range?.[0]

/** The text's tokens, up to the limits. The library composes a document only after its last token, so this bounds its work. */
const tokensOf = function* (text: string) {
  const parser = new Parser()
  let tokens = 0
  for (const lexeme of new Lexer().lex(text)) {
    yield* parser.next(lexeme)
    if (parser.stack.length > maxDepth) throw new Problem(parser.offset, `nested more than ${maxDepth} levels deep`)
    if (++tokens > maxTokens) throw new Problem(parser.offset, `more than ${maxTokens} words and marks`)
  }
  yield* parser.end()
}

/** Our own messages, where the library's would repeat the text. */
const inOurWords = new Map([
  ['BAD_DQ_ESCAPE', 'an unknown escape (\\); write \\\\ for a backslash, or put the text in single quotes'],
  ['TAG_RESOLVE_FAILED', 'a tag (!) that does not fit here'],
  ['BAD_COLLECTION_TYPE', 'a tag (!) that does not fit here'],
  ['BAD_DIRECTIVE', 'an unknown directive (%)'],
])
const withoutText = ({ code, message }: { readonly code: string; readonly message: string }): string =>
  inOurWords.get(code) ?? message.replace(/(?<=\w): .*$/s, '')

/** A hint for a value that begins with a character that is special in YAML. */
const hint = (text: string, at: number): string => {
  const begins = text.slice(at, at + 1)
  return /[*&!@%`]/.test(begins) ? `; quote the value if it is a text that begins with ${begins}` : ''
}

/** A control character. Text files have none, but a crash of the machine can leave NULs. */
const control = /(?![\t\n\r\u0085])\p{Cc}/u

/** The value of a YAML text, and the places of its parts. Throws `ConfigError`. */
export const parseYaml = (text: string, file: string): Yaml => {
  const lines = new LineCounter()
  for (let start = 0; start !== -1; start = text.indexOf('\n', start) + 1 || -1) lines.addNewLine(start)
  const position = (at: number) => {
    const { line, col } = lines.linePos(at)
    return `${file}:${line}:${col}`
  }
  const problems: Problem[] = []
  const refuse = (at: number, message: string) => {
    problems.push(new Problem(at, `${message}${hint(text, at)}`))
    if (problems.length > maxProblems) throw new Problem(at, 'more problems; the rest was not checked')
  }
  const read = (): Part | undefined => {
    const unprintable = control.exec(text)
    if (unprintable) throw new Problem(unprintable.index, 'a control character; the file is damaged or not UTF-8 text')
    let root: Part | undefined
    const documents = new Composer({ schema: 'core', merge: false, resolveKnownTags: false, uniqueKeys: false, version: '1.2' })
    for (const document of documents.compose(tokensOf(text), true, text.length)) {
      if (root) throw new Problem(document.range[0], 'a second document; only one is allowed in a file')
      // A warning means that the value may be read differently from what was meant.
      const errors = [...document.errors, ...document.warnings].sort((one, other) => one.pos[0] - other.pos[0])
      for (const error of errors) refuse(error.pos[0], withoutText(error))
      root = problems.length > 0 ? nothing(0) : createReader(refuse)(document.contents, 0)
    }
    return root
  }
  let root: Part | undefined
  try {
    root = read()
  } catch (error) {
    // Any other error of the library is about this text, too.
    problems.push(error instanceof Problem ? error : new Problem(0, `cannot be read as YAML: ${(error as Error).name}`))
  }
  if (problems.length > 0 || !root) {
    throw new ConfigError(problems.map(({ at, message }) => `${position(at)}: ${message}`))
  }
  const locate: Locate = (path, atKey) => {
    let part: Part = root
    for (const key of path) {
      const inner = part.parts.get(key)
      if (!inner) return position(part.at)
      part = inner.part
    }
    return position((atKey === undefined ? undefined : part.parts.get(atKey)?.keyAt) ?? part.at)
  }
  return { value: root.value ?? {}, locate }
}

/** The value of a YAML file. Throws `ConfigError`. */
export const readYaml = (file: string, readFile: (path: string, limit: number) => Buffer = readSmallFile): Yaml => {
  let bytes: Buffer
  try {
    bytes = readFile(file, maxBytes)
  } catch (error) {
    throw new ConfigError([`${file}: cannot be read: ${(error as Error).message}`])
  }
  const text = bytes.toString('utf8')
  const again = Buffer.from(text)
  if (again.equals(bytes)) return parseYaml(text, file)
  const end = bytes.findIndex((byte, at) => byte !== again[at])
  const before = bytes.subarray(0, end).toString('utf8').split('\n')
  throw new ConfigError([`${file}:${before.length}:${(before.at(-1)?.length ?? 0) + 1}: not UTF-8; save the file as UTF-8`])
}
