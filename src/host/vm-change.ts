/** The next .vmx of a VM whose keys stay as they are. */
import { VmsealError } from '../errors.js'
import type { KeyHandle } from '../native/load.js'
import type { FileTransaction } from './file-transaction.js'
import {
  generationLimit,
  isIdentityKey,
  writeDescription,
  type DiskEntry,
  type HomeFile,
} from './home-description.js'
import { writeSnapshotTable, type SnapshotTable } from './snapshot-table.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import type { VirtualMachine } from './vm-config.js'
import { openSecrets, sealConfig } from './vm-home.js'
import { VmxDocument } from './vmx.js'

interface VmChange {
  readonly disks?: readonly DiskEntry[]
  readonly homeFiles?: readonly HomeFile[]
  readonly table?: SnapshotTable
  /** Takes the place of the settings. */
  readonly settings?: VmxDocument
}

/** The generation that a change of the VM gets. */
export function nextGeneration(vm: VirtualMachine, files: VirtualMachineFiles): number {
  const generation = vm.description.generation + 1
  if (generation <= generationLimit) return generation
  throw new VmsealError('VMSEAL_VMX_INVALID', `vmseal.gen of ${files.label(files.vmx)} has no successor`)
}

/** The settings of a VM: what stands sealed in the .vmx of an encrypted VM, and beside the identity in that of a plain one. */
export function settingsOf(
  vm: VirtualMachine,
  dek: KeyHandle | undefined,
  files: VirtualMachineFiles,
): VmxDocument {
  const { wrap } = vm.description
  if ((wrap === undefined) !== (dek === undefined))
    throw new VmsealError('VMSEAL_INTERNAL', 'VM home is encrypted and its DEK is not at hand')
  if (wrap && dek) return openSecrets(dek, vm.description, wrap, files)
  return vm.document.split(isIdentityKey)[1]
}

/** `dek` is that of VM home when it is encrypted. */
export function changedVmx(
  vm: VirtualMachine,
  dek: KeyHandle | undefined,
  files: VirtualMachineFiles,
  change: VmChange,
): Pick<FileTransaction, 'generation' | 'vmx'> {
  const { description } = vm
  const { vmId, name, wrap } = description
  const generation = nextGeneration(vm, files)
  const settings = change.settings ?? settingsOf(vm, dek, files)
  const vmx = wrap ? vm.document.copy() : vm.document.split(isIdentityKey)[0]
  const config = wrap && dek && sealConfig(dek, settings, vmId, generation)
  writeDescription(vmx, {
    vmId,
    name,
    generation,
    disks: change.disks ?? description.disks,
    homeFiles: change.homeFiles ?? description.homeFiles,
    ...(wrap && config && { wrap: { ...wrap, config } }),
  })
  writeSnapshotTable(vmx, change.table ?? vm.table)
  if (wrap === undefined) vmx.append(settings, files.label(files.vmx))
  return { generation, vmx }
}
