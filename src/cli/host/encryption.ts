/** `vmseal host enable-encryption`, `set-key` and `disable-encryption`: host encryption mode. */
import type { HostKeyChange } from '../../rpc/host-api.js'
import type { HostSync } from '../../vcenter/host-sync.js'
import { keyName, keyNameHelp } from '../key/key-name.js'
import { facts } from '../output.js'
import { verb } from '../verb/verb.js'
import { describeSync } from './describe.js'

interface Values {
  readonly host: string
  readonly keyId?: string
}

const keyOption = ['--key-id <key>', `an existing key instead of a new one: ${keyNameHelp}`] as const

export const hostEnableEncryption = verb<Values, HostSync>({
  name: 'host enable-encryption',
  summary: 'Switch a host to encryption mode safe, with a host key; it gets the keys of its cluster.',
  cmdlets: ['Enable-VMHostCryptoSafe'],
  help: `The host key encrypts the dumps of the host: without --key-id the one it had, else a new one. The first encrypted VM of a
cluster does the same by itself.`,
  declare: (command) => command.argument('<host>', 'name of the host').option(...keyOption),
  hosts: 'needed',
  run: ({ vcenter }, { host, keyId }) =>
    vcenter.hosts.configureCryptoKey(host, keyId === undefined ? undefined : keyName(keyId)),
  show: describeSync,
})

export const hostSetKey = verb<Values, HostKeyChange>({
  name: 'host set-key',
  summary: 'Give a safe host another host key; its dumps are wrapped with it.',
  cmdlets: ['Set-VMHostCryptoKey'],
  declare: (command) => command.argument('<host>', 'name of the host').option(...keyOption),
  hosts: 'needed',
  run: ({ vcenter }, { host, keyId }) =>
    vcenter.hosts.changeHostKey(host, keyId === undefined ? undefined : keyName(keyId)),
  show: ({ rewrapped, failed }, { host }) =>
    facts({
      host,
      'dumps under the new key': rewrapped.length,
      'dumps that need an older key': failed.map(({ dump, message }) => `${dump}: ${message}`).join(', '),
    }),
})

export const hostDisableEncryption = verb<Values, Pick<Values, 'host'>>({
  name: 'host disable-encryption',
  summary: 'Take a host out of encryption mode: its keys leave it now, a restart completes it.',
  help: 'Refused while a VM that is registered on the host is encrypted.',
  declare: (command) => command.argument('<host>', 'name of the host'),
  hosts: 'needed',
  run: async ({ vcenter }, { host }) => {
    await vcenter.hosts.disableEncryption(host)
    return { host }
  },
  show: ({ host }) => `${host} has no keys any more; restart it to complete this`,
})
