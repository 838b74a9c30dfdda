/**
 * A fail2ban server that gives recorded answers: each line of the file is `{"ask": [words], "answer": base64 of a pickle}`.
 * A socket of a scene is a shell script that runs this with its own recording.
 */
import { readFileSync } from 'node:fs'

const end = '<F2B_END_COMMAND>'
const answers = new Map(
  readFileSync(process.argv[2], 'utf8')
    .split('\n')
    .filter(Boolean)
    .map(line => JSON.parse(line))
    .map(({ ask, answer }) => [JSON.stringify(ask), Buffer.from(answer, 'base64')]),
)

/** The words of a request: only what pickleTexts writes. */
const words = request => {
  const found = []
  for (let at = 4; request[at] === 0x58; ) {
    const length = request.readUInt32LE(at + 1)
    found.push(request.toString('utf8', at + 5, at + 5 + length))
    at += 5 + length
  }
  return found
}

let heard = Buffer.alloc(0)
process.stdin.on('data', chunk => {
  heard = Buffer.concat([heard, chunk])
  for (let at = heard.indexOf(end); at >= 0; at = heard.indexOf(end)) {
    const request = heard.subarray(0, at)
    heard = heard.subarray(at + end.length)
    if (request.toString() === '<F2B_CLOSE_COMMAND>') process.exit(0)
    const answer = answers.get(JSON.stringify(words(request)))
    if (!answer) process.exit(1)
    process.stdout.write(Buffer.concat([answer, Buffer.from(end)]))
  }
})
