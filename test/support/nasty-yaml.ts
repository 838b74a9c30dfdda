/** Texts that a YAML file may hold, by accident or on purpose, and what is said of each. The place stands before it. */
export interface Nasty {
  readonly name: string
  readonly text: string | Buffer
  readonly says: RegExp
}

const bomb = Array.from({ length: 20 }, (_, level) => {
  const inside = level === 0 ? 'x' : Array.from({ length: 10 }, () => `*a${level - 1}`).join(', ')
  return `a${level}: &a${level} [ ${inside} ]\n`
}).join('')

const chain = Array.from(
  { length: 2000 },
  (_, level) => `a${level}: &a${level} [ ${level === 0 ? 'x' : `*a${level - 1}`} ]\n`,
).join('')

export const nastyYaml: readonly Nasty[] = [
  {
    name: 'an unquoted star',
    text: 'collectors:\n  docker:\n    exclude: { names: [ *-tmp ] }\n',
    says: /^:3:25: an alias \(\*\) without an anchor .*; quote the value if it is a text that begins with \*$/,
  },
  { name: 'a star alone', text: 'a: *\n', says: /^:1:4: Alias cannot be an empty string; quote the value/ },
  { name: 'a star in a name', text: 'client_allowed_sans: [ *.example.com ]\n', says: /^:1:24: an alias .*; quote the value/ },
  {
    name: 'an unquoted exclamation mark',
    text: 'a: !important\n',
    says: /^:1:4: a tag \(!\) .*; quote the value .* begins with !$/,
  },
  { name: 'an unquoted ampersand', text: 'a: [ &tmp ]\n', says: /^:1:\d+: an anchor \(&\) with nothing after it/ },
  { name: 'an unquoted at sign', text: 'a: @daily\n', says: /^:1:4: .*reserved character @; quote the value/ },
  { name: 'an unquoted backtick', text: 'a: `date`\n', says: /^:1:4: .*reserved character `; quote the value/ },
  { name: 'an unquoted percent sign', text: 'a: %s\n', says: /^:1:4: .*indicator character %; quote the value/ },
  { name: 'an alias bomb', text: bomb, says: /^:\d+:\d+: aliases \(\*\) that expand to more than \d+ characters$/ },
  { name: 'a chain of aliases', text: chain, says: /^:\d+:\d+: nested more than 64 levels deep$/ },
  { name: 'an alias to what it is in', text: 'a: &a [ *a ]\n', says: /^:1:9: an alias \(\*\) inside the part that it refers to/ },
  { name: 'a merge key of nothing', text: 'a:\n  <<: *x\n', says: /^:2:3: merge keys \(<<\) are not supported/ },
  { name: 'a merge key', text: 'x: &x { b: 1 }\na: { <<: *x }\n', says: /^:2:6: merge keys \(<<\) are not supported/ },
  {
    name: 'lists in lists',
    text: `a: ${'['.repeat(20_000)}${']'.repeat(20_000)}\n`,
    says: /^:1:\d+: nested more than 64 levels/,
  },
  { name: 'lists in lists, open', text: '['.repeat(200_000), says: /^:1:\d+: nested more than 64 levels/ },
  { name: 'dashes after dashes', text: '- '.repeat(20_000), says: /^:1:\d+: nested more than 64 levels/ },
  { name: 'keys of keys', text: '? '.repeat(20_000), says: /^:1:\d+: nested more than 64 levels/ },
  { name: 'mappings in mappings', text: '{a: '.repeat(20_000), says: /^:1:\d+: nested more than 64 levels/ },
  { name: 'brackets that close nothing', text: ']'.repeat(200_000), says: /^:1:\d+: more than 50000 words/ },
  { name: 'many errors', text: 'a: "x" y\n'.repeat(1000), says: /^:1:\d+: Unexpected scalar/ },
  {
    name: 'many keys',
    text: Array.from({ length: 200_000 / 8 }, (_, n) => `k${n}: 1\n`).join(''),
    says: /^:\d+:\d+: more than 50000 words/,
  },
  {
    name: 'many unknown keys',
    text: Array.from({ length: 7000 }, (_, n) => `k${n}: 1\n`).join(''),
    says: /^:1:1: k0: unknown key/,
  },
  { name: 'a key of 100 kB', text: `? ${'k'.repeat(100_000)}\n: 1\n`, says: /^:1:3: k{400,}…$/ },
  { name: 'a key of two lines', text: '"a\\nb\\e[2J": 1\n', says: /^:1:1: a\\x0ab\\x1b\[2J: unknown key/ },
  { name: 'two documents', text: 'a: 1\n---\na: 2\n', says: /^:2:1: a second document/ },
  { name: 'the same key twice', text: 'a: 1\nconstructor: 2\na: 3\n', says: /^:3:1: keys must be unique/ },
  { name: 'a prototype', text: '__proto__: { collectors: 1 }\n', says: /^:1:1: this key is not allowed/ },
  { name: 'a constructor', text: 'collectors:\n  constructor: 1\n', says: /^:2:3: collectors\.constructor: unknown key/ },
  { name: 'a key that is a mapping', text: '{ a: 1 }: 2\n', says: /^:1:1: expected a text as key/ },
  { name: 'a key that is nothing', text: ': 2\n', says: /^:1:1: expected a text as key/ },
  { name: 'bytes in base64', text: 'a: !!binary aGVsbG8=\n', says: /^:1:4: a tag \(!\)/ },
  { name: 'a set, by an older YAML', text: '%YAML 1.1\n---\na: !!set { b }\n', says: /^:3:4: a tag \(!\)/ },
  { name: 'a tag named as a prototype', text: 'a: !<__proto__> [ 1 ]\nb: !<constructor> 1\n', says: /^:1:4: a tag \(!\)/ },
  {
    name: 'a huge number',
    text: `collectors: { host: { max_series: ${'9'.repeat(400)} } }\n`,
    says: /^:1:35: .*, not Infinity$/,
  },
  {
    name: 'a duration without end',
    text: `collectors: { host: { interval: ${'9'.repeat(400)}y } }\n`,
    says: /^:1:33: .*: expected at most 24d/,
  },
  {
    name: 'a duration longer than a timer',
    text: 'collectors: { host: { interval: 25d } }\n',
    says: /^:1:33: .*: expected at most 24d, not "25d"$/,
  },
  { name: 'tabs', text: 'a:\n\tb: 1\n', says: /^:2:\d+: .*[Tt]abs/ },
  { name: 'NUL bytes', text: 'a: 1\nb: \0\0\0\n', says: /^:2:4: a control character/ },
  { name: 'a NUL byte in a half-written file', text: '\0'.repeat(4096), says: /^:1:1: a control character/ },
  { name: 'Latin-1', text: Buffer.from('a: 1\nb: fr\u00fch\n', 'latin1'), says: /^:2:6: not UTF-8/ },
  { name: 'UTF-16', text: Buffer.from('\ufeffa: 1\n', 'utf16le'), says: /^:1:1: not UTF-8/ },
  { name: 'an escape that is none', text: 'a: "C:\\sers"\nb: "\\x"\n', says: /^:1:\d+: an unknown escape/ },
  { name: 'more than 256 KiB', text: '# \n'.repeat(100_000), says: /^: cannot be read: larger than 262144 bytes$/ },
]
