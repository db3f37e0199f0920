/**
 * What a change of a VM was asked for, as its task manifest keeps it: the same request after a crash goes on with the copies that
 * were begun, and needs the same keys for that.
 */
import type { CryptoKeyId } from '../errors.js'
import type { CryptoSpec, ReconfigureSpec, VmConfig } from '../rpc/host-api.js'
import { readManifest } from './file-transaction.js'
import { isKeyId } from './home-description.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'

/** Does not depend on the order of fields. Undefined: a request that begins anew after a crash. */
export function requestText({
  home,
  disks,
  addDisks,
  attachDisks,
  removeDisks,
  discardSource,
}: ReconfigureSpec): string | undefined {
  if ([addDisks, attachDisks, removeDisks].some((list) => list?.length)) return undefined
  const crypto = (spec: CryptoSpec | undefined) => {
    const key = newKeyOf(spec)
    return spec && { type: spec.type, ...(key && { providerId: key.providerId, keyId: key.keyId }) }
  }
  const changes = disks?.map((disk) => ({
    part: disk.diskId,
    crypto: crypto(disk.crypto),
    sectorSize: disk.sectorSize,
  }))
  return JSON.stringify({
    parts: [{ part: 'home', crypto: crypto(home) }, ...(changes ?? [])],
    discardSource,
  })
}

/** The KEK that a change wraps with. */
export function newKeyOf(crypto: CryptoSpec | undefined): CryptoKeyId | undefined {
  if (crypto === undefined || crypto.type === 'decrypt') return undefined
  return crypto.type === 'encrypt' ? crypto.key : crypto.newKey
}

/** The keys that an interrupted request of the VM began with; the datastore says so, and nothing is proved. */
export async function interruptedKeysOf(
  files: VirtualMachineFiles,
  generation: number,
): Promise<NonNullable<VmConfig['interruptedKeys']>> {
  const manifest = await readManifest(files)
  if (manifest?.request === undefined || manifest.generation !== generation + 1) return []
  try {
    const { parts } = JSON.parse(manifest.request) as { parts: { part: unknown; crypto?: unknown }[] }
    return parts.flatMap(({ part, crypto }) =>
      typeof part === 'string' && part.length <= 100 && isKeyId(crypto)
        ? [{ part, key: { keyId: crypto.keyId, providerId: crypto.providerId } }]
        : [],
    )
  } catch {
    return []
  }
}
