/** 10,000 injected faults against a key provider: orphans, duplicates and late calls must be 0. */
import { runFaults } from '../__test__/vcenter/fault-run.js'

const wanted = Number(process.argv[2] ?? 10_000)
const seed = Number(process.argv[3] ?? Math.floor(Math.random() * 2 ** 32))
const begin = performance.now()
const { struck, orphans, unexpected, ...result } = await runFaults(wanted, seed)
const report = {
  seed,
  seconds: Math.round((performance.now() - begin) / 100) / 10,
  ...result,
  longestMs: Math.round(result.longestMs),
  orphans: orphans.length,
  unexpected: unexpected.map(String),
  struck: Object.fromEntries(struck),
}
process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`)
if (report.orphans + report.duplicates + report.late + unexpected.length > 0) process.exitCode = 1
