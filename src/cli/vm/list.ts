/** `vmseal vm list`. */
import { Option } from 'commander'
import type { VirtualMachineSummary } from '../../vcenter/vm-summary.js'
import { tableOr } from '../output.js'
import { sizeText } from '../progress.js'
import { given, verb } from '../verb/verb.js'

interface Values {
  readonly pattern?: string
  readonly cluster?: string
  readonly host?: string
  readonly datastore?: string
  readonly key?: string
  readonly crypto?: 'encrypted' | 'plain' | 'locked'
  readonly power?: 'on' | 'off'
}

export const vmList = verb<Values, readonly VirtualMachineSummary[]>({
  name: 'vm list',
  summary: 'List the VMs, all or those that the options ask for.',
  cmdlets: ['Get-VM'],
  help: `What vCenter remembers; \`vmseal vm show\` asks the host.

Examples:
  vmseal vm list 'db*' --crypto locked
  vmseal vm list --key 6f9619ff-8b86-4d01-b42d-00cf4fc964ff      who uses a key
  vmseal --json vm list | jq -r '.[] | select(.cryptoState == "locked") | .name'`,
  declare: (command) =>
    command
      .argument('[pattern]', 'name; * stands for any text')
      .option('--cluster <cluster>', 'of this cluster')
      .option('--host <host>', 'on this host')
      .option('--datastore <datastore>', 'on this datastore')
      .option('--key <id>', 'with VM home or a disk under this key')
      .addOption(new Option('--crypto <state>', 'only these').choices(['encrypted', 'plain', 'locked']))
      .addOption(new Option('--power <state>', 'only these').choices(['on', 'off'])),
  run: ({ vcenter }, { pattern, cluster, host, datastore, key, crypto, power }) =>
    vcenter.virtualMachines.search(
      given({
        name: pattern,
        cluster,
        host,
        datastore,
        keyId: key,
        encrypted: crypto === 'encrypted' ? true : crypto === 'plain' ? false : undefined,
        cryptoState: crypto === 'locked' ? crypto : undefined,
        powerState: power && (power === 'on' ? 'poweredOn' : 'poweredOff'),
      }),
    ),
  show: (vms) =>
    tableOr(
      'no such VM',
      ['NAME', 'CLUSTER', 'HOST', 'POWER', 'CRYPTO', 'POLICY', 'DISKS', 'SIZE'],
      vms.map((vm) => [
        vm.name,
        vm.cluster,
        vm.host ?? '',
        vm.powerState === 'poweredOn' ? 'on' : 'off',
        cryptoText(vm),
        vm.policy,
        String(vm.disks),
        sizeText(vm.capacityBytes),
      ]),
    ),
})

function cryptoText({ cryptoState, encrypted, disks }: VirtualMachineSummary): string {
  if (cryptoState === 'locked') return 'LOCKED'
  if (encrypted.length === 0) return 'plain'
  return encrypted.length === disks + 1
    ? 'encrypted'
    : `encrypted: ${encrypted.map(({ part }) => part).join(' ')}`
}
