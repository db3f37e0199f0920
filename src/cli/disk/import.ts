/** `vmseal disk import`: a LUKS volume becomes an encrypted disk as it lies. */
import { randomUUID } from 'node:crypto'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { VmsealError } from '../../errors.js'
import { native } from '../../native/load.js'
import { output } from '../output.js'
import { sizeText } from '../progress.js'
import { newKek } from './convert.js'
import { refuseTaken } from './copy.js'
import { addKeyOptions, keyHelp, withKeys, type KeyOptions } from './key-source.js'
import { noVm } from './state.js'

interface ImportOptions extends KeyOptions {
  readonly luks?: true
  readonly header?: string
  readonly passphraseFile?: string
  readonly keyFile?: string
  readonly as?: string
  readonly keyId?: string
  readonly vmId?: string
}

interface Imported {
  readonly version: 1 | 2
  readonly bytes: number
  readonly dataOffset: number
  readonly sectorSize: number
}

export function addImport(disk: Command): void {
  const command = disk
    .command('import')
    .description('Make a LUKS volume an encrypted disk as it lies: a descriptor beside it, no data is moved.')
    .argument('<volume>', 'file with a LUKS1 or LUKS2 volume (aes-xts-plain64, 512-bit key)')
    .option('--luks', 'what the volume is')
    .option('--header <file>', 'its detached header')
    .option('--passphrase-file <file>', 'file whose first line is a passphrase; - is standard input')
    .option('--key-file <file>', 'key file, taken to its last byte as cryptsetup does')
    .option('--as <file>', 'descriptor of the disk, in the folder of the volume (default: VOLUME.vmdk)')
    .option('--key-id <id>', 'KEK at the KMS; without it one is made')
    .option('--vm-id <uuid>', 'VM that the disk is bound to (default: none)')
  addKeyOptions(command)
    .addHelpText(
      'after',
      `${keyHelp}

Examples:
  vmseal disk import db01.img --luks --passphrase-file - --server kms.example.com:5696 --credentials ./issued
  vmseal disk import db01.img --luks --header db01.hdr --key-file db01.key --vcenter /var/lib/vmseal/vcenter
The volume key becomes the disk's DEK and is wrapped under the KEK; no byte of the volume changes. Its LUKS header still opens
it: \`vmseal disk recrypt --to\` makes a disk that the old passphrase does not open.`,
    )
    .action(importVolume)
}

async function importVolume(volume: string, options: ImportOptions): Promise<void> {
  const { luks, header, passphraseFile, keyFile, as, keyId, vmId } = options
  if (luks !== true) throw wrongCall('say what the volume is: --luks')
  const secretFile = passphraseFile === '-' ? '/dev/stdin' : (passphraseFile ?? keyFile)
  if (secretFile === undefined || (passphraseFile !== undefined && keyFile !== undefined))
    throw wrongCall('say where a passphrase of the volume is: --passphrase-file or --key-file')
  const path = resolve(volume)
  const target = as === undefined ? `${path}.vmdk` : resolve(as)
  refuseTaken(target)
  await withKeys(options, async (keys) => {
    const diskId = randomUUID()
    const { key, kek } = await newKek(keys, keyId, { path: target }, diskId)
    const source = {
      volume: path,
      secretFile,
      wholeFile: keyFile !== undefined,
      ...(header === undefined ? {} : { header: resolve(header) }),
    }
    // The sector size is the volume's; what stands here is not looked at.
    const spec = { ...key, vmId: vmId ?? noVm, diskId, generation: 1, sectorSize: 512 }
    const made = JSON.parse(await native.importLuksVolume(source, target, kek, spec).done()) as Imported
    output.answer({ disk: target, volume: path, ...key, diskId, ...made }, () =>
      [
        `${target}: LUKS${made.version} volume of ${sizeText(made.bytes)} taken as it lies, ${made.sectorSize}-byte sectors`,
        `key ${key.keyId}: keep it at the KMS; the old LUKS header opens the volume too`,
      ].join('\n'),
    )
  })
}

function wrongCall(message: string): VmsealError {
  return new VmsealError('VMSEAL_INVALID_ARGUMENT', message)
}
