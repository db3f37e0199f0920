import type { Command } from 'commander'
import { addConvertCommands } from './convert.js'
import { addAbandon } from './copy.js'
import { addGoOnCommands } from './go-on.js'
import { addImport } from './import.js'
import { addInfo } from './info.js'
import { addView } from './view.js'

export function addDiskCommands(program: Command): void {
  const disk = program
    .command('disk')
    .description(
      'Disks as files, with a KMS and no vCenter: the tool for the day when everything else is down.',
    )
  addInfo(disk)
  addConvertCommands(disk)
  addGoOnCommands(disk)
  addAbandon(disk)
  addImport(disk)
  addView(disk)
}
