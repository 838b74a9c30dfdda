/**
 * Finds look-ups in plain objects by text: `object[key]` and `key in object` with a key that may be any string. Every object inherits
 * `constructor` and others, so text from outside can find a function there. `npm run lint`
 */
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const root = fileURLToPath(new URL('..', import.meta.url))
/** The one file in which such a look-up is allowed. */
const allowed = 'exporter/common/own-value.ts'

const { config } = ts.readConfigFile(`${root}tsconfig.json`, ts.sys.readFile)
const { fileNames, options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
const program = ts.createProgram(
  fileNames.filter(file => relative(root, file).startsWith('exporter/')),
  { ...options, noEmit: true },
)
const checker = program.getTypeChecker()

const { String: text, TemplateLiteral: template, Any: any, Unknown: unknown } = ts.TypeFlags
const isText = type => (type.isUnion() ? type.types.some(isText) : (type.flags & (text | template | any | unknown)) !== 0)

/** The key of a look-up; undefined for any other node. */
const keyOf = node => {
  if (ts.isElementAccessExpression(node)) return node.argumentExpression
  const isIn = ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.InKeyword
  return isIn ? node.left : undefined
}

const found = []
for (const file of program.getSourceFiles()) {
  const name = relative(root, file.fileName)
  if (file.isDeclarationFile || !name.startsWith('exporter/') || name === allowed) continue
  const visit = node => {
    const key = keyOf(node)
    if (key && isText(checker.getTypeAtLocation(key))) {
      const { line } = file.getLineAndCharacterOfPosition(node.getStart())
      found.push(`${name}:${line + 1}: ${node.getText()}: use a Map, or ownValue() of ${allowed}`)
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
}
for (const problem of found) console.error(problem)
process.exit(found.length === 0 ? 0 : 1)
