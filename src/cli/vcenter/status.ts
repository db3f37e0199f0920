/** `vmseal vcenter status` and `stop`. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Command } from 'commander'
import { VmsealError, isVmsealError } from '../../errors.js'
import { DirectoryLock } from '../../store/directory-lock.js'
import { positive } from '../arguments.js'
import { coreDumpText } from '../core-dumps.js'
import { facts, output } from '../output.js'
import { orderVCenter, type VCenterStatus } from './control.js'
import { addDirectory, requireDirectory } from './directory-argument.js'

const lookAgainMs = 50

export function addStatusCommands(vcenter: Command): void {
  addDirectory(
    vcenter.command('status').description('Say whether a vCenter runs in a directory, and what it has.'),
    'directory of the vCenter',
  ).action(async (given: string | undefined) =>
    output.answer(
      (await orderVCenter(requireDirectory(given), { action: 'status', values: {} })) as VCenterStatus,
      describe,
    ),
  )
  addDirectory(
    vcenter
      .command('stop')
      .description(
        'End the vCenter that runs in a directory. Running tasks are cancelled and undone; hosts go on.',
      ),
    'directory of the vCenter',
  )
    .option('--timeout <seconds>', 'how long to wait for its end', positive, 60)
    .action(stop)
}

async function stop(given: string | undefined, { timeout }: { timeout: number }): Promise<void> {
  const directory = requireDirectory(given)
  const { processId } = (await orderVCenter(directory, { action: 'stop', values: {} })) as {
    processId: number
  }
  const end = performance.now() + timeout * 1000
  while (!isFree(directory)) {
    if (performance.now() > end)
      throw new VmsealError(
        'VMSEAL_FILE_LOCKED',
        `process ${processId} was told to stop and has not ended after ${timeout} s: a task is being undone`,
      )
    await delay(lookAgainMs)
  }
  output.answer({ processId, stopped: true }, () => `process ${processId} has stopped`)
}

function isFree(directory: string): boolean {
  try {
    DirectoryLock.acquire(directory).release()
    return true
  } catch (error) {
    if (isVmsealError(error, 'VMSEAL_FILE_LOCKED')) return false
    throw error
  }
}

function describe(status: VCenterStatus): string {
  const { directory, processId, version, runningSince, clusters, hosts, virtualMachines, tasksUnderWay } =
    status
  return facts({
    directory,
    process: `${processId}, version ${version}, since ${runningSince}`,
    clusters,
    hosts: `${hosts.all}, ${hosts.connected} connected`,
    VMs: `${virtualMachines.all}, ${virtualMachines.locked} locked`,
    'tasks under way': tasksUnderWay,
    'core dumps': coreDumpText(status.coreDumps),
  })
}
