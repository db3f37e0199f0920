/** `vmseal disk encrypt`, `decrypt` and `recrypt`: to a copy, in place, or of the wrap alone. */
import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { basename, resolve } from 'node:path'
import { InvalidArgumentError, type Command } from 'commander'
import { VmsealError, type CryptoKeyId } from '../../errors.js'
import { native, type KeyHandle, type SealSpec } from '../../native/load.js'
import { output } from '../output.js'
import { runInPlace } from './in-place.js'
import { addKeyOptions, keyHelp, withKeys, type KeyOptions, type KeySource } from './key-source.js'
import { follow, sizeText, type TaskOutcome } from './progress.js'
import { readDisk, readEncrypted, type DiskState } from './state.js'

interface WhereOptions extends KeyOptions {
  readonly to?: string
  readonly inPlace?: true
  readonly vmId?: string
}

interface NewKeyOptions extends WhereOptions {
  readonly keyId?: string
}

interface EncryptOptions extends NewKeyOptions {
  readonly sectorSize: 512 | 4096
  readonly holes?: 'dense' | 'zero'
}

interface RecryptOptions extends NewKeyOptions {
  readonly shallow?: true
}

/** What a disk that belongs to no VM is bound to. */
export const noVm = '00000000-0000-0000-0000-000000000000'

export function addConvertCommands(disk: Command): void {
  const encrypt = disk
    .command('encrypt')
    .description('Encrypt a raw image or plain VMDK under a KEK of the KMS: to a copy, or where it lies.')
    .argument('<image>', 'raw image or VMDK descriptor')
  addWhere(encrypt)
    .option('--key-id <id>', 'KEK at the KMS; without it one is made')
    .option('--sector-size <bytes>', '512: every tool opens it; 4096: less CPU', sectorSize, 512)
    .option(
      '--holes <rule>',
      'dense: holes are encrypted too, dm-crypt and QEMU read the disk; zero: they stay holes and show what is used (default: as the image is)',
      holesRule,
    )
    .option('--vm-id <uuid>', 'VM that the disk is bound to (default: none)')
  addKeyOptions(encrypt)
    .addHelpText(
      'after',
      `${keyHelp}

Examples:
  vmseal disk encrypt db01.raw --to db01.vmdk --server kms.example.com:5696 --credentials ./issued
  vmseal disk encrypt db01.vmdk --in-place --vcenter /var/lib/vmseal/vcenter
In place nothing is ever lost: kill it, pull the plug, fill the disk, and \`vmseal disk resume\` goes on. A raw image gets
a descriptor beside it (db01.vmdk) that is the disk from then on; the image file becomes its ciphertext.`,
    )
    .action(encryptDisk)
  const decrypt = disk
    .command('decrypt')
    .description('Decrypt a disk: to a plain copy, or where it lies.')
    .argument('<descriptor>', 'VMDK descriptor of an encrypted disk')
  addWhere(decrypt).option('--vm-id <uuid>', 'refuse the disk unless it is bound to this VM')
  addKeyOptions(decrypt)
    .addHelpText(
      'after',
      `${keyHelp}

Example:
  vmseal disk decrypt db01.vmdk --to rescued.vmdk --server kms.example.com:5696 --credentials ./issued`,
    )
    .action(decryptDisk)
  const recrypt = disk
    .command('recrypt')
    .description('Give a disk a new KEK (--shallow), or a new DEK and a new KEK (deep).')
    .argument('<descriptor>', 'VMDK descriptor of an encrypted disk')
  addWhere(recrypt)
    .option('--shallow', 'only the wrap changes, no data is touched; the disk may be in use')
    .option('--key-id <id>', 'the new KEK at the KMS; without it one is made')
    .option('--vm-id <uuid>', 'refuse the disk unless it is bound to this VM')
  addKeyOptions(recrypt)
    .addHelpText(
      'after',
      `${keyHelp}

Examples:
  vmseal disk recrypt db01.vmdk --shallow --server kms.example.com:5696 --credentials ./issued
  vmseal disk recrypt db01.vmdk --in-place --server kms.example.com:5696 --credentials ./issued
Shallow: whoever learned the old KEK and kept the old descriptor can still read the disk. Deep: new data keys, every sector
is encrypted anew.`,
    )
    .action(recryptDisk)
}

