/** A site whose vCenter takes orders in its directory, as one that runs does. */
import path from 'node:path'
import type { ExecutionContext } from 'ava'
import { openVCenterControl } from '../../src/cli/vcenter/control.js'
import { openSite, type Site } from '../vcenter/site.js'
import { call, type Called } from './in-process.js'

export interface Administered {
  readonly site: Site
  /** Directory of the vCenter. */
  readonly directory: string
  /** A verb of which the answer is wanted: JSON. It must be done. */
  answer<T = Record<string, unknown>>(...argv: readonly string[]): Promise<T>
  /** A verb of which the answer for people is wanted. It must be done. */
  text(...argv: readonly string[]): Promise<string>
  /** A verb that must be refused, in both forms, with this status. Its code. */
  refused(status: number, ...argv: readonly string[]): Promise<string>
  call(...argv: readonly string[]): Promise<Called>
}

export async function administer(
  t: ExecutionContext,
  options: Parameters<typeof openSite>[1] = {},
): Promise<Administered> {
  const site = await openSite(t, { hosts: ['esx-1'], ...options })
  const directory = path.join(site.directory, 'vcenter')
  const control = await openVCenterControl(directory, site.vcenter, () => {})
  t.teardown(() => control.close())
  const before = process.env['VMSEAL_VCENTER']
  process.env['VMSEAL_VCENTER'] = directory
  t.teardown(() => {
    if (before === undefined) delete process.env['VMSEAL_VCENTER']
    else process.env['VMSEAL_VCENTER'] = before
  })
  return {
    site,
    directory,
    call,
    answer: async <T>(...argv: readonly string[]) => {
      const { status, stdout, stderr } = await call('--json', ...argv)
      t.is(status, 0, `${argv.join(' ')}: ${stderr}`)
      t.is(stderr, '', argv.join(' '))
      t.is(stdout.trimEnd().split('\n').length, 1, `${argv.join(' ')} prints one document`)
      return JSON.parse(stdout) as T
    },
    text: async (...argv) => {
      const { status, stdout, stderr } = await call(...argv)
      t.is(status, 0, `${argv.join(' ')}: ${stderr}`)
      return stdout
    },
    refused: async (status, ...argv) => {
      const told = await call(...argv)
      t.is(told.status, status, `${argv.join(' ')}: ${told.stdout}${told.stderr}`)
      t.is(told.stdout, '', argv.join(' '))
      const { status: again, stdout, stderr } = await call('--json', ...argv)
      t.is(again, status, stderr)
      t.is(stdout, '')
      const { error } = JSON.parse(stderr) as { error: { code: string; message: string; action: string } }
      t.true(error.message.length > 0 && error.action.length > 0)
      return error.code
    },
  }
}
