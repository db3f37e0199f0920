/** `vmseal disk info`: what a disk is, without a key. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { output, table } from '../output.js'
import { sizeText } from '../progress.js'
import { describeDiscard, unfinishedDiscard } from './discard.js'
import { interruptedCopy, type CopyState } from './copy.js'
import { readDisk, type ConversionState, type DataKeyState, type DiskState } from './state.js'

export function addInfo(disk: Command): void {
  disk
    .command('info')
    .description('What a disk is, which keys open it, and how far a conversion is. Needs no key.')
    .argument('<disk>', 'VMDK descriptor or image')
    .addHelpText(
      'after',
      `
Example:
  vmseal disk info db01.vmdk
What it says comes from the files alone: a hint where to look, which \`vmseal disk verify\` proves with the key.`,
    )
    .action(showDisk)
}

function showDisk(file: string): void {
  const path = resolve(file)
  const copy = existsSync(path) ? undefined : interruptedCopy(path)
  const discard = unfinishedDiscard(path)
  if (copy === undefined && discard !== undefined)
    output.answer({ path, state: 'being overwritten', discard }, () => describeDiscard(path, discard))
  else if (copy === undefined) output.answer(readDisk(file), describe)
  else output.answer({ path, state: 'unfinished copy', copy }, () => describeCopy(path, copy))
}

function describeCopy(path: string, { source, doneBytes, totalBytes, keys }: CopyState): string {
  const rows: [string, string][] = [
    ['state', 'unfinished copy'],
    ['source', source],
    ['done', `${sizeText(doneBytes)} of ${sizeText(totalBytes)}`],
    ...keys.map(({ keyId, providerId }): [string, string] => ['key', `${keyId} of ${providerId}`]),
  ]
  const goOn = `go on with: vmseal disk resume ${path}; give up with: vmseal disk abandon ${path}`
  return `${table(['disk', path], rows)}\n\n${goOn}`
}

function describe(disk: DiskState): string {
  const rows: [string, string][] = [
    ['state', disk.state],
    ['format', disk.format],
    ['size', disk.capacityBytes === null ? 'only qemu-img knows' : sizeText(disk.capacityBytes)],
  ]
  if (disk.allocatedBytes !== null) rows.push(['on disk', sizeText(disk.allocatedBytes)])
  if (disk.diskId !== null) rows.push(['disk id', disk.diskId])
  if (disk.vmId !== null) rows.push(['VM id', disk.vmId])
  if (disk.cipher !== null)
    rows.push([
      'cipher',
      `${disk.cipher}, ${disk.sectorSize ?? '?'}-byte sectors, holes ${disk.holes ?? '?'}, generation ${disk.generation ?? '?'}`,
    ])
  for (const { keyId, providerId } of disk.keys) rows.push(['key', `${keyId} of ${providerId}`])
  return [table(['disk', disk.path], rows), ...conversionLines(disk)].join('\n')
}

function conversionLines({ conversion, path, state }: DiskState): string[] {
  if (conversion === null) return []
  if (state !== 'in conversion')
    return ['', `A job record of a conversion that ended or never began is left; vmseal disk resume ${path}`]
  const { mode, doneBytes, totalBytes } = conversion
  return [
    '',
    `${mode}: ${sizeText(doneBytes)} of ${sizeText(totalBytes)} done${zone(conversion)}`,
    ...keyLine('from', conversion.old),
    ...keyLine('to', conversion.new),
    `go on with: vmseal disk resume ${path}`,
  ]
}

function zone({ zoneInFlight }: ConversionState): string {
  return zoneInFlight ? '; a zone may be half written' : ''
}

function keyLine(word: string, form: DataKeyState | null): string[] {
  if (form === null) return []
  const keys = form.keys.map(({ keyId, providerId }) => `${keyId} of ${providerId}`).join(' or ')
  return [`${word} generation ${form.generation}, key ${keys}`]
}