function addWhere(command: Command): Command {
  return command
    .option('--to <file>', 'descriptor of the new disk (.vmdk); the source is only read')
    .option('--in-place', 'convert the disk where it lies')
}

async function encryptDisk(image: string, options: EncryptOptions): Promise<void> {
  const target = whereTo(options)
  const disk = readPlain(image, options.sectorSize)
  refuseTaken(target)
  await withKeys(options, async (keys) => {
    const diskId = target === undefined ? (disk.diskId ?? randomUUID()) : randomUUID()
    const { key, kek } = await newKek(keys, options.keyId, disk, diskId)
    const spec: SealSpec = {
      ...key,
      vmId: options.vmId ?? noVm,
      diskId,
      generation: 1,
      sectorSize: options.sectorSize,
      ...(options.holes === undefined ? {} : { holes: options.holes }),
    }
    if (target !== undefined) {
      const task = native.encryptDisk(disk.path, target, kek, spec)
      done('encrypted', target, await follow('encrypting', task), { ...key, diskId })
      return
    }
    const path = disk.format === 'raw' ? native.describeRawImage(disk.path, diskId) : disk.path
    const outcome = await runInPlace('encrypting', path, () => native.encryptDiskInPlace(path, kek, spec))
    done('encrypted', path, outcome, { ...key, diskId })
  })
}

async function decryptDisk(descriptor: string, options: WhereOptions): Promise<void> {
  const target = whereTo(options)
  const disk = readEncrypted(descriptor)
  refuseTaken(target)
  await withKeys(options, async (keys) => {
    const kek = await anyOf(keys, disk)
    const binding = bindingOf(disk, options.vmId)
    const outcome =
      target === undefined
        ? await runInPlace('decrypting', disk.path, () => native.decryptDiskInPlace(disk.path, kek, binding))
        : await follow('decrypting', native.decryptDisk(disk.path, target, kek, binding))
    done('decrypted', target ?? disk.path, outcome, { diskId: disk.diskId })
  })
}

async function recryptDisk(descriptor: string, options: RecryptOptions): Promise<void> {
  const target = options.shallow ? undefined : whereTo(options)
  if (options.shallow && (options.to !== undefined || options.inPlace))
    throw wrongCall('--shallow touches no data: give it without --to and --in-place')
  const disk = readEncrypted(descriptor)
  refuseTaken(target)
  await withKeys(options, async (keys) => {
    const kek = await anyOf(keys, disk)
    const binding = bindingOf(disk, options.vmId)
    const fresh = await newKek(keys, options.keyId, disk, disk.diskId)
    const { keyId, providerId } = fresh.key
    if (options.shallow) {
      const changed = await native.rewrapDisk(disk.path, kek, binding, fresh.kek, keyId, providerId)
      output.answer(
        { disk: disk.path, depth: 'shallow', changed, keyId, providerId },
        () => `${disk.path}: ${changed ? 'now under' : 'was already under'} key ${keyId} of ${providerId}`,
      )
      return
    }
    if (target === undefined) {
      const start = () => native.recryptDiskInPlace(disk.path, kek, binding, fresh.kek, fresh.key)
      const outcome = await runInPlace('recrypting', disk.path, start)
      done('recrypted', disk.path, outcome, { ...fresh.key, diskId: disk.diskId })
      return
    }
    const diskId = randomUUID()
    const spec: SealSpec = {
      ...fresh.key,
      vmId: binding.vmId,
      diskId,
      generation: 1,
      sectorSize: disk.sectorSize ?? 512,
    }
    const task = native.recryptDisk(disk.path, target, kek, binding, fresh.kek, spec)
    done('recrypted', target, await follow('recrypting', task), { ...fresh.key, diskId })
  })
}

