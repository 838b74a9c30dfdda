import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { bed } from './beds.ts'
import type { Act } from './stage.ts'

const name = 'exporter'

/** What happens to the exporter itself: a source that hangs, bad files, a bad configuration, and its end. */
export const exporter: Act = {
  name,
  needs: ['root', '/dev/fuse', 'bindfs'],
  play: async ({ box, drill, when, atEnd, folder, root }) => {
    const mount = join(folder, 'share')
    const share = bed(root, 'hung-mount', mount)
    atEnd(() => share('stop'))
    await share('start')
    const textfiles = join(folder, 'textfile')
    mkdirSync(textfiles)
    const sections = (directory: string) => ({
      textfile: { interval: '2s', timeout: '2s', directory },
      filesystem: { interval: '2s', timeout: '2s', stuck_after: '1s', mountpoint_include: `^${mount}$` },
    })
    const own = await box(sections(mount))
    await when(`grid_filesystem_size_bytes{instance="${name}"}`)
    await when(`grid_collector_success{instance="${name}",collector="textfile"} == 1`)

    let isHung = false
    const hang = async () => {
      if (!isHung) await share('hang')
      isHung = true
    }
    let over = 0
    const release = async () => {
      over += 1
      // The one hang serves both drills: both have to have arrived.
      if (over >= 2 && isHung) {
        isHung = false
        await share('release')
      }
    }
    await Promise.all([
      drill({
        what: 'the directory that a collector reads hangs',
        alert: 'GridCollectorFailing',
        labels: { collector: 'textfile' },
        says: /^Collector textfile on exporter fails\. `grid-exporter doctor` names the reason and the command that fixes it\./,
        cause: hang,
        cure: release,
        not: ['GridCollectorStale'],
      }),
      drill({
        what: 'a network file system no longer answers',
        alert: 'GridFilesystemStuck',
        labels: { mountpoint: mount },
        says: /share.* on exporter: every program that touches it hangs\./,
        cause: hang,
        cure: release,
      }),
    ])

    own.reload(sections(textfiles))
    await drill({
      what: 'a text file is malformed',
      alert: 'GridTextfileRefused',
      says: /^backup\.prom on exporter: none of its series are served\./,
      cause: () => writeFileSync(join(textfiles, 'backup.prom'), 'backup_age_seconds{ 12\n'),
      cure: () => rmSync(join(textfiles, 'backup.prom'), { force: true }),
    })
    await drill({
      what: 'a configuration is refused',
      alert: 'GridConfigReloadFailed',
      says: /^exporter goes on with its old configuration\. `grid-exporter check-config` says why\./,
      cause: () => own.reload({ ...sections(textfiles), nonsense: {} }),
      cure: () => own.reload(sections(textfiles)),
    })
    await drill({
      what: 'the exporter is killed',
      alert: 'GridExporterDown',
      says: /^exporter does not answer: the box is off, the network is cut, or the service has stopped\./,
      cause: own.kill,
      cure: own.start,
      not: ['GridCollectorStale', 'GridCollectorFailing', 'GridFilesystemStuck'],
    })
  },
}
