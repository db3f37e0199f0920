/** `vmseal key create`, `remove`, `unused` and `destroy`. */
import { InvalidArgumentError } from 'commander'
import { VmsealError, type CryptoKeyId } from '../../errors.js'
import type { RemovedKey, UnusedKey } from '../../vcenter/key-provider/provider-keys.js'
import { tableOr } from '../output.js'
import { given, verb } from '../verb/verb.js'
import { keyText } from '../vm/describe.js'
import { keyName, keyNameHelp } from './key-name.js'

interface CreateValues {
  readonly provider?: string
  readonly attribute?: Readonly<Record<string, string>>
}

export const keyCreate = verb<CreateValues, CryptoKeyId>({
  name: 'key create',
  summary: 'Make a key that nothing uses yet, for instance for --key-id.',
  declare: (command) =>
    command
      .option('--provider <provider>', 'where (default: the default key provider)')
      .option('--attribute <x-name=value>', 'goes with the key at the KMS (may be repeated)', attribute),
  run: ({ vcenter }, { provider, attribute: attributes }) =>
    vcenter.keyProviders.keys.create(given({ providerId: provider, attributes })),
  show: keyText,
})

export const keyRemove = verb<
  { readonly key: readonly string[]; readonly force?: true },
  readonly RemovedKey[]
>({
  name: 'key remove',
  summary: 'Take keys from the hosts that hold them; never from the KMS. Refused while a VM uses one.',
  declare: (command) =>
    command
      .argument('<key...>', keyNameHelp)
      .option('--force', 'also keys in use: their VMs are locked then. For keys that may be in wrong hands'),
  hosts: 'needed',
  run: ({ vcenter }, { key, force }) => vcenter.keyProviders.keys.remove(key.map(keyName), given({ force })),
  show: (removed) =>
    removed
      .map(({ key, hosts }) => `${keyText(key)} is taken from ${hosts.join(', ') || 'no host'}`)
      .join('\n'),
})

export const keyUnused = verb<{ readonly provider: string }, readonly UnusedKey[]>({
  name: 'key unused',
  summary: 'List the keys at a KMS that this client made and that no VM and no host uses.',
  help: `Where several vCenters share one client certificate, those of the others are among them; so are the keys of VMs that are
not registered here. Look at "made for" before you destroy one.`,
  declare: (command) => command.requiredOption('--provider <provider>', 'whose KMS is asked'),
  hosts: 'needed',
  run: ({ vcenter }, { provider }) => vcenter.keyProviders.keys.unused(provider),
  show: (keys) =>
    tableOr(
      'every key is in use',
      ['KEY', 'STATE', 'MADE FOR', 'IDENTIFIER'],
      keys.map(({ key, state, madeFor, identifier }) => [
        keyText(key),
        state ?? '',
        madeFor ?? '',
        identifier ?? '',
      ]),
    ),
})

interface DestroyValues {
  readonly provider: string
  readonly key: readonly string[]
  readonly yes?: true
}

export const keyDestroy = verb<
  DestroyValues,
  { readonly provider: string; readonly destroyed: readonly string[] }
>({
  name: 'key destroy',
  summary: 'Destroy unused keys at the KMS, for good. All are checked before the first one goes.',
  help: `Refused for a key that a VM uses or a host holds, while a task is under way, and while a host does not answer.

Example:
  vmseal key unused --provider kms-1
  vmseal key destroy --provider kms-1 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --yes`,
  declare: (command) =>
    command
      .argument('<key...>', 'ids at the KMS, as vmseal key unused lists them')
      .requiredOption('--provider <provider>', 'whose KMS it is')
      .option('--yes', 'without it nothing is destroyed'),
  prepare: (values) => {
    if (values.yes) return values
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `this destroys ${values.key.length} keys for good, with all that was ever encrypted under them. Say --yes if that is what you want`,
    )
  },
  hosts: 'needed',
  run: async ({ vcenter }, { provider, key }) => {
    const ids = key.map((text) => idAt(provider, text))
    return { provider, destroyed: await vcenter.keyProviders.keys.destroyUnused(provider, ids) }
  },
  show: ({ provider, destroyed }) => destroyed.map((id) => `${provider}/${id} is destroyed`).join('\n'),
})

/** As `key unused` prints it, with the provider, or alone. */
function idAt(provider: string, text: string): string {
  return text.startsWith(`${provider}/`) ? text.slice(provider.length + 1) : text
}

function attribute(text: string, earlier: Readonly<Record<string, string>> = {}): Record<string, string> {
  const [, name, value] = /^(x-[^=\s]+)=(.*)$/s.exec(text) ?? []
  if (name === undefined || value === undefined)
    throw new InvalidArgumentError('Write x-name=value, for instance x-Owner=storage.')
  return { ...earlier, [name]: value }
}
