/** One change of a VM that is held: planned, given room, made whole or not at all, and logged. */
import type { ReconfigureSpec } from '../rpc/host-api.js'
import { ChangePlan } from './change-plan.js'
import type { Datastore } from './datastore.js'
import { diskOf } from './disk-changes.js'
import { openDisk } from './disks.js'
import { commitTransaction } from './file-transaction.js'
import { openHome, refuseVtpm } from './home-change.js'
import { requireSpace, type HostContext } from './host-context.js'
import type { VirtualMachineLock } from './lock.js'
import type { TaskManifest } from './task-manifest.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import type { VirtualMachine } from './vm-config.js'
import { logLine } from './vm-log.js'
import { WorkMeter, type PacedWork } from './work.js'

interface Request {
  readonly request: string | undefined
  /** The same request, which a crash interrupted: what it copied is there. */
  readonly interrupted: TaskManifest | undefined
}

/**
 * Plans the change of a VM whose lock is held, and makes it. VM home, and every disk of the change, is opened once: what cannot be
 * opened is found before the first write. Its progress goes to `work`, or to a meter of more than this.
 */
export async function commitChange(
  context: HostContext,
  datastore: Datastore,
  files: VirtualMachineFiles,
  lock: VirtualMachineLock,
  vm: VirtualMachine,
  spec: ReconfigureSpec,
  work: PacedWork | WorkMeter,
  { request, interrupted }: Partial<Request> = {},
): Promise<void> {
  for (const { diskId } of spec.disks ?? [])
    openDisk(diskOf(vm, diskId), vm.description.vmId, context.keys, files).close()
  const open = openHome(context, files, vm, spec.home)
  try {
    if (spec.home?.type === 'decrypt') refuseVtpm(open.secrets, files)
    const names = await files.list()
    const change = new ChangePlan(context, files, vm, open, names, interrupted?.created ?? [])
    const transaction = { ...(await change.plan(spec, datastore)), ...(request !== undefined && { request }) }
    await requireSpace(context, datastore, change.neededBytes)
    const meter = work instanceof WorkMeter ? work : new WorkMeter(work, transaction.steps)
    await commitTransaction(files, lock, transaction, meter)
    await logLine(files, context.name, `${change.summary}; generation ${transaction.generation}`)
    if (meter !== work) meter.finish('committed')
  } finally {
    open.dek?.dispose()
    open.newDek?.dispose()
  }
}
