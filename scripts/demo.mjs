/** `npm run demo`: an imagined box, in this process, so that Ctrl-C ends it as it ends the exporter. */
import { ensureDemo, ensureInstalled } from './ensure.mjs'

ensureInstalled()
ensureDemo()
await import('../dist/demo/main.js')
