/** What a VM asks of its live migrations is changed. */
import { VmsealError } from '../errors.js'
import type { MigrateEncryption } from '../rpc/host-api.js'
import { commitHeld, holdOpenVm } from './held-vm.js'
import type { HostContext } from './host-context.js'
import { migrateEncryptionKey, migrateEncryptionOf } from './migrate-encryption-setting.js'
import type { PoweredOnVms } from './power.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { changedVmx, settingsOf } from './vm-change.js'
import { logLine } from './vm-log.js'

/** The VM may be on. VMSEAL_INVALID_STATE for an encrypted VM, unless nothing changes. */
export function setMigrateEncryption(
  context: HostContext,
  powered: PoweredOnVms,
  files: VirtualMachineFiles,
  mode: MigrateEncryption,
): Promise<void> {
  return holdOpenVm(context, powered, files, async (held) => {
    const { vm, dek } = held
    if (migrateEncryptionOf(vm) === mode) return
    if (vm.homeKeys.length > 0) {
      const subject = files.label(files.vmx)
      throw new VmsealError(
        'VMSEAL_INVALID_STATE',
        `${subject} is encrypted: its migrateEncryption is required and cannot be ${mode}`,
        { details: { subject } },
      )
    }
    const settings = settingsOf(vm, dek, files)
    settings.set(migrateEncryptionKey, mode)
    const change = changedVmx(vm, dek, files, { settings })
    await commitHeld(files, held, {}, { ...change, created: [], superseded: [], steps: [] })
    await logLine(files, context.name, `migrateEncryption ${mode}; generation ${change.generation}`)
  })
}
