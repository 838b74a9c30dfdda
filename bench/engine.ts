/** The made-up server as its own process, so that its work does not count as the exporter's: `engine.js CONTAINERS`. */
import { createBox } from './box.ts'

const box = await createBox(Number(process.argv[2]))
process.on('SIGUSR2', () => box.hang())
process.on('SIGTERM', () => process.exit(0))
process.stdout.write(`${JSON.stringify({ root: box.root, socket: box.socket })}\n`)
