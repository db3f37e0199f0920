// The rules of the house that no linter knows: which way imports point, what no file may be called or hold.
import { readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { spawnSync } from 'node:child_process'
import { fail, root } from './setup.mjs'

/** Room -> rooms it may import from. `errors` and `native` are everybody's. */
const arrows = {
  native: ['errors'],
  crypto: ['native', 'errors'],
  kmip: ['native', 'errors'],
  audit: [],
  kms: ['audit', 'kmip', 'store', 'native', 'errors'],
  rpc: ['native', 'errors'],
  host: ['rpc', 'native', 'errors'],
  agent: ['host', 'rpc', 'store', 'native', 'errors'],
  store: ['audit', 'errors'],
  vcenter: ['kmip', 'rpc', 'store', 'native', 'errors'],
  cli: ['vcenter', 'agent', 'host', 'kms', 'kmip', 'rpc', 'store', 'crypto', 'native', 'errors'],
  errors: [],
}
const nameless = /(^|\/)(utils?|helpers?|common|misc)(\.(ts|rs|mjs)|\/)/
const unsafePlaces =
  /^crates\/(secret|xts)\/|^crates\/wrap\/src\/key_wrap\/x86\/|^crates\/bulk\/src\/(x86|write_back)\.rs$/

const problems = []
for (const file of listFiles()) {
  if (nameless.test(file)) problems.push(`${file}: a name that says nothing`)
  const text = readFileSync(join(root, file), 'utf8')
  if (/^src\/.*\.ts$/.test(file)) checkImports(file, text)
  if (/^crates\/.*\/src\/.*\.rs$/.test(file)) {
    if (/\bnapi\b/.test(text.replace(/\/\/.*$/gm, '')))
      problems.push(`${file}: crates have never heard of Node`)
    if (/\bunsafe\s*(\{|fn|impl)/.test(text.replace(/\/\/.*$/gm, '')) && !unsafePlaces.test(file))
      problems.push(`${file}: unsafe outside the places that say so`)
  }
}
if (problems.length > 0) fail(problems.join('\n'))

function checkImports(file, text) {
  const from = roomOf(file)
  for (const [, specifier] of text.matchAll(/(?:from|import) '(\.[^']+)'/g)) {
    const target = normalize(join(dirname(file), specifier)).replace(/\.js$/, '.ts')
    const to = roomOf(target)
    if (target === 'src/index.ts') problems.push(`${file}: nothing inside imports src/index.ts`)
    if (from === 'index' || from === to) continue
    if (!arrows[from]) problems.push(`${file}: a room that scripts/house-rules.mjs does not know`)
    else if (!arrows[from].includes(to)) problems.push(`${file}: ${from} must not import from ${to}`)
  }
  if (from !== 'native' && /node-gyp-build|\.node'/.test(text))
    problems.push(`${file}: only src/native loads the addon`)
}

function roomOf(file) {
  return file
    .replace(/^src\//, '')
    .split('/')[0]
    .replace(/\.ts$/, '')
}

function listFiles() {
  const { stdout } = spawnSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
  })
  return stdout.split('\n').filter((file) => /\.(ts|rs|mjs)$/.test(file))
}
