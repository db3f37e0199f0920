/** Conversion to a copy: whatever stops it, it goes on where it stood; and what becomes of the source. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { InvalidArgumentError, type Command } from 'commander'
import { VmsealError, isVmsealError, type CryptoKeyId } from '../../errors.js'
import { native, type KeyHandle, type NativeTask } from '../../native/load.js'
import { output } from '../output.js'
import { sizeText } from '../progress.js'
import { resumeOf, unfinishedDiscard } from './discard.js'
import type { KeySource } from './key-source.js'
import { atMost, follow, type RateOption, type TaskOutcome } from './progress.js'
import { anyOf, bindingOf, noVm, readDisk, readEncrypted } from './state.js'

/** An interrupted copy, as the record beside its unfinished flat file tells. */
export interface CopyState {
  readonly source: string
  readonly doneBytes: number
  readonly totalBytes: number
  readonly diskId: string
  /** KEKs of the new disk; empty: a decryption. */
  readonly keys: readonly CryptoKeyId[]
}

export interface DiscardOption {
  readonly discardSource?: 'unlink' | 'overwrite'
}

interface Binding {
  readonly vmId: string
  readonly diskId: string
}

export const discardHelp = `
--discard-source reads the copy back, compares every byte with the source, and then removes the source; by default it stays.
overwrite writes zeros over it first. That reaches what the file system shows: not the old blocks of a copy-on-write file
system (btrfs, ZFS, reflinks), not snapshots or backups, not the spare blocks of an SSD.`

export function addDiscard(command: Command): Command {
  return command.option(
    '--discard-source <how>',
    'when the copy is durable and verified, unlink the source, or overwrite it first',
    discardRule,
  )
}

export function addAbandon(disk: Command): void {
  disk
    .command('abandon')
    .description('Remove what an interrupted copy left. The source, which was only read, stays.')
    .argument('<descriptor>', 'descriptor that the copy would have had')
    .action(abandonCopy)
}

/** The interrupted copy to `descriptor`; undefined: there is none. */
export function interruptedCopy(descriptor: string): CopyState | undefined {
  const text = native.copyInfo(resolve(descriptor))
  return text === null ? undefined : (JSON.parse(text) as CopyState)
}

/** Runs a copy to its end; the code of a failure stays as it is, the message says how to go on. */
export async function runCopy(label: string, target: string, start: () => NativeTask): Promise<string> {
  try {
    return await follow(label, start())
  } catch (error) {
    if (!isVmsealError(error) || !isInterrupted(target)) throw error
    const goOn = `The source is as it was; go on with: vmseal disk resume ${target}, or give up with: vmseal disk abandon ${target}`
    throw new VmsealError(error.code, `${error.message}. ${goOn}`, {
      cause: error,
      details: { ...error.details, subject: target },
    })
  }
}

/** VMSEAL_ALREADY_EXISTS when a new disk cannot have this descriptor. */
export function refuseTaken(target: string | undefined): void {
  if (target === undefined) return
  const details = { subject: target }
  if (existsSync(target)) throw new VmsealError('VMSEAL_ALREADY_EXISTS', `${target} exists`, { details })
  if (isInterrupted(target))
    throw new VmsealError(
      'VMSEAL_ALREADY_EXISTS',
      `a copy to ${target} is unfinished: vmseal disk resume ${target} goes on with it, vmseal disk abandon ${target} removes it`,
      { details },
    )
}

/** Takes the source away once the copy was read back. Returns what became of it. */
export async function discard(
  source: string,
  target: string,
  keks: readonly KeyHandle[],
  binding: Binding,
  how: DiscardOption['discardSource'],
): Promise<'kept' | 'unlinked' | 'overwritten'> {
  if (how === undefined) return 'kept'
  try {
    const label = how === 'overwrite' ? 'verifying and overwriting' : 'verifying'
    await follow(label, native.discardSource(source, target, [...keks], binding, how))
  } catch (error) {
    if (!isVmsealError(error)) throw error
    const goOn = isBeingOverwritten(source) ? `. Go on with: ${resumeOf(source)}` : ''
    throw new VmsealError(
      error.code,
      `${target} is complete, but its source was not removed: ${error.message}${goOn}`,
      {
        cause: error,
        details: error.details,
      },
    )
  }
  return how === 'unlink' ? 'unlinked' : 'overwritten'
}

/** Goes on with an interrupted copy and ends it. */
export async function resumeCopy(
  descriptor: string,
  copy: CopyState,
  keys: KeySource,
  options: DiscardOption & RateOption & { readonly vmId?: string },
): Promise<void> {
  const target = resolve(descriptor)
  const { keks, binding } = await opening(copy, target, keys, options.vmId)
  const outcome = await runCopy('copying', target, () =>
    atMost(options.maxRate, native.resumeCopy(target, keks, binding)),
  )
  const { bytes, seconds } = JSON.parse(outcome) as TaskOutcome
  const source = await discard(copy.source, target, keks, binding, options.discardSource)
  const { state } = readDisk(target)
  output.answer(
    { disk: target, mode: 'copy', resumedAt: copy.doneBytes, bytes, seconds, state, source },
    () =>
      `${target}: the copy ended, from ${sizeText(copy.doneBytes)} of ${sizeText(bytes)} on in ${seconds.toFixed(1)} s; the disk is ${state}, the source was ${source}`,
  )
}

/** The keys of both sides, and where the sealed side belongs. */
async function opening(
  copy: CopyState,
  target: string,
  keys: KeySource,
  vmId: string | undefined,
): Promise<{ keks: KeyHandle[]; binding: Binding }> {
  const keks: KeyHandle[] = []
  if (copy.keys.length > 0) keks.push(await anyOf(keys, { path: target, keys: copy.keys }))
  const source = readDisk(copy.source)
  if (source.state === 'plain') return { keks, binding: { vmId: vmId ?? noVm, diskId: copy.diskId } }
  const sealed = readEncrypted(copy.source)
  keks.push(await anyOf(keys, sealed))
  const binding = bindingOf(sealed, vmId)
  return { keks, binding: copy.keys.length > 0 ? { ...binding, diskId: copy.diskId } : binding }
}

function abandonCopy(descriptor: string): void {
  const target = resolve(descriptor)
  if (unfinishedDiscard(target) !== undefined)
    throw new VmsealError(
      'VMSEAL_DISK_STATE',
      `${target} is no copy but a source that is being overwritten; go on with: ${resumeOf(target)}`,
      { details: { subject: target } },
    )
  if (!native.removeUnfinishedDisk(target))
    throw new VmsealError('VMSEAL_NOT_FOUND', `there is no unfinished copy to ${target}`, {
      details: { subject: target },
    })
  output.answer({ disk: target, removed: true }, () => `what was copied to ${target} is removed`)
}

/** A record that is damaged has been told of by the error that matters. */
function isBeingOverwritten(source: string): boolean {
  return existsSync(`${source}.vmseal-discard`)
}

function isInterrupted(target: string): boolean {
  return existsSync(`${target}.vmseal-copy`)
}

function discardRule(text: string): 'unlink' | 'overwrite' {
  if (text === 'unlink' || text === 'overwrite') return text
  throw new InvalidArgumentError('A source is discarded with unlink or overwrite.')
}
