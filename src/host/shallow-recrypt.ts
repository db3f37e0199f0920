/**
 * Shallow recrypt: the same DEKs under another KEK. Each wrap changes where it stands, in steps that leave the old wrap or the
 * new one whatever happens: parts that are done stay done, and the same request again does the rest.
 */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import { native, type KeyHandle } from '../native/load.js'
import type { ReconfigureSpec, Work } from '../rpc/host-api.js'
import { checkChange } from './change-rules.js'
import { kekOfLink, linksOf } from './disk-chain.js'
import { missingKeysOfDisk, type DiskState } from './disks.js'
import { replaceFile } from './durable-file.js'
import { wrapLimit, writeDescription, type HomeWrap } from './home-description.js'
import type { HostContext } from './host-context.js'
import { named } from './io-error.js'
import type { VirtualMachineLock } from './lock.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import {
  cryptoStatesOf,
  distinctKeys,
  keysRequired,
  missingHomeKeys,
  openHomeOf,
  readVirtualMachine,
  type VirtualMachine,
} from './vm-config.js'
import { openHome, wrapHomeDek } from './vm-home.js'
import { logLine } from './vm-log.js'

/** The caller holds the VM's lock; the VM may be on. Every key and wrap is tried before the first one is replaced. */
export async function shallowRecrypt(
  context: HostContext,
  files: VirtualMachineFiles,
  lock: VirtualMachineLock,
  spec: ReconfigureSpec,
  { signal }: Work,
): Promise<void> {
  const vm = await readVirtualMachine(files)
  checkChange(cryptoStatesOf(vm, files), spec)
  const { home, disks } = partsOf(vm, spec)
  requireKeys(context, files, vm, spec)
  openHomeOf(vm, context.keys, files)?.dek.dispose()
  // Every file of a chain is a part of its own, and is tried first.
  for (const { disk } of disks)
    for (const link of linksOf(disk, vm.description.vmId, files)) kekOfLink(link, context.keys)
  const proceed = async (): Promise<void> => {
    if (signal?.aborted) throw new VmsealError('VMSEAL_CANCELLED')
    await lock.assertHeld()
  }
  const done: string[] = []
  try {
    for (const { disk, newKey } of disks) {
      await proceed()
      if (await recryptDisk(context, files, vm, disk, newKey)) done.push(disk.device)
    }
    if (home) {
      await proceed()
      if (await recryptHome(context, files, lock, home)) done.push('VM home')
    }
  } finally {
    if (done.length > 0) await logLine(files, context.name, `shallow recrypt of ${done.join(', ')}`)
  }
}

interface DiskPart {
  readonly disk: DiskState
  readonly newKey: CryptoKeyId
}

function partsOf(vm: VirtualMachine, spec: ReconfigureSpec): { home?: CryptoKeyId; disks: DiskPart[] } {
  const disks = vm.disks.flatMap((disk) => {
    const crypto = spec.disks?.find(({ diskId }) => diskId === disk.diskId)?.crypto
    return crypto?.type === 'shallowRecrypt' ? [{ disk, newKey: crypto.newKey }] : []
  })
  return { ...(spec.home?.type === 'shallowRecrypt' && { home: spec.home.newKey }), disks }
}

function requireKeys(
  context: HostContext,
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  spec: ReconfigureSpec,
): void {
  const { home, disks } = partsOf(vm, spec)
  const lacks = (key: CryptoKeyId) => (context.keys.get(key) === undefined ? [key] : [])
  const required = distinctKeys([
    ...missingHomeKeys(vm, context.keys),
    ...(home ? lacks(home) : []),
    ...disks.flatMap(({ disk, newKey }) => [...missingKeysOfDisk(disk, context.keys), ...lacks(newKey)]),
  ])
  if (required.length > 0) throw keysRequired(files, required)
}

/** False: it was so already. */
async function recryptDisk(
  context: HostContext,
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  disk: DiskState,
  newKey: CryptoKeyId,
): Promise<boolean> {
  const newKek = context.keys.require(newKey, keysRequired(files, [newKey]).message)
  const { keyId, providerId } = newKey
  let changed = false
  for (const link of linksOf(disk, vm.description.vmId, files)) {
    const { name, diskId, vmId } = link
    const kek = kekOfLink(link, context.keys)
    if (kek === undefined) continue
    const binding = { vmId, diskId }
    try {
      changed =
        (await native.rewrapDisk(files.path(name), kek, binding, newKek, keyId, providerId)) || changed
    } catch (error) {
      throw named(files.label(name), error)
    }
  }
  return changed
}

/** The .vmx twice replaced: with both wraps, and, when the new one was read back and opened, with that alone. */
async function recryptHome(
  context: HostContext,
  files: VirtualMachineFiles,
  lock: VirtualMachineLock,
  newKey: CryptoKeyId,
): Promise<boolean> {
  const vm = await readVirtualMachine(files)
  const { wrap } = vm.description
  const opened = openHomeOf(vm, context.keys, files)
  if (wrap === undefined || opened === undefined)
    throw new VmsealError('VMSEAL_INVALID_STATE', 'VM home is not encrypted')
  const { dek } = opened
  try {
    const newKek = context.keys.require(newKey, keysRequired(files, [newKey]).message)
    const jwe =
      wrap.jwes.find((candidate) => isWrapOf(candidate, vm, newKek, newKey, dek, files)) ??
      wrapHomeDek(newKek, dek, vm.description.vmId, newKey, wrap.generation)
    if (wrap.jwes.length === 1 && wrap.jwes[0] === jwe) return false
    await replaceWraps(files, vm, [jwe, ...wrap.jwes.filter((other) => other !== jwe)])
    const written = await readVirtualMachine(files)
    if (written.description.wrap?.jwes[0] !== jwe || !isWrapOf(jwe, written, newKek, newKey, dek, files))
      throw new VmsealError('VMSEAL_INVALID_STATE', `${files.label(files.vmx)} was changed meanwhile`)
    await lock.assertHeld()
    await replaceWraps(files, written, [jwe])
    return true
  } finally {
    dek.dispose()
  }
}

/** Whether a wrap is the very DEK of this VM home under this KEK. */
function isWrapOf(
  jwe: string,
  vm: VirtualMachine,
  kek: KeyHandle,
  key: CryptoKeyId,
  dek: KeyHandle,
  files: VirtualMachineFiles,
): boolean {
  const wrap = vm.description.wrap as HomeWrap
  const name = vm.homeKeys[wrap.jwes.indexOf(jwe)]
  if (name?.keyId !== key.keyId || name.providerId !== key.providerId) return false
  try {
    const opened = openHome(vm.description, wrap, jwe, kek, files)
    try {
      return opened.dek.equals(dek)
    } finally {
      opened.dek.dispose()
    }
  } catch (error) {
    if (error instanceof VmsealError) return false
    throw error
  }
}

/** The generation stays: nothing but the wraps changes, and what is sealed is bound to it. */
async function replaceWraps(
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  jwes: readonly string[],
): Promise<void> {
  const document = vm.document.copy()
  const wrap = vm.description.wrap as HomeWrap
  writeDescription(document, { ...vm.description, wrap: { ...wrap, jwes: jwes.slice(0, wrapLimit) } })
  await replaceFile(files.path(files.vmx), document.toString())
}
