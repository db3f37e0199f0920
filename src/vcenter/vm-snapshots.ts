/** What a VM with snapshots does not allow, refused before a key is made. The host has the same rule. */
import { VmsealError } from '../errors.js'
import type { VmConfig } from '../rpc/host-api.js'

export function refuseSnapshots({ name, snapshots = 0 }: VmConfig): void {
  if (snapshots > 0)
    throw new VmsealError('VMSEAL_SNAPSHOTS_EXIST', `${name} has ${snapshots} snapshots`, {
      details: { subject: name },
    })
}
