/** How a VM is shown to people. */
import type { CryptoKeyId } from '../../errors.js'
import type { DiskConversion } from '../../rpc/host-api.js'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { facts, table } from '../output.js'
import { sizeText } from '../progress.js'

export function describeVm(vm: VirtualMachineInfo): string {
  const { name, disks, missing, formerKeys } = vm
  return [
    facts({
      name: vm.name,
      id: vm.id,
      place: `${vm.cluster}${vm.host === undefined ? '' : `, host ${vm.host}`}, [${vm.datastore}] ${vm.vmx}`,
      power: vm.powerState,
      connection: vm.connectionState,
      crypto: vm.cryptoState,
      policy: vm.policy,
      migration: vm.migrateEncryption && `encryption ${vm.migrateEncryption}`,
      'home key': keyText(vm.homeKey),
      'former keys':
        formerKeys && `${formerKeys.map(keyText).join(', ')}: recrypt again, to end what was interrupted`,
    }),
    ...(disks.length === 0
      ? []
      : [
          '',
          table(
            ['DISK', 'SIZE', 'POLICY', 'KEY', 'FILE'],
            disks.map(({ device, capacityBytes, policy, key, file }) => [
              device,
              sizeText(capacityBytes),
              policy,
              keyText(key),
              file,
            ]),
          ),
        ]),
    ...disks.flatMap(({ device, conversion }) =>
      conversion
        ? [
            '',
            `${device} is in conversion (${conversionText(conversion)}): vmseal vm resume-conversion ${name}`,
          ]
        : [],
    ),
    ...(missing.length === 0
      ? []
      : [
          '',
          table(
            ['MISSING KEY', 'OPENS', 'SINCE', 'WHY', 'WHAT TO DO'],
            missing.map(({ key, parts, since, message, action }) => [
              keyText(key),
              parts.join(', '),
              since,
              message,
              action,
            ]),
          ),
        ]),
  ].join('\n')
}

/** `encrypt, 1.50 GiB of 20.0 GiB` */
function conversionText({ mode, doneBytes, totalBytes }: DiskConversion): string {
  return `${mode}, ${sizeText(doneBytes)} of ${sizeText(totalBytes)}`
}

/** `provider/id`; `plain` where there is no key. */
export function keyText(key: CryptoKeyId | undefined): string {
  return key ? `${key.providerId}/${key.keyId}` : 'plain'
}
