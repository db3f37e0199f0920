// docs/features.md: every row of the feature table with the tests that name it in their titles (`E3: ...`). With --check:
// fails when a named test does not exist; of a row that has come it only tells.
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { features } from './feature-rows.mjs'
import { fail, root } from './setup.mjs'

const page = join(root, 'docs/features.md')
const namedAtMost = 4
const tests = readTests()
const proven = new Set(features.map(([row]) => row).filter((row) => tests.has(row)))

if (process.argv.includes('--check')) check()
else writeFileSync(page, render())

function render() {
  const lines = features.map(([row, priority, feature]) => {
    const found = tests.get(row) ?? []
    const named = found.slice(0, namedAtMost).map(({ file, title }) => `\`${title}\` (${file})`)
    if (found.length > namedAtMost) named.push(`and ${found.length - namedAtMost} more`)
    return `| ${row} | ${priority} | ${feature} | ${proven.has(row) ? 'there' : 'not yet'} | ${named.join('<br>')} |`
  })
  return `# Features

What VM encryption of vSphere does, row by row, and what goes beyond it (M). Priority 1: stands or falls with it; 2: would be
missed; 3: nice to have. A row is _there_ when a test with its id proves it. Made from the titles of the tests by
\`npm run docs\`: ${proven.size} of ${features.length} rows are there.

| row | priority | feature | state | tests |
| --- | --- | --- | --- | --- |
${lines.join('\n')}
`
}

function check() {
  const text = existsSync(page) ? readFileSync(page, 'utf8') : ''
  const all = new Set([...tests.values()].flat().map(({ title }) => title))
  const problems = [...text.matchAll(/`([A-M]\d+[,:][^`]*)` \(/g)]
    .filter(([, title]) => !all.has(title))
    .map(([, title]) => `no test is called: ${title}`)
  for (const [row] of features) {
    const state = new RegExp(`^\\| ${row} \\|.*\\| (there|not yet) \\|`, 'm').exec(text)?.[1]
    if (!state || (state === 'there' && !proven.has(row))) problems.push(`row ${row} is not there`)
    else if (state === 'not yet' && proven.has(row))
      process.stdout.write(`row ${row} is proven by now: run npm run docs\n`)
  }
  for (const row of tests.keys())
    if (!features.some(([known]) => known === row))
      problems.push(`a test names row ${row}, which there is not`)
  if (problems.length > 0) fail(`docs/features.md is stale: run npm run docs\n${problems.join('\n')}`)
}

/** Titles by row. A title begins with one row or several: `A1, A3: ...`. */
function readTests() {
  const found = new Map()
  for (const name of readdirSync(join(root, '__test__'), { recursive: true }).toSorted(byText)) {
    if (!name.endsWith('.spec.ts')) continue
    const text = readFileSync(join(root, '__test__', name), 'utf8')
    for (const [, , raw] of text.matchAll(/test(?:\.\w+)*\(\s*(['"`])((?:[A-M]\d+(?:, )?)+: .*?)\1,/g)) {
      const title = raw
        .replaceAll(/\$\{[^}]*\}/g, '…')
        .replaceAll('`', '')
        .replaceAll('|', '/')
      for (const row of title.slice(0, title.indexOf(':')).split(', '))
        found.set(row, [...(found.get(row) ?? []), { title, file: name }])
    }
  }
  return found
}

function byText(one, other) {
  return one < other ? -1 : 1
}
