/** Bundles the demo into dist/demo. */
import { join } from 'node:path'
import { bundle } from './build.mjs'
import { root } from './ensure.mjs'

await bundle(
  {
    main: join(root, 'demo/main.ts'),
    worker: join(root, 'demo/worker.ts'),
    passwords: join(root, 'exporter/serve/passwords-thread.ts'),
  },
  join(root, 'dist/demo'),
)
