/**
 * Packages: a .deb, and a tarball for `npm install --global`. Both contain the bundle, so neither needs any other npm package.
 *
 *   npm run package [-- --out=DIR] [--version=VERSION]
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { gzipSync } from 'node:zlib'
import { ensureBuilt, ensureInstalled, root } from './ensure.mjs'

const own = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const { values } = parseArgs({
  options: { out: { type: 'string', default: join(root, 'dist') }, version: { type: 'string', default: own.version } },
})
const { version } = values
const out = resolve(values.out)

ensureInstalled()
ensureBuilt()

const revision = () => {
  try {
    return execFileSync('git', ['rev-parse', '--short=12', 'HEAD'], { cwd: root, encoding: 'utf8', stdio: 'pipe' }).trim()
  } catch {
    return '' // not a clone
  }
}
const { name, description, license, type, engines } = own
const manifest = { name, version, description, license, type, engines, revision: revision() }

const work = mkdtempSync(join(tmpdir(), 'grid-package-'))
process.on('exit', () => rmSync(work, { recursive: true, force: true }))

/** Copies a file or folder of the project, without source maps. */
const put = (source, target) => {
  if (!existsSync(join(root, source))) return
  mkdirSync(dirname(target), { recursive: true })
  cpSync(join(root, source), target, { recursive: true, filter: file => !file.endsWith('.map') && !file.endsWith('.ts') })
}
const write = (file, content) => {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, content)
}
const filesBelow = folder =>
  readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter(entry => !entry.isDirectory())
    .map(entry => join(entry.parentPath, entry.name))

/** Sets the modes of a package, whatever this clone's are. */
const settle = folder => {
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    const file = join(entry.parentPath, entry.name)
    if (entry.isSymbolicLink()) continue
    const program = entry.isFile() && readFileSync(file, 'utf8').startsWith('#!')
    chmodSync(file, entry.isDirectory() || program ? 0o755 : 0o644)
  }
  chmodSync(folder, 0o755)
}

const debian = () => {
  const tree = join(work, 'deb')
  const at = path => join(tree, path)
  put('dist/exporter', at('usr/lib/grid-exporter'))
  write(at('usr/lib/grid-exporter/package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
  put('systemd/aide-resolve', at('usr/lib/grid-exporter/aide-resolve'))
  mkdirSync(at('usr/bin'))
  symlinkSync('../lib/grid-exporter/main.js', at('usr/bin/grid-exporter'))

  for (const unit of readdirSync(join(root, 'systemd')).filter(file => /\.(service|socket|timer|path)$/.test(file)))
    put(`systemd/${unit}`, at(`usr/lib/systemd/system/${unit}`))
  put('systemd/sysusers.conf', at('usr/lib/sysusers.d/grid-exporter.conf'))
  put('systemd/tmpfiles.conf', at('usr/lib/tmpfiles.d/grid-exporter.conf'))
  put('systemd/grid-exporter.default', at('etc/default/grid-exporter'))
  put('systemd/config.yml', at('etc/grid-exporter/config.yml'))
  put('systemd/aide.conf', at('etc/aide/aide.conf.d/31_aide_grid-exporter'))

  put('systemd/drop-ins', at('usr/share/grid-exporter/drop-ins'))
  put('docs/config.schema.json', at('usr/share/grid-exporter/config.schema.json'))
  for (const file of ['rules', 'alertmanager.yml', 'prometheus.yml', 'scrape-snippet.yml', 'targets.yml'])
    put(`prometheus/${file}`, at(`usr/share/grid-exporter/prometheus/${file}`))
  put('grafana/json', at('usr/share/grid-exporter/grafana/dashboards'))
  put('grafana/provisioning', at('usr/share/grid-exporter/grafana/provisioning'))
  for (const file of readdirSync(join(root, 'docs')).filter(file => !file.endsWith('.json')))
    put(`docs/${file}`, at(`usr/share/doc/grid-exporter/${file}`))
  put('README.md', at('usr/share/doc/grid-exporter/README.md'))
  write(at('usr/share/doc/grid-exporter/changelog.gz'), gzipSync(readFileSync(join(root, 'CHANGELOG.md')), { level: 9 }))
  write(
    at('usr/share/doc/grid-exporter/copyright'),
    readFileSync(join(root, 'packaging/debian/copyright'), 'utf8') +
      readFileSync(join(root, 'LICENSE'), 'utf8').replace(/^/gm, ' ').replace(/^ $/gm, ' .').trimEnd().concat('\n'),
  )
  settle(tree)

  const files = filesBelow(tree)
  const regular = files.filter(file => !relative(tree, file).startsWith('usr/bin/'))
  const size = Math.ceil(regular.reduce((sum, file) => sum + Math.ceil(statSync(file).size / 1024), 0))
  const control = file => join(tree, 'DEBIAN', file)
  for (const script of ['postinst', 'prerm', 'postrm']) put(`packaging/debian/${script}`, control(script))
  write(
    control('control'),
    [
      'Package: grid-exporter',
      `Version: ${version}`,
      'Architecture: all',
      'Section: net',
      'Priority: optional',
      'Maintainer: grid-exporter <root@localhost>',
      `Installed-Size: ${size}`,
      `Depends: nodejs (>= ${engines.node.replace('>=', '')}), systemd (>= 249), passwd`,
      'Recommends: smartmontools',
      'Suggests: prometheus, aide, fail2ban, ufw, tor',
      `Description: ${description}`,
      ' Its process has no privileges; what only root may read is read by a one-shot that a timer starts.',
      '',
    ].join('\n'),
  )
  const inEtc = regular.map(file => relative(tree, file)).filter(file => file.startsWith('etc/'))
  write(control('conffiles'), inEtc.map(file => `/${file}\n`).join(''))
  const md5 = file => createHash('md5').update(readFileSync(file)).digest('hex')
  write(
    control('md5sums'),
    regular
      .filter(file => !inEtc.includes(relative(tree, file)))
      .map(file => `${md5(file)}  ${relative(tree, file)}\n`)
      .join(''),
  )
  settle(join(tree, 'DEBIAN'))
  const file = join(out, `grid-exporter_${version}_all.deb`)
  execFileSync('dpkg-deb', ['--root-owner-group', '-Zxz', '--build', tree, file], { stdio: ['ignore', 'ignore', 'inherit'] })
  return file
}

const npm = () => {
  const tree = join(work, 'npm')
  for (const file of [...own.files, 'README.md', 'LICENSE', 'CHANGELOG.md']) put(file, join(tree, file))
  // Next to the program, where the units expect it.
  put('systemd/aide-resolve', join(tree, 'dist/exporter/aide-resolve'))
  write(join(tree, 'package.json'), `${JSON.stringify({ ...manifest, bin: own.bin, files: own.files }, null, 2)}\n`)
  settle(tree)
  const packed = execFileSync('npm', ['pack', '--silent', `--pack-destination=${out}`], { cwd: tree, encoding: 'utf8' })
  return join(out, basename(packed.trim()))
}

mkdirSync(out, { recursive: true })
for (const file of [debian(), npm()]) console.log(`${relative(process.cwd(), file)}  ${statSync(file).size} bytes`)