/** The new descriptor; undefined: in place. */
function whereTo({ to, inPlace }: WhereOptions): string | undefined {
  if ((to === undefined) === (inPlace === undefined))
    throw wrongCall('say where: --to FILE makes a copy, --in-place converts the disk where it lies')
  return to === undefined ? undefined : resolve(to)
}

/** Checked before a key is made at the KMS. */
function readPlain(image: string, sectorBytes: number): DiskState {
  const disk = readDisk(image)
  const { path, state, format, capacityBytes } = disk
  const details = { subject: path }
  if (state !== 'plain') throw new VmsealError('VMSEAL_DISK_STATE', `${path} is ${state}`, { details })
  if (format !== 'raw' && format !== 'flat VMDK')
    throw new VmsealError(
      'VMSEAL_IMAGE_INVALID',
      `${path} is a ${format} image: convert it first, qemu-img convert -O raw`,
      { details },
    )
  if (capacityBytes === null || capacityBytes % sectorBytes !== 0)
    throw new VmsealError(
      'VMSEAL_IMAGE_INVALID',
      `the ${capacityBytes ?? '?'} bytes of ${path} are not a whole number of ${sectorBytes}-byte sectors`,
      { details },
    )
  return disk
}

export function refuseTaken(target: string | undefined): void {
  if (target !== undefined && existsSync(target))
    throw new VmsealError('VMSEAL_ALREADY_EXISTS', `${target} exists`, { details: { subject: target } })
}

/** A KEK that opens the disk: the first one that the KMS still has. */
export async function anyOf(keys: KeySource, disk: Pick<DiskState, 'path' | 'keys'>): Promise<KeyHandle> {
  let failure: unknown
  for (const key of disk.keys) {
    try {
      return await keys.fetch(key)
    } catch (error) {
      failure ??= error
    }
  }
  throw failure ?? new VmsealError('VMSEAL_DESCRIPTOR_INVALID', `${disk.path} names no key`)
}

/** Where the disk says it belongs, or where the caller says so. */
export function bindingOf(
  disk: DiskState & { readonly diskId: string },
  vmId: string | undefined,
): { vmId: string; diskId: string } {
  return { vmId: vmId ?? disk.vmId ?? noVm, diskId: disk.diskId }
}

export async function newKek(
  keys: KeySource,
  keyId: string | undefined,
  disk: Pick<DiskState, 'path'>,
  diskId: string,
): Promise<{ key: CryptoKeyId; kek: KeyHandle }> {
  const { providerId } = keys
  const key = { keyId: keyId ?? (await keys.create(basename(disk.path), diskId)), providerId }
  if (keyId === undefined)
    output.event(
      'key-created',
      key,
      `made the key ${key.keyId}; should this fail, use it again with --key-id`,
    )
  return { key, kek: await keys.fetch(key) }
}

function done(verb: string, path: string, outcome: string, facts: object): void {
  const { bytes, allocatedBytes, seconds, holes } = JSON.parse(outcome) as TaskOutcome
  output.answer({ disk: path, ...facts, bytes, allocatedBytes, seconds, holes }, () =>
    [
      `${path}: ${verb}, ${sizeText(bytes)} in ${seconds.toFixed(1)} s (${sizeText(bytes / Math.max(seconds, 1e-6))}/s)`,
      ...('keyId' in facts
        ? [`key ${String(facts.keyId)}: keep it at the KMS, the disk is lost without it`]
        : []),
    ].join('\n'),
  )
}

function sectorSize(text: string): 512 | 4096 {
  if (text === '512') return 512
  if (text === '4096') return 4096
  throw new InvalidArgumentError('A sector has 512 or 4096 bytes.')
}

function holesRule(text: string): 'dense' | 'zero' {
  if (text === 'dense' || text === 'zero') return text
  throw new InvalidArgumentError('Holes are kept dense or zero.')
}

function wrongCall(message: string): VmsealError {
  return new VmsealError('VMSEAL_INVALID_ARGUMENT', message)
}
