/** `vmseal vm compliance`: storage policies and crypto state compared. */
import { isVmsealError } from '../../errors.js'
import type { VmCompliance } from '../../vcenter/compliance.js'
import type { VirtualMachine } from '../../vcenter/virtual-machine.js'
import { tableOr } from '../output.js'
import { verb } from '../verb/verb.js'

interface Values {
  readonly vm?: readonly string[]
}

/** So many VMs are looked at at once. */
const together = 16

export const vmCompliance = verb<Values, readonly VmCompliance[]>({
  name: 'vm compliance',
  summary: 'Compare storage policies with what is encrypted, part by part.',
  cmdlets: ['Get-SpbmEntityConfiguration'],
  help: `\`compliant\`: as the policy says. \`nonCompliant\`: not. \`outOfDate\`: the policy was changed since it was applied. \`notApplicable\`: it asks
for nothing, or is not known here. A VM whose host does not answer is judged by what vCenter remembers (seen: before).

Examples:
  vmseal vm compliance db01
  vmseal vm compliance                    every VM; status 1 unless all are as their policies say
  vmseal vm apply db01 --home 'VM Encryption Policy' --disks 'VM Encryption Policy'     makes it so`,
  declare: (command) => command.argument('[vm...]', 'names of VMs (default: all)'),
  hosts: 'needed',
  run: async ({ vcenter }, { vm: names = [] }) => {
    const { virtualMachines } = vcenter
    if (names.length === 0) return judgeAll(await virtualMachines.list())
    const all: VmCompliance[] = []
    for (const name of names) all.push(await (await virtualMachines.get(name)).compliance())
    return all
  },
  holds: (vms) => vms.every(({ status }) => status === 'compliant' || status === 'notApplicable'),
  show: (vms) =>
    tableOr(
      'no VMs',
      ['VM', 'PART', 'POLICY', 'STATE', 'STATUS', 'SEEN', 'REASON'],
      vms.flatMap(({ name, seen, parts }) =>
        parts.map(({ part, policy, encrypted, status, reason }) => [
          name,
          part,
          policy,
          encrypted ? 'encrypted' : 'plain',
          status,
          seen,
          reason,
        ]),
      ),
    ),
})

async function judgeAll(vms: readonly VirtualMachine[]): Promise<readonly VmCompliance[]> {
  const all: VmCompliance[] = []
  for (let at = 0; at < vms.length; at += together)
    for (const compliance of await Promise.all(vms.slice(at, at + together).map(judge)))
      if (compliance) all.push(compliance)
  return all
}

/** Undefined: it went meanwhile. */
async function judge(vm: VirtualMachine): Promise<VmCompliance | undefined> {
  try {
    return await vm.compliance()
  } catch (error) {
    if (isVmsealError(error, 'VMSEAL_NOT_FOUND')) return undefined
    throw error
  }
}
