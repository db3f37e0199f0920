/** `vmseal provider doctor`: the way from a client to a key, hop by hop. */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { VmsealError } from '../../errors.js'
import { diagnoseUnregistered } from '../../vcenter/key-provider/doctor.js'
import type { ServerDiagnosis } from '../../vcenter/key-provider/doctor.js'
import { address, directoryName, readText } from '../arguments.js'
import type { Address } from '../arguments.js'
import { mark, output } from '../output.js'
import { withVCenter } from '../vcenter-directory.js'

interface DoctorOptions {
  readonly server?: Address
  readonly serverName?: string
  readonly proxy?: Address
  readonly ca?: string
  readonly certificate?: string
  readonly key?: string
  readonly vcenter?: string
}

export function addDoctor(provider: Command): void {
  provider
    .command('doctor')
    .description(
      'Walk DNS, TCP, trust both ways, versions, create, get, compare and destroy of a test key. Says where it breaks and what to do; status 1 if it does.',
    )
    .argument('[provider]', 'id of a provider of --vcenter')
    .option('--server <host:port>', 'one server', address)
    .option('--server-name <name>', 'name in the certificate of the server, when it is not its host')
    .option('--proxy <host:port>', 'HTTP proxy that the server is reached through', address)
    .option('--ca <file>', 'authority, or certificate, of the server (PEM)')
    .option('--certificate <file>', 'certificate of the client (PEM)')
    .option('--key <file>', 'private key of the client; it is read by the TLS library alone')
    .option(
      '--vcenter <dir>',
      'directory of a vCenter that is not running; with the id of one of its providers',
      directoryName,
    )
    .addHelpText(
      'after',
      `
Examples:
  vmseal provider doctor --server kms.example.com:5696 --ca ca.pem --certificate vcenter.pem --key vcenter.key
  vmseal provider doctor kms-1 --vcenter /var/lib/vmseal/vcenter`,
    )
    .action(doctor)
}

async function doctor(provider: string | undefined, options: DoctorOptions): Promise<void> {
  const servers = provider === undefined ? [await ofServer(options)] : await ofProvider(provider, options)
  const ok = servers.every((server) => server.ok)
  if (!ok) process.exitCode = 1
  output.answer({ ok, servers }, () => servers.map(describe).join('\n\n'))
}

async function ofServer(options: DoctorOptions): Promise<ServerDiagnosis> {
  const { server, serverName, proxy, ca, certificate, key } = options
  if (!server || ca === undefined || certificate === undefined || key === undefined)
    throw wrongCall('give --server, --ca, --certificate and --key, or the id of a provider and --vcenter')
  const reached = {
    ...server,
    ...(serverName === undefined ? {} : { serverName }),
    ...(proxy ? { proxy } : {}),
  }
  return diagnoseUnregistered(reached, {
    caCertificate: readText(ca),
    certificate: readText(certificate),
    privateKeyFile: resolve(key),
  })
}

async function ofProvider(
  id: string,
  { vcenter: directory, server }: DoctorOptions,
): Promise<ServerDiagnosis[]> {
  if (directory === undefined) throw wrongCall(`--vcenter says whose provider ${id} is`)
  return withVCenter(directory, (vcenter) => vcenter.keyProviders.doctor(id, server))
}

function wrongCall(message: string): VmsealError {
  return new VmsealError('VMSEAL_INVALID_ARGUMENT', message)
}

function describe({ server, hops }: ServerDiagnosis): string {
  return [
    server,
    ...hops.map(({ hop, ok, detail, action, milliseconds }) =>
      [
        `  ${mark(ok)} ${hop.padEnd(12)} ${milliseconds.toFixed(1).padStart(8)} ms  ${detail}`,
        ...(action === undefined ? [] : [`         ${action}`]),
      ].join('\n'),
    ),
  ].join('\n')
}
