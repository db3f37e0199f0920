/** `vmseal vm register`, `unregister` and `destroy`: into the inventory and out of it. */
import { VmsealError } from '../../errors.js'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { given, verb } from '../verb/verb.js'
import { describeVm } from './describe.js'

interface RegisterValues {
  readonly vmx: string
  readonly cluster: string
  readonly datastore: string
  readonly host?: string
}

export const vmRegister = verb<RegisterValues, VirtualMachineInfo>({
  name: 'vm register',
  summary: 'Take over a VM that lies on a datastore, with its keys by the ids in its files.',
  help: `A VM whose keys cannot be had is registered locked, and unlocks when they can be.
All VMs of a datastore, for instance after the database of vCenter was lost: vmseal vcenter rebuild.

Example:
  vmseal vm register db01/db01.vmx --cluster prod --datastore ds1`,
  declare: (command) =>
    command
      .argument('<vmx>', 'folder and file on the datastore')
      .requiredOption('--cluster <cluster>', 'cluster that gets the VM')
      .requiredOption('--datastore <datastore>', 'where it lies')
      .option('--host <host>', 'host that reads it'),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vmx, cluster, datastore, host }) =>
    (await vcenter.virtualMachines.register({ vmx, cluster, datastore, ...given({ host }) })).info(),
  show: describeVm,
})

interface Values {
  readonly vm: string
  readonly yes?: true
}

interface Gone {
  readonly vm: string
  readonly files: 'kept' | 'removed'
}

export const vmUnregister = verb<Values, Gone>({
  name: 'vm unregister',
  summary: 'Take a VM out of the inventory, also a locked one; its files stay.',
  declare: (command) => command.argument('<vm>', 'name of the VM'),
  run: async ({ vcenter }, { vm }) => {
    await (await vcenter.virtualMachines.get(vm)).unregister()
    return { vm, files: 'kept' }
  },
  show: ({ vm }) => `${vm} is out of the inventory; its files are kept`,
})

export const vmDestroy = verb<Values, Gone>({
  name: 'vm destroy',
  summary: 'Remove a VM and its files, for good. Its keys stay at the KMS (vmseal key unused).',
  cmdlets: ['Remove-VM'],
  declare: (command) =>
    command.argument('<vm>', 'name of the VM').option('--yes', 'without it nothing is removed'),
  prepare: requireYes,
  hosts: 'needed',
  run: async ({ vcenter }, { vm }) => {
    await (await vcenter.virtualMachines.get(vm)).destroy()
    return { vm, files: 'removed' }
  },
  show: ({ vm }) => `${vm} and its files are removed`,
})

function requireYes(values: Values): Values {
  if (values.yes) return values
  throw new VmsealError(
    'VMSEAL_INVALID_ARGUMENT',
    `this removes ${values.vm} and its files for good. Say --yes if that is what you want`,
  )
}
