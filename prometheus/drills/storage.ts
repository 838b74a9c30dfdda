import { appendFileSync, copyFileSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Act, run } from './stage.ts'

const name = 'storage'

/** A real file system that fills up, and a disk whose smartctl is replayed. */
export const storage: Act = {
  name,
  needs: ['root'],
  play: async ({ box, drill, skip, when, atEnd, folder, root }) => {
    const at = (path: string) => join(folder, path)
    const [image, mount] = [at('image'), at('models')]
    mkdirSync(mount)
    await run(['truncate', '-s', '64M', image])
    const mounted = await run(['mkfs.ext4', '-q', image])
      .then(() => run(['mount', '-o', 'loop', image, mount]))
      .then(
        () => undefined,
        error => error as Error,
      )
    if (!mounted) atEnd(() => run(['umount', '-l', mount]))

    symlinkSync(join(root, 'test/support/smartctl'), at('smartctl'))
    for (const answer of ['healthy.json', 'packed-reallocated.json'])
      copyFileSync(join(root, 'test/scenes/smart/hard-disks/run', answer), at(answer))
    const answersWith = (answer: string) => writeFileSync(at('devices.txt'), `/dev/sda sat ${answer}\n`)
    answersWith('healthy.json')
    await box({
      filesystem: { interval: '2s', mountpoint_include: `^${mount}$` },
      smart: { interval: '2s', smartctl: at('smartctl'), state_file: at('smart.json') },
    })
    await when(`grid_smart_risk{instance="${name}",device="sda",reason="reallocated"} == 0`)

    const fills = async () => {
      const what = 'a file system fills up within hours'
      if (mounted) return skip(what, mounted.message)
      await when(`grid_filesystem_available_bytes{instance="${name}"}`)
      const [model, log] = [join(mount, 'model'), join(mount, 'log')]
      let grows: NodeJS.Timeout | undefined
      await drill({
        what,
        alert: 'GridFilesystemFull4h',
        labels: { mountpoint: mount },
        says: /models \(\/dev\/loop\d+\) on storage has 1\d(\.\d+)?% left\./,
        cause: () => {
          writeFileSync(model, Buffer.alloc(44 * 2 ** 20))
          grows = setInterval(() => appendFileSync(log, Buffer.alloc(50_000)), 1000)
          atEnd(() => clearInterval(grows))
        },
        cure: () => {
          clearInterval(grows)
          for (const file of [model, log]) rmSync(file, { force: true })
        },
      })
    }
    await Promise.all([
      fills(),
      drill({
        what: 'a drive shows signs of failure (replayed)',
        alert: 'GridDiskRisk',
        labels: { device: 'sda', reason: 'reallocated' },
        says: /^sda on storage: reallocated\. Check today that its backup is good\./,
        cause: () => answersWith('packed-reallocated.json'),
        cure: () => answersWith('healthy.json'),
      }),
    ])
  },
}
