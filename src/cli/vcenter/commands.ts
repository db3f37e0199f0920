import type { Command } from 'commander'
import { addRebuild } from './rebuild.js'
import { addStart } from './start.js'
import { addStatusCommands } from './status.js'

export function addVCenterCommands(program: Command): void {
  const vcenter = program
    .command('vcenter')
    .description('A vCenter: inventory, policies and tasks; it relays keys and keeps their ids only.')
  addStart(vcenter)
  addStatusCommands(vcenter)
  addRebuild(vcenter)
}
