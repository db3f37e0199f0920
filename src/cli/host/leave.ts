/** `vmseal host leave`: a host that is to join another vCenter. */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { HostAgent } from '../../agent/host-agent.js'
import { output } from '../output.js'

export function addLeave(host: Command): void {
  host
    .command('leave')
    .description('Forget the vCenter of a host that is stopped; at its next start it waits to join one.')
    .requiredOption('-d, --directory <dir>', 'directory of the host agent')
    .addHelpText(
      'after',
      `
Remove the host from its vCenter first: VMs that are encrypted need a host that is given their keys.`,
    )
    .action(async ({ directory }: { directory: string }) => {
      await HostAgent.leave(directory)
      output.answer({ directory: resolve(directory), joined: false }, () => 'the host belongs to no vCenter')
    })
}
