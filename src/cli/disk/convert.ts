/** `vmseal disk encrypt`, `decrypt` and `recrypt`: to a copy, in place, or of the wrap alone. */
import { randomUUID } from 'node:crypto'
import { basename, resolve } from 'node:path'
import { InvalidArgumentError, type Command } from 'commander'
import { VmsealError, type CryptoKeyId } from '../../errors.js'
import { native, type KeyHandle, type SealSpec } from '../../native/load.js'
import { maxRateOption, sectorSize } from '../arguments.js'
import { output } from '../output.js'
import { sizeText } from '../progress.js'
import { addDiscard, discard, discardHelp, refuseTaken, runCopy, type DiscardOption } from './copy.js'
import { runInPlace } from './in-place.js'
import { addKeyOptions, keyHelp, withKeys, type KeyOptions, type KeySource } from './key-source.js'
import { atMost, type RateOption, type TaskOutcome } from './progress.js'
import { anyOf, bindingOf, noVm, readDisk, readEncrypted, type DiskState } from './state.js'

interface WhereOptions extends KeyOptions, DiscardOption, RateOption {
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
a descriptor beside it (db01.vmdk) that is the disk from then on; the image file becomes its ciphertext.
A copy that is interrupted goes on with \`vmseal disk resume\` too, named by the new descriptor; \`vmseal disk abandon\` removes it.
${discardHelp}`,
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
  vmseal disk decrypt db01.vmdk --to rescued.vmdk --server kms.example.com:5696 --credentials ./issued
${discardHelp}`,
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
  command
    .option('--to <file>', 'descriptor of the new disk (.vmdk); the source is only read')
    .option('--in-place', 'convert the disk where it lies')
    .option(...maxRateOption)
  return addDiscard(command)
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
      const start = () => atMost(options.maxRate, native.encryptDisk(disk.path, target, kek, spec))
      const outcome = await runCopy('encrypting', target, start)
      const source = await discard(disk.path, target, [kek], spec, options.discardSource)
      done('encrypted', target, outcome, { ...key, diskId, source })
      return
    }
    const path = disk.format === 'raw' ? native.describeRawImage(disk.path, diskId) : disk.path
    const outcome = await runInPlace('encrypting', path, () =>
      atMost(options.maxRate, native.encryptDiskInPlace(path, kek, spec)),
    )
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
    const { path, diskId } = disk
    if (target === undefined) {
      const start = () => atMost(options.maxRate, native.decryptDiskInPlace(path, kek, binding))
      done('decrypted', path, await runInPlace('decrypting', path, start), { diskId })
      return
    }
    const outcome = await runCopy('decrypting', target, () =>
      atMost(options.maxRate, native.decryptDisk(path, target, kek, binding)),
    )
    const source = await discard(path, target, [kek], binding, options.discardSource)
    done('decrypted', target, outcome, { diskId, source })
  })
}

async function recryptDisk(descriptor: string, options: RecryptOptions): Promise<void> {
  const target = options.shallow ? undefined : whereTo(options)
  if (
    options.shallow &&
    (options.to !== undefined || options.inPlace || options.discardSource || options.maxRate)
  )
    throw wrongCall(
      '--shallow touches no data: give it without --to, --in-place, --discard-source and --max-rate',
    )
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
      const start = () =>
        atMost(options.maxRate, native.recryptDiskInPlace(disk.path, kek, binding, fresh.kek, fresh.key))
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
    const start = () =>
      atMost(options.maxRate, native.recryptDisk(disk.path, target, kek, binding, fresh.kek, spec))
    const outcome = await runCopy('recrypting', target, start)
    const source = await discard(disk.path, target, [kek, fresh.kek], spec, options.discardSource)
    done('recrypted', target, outcome, { ...fresh.key, diskId, source })
  })
}

/** The new descriptor; undefined: in place. */
function whereTo({ to, inPlace, discardSource }: WhereOptions): string | undefined {
  if ((to === undefined) === (inPlace === undefined))
    throw wrongCall('say where: --to FILE makes a copy, --in-place converts the disk where it lies')
  if (inPlace && discardSource) throw wrongCall('--discard-source is for copies: in place there is no source')
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
      ...('source' in facts && facts.source !== 'kept' ? [`the source was ${String(facts.source)}`] : []),
      ...('keyId' in facts
        ? [`key ${String(facts.keyId)}: keep it at the KMS, the disk is lost without it`]
        : []),
    ].join('\n'),
  )
}

function holesRule(text: string): 'dense' | 'zero' {
  if (text === 'dense' || text === 'zero') return text
  throw new InvalidArgumentError('Holes are kept dense or zero.')
}

function wrongCall(message: string): VmsealError {
  return new VmsealError('VMSEAL_INVALID_ARGUMENT', message)
}
