// docs/vsphere-names.md: every fault and event that vSphere has for VM encryption, with ours and the test that reaches it, or why it
// cannot occur. With --check: fails when the page is stale or a test that it needs does not exist.
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fail, root } from './setup.mjs'
import { events, faults } from './vsphere-name-rows.mjs'

const page = join(root, 'docs/vsphere-names.md')
const titles = readTitles()
const codes = new Set(
  [...readFileSync(join(root, 'src/errors.ts'), 'utf8').matchAll(/^ {2}(VMSEAL_\w+): \{/gm)].map(
    ([, code]) => code,
  ),
)
const eventIds = readFileSync(join(root, 'src/vcenter/events.ts'), 'utf8')
const problems = []
const text = render()

if (problems.length > 0) fail(`vSphere names without their test:\n${problems.join('\n')}`)
if (!process.argv.includes('--check')) writeFileSync(page, text)
else if (!existsSync(page) || readFileSync(page, 'utf8') !== text)
  fail('docs/vsphere-names.md is stale: run npm run docs')

function render() {
  return `# Names of vSphere

What vSphere refuses and tells around VM encryption, by its own names, and where vmseal does. Made by \`npm run docs\`, which fails when a
test named here does not exist.

## Faults

| fault of vSphere | meaning | code | test, or why it cannot occur |
| --- | --- | --- | --- |
${faults.map(({ name, meaning, code, test, never }) => `| \`${name}\` | ${meaning} | ${code ? `\`${code}\`` : ''} | ${proof(name, code, test, never)} |`).join('\n')}

## Events

Ids of vSphere stand for \`com.vmware.vc.\` and the name. Events of vmseal's own begin with \`vmseal.\`; an event tells the acting user, or
\`system\` for what vCenter does by itself. Alarms open and clear with events: \`vcenter.alarms\`.

| event of vSphere | there | why not |
| --- | --- | --- |
${events.map(({ name, never }) => `| \`${name}\` | ${isEvent(name, never)} | ${never ?? ''} |`).join('\n')}
`
}

function proof(name, code, test, never) {
  if (never) return never
  if (code && !codes.has(code)) problems.push(`${name}: there is no code ${code}`)
  const found = titles.filter(({ title }) => title.includes(test))
  if (found.length === 0) problems.push(`${name}: no test has "${test}" in its title`)
  const [first] = found
  return first ? `\`${first.title}\` (${first.file})` : ''
}

function isEvent(name, never) {
  const there = eventIds.includes(`'com.vmware.vc.${name}'`)
  if (there === (never !== undefined))
    problems.push(`event ${name}: ${there ? 'is there' : 'is not there, and no reason'}`)
  return there ? 'yes' : 'no'
}

function readTitles() {
  return readdirSync(join(root, '__test__'), { recursive: true })
    .filter((name) => name.endsWith('.spec.ts'))
    .toSorted((one, other) => (one < other ? -1 : 1))
    .flatMap((file) =>
      [
        ...readFileSync(join(root, '__test__', file), 'utf8').matchAll(/test(?:\.\w+)*\(\s*(['"`])(.*?)\1,/g),
      ].map(([, , title]) => ({ title: title.replaceAll('|', '/').replaceAll('`', ''), file })),
    )
}
