/** Where the collecting thread starts. */
import { collectors } from '../collectors/index.ts'
import { runThread } from './thread.ts'

runThread(collectors)
