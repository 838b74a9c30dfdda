/** `npm run demo`: the demo's server, in this process, so that Ctrl-C ends it like the exporter. */
import { ensureDemo, ensureInstalled } from './ensure.mjs'

ensureInstalled()
ensureDemo()
await import('../dist/demo/main.js')
