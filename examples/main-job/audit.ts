/** Asks the auditor, a process that shares no code with vmseal. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { AuditAnswer, AuditRequest } from './auditor.js'

export async function audit(request: AuditRequest): Promise<AuditAnswer> {
  const program = fileURLToPath(new URL('auditor.ts', import.meta.url))
  const auditor = spawn(process.execPath, ['--import=tsx', program], { stdio: ['pipe', 'pipe', 'inherit'] })
  auditor.stdin.end(JSON.stringify(request))
  const [answer] = await Promise.all([text(auditor.stdout), once(auditor, 'close')])
  if (auditor.exitCode !== 0) throw new Error('the auditor failed')
  return JSON.parse(answer) as AuditAnswer
}
