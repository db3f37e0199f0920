/** `vmseal vm list`. */
import { Option } from 'commander'
import { VmsealError, type CryptoKeyId } from '../../errors.js'
import type { VirtualMachineSummary } from '../../vcenter/vm-search.js'
import { tableOr } from '../output.js'
import { keyName, keyNameHelp } from '../key/key-name.js'
import { isNamed, searchedPart } from './name-pattern.js'
import { given, verb, type VerbCall } from '../verb/verb.js'

interface Values {
  readonly text?: string
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
      .argument('[text]', 'part of the name, or with * the whole of it, in any case')
      .option('--cluster <cluster>', 'of this cluster')
      .option('--host <host>', 'on this host')
      .option('--datastore <datastore>', 'on this datastore')
      .option('--key <key>', `with VM home or a disk under this key: ${keyNameHelp}`)
      .addOption(new Option('--crypto <state>', 'only these').choices(['encrypted', 'plain', 'locked']))
      .addOption(new Option('--power <state>', 'only these').choices(['on', 'off'])),
  run: async ({ vcenter }, { text = '', cluster, host, datastore, key, crypto, power }) => {
    const vms = await vcenter.virtualMachines.search(
      given({
        name: searchedPart(text),
        cluster,
        host,
        datastore,
        key: key === undefined ? undefined : await resolveKey(vcenter, key),
        encrypted: crypto === 'encrypted' ? true : crypto === 'plain' ? false : undefined,
        cryptoState: crypto === 'locked' ? crypto : undefined,
        powerState: power && (power === 'on' ? 'poweredOn' : 'poweredOff'),
      }),
    )
    const isWanted = isNamed(text)
    return vms.filter(({ name }) => isWanted(name))
  },
  show: (vms) =>
    tableOr(
      'no such VM',
      ['NAME', 'CLUSTER', 'HOST', 'POWER', 'CRYPTO', 'POLICY', 'DISKS'],
      vms.map((vm) => [
        vm.name,
        vm.cluster,
        vm.host ?? '',
        vm.powerState === 'poweredOn' ? 'on' : 'off',
        cryptoText(vm),
        vm.policy,
        String(vm.disks),
      ]),
    ),
})

function cryptoText({ cryptoState, homeKey, disks, encryptedDisks }: VirtualMachineSummary): string {
  if (cryptoState === 'locked') return 'LOCKED'
  if (!homeKey) return 'plain'
  return encryptedDisks === disks ? 'encrypted' : `encrypted: home, ${encryptedDisks} of ${disks} disks`
}

async function resolveKey(vcenter: VerbCall['vcenter'], text: string): Promise<CryptoKeyId> {
  const key = keyName(text)
  if (typeof key !== 'string') return key
  const provider = await vcenter.keyProviders.getDefault()
  if (!provider)
    throw new VmsealError(
      'VMSEAL_NO_DEFAULT_KEY_PROVIDER',
      'there is no default key provider: use PROVIDER/ID',
    )
  return { providerId: provider.id, keyId: key }
}
