/** A vCenter that is not running, for the time of one command. */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { VmsealError } from '../errors.js'
import { VCenter } from '../vcenter/vcenter.js'

/** VMSEAL_NOT_FOUND if there is none: `VCenter.open` would make a new one. VMSEAL_FILE_LOCKED while it runs. */
export async function withVCenter<T>(directory: string, use: (vcenter: VCenter) => Promise<T>): Promise<T> {
  if (!existsSync(join(directory, 'vcenter.db')))
    throw new VmsealError('VMSEAL_NOT_FOUND', `${resolve(directory)} is not the directory of a vCenter`, {
      details: { subject: resolve(directory) },
    })
  const vcenter = await VCenter.open({ directory })
  try {
    return await use(vcenter)
  } finally {
    await vcenter.close()
  }
}
