/** `vmseal host status`. */
import type { Command } from 'commander'
import { directoryName } from '../arguments.js'
import { coreDumpText } from '../core-dumps.js'
import { facts, output } from '../output.js'
import { keyText } from '../vm/describe.js'
import { order, type HostStatus } from './control.js'

export function addStatus(host: Command): void {
  host
    .command('status')
    .description('Say whether a host agent runs in a directory, and what it is.')
    .requiredOption('-d, --directory <dir>', 'directory of the host agent', directoryName)
    .action(async ({ directory }: { directory: string }) =>
      output.answer(await order(directory, 'status', {}), describe),
    )
}

function describe(status: HostStatus): string {
  const { name, hostId, address, directory, processId, version, joined, cryptoState, cryptoKeyId } = status
  return facts({
    host: `${name} (${hostId})`,
    address: `${address.host}:${address.port}`,
    directory,
    process: `${processId}, version ${version}`,
    vCenter: joined ? 'joined' : 'waits for one',
    certificate: status.certificateExpires && `until ${status.certificateExpires}`,
    'encryption mode': cryptoState,
    'host key': cryptoKeyId && keyText(cryptoKeyId),
    'core dumps': coreDumpText(status.coreDumps),
  })
}
