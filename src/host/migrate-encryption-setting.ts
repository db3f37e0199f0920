/** The .vmx setting of what a VM asks of its live migrations; sealed with the other settings of an encrypted VM. */
import type { MigrateEncryption } from '../rpc/host-api.js'
import type { VirtualMachine } from './vm-config.js'

export const migrateEncryptionKey = 'migrate.encryptionMode'

export const migrateEncryptionModes: readonly MigrateEncryption[] = ['disabled', 'opportunistic', 'required']

/** What is there and not known asks for the most; no key is needed. */
export function migrateEncryptionOf({
  document,
  homeKeys,
}: Pick<VirtualMachine, 'document' | 'homeKeys'>): MigrateEncryption {
  if (homeKeys.length > 0) return 'required'
  const value = document.get(migrateEncryptionKey)
  if (value === undefined) return 'opportunistic'
  return migrateEncryptionModes.find((mode) => mode === value.toLowerCase()) ?? 'required'
}
