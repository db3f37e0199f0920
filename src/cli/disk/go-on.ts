/** `vmseal disk resume`, `repair` and `verify`: after whatever stopped a conversion, and proof that a disk opens. */
import type { Command } from 'commander'
import { VmsealError } from '../../errors.js'
import { native, type KeyHandle } from '../../native/load.js'
import { maxRateOption } from '../arguments.js'
import { output } from '../output.js'
import { sizeText } from '../progress.js'
import { addDiscard, interruptedCopy, resumeCopy, type DiscardOption } from './copy.js'
import { finishDiscard, unfinishedDiscard } from './discard.js'
import { runInPlace } from './in-place.js'
import { addKeyOptions, keyHelp, withKeys, type KeyOptions, type KeySource } from './key-source.js'
import { atMost, follow, type RateOption, type TaskOutcome } from './progress.js'
import { anyOf, bindingOf, readDisk, type ConversionState, type DiskState } from './state.js'

interface OpenOptions extends KeyOptions {
  readonly vmId?: string
}

export function addGoOnCommands(disk: Command): void {
  const resume = disk
    .command('resume')
    .description(
      'Go on with a conversion, in place or to a copy, where it stood, whatever stopped it, and end it.',
    )
    .argument(
      '<descriptor>',
      'VMDK descriptor of a disk in conversion, the one of the coming copy, or a source that was being overwritten',
    )
    .option(
      '--vm-id <uuid>',
      'VM that the disk is bound to: when its descriptor has lost it, or the copy was begun with one',
    )
  addDiscard(resume).option(...maxRateOption)
  addKeyOptions(resume)
    .addHelpText(
      'after',
      `${keyHelp}

Example:
  vmseal disk resume db01.vmdk --server kms.example.com:5696 --credentials ./issued
The job record is authenticated under the key of the disk before the first byte is written.
A source whose overwriting (--discard-source overwrite) was interrupted is overwritten to its end, without a key.
\`vmseal disk info\` names the keys it needs. Until the KMS is back, \`vmseal disk repair\` needs none.`,
    )
    .action(resumeDisk)
  disk
    .command('repair')
    .description(
      'Put the zone that a crash left half written into one whole form. Needs no key and writes ciphertext only; resume goes on later.',
    )
    .argument('<descriptor>', 'VMDK descriptor of a disk in conversion')
    .action(repairDisk)
  const verify = disk
    .command('verify')
    .description(
      'Open a disk with its key, check all that is bound to it, and read it from end to end; of a disk in conversion, authenticate its job record.',
    )
    .argument('<descriptor>', 'VMDK descriptor')
    .option('--vm-id <uuid>', 'refuse the disk unless it is bound to this VM')
  addKeyOptions(verify).addHelpText('after', keyHelp).action(verifyDisk)
}

async function resumeDisk(
  descriptor: string,
  options: OpenOptions & DiscardOption & RateOption,
): Promise<void> {
  const copy = interruptedCopy(descriptor)
  if (copy !== undefined) {
    await withKeys(options, (keys) => resumeCopy(descriptor, copy, keys, options))
    return
  }
  if (options.discardSource)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `no copy to ${descriptor} is unfinished: there is no source`,
    )
  const left = unfinishedDiscard(descriptor)
  if (left !== undefined) {
    await finishDiscard(descriptor, left)
    return
  }
  const disk = readDisk(descriptor)
  const conversion = requireConversion(disk)
  await withKeys(options, async (keys) => {
    const keks = await keksOf(keys, conversion)
    const binding = bindingOf({ ...disk, diskId: conversion.diskId }, options.vmId)
    const outcome = await runInPlace(`${conversion.mode}ing`, disk.path, () =>
      atMost(options.maxRate, native.resumeConversion(disk.path, keks, binding)),
    )
    const { bytes, seconds } = JSON.parse(outcome) as TaskOutcome
    const { state } = readDisk(disk.path)
    output.answer(
      { disk: disk.path, mode: conversion.mode, resumedAt: conversion.doneBytes, bytes, seconds, state },
      () =>
        `${disk.path}: ${conversion.mode} ended, from ${sizeText(conversion.doneBytes)} of ${sizeText(bytes)} on in ${seconds.toFixed(1)} s; the disk is ${state}`,
    )
  })
}

async function repairDisk(descriptor: string): Promise<void> {
  const { path } = readDisk(descriptor)
  const repaired = JSON.parse(await native.repairConversion(path)) as {
    mode: string
    rewrittenBytes: number
    doneBytes: number
    totalBytes: number
  }
  output.answer({ disk: path, ...repaired }, ({ mode, rewrittenBytes, doneBytes, totalBytes }) =>
    [
      rewrittenBytes === 0
        ? `${path}: no zone was half written`
        : `${path}: ${sizeText(rewrittenBytes)} of ciphertext written again from the journal`,
      `${mode} is at ${sizeText(doneBytes)} of ${sizeText(totalBytes)}; go on with: vmseal disk resume ${path}`,
    ].join('\n'),
  )
}

async function verifyDisk(descriptor: string, options: OpenOptions): Promise<void> {
  const disk = readDisk(descriptor)
  await withKeys(options, async (keys) => {
    if (disk.state === 'in conversion') await verifyRecord(disk, keys, options)
    else await verifyContent(disk, keys, options)
  })
}

async function verifyRecord(disk: DiskState, keys: KeySource, { vmId }: OpenOptions): Promise<void> {
  const conversion = requireConversion(disk)
  const keks = await keksOf(keys, conversion)
  const binding = bindingOf({ ...disk, diskId: conversion.diskId }, vmId)
  const proven = JSON.parse(await native.verifyConversion(disk.path, keks, binding)) as ConversionState
  output.answer(
    { disk: disk.path, state: disk.state, conversion: proven },
    () =>
      `${disk.path}: the job record is authentic; ${proven.mode} is at ${sizeText(proven.doneBytes)} of ${sizeText(proven.totalBytes)}`,
  )
}

async function verifyContent(disk: DiskState, keys: KeySource, { vmId }: OpenOptions): Promise<void> {
  if (disk.state !== 'encrypted' || disk.diskId === null)
    throw new VmsealError('VMSEAL_DISK_STATE', `${disk.path} is ${disk.state}: no key is bound to it`, {
      details: { subject: disk.path },
    })
  const kek = await anyOf(keys, disk)
  const handle = native.DiskHandle.openSealed(
    disk.path,
    kek,
    bindingOf({ ...disk, diskId: disk.diskId }, vmId),
  )
  try {
    const outcome = await follow('verifying', handle.digest())
    const { sha256, bytes } = JSON.parse(outcome) as { sha256: string; bytes: number }
    output.answer(
      { disk: disk.path, state: disk.state, generation: disk.generation, bytes, sha256 },
      () => `${disk.path}: opens; SHA-256 of its ${sizeText(bytes)} of plaintext: ${sha256}`,
    )
  } finally {
    handle.close()
  }
}

function requireConversion({ conversion, path }: DiskState): ConversionState {
  if (conversion) return conversion
  throw new VmsealError('VMSEAL_DISK_STATE', `${path}: no conversion of it is under way`, {
    details: { subject: path },
  })
}

/** Of each data key of the job the first KEK that can be had. */
async function keksOf(keys: KeySource, conversion: ConversionState): Promise<KeyHandle[]> {
  const handles: KeyHandle[] = []
  for (const form of [conversion.old, conversion.new])
    if (form) handles.push(await anyOf(keys, { path: `conversion ${conversion.id}`, keys: form.keys }))
  return handles
}
