import type { Command } from 'commander'
import { addRebuild } from './rebuild.js'

export function addVCenterCommands(program: Command): void {
  const vcenter = program
    .command('vcenter')
    .description('A vCenter: inventory, policies and tasks; it relays keys and keeps their ids only.')
  addRebuild(vcenter)
}
