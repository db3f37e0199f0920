/** `vmseal key list` and `show`: which keys there are, and what uses them. */
import type { KeyUsage } from '../../vcenter/key-provider/key-usage.js'
import type { KeyStatus } from '../../vcenter/key-provider/provider-keys.js'
import { facts, tableOr } from '../output.js'
import { verb, type VerbCall } from '../verb/verb.js'
import { keyText } from '../vm/describe.js'
import { keyName, keyNameHelp } from './key-name.js'

export const keyList = verb<{ readonly provider?: string }, readonly KeyUsage[]>({
  name: 'key list',
  summary: 'List the keys that VMs and hosts have, and what each is for. Nothing is asked of a KMS.',
  help: 'Keys at the KMS that nothing uses: vmseal key unused. The state of a key at its KMS: vmseal key show.',
  declare: (command) => command.option('--provider <provider>', 'of this key provider'),
  run: keysInView,
  show: describeKeys,
})

export const providerKeys = verb<{ readonly provider: string }, readonly KeyUsage[]>({
  name: 'provider keys',
  summary: 'List the keys of a provider that VMs and hosts have, and what each is for.',
  declare: (command) => command.argument('<provider>', 'id of the key provider'),
  run: keysInView,
  show: describeKeys,
})

export const keyShow = verb<{ readonly key: readonly string[] }, readonly KeyStatus[]>({
  name: 'key show',
  summary: 'Show keys: whether each can be had, its state at the KMS, and the VMs and hosts that have it.',
  cmdlets: ['Get-EntityByCryptoKey'],
  declare: (command) => command.argument('<key...>', keyNameHelp),
  run: ({ vcenter }, { key }) => vcenter.keyProviders.keys.query(key.map(keyName)),
  show: (keys) =>
    keys
      .map(({ key, available, state, reason, virtualMachines, hosts }) =>
        facts({
          key: keyText(key),
          available: available ? 'yes' : `no: ${reason ?? ''}`,
          'state at the KMS': state,
          VMs: virtualMachines.join(', ') || 'none',
          hosts: hosts.join(', ') || 'none',
        }),
      )
      .join('\n\n'),
})

async function keysInView(
  { vcenter }: VerbCall,
  { provider }: { readonly provider?: string },
): Promise<readonly KeyUsage[]> {
  if (provider !== undefined) await vcenter.keyProviders.get(provider)
  const [known, hosts] = await Promise.all([vcenter.keyProviders.keys.list(), vcenter.hosts.list()])
  const hostKeys = hosts.flatMap(({ cryptoKeyId }) => cryptoKeyId ?? [])
  const keys = new Map([...known, ...hostKeys].map((key) => [keyText(key), key]))
  return vcenter.keyProviders.keys.usage(
    [...keys.values()].filter(({ providerId }) => provider === undefined || providerId === provider),
  )
}

function describeKeys(keys: readonly KeyUsage[]): string {
  return tableOr(
    'no keys',
    ['KEY', 'VMS', 'HOST KEY OF', 'FILES'],
    keys.map(({ key, parts, hostKeyOf, files }) => [
      keyText(key),
      partsText(parts),
      hostKeyOf.join(', '),
      String(files.length),
    ]),
  )
}

/** `db01 (home scsi0:0), db02 (home)`. */
function partsText(parts: KeyUsage['parts']): string {
  const names = [...new Set(parts.map(({ virtualMachine }) => virtualMachine))]
  const partsOf = (name: string) =>
    parts.flatMap(({ virtualMachine, part }) => (virtualMachine === name ? part : []))
  return names.map((name) => `${name} (${partsOf(name).join(' ')})`).join(', ')
}
