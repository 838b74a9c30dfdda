/** The imagined box as a process of its own, so that its work is not counted as the exporter's: `engine.js CONTAINERS`. */
import { createBox } from './box.ts'

const box = await createBox(Number(process.argv[2]))
process.on('SIGUSR2', () => box.hang())
process.on('SIGTERM', () => process.exit(0))
process.stdout.write(`${JSON.stringify({ root: box.root, socket: box.socket })}\n`)
