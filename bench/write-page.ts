/** `node scripts/performance-page.mjs [FILE]`: docs/performance.md from that report, or from the newest whole one. */
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { format, resolveConfig } from 'prettier'
import { root } from './machine.js'
import { performancePage } from './performance-page.js'
import { readReport } from './report.js'

const page = join(root, 'docs/performance.md')
const file = process.argv[2] ?? newest(join(root, 'bench/results'))
if (file === undefined) {
  process.stderr.write('no report in bench/results: run npm run bench first\n')
  process.exit(2)
}
const settings = await resolveConfig(page)
writeFileSync(page, await format(performancePage(readReport(file)), { ...settings, parser: 'markdown' }))
process.stdout.write(`${page} made from ${file}\n`)

/** Names begin with the date; figures of conversion and scale lie beside them under theirs. */
function newest(folder: string): string | undefined {
  const names = readdirSync(folder).filter(
    (name) => /^\d.*\.json$/.test(name) && !name.endsWith('-quick.json'),
  )
  const last = names.toSorted().at(-1)
  return last && join(folder, last)
}
