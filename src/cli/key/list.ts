/** `vmseal key list` and `show`: which keys there are, and what uses them. */
import type { CryptoKeyId } from '../../errors.js'
import type { KeyStatus } from '../../vcenter/key-provider/provider-keys.js'
import { facts, tableOr } from '../output.js'
import { verb, type VerbCall } from '../verb/verb.js'
import { keyText } from '../vm/describe.js'
import { keyName, keyNameHelp } from './key-name.js'

export interface KeyInView {
  readonly key: CryptoKeyId
  readonly virtualMachines: readonly { readonly name: string; readonly parts: readonly string[] }[]
  /** Hosts whose host key it is. */
  readonly hostKeyOf: readonly string[]
}

export const keyList = verb<{ readonly provider?: string }, readonly KeyInView[]>({
  name: 'key list',
  summary: 'List the keys that VMs and hosts have, and what each is for. Nothing is asked of a KMS.',
  help: 'Keys at the KMS that nothing uses: vmseal key unused. The state of a key at its KMS: vmseal key show.',
  declare: (command) => command.option('--provider <provider>', 'of this key provider'),
  run: keysInView,
  show: describeKeys,
})

export const providerKeys = verb<{ readonly provider: string }, readonly KeyInView[]>({
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
): Promise<readonly KeyInView[]> {
  if (provider !== undefined) await vcenter.keyProviders.get(provider)
  const [known, vms, hosts] = await Promise.all([
    vcenter.keyProviders.keys.list(),
    vcenter.virtualMachines.search(),
    vcenter.hosts.list(),
  ])
  const parts = new Map<string, Map<string, string[]>>()
  for (const { name, encrypted } of vms)
    for (const { part, key } of encrypted) {
      const users = parts.get(keyText(key)) ?? new Map<string, string[]>()
      users.set(name, [...(users.get(name) ?? []), part])
      parts.set(keyText(key), users)
    }
  const hostKeys = hosts.flatMap(({ name, cryptoKeyId }) => (cryptoKeyId ? [{ name, key: cryptoKeyId }] : []))
  const keys = new Map([...known, ...hostKeys.map(({ key }) => key)].map((key) => [keyText(key), key]))
  return [...keys]
    .filter(([, { providerId }]) => provider === undefined || providerId === provider)
    .map(([text, key]) => ({
      key,
      virtualMachines: [...(parts.get(text) ?? [])].map(([name, itsParts]) => ({ name, parts: itsParts })),
      hostKeyOf: hostKeys.filter((host) => keyText(host.key) === text).map(({ name }) => name),
    }))
}

function describeKeys(keys: readonly KeyInView[]): string {
  return tableOr(
    'no keys',
    ['KEY', 'VMS', 'HOST KEY OF'],
    keys.map(({ key, virtualMachines, hostKeyOf }) => [
      keyText(key),
      virtualMachines.map(({ name, parts }) => `${name} (${parts.join(' ')})`).join(', '),
      hostKeyOf.join(', '),
    ]),
  )
}
