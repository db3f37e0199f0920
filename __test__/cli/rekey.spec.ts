import { spawn } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import type { RekeyResult } from '../../src/index.js'
import { encryption, openSite } from '../vcenter/site.js'

const program = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

function vmseal(...argv: string[]): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, ['--import=tsx', program, ...argv], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const texts = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const)
    child[name].setEncoding('utf8').on('data', (text: string) => (texts[name] += text))
  return new Promise((resolve) => child.on('close', (status) => resolve({ status, ...texts })))
}

test('a dry run tells people and machines what would be done; without the hosts each VM fails by name', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  for (const name of ['db01', 'web01']) {
    const { file } = await site.image(name)
    await site.vcenter.virtualMachines.import({
      name,
      cluster: site.cluster,
      datastore: 'ds1',
      policy: encryption,
      disks: [file],
    })
  }
  const directory = path.join(site.directory, 'vcenter')
  const call = ['rekey', '--vcenter', directory, '--provider', 'kms-1']
  const running = await vmseal(...call, '--dry-run')
  t.is(running.status, 4)
  t.regex(running.stderr, /VMSEAL_FILE_LOCKED/)

  await site.vcenter.close()
  site.seen('Create')
  const plan = await vmseal(...call, '--dry-run')
  t.deepEqual([plan.status, plan.stderr], [0, ''])
  t.regex(plan.stdout, /kms-1, 2 VMs\n.*\nVM +db01 +would be recrypted\nVM +web01 +would be recrypted\n/)
  const json = await vmseal('--json', ...call, '--dry-run')
  t.like(JSON.parse(json.stdout) as RekeyResult, {
    dryRun: true,
    virtualMachines: [
      { name: 'db01', state: 'waiting' },
      { name: 'web01', state: 'waiting' },
    ],
  })
  t.is(site.seen('Create'), 0)

  const failed = await vmseal('--json', ...call, '--wait', '0.1', '--progress')
  t.is(failed.status, 1)
  const lines = failed.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
  t.like(
    lines.find(({ event }) => event === 'progress'),
    { totalBytes: 2, unit: 'virtualMachines' },
  )
  const result = lines.at(-1) as unknown as RekeyResult
  t.deepEqual(
    result.virtualMachines.map(({ state, error }) => [state, error?.code]),
    [
      ['failed', 'VMSEAL_HOST_UNREACHABLE'],
      ['failed', 'VMSEAL_HOST_UNREACHABLE'],
    ],
  )
  t.is(site.seen('Create'), 0, 'no key is made for a VM that nobody can work on')
  const again = await vmseal(...call, '--dry-run')
  t.regex(again.stdout, /^An earlier rekey goes on: /)
})

test('wrong calls: no vCenter there, options that make no sense, help that teaches', async (t) => {
  const nowhere = await vmseal('rekey', '--vcenter', '/nonexistent', '--provider', 'kms-1', '--dry-run')
  t.is(nowhere.status, 2)
  t.regex(nowhere.stderr, /VMSEAL_NOT_FOUND/)
  const missing = await vmseal('rekey', '--vcenter', '.')
  t.is(missing.status, 2)
  t.regex(missing.stderr, /--provider/)
  const rate = await vmseal('rekey', '--vcenter', '.', '--provider', 'p', '--rate-limit', '0')
  t.is(rate.status, 2)
  t.regex(rate.stderr, /above 0/)
  const help = await vmseal('rekey', '--help')
  t.is(help.status, 0)
  t.regex(help.stdout, /goes on where it stood/)
})
