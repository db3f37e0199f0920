/** `vmseal vm snapshot create`, `list`, `revert`, `remove` and `consolidate`. */
import { resolve } from 'node:path'
import { VmsealError } from '../../errors.js'
import type { SnapshotConfig } from '../../rpc/host-api.js'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { tableOr } from '../output.js'
import { given, verb } from '../verb/verb.js'
import { describeVm } from './describe.js'

interface CreateValues {
  readonly vm: string
  readonly name: string
  readonly description?: string
  readonly memory?: string
}

export const snapshotCreate = verb<CreateValues, VirtualMachineInfo>({
  name: 'vm snapshot create',
  summary: 'Keep the present state of a VM, which may be on.',
  cmdlets: ['New-Snapshot'],
  help: `What is written from now on goes to children of the disks, each under a DEK of its own and the KEK of its disk: no key is made.
While there are snapshots the VM is not encrypted, decrypted or deeply recrypted.

Examples:
  vmseal vm snapshot create db01 before-upgrade --description 'version 4 of the application'
  vmseal vm snapshot create db01 running --memory /run/db01.memory`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('<name>', 'of the snapshot, 1 to 80 characters')
      .option('--description <text>', 'for people')
      .option(
        '--memory <file>',
        "a file or pipe of the VM's host that the memory of a VM that is on is read from",
      ),
  prepare: ({ memory, ...values }) => ({ ...values, ...given({ memory: memory && resolve(memory) }) }),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm, ...options }) =>
    (await vcenter.virtualMachines.get(vm)).createSnapshot(options).done,
  show: (_, { vm, name }) =>
    `snapshot ${name} of ${vm} is taken\nback to it: vmseal vm snapshot revert ${vm} ${name}`,
})

export const snapshotList = verb<{ readonly vm: string }, readonly SnapshotConfig[]>({
  name: 'vm snapshot list',
  summary: 'List the snapshots of a VM as a tree, each below the one it was taken after.',
  cmdlets: ['Get-Snapshot'],
  declare: (command) => command.argument('<vm>', 'name of the VM'),
  hosts: 'needed',
  run: async ({ vcenter }, { vm }) => (await vcenter.virtualMachines.get(vm)).snapshots(),
  show: (snapshots) =>
    tableOr(
      'no snapshots',
      ['NAME', 'TAKEN', 'MEMORY', 'DISKS', 'ID', 'DESCRIPTION'],
      asTree(snapshots).map(({ depth, snapshot: { id, name, description, createdAt, memory, disks } }) => [
        `${'  '.repeat(depth)}${name}`,
        createdAt,
        memory ? 'yes' : 'no',
        String(disks.length),
        id,
        description,
      ]),
    ),
})

interface SnapshotValues {
  readonly vm: string
  readonly snapshot: string
  readonly yes?: true
}

export const snapshotRevert = verb<SnapshotValues, VirtualMachineInfo>({
  name: 'vm snapshot revert',
  summary:
    'Bring a VM back to a snapshot; it is off then, and what was written since its last snapshot is gone.',
  help: `To keep the present state too, take a snapshot of it before.

Example:
  vmseal vm snapshot revert db01 before-upgrade --yes`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('<snapshot>', 'its name or id; of several with one name the newest')
      .option('--yes', 'without it nothing happens'),
  prepare: (values) => {
    if (values.yes) return values
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `what was written to ${values.vm} since its last snapshot would be gone for good. Say --yes if that is what you want`,
    )
  },
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm, snapshot }) =>
    (await vcenter.virtualMachines.get(vm)).revertToSnapshot(snapshot).done,
  show: describeVm,
})

interface RemoveValues {
  readonly vm: string
  readonly snapshot?: string
  readonly children?: true
  readonly all?: true
  readonly yes?: true
}

export const snapshotRemove = verb<RemoveValues, VirtualMachineInfo>({
  name: 'vm snapshot remove',
  summary: 'Forget snapshots of a VM, which may be on; its present state stays.',
  cmdlets: ['Remove-Snapshot'],
  help: `Files that nothing needs apart any more are merged. Interrupted anywhere every state reads as before, and
vmseal vm snapshot consolidate ends the work.

Examples:
  vmseal vm snapshot remove db01 before-upgrade --yes
  vmseal vm snapshot remove db01 before-upgrade --children --yes     with all that were taken after it
  vmseal vm snapshot remove db01 --all --yes`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('[snapshot]', 'its name or id; of several with one name the newest')
      .option('--children', 'with all that were taken after it')
      .option('--all', 'every snapshot of the VM')
      .option('--yes', 'without it nothing is removed'),
  prepare: requireOneRemoval,
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm: name, snapshot, children }) => {
    const vm = await vcenter.virtualMachines.get(name)
    return snapshot === undefined
      ? vm.removeAllSnapshots().done
      : vm.removeSnapshot(snapshot, given({ children })).done
  },
  show: (_, { vm, snapshot, children }) =>
    snapshot === undefined
      ? `${vm} has no snapshots any more`
      : `snapshot ${snapshot} of ${vm} is removed${children ? ', with all that were taken after it' : ''}`,
})

export const snapshotConsolidate = verb<{ readonly vm: string }, VirtualMachineInfo>({
  name: 'vm snapshot consolidate',
  summary: 'Merge files of disks that no snapshot needs apart: what an interrupted removal left.',
  declare: (command) => command.argument('<vm>', 'name of the VM'),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm }) => (await vcenter.virtualMachines.get(vm)).consolidateDisks().done,
  show: (_, { vm }) => `the disks of ${vm} are consolidated`,
})

function requireOneRemoval(values: RemoveValues): RemoveValues {
  const { vm, snapshot, children, all, yes } = values
  if ((snapshot === undefined) !== (all === true))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'name a snapshot, or give --all')
  if (all && children)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      '--children is of one snapshot; --all has no more to add',
    )
  if (yes) return values
  throw new VmsealError(
    'VMSEAL_INVALID_ARGUMENT',
    `this gives up ${snapshot === undefined ? 'every snapshot' : `the snapshot ${snapshot}`} of ${vm} for good. Say --yes if that is what you want`,
  )
}

interface Placed {
  readonly depth: number
  readonly snapshot: SnapshotConfig
}

/** One whose parent is not there stands by itself. */
function asTree(snapshots: readonly SnapshotConfig[]): readonly Placed[] {
  const known = new Set(snapshots.map(({ id }) => id))
  const below = new Map<string | undefined, SnapshotConfig[]>()
  for (const snapshot of snapshots) {
    const { parent } = snapshot
    const above = parent !== undefined && known.has(parent) ? parent : undefined
    below.set(above, [...(below.get(above) ?? []), snapshot])
  }
  const from = (id: string | undefined, depth: number): readonly Placed[] =>
    (below.get(id) ?? []).flatMap((snapshot) => [{ depth, snapshot }, ...from(snapshot.id, depth + 1)])
  return from(undefined, 0)
}
