/** `vmseal disk view`: a header, or a command, with which other programs open the very same extent. */
import { mkdtempSync, rmdirSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import type { Command } from 'commander'
import { VmsealError } from '../../errors.js'
import { native } from '../../native/load.js'
import { output } from '../output.js'
import { addKeyOptions, keyHelp, withKeys, type KeyOptions } from './key-source.js'
import { anyOf, bindingOf, readEncrypted } from './state.js'

interface ViewOptions extends KeyOptions {
  readonly luks1?: true
  readonly luks2?: true
  readonly dmCrypt?: true
  readonly folder?: string
  readonly vmId?: string
}

interface View {
  readonly header: string
  readonly secret: string
  readonly extent: string
  readonly vmdk: string | null
  readonly sectorSize: number
}

export function addView(disk: Command): void {
  const view = disk
    .command('view')
    .description('Make a header with which cryptsetup, the kernel or QEMU open the disk as it lies.')
    .argument('<descriptor>', 'VMDK descriptor of an encrypted disk')
    .option('--luks2', 'for cryptsetup and the kernel')
    .option('--luks1', 'for QEMU of any version (512-byte sectors)')
    .option('--dm-crypt', 'the command that maps the disk as a block device; makes the LUKS2 header it needs')
    .option('--folder <dir>', 'folder in a tmpfs for header and secret (default: a new one below /dev/shm)')
    .option('--vm-id <uuid>', 'refuse the disk unless it is bound to this VM')
  addKeyOptions(view)
    .addHelpText(
      'after',
      `${keyHelp}

Examples:
  vmseal disk view db01.vmdk --luks2 --server kms.example.com:5696 --credentials ./issued
  vmseal disk view db01.vmdk --luks1 --kms /var/lib/vmseal/kms --credentials ./issued
Header and secret together open the disk, so they stand in memory only; remove the folder when you are done. What is written
through a view is written to the disk. Do not convert the disk meanwhile. While a VM or another program writes it there is no view.`,
    )
    .action(viewDisk)
}

async function viewDisk(descriptor: string, options: ViewOptions): Promise<void> {
  const kind = kindOf(options)
  const disk = readEncrypted(descriptor)
  await withKeys(options, async (keys) => {
    const kek = await anyOf(keys, disk)
    const made = options.folder === undefined ? newFolder(disk.path) : undefined
    const folder = made ?? resolve(options.folder ?? '')
    try {
      const text = await native.viewDisk(disk.path, kek, bindingOf(disk, options.vmId), kind, folder)
      const view = JSON.parse(text) as View
      const commands = commandsOf(view, basename(disk.path, '.vmdk'))
      output.answer({ disk: disk.path, folder, ...view, commands }, () =>
        options.dmCrypt
          ? commands.join('\n')
          : [
              `header  ${view.header}`,
              `secret  ${view.secret}`,
              '',
              ...commands,
              `rm -r ${quoted(folder)}`,
            ].join('\n'),
      )
    } catch (error) {
      if (made !== undefined) rmdirSync(made)
      throw error
    }
  })
}

function kindOf({ luks1, luks2, dmCrypt }: ViewOptions): 'luks1' | 'luks2' {
  if ([luks1, luks2, dmCrypt].filter(Boolean).length === 1) return luks1 ? 'luks1' : 'luks2'
  throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'say for whom: --luks2, --luks1 or --dm-crypt')
}

function newFolder(path: string): string {
  return mkdtempSync(join('/dev/shm', `vmseal-view-${basename(path, '.vmdk')}-`))
}

/** The key itself is on no command line, where other users would see it. */
function commandsOf({ header, secret, extent, vmdk }: View, name: string): string[] {
  if (vmdk === null)
    return [
      `cryptsetup open --header ${quoted(header)} --key-file ${quoted(secret)} ${quoted(extent)} ${quoted(name)}`,
    ]
  return [
    `qemu-img info --object ${quoted(`secret,id=s,file=${secret}`)} --image-opts ${quoted(`driver=luks,key-secret=s,file.driver=vmdk,file.file.filename=${vmdk}`)}`,
  ]
}

function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
}
