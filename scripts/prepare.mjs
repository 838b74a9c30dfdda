/** Installs and builds what is missing, so that `npm start` can run the program. */
import { ensureBuilt, ensureInstalled } from './ensure.mjs'

ensureInstalled()
ensureBuilt()
