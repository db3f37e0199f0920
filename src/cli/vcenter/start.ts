/** `vmseal vcenter start`: runs a vCenter until it is told to end. */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { VCenterEvent } from '../../vcenter/events.js'
import { VCenter } from '../../vcenter/vcenter.js'
import { eventLine } from '../event/line.js'
import { addCoreDumps, settleCoreDumps, type CoreDumpOption } from '../core-dumps.js'
import { output } from '../output.js'
import { firstSignal } from '../signal.js'
import { openVCenterControl, statusOf, type VCenterStatus } from './control.js'
import { addDirectory, requireDirectory } from './directory-argument.js'

export function addStart(vcenter: Command): void {
  const start = addDirectory(
    vcenter
      .command('start')
      .description('Run a vCenter. The first start makes its directory; there it also takes its orders.'),
    'holds everything of this vCenter; made when it is missing',
  )
  start.option('--log', 'a line for each event')
  addCoreDumps(start)
    .addHelpText(
      'after',
      `
Example:
  vmseal vcenter start /var/lib/vmseal/vcenter
  export VMSEAL_VCENTER=/var/lib/vmseal/vcenter      in another terminal, as the same user
  vmseal vm list
It ends at SIGINT, SIGTERM or \`vmseal vcenter stop\`: running tasks are cancelled and undone, hosts go on.`,
    )
    .action(serve)
}

async function serve(given: string | undefined, options: CoreDumpOption & { log?: true }): Promise<void> {
  settleCoreDumps(options)
  const { log } = options
  const directory = resolve(requireDirectory(given))
  // From here on: a signal during the start ends it as soon as it serves.
  const signal = firstSignal()
  const runningSince = new Date().toISOString()
  const vcenter = await VCenter.open({ directory })
  let ordered: (reason: string) => void = () => {}
  const order = new Promise<string>((settle) => (ordered = settle))
  try {
    const control = await openVCenterControl(directory, vcenter, () => ordered('vmseal vcenter stop'))
    try {
      if (log) vcenter.on('event', (event: VCenterEvent) => output.event('event', event, eventLine(event)))
      announce(await statusOf(vcenter, directory, runningSince))
      const reason = await Promise.race([signal, order])
      output.event('stopping', { reason }, `stopping: ${reason}`)
    } finally {
      // Orders under way wait for tasks, which are cancelled.
      await Promise.all([control.close(), vcenter.close()])
    }
  } finally {
    await vcenter.close()
  }
}

function announce(status: VCenterStatus): void {
  const { directory, clusters, hosts, virtualMachines: vms } = status
  output.event(
    'serving',
    status,
    [
      `vCenter runs in ${directory}: ${vms.all} VMs, ${hosts.all} hosts, ${clusters} clusters`,
      ...(clusters === 0
        ? [
            'begin with:',
            `  vmseal provider add kms-1 --vcenter ${directory} --help`,
            `  vmseal cluster create prod --vcenter ${directory}`,
            `  vmseal host add --vcenter ${directory} --help`,
          ]
        : []),
    ].join('\n'),
  )
}
