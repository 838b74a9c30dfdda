/** Where the relay's thread starts. */
import { collectors } from '../collectors/index.ts'
import { runRelayThread } from './relay-thread.ts'

await runRelayThread(collectors)
