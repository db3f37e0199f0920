/** `vmseal vm power-on` and `power-off`. */
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { given, verb } from '../verb/verb.js'
import { describeVm } from './describe.js'

interface Values {
  readonly vm: string
  readonly host?: string
}

export const vmPowerOn = verb<Values, VirtualMachineInfo>({
  name: 'vm power-on',
  summary: 'Power a VM on: its host opens home and disks. The key has to be on the host, or obtainable.',
  cmdlets: ['Start-VM'],
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .option('--host <host>', 'host of its cluster (default: the one the VM is registered on)'),
  hosts: 'needed',
  run: async ({ vcenter }, { vm, host }) => (await vcenter.virtualMachines.get(vm)).powerOn(given({ host })),
  show: describeVm,
})

export const vmPowerOff = verb<Values, VirtualMachineInfo>({
  name: 'vm power-off',
  summary: 'Power a VM off.',
  cmdlets: ['Stop-VM'],
  declare: (command) => command.argument('<vm>', 'name of the VM'),
  hosts: 'needed',
  run: async ({ vcenter }, { vm }) => (await vcenter.virtualMachines.get(vm)).powerOff(),
  show: describeVm,
})
