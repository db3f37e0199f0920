/** A lab whose host has a second datastore, and what lies on both. */
import { mkdir, readdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { ExecutionContext } from 'ava'
import type { Host } from '../../src/host/host.js'
import type { HostOptions } from '../../src/host/host-options.js'
import { makeLab, sha256Of, type Lab } from './fixture.js'

export interface TwoDatastores extends Lab {
  readonly ds2: string
  /** Another start of a host of this name, which the caller has stopped, or of another one. */
  restart(name?: string, options?: Partial<HostOptions>): Promise<Host>
}

/** `fresh.host` has both datastores. */
export async function makeTwo(
  t: ExecutionContext,
  options: Partial<HostOptions> = {},
): Promise<TwoDatastores> {
  const lab = await makeLab(t)
  const ds2 = join(dirname(lab.datastore), 'ds2')
  await mkdir(ds2)
  const datastores = { ds1: lab.datastore, ds2 }
  const restart = (name = 'esx-2', more: Partial<HostOptions> = {}) =>
    lab.start(name, { datastores, ...options, ...more })
  return { ...lab, ds2, host: await restart(), restart }
}

/** Name and SHA-256 of every file below a datastore but logs, as folder and name. */
export async function treeOf(datastore: string): Promise<Record<string, string>> {
  const found: [string, string][] = []
  for (const folder of (await readdir(datastore)).toSorted())
    for (const file of (await readdir(join(datastore, folder))).toSorted())
      if (file !== 'vmware.log')
        found.push([`${folder}/${file}`, await sha256Of(join(datastore, folder, file))])
  return Object.fromEntries(found)
}
