/** `vmseal provider doctor`: the way from a client to a key, hop by hop. */
import { resolve } from 'node:path'
import { Option, type Command } from 'commander'
import { VmsealError } from '../../errors.js'
import { diagnoseUnregistered } from '../../vcenter/key-provider/doctor.js'
import type { ServerDiagnosis } from '../../vcenter/key-provider/doctor.js'
import { address, directoryName, readText } from '../arguments.js'
import type { Address } from '../arguments.js'
import { mark, output } from '../output.js'
import { performVerb } from '../verb/command.js'
import { verb } from '../verb/verb.js'

interface DoctorOptions {
  readonly server?: Address
  readonly serverName?: string
  readonly proxy?: Address
  readonly ca?: string
  readonly certificate?: string
  readonly key?: string
  readonly vcenter?: string
  readonly as?: string
}

interface Diagnosis {
  readonly ok: boolean
  readonly servers: readonly ServerDiagnosis[]
}

/** What the command does with the provider of a vCenter. */
export const providerDoctor = verb<{ readonly provider: string; readonly server?: Address }, Diagnosis>({
  name: 'provider doctor',
  summary: 'Walk the way to a key.',
  command: 'elsewhere',
  run: async ({ vcenter }, { provider, server }) =>
    diagnosisOf(await vcenter.keyProviders.doctor(provider, server)),
  holds: ({ ok }) => ok,
  show: describeAll,
})

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
    .addOption(
      new Option(
        '--vcenter <dir>',
        'directory of a vCenter, running or not; with the id of one of its providers',
      )
        .env('VMSEAL_VCENTER')
        .argParser(directoryName),
    )
    .option('--as <user>', 'with --vcenter: act as this user; default: the administrator')
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
  const { vcenter, as: user, server } = options
  if (provider !== undefined) {
    if (vcenter === undefined) throw wrongCall(`--vcenter says whose provider ${provider} is`)
    const values = { provider, ...(server === undefined ? {} : { server }) }
    await performVerb(providerDoctor, values, { vcenter, ...(user === undefined ? {} : { as: user }) })
    return
  }
  const diagnosis = diagnosisOf([await ofServer(options)])
  if (!diagnosis.ok) process.exitCode = 1
  output.answer(diagnosis, describeAll)
}

function diagnosisOf(servers: readonly ServerDiagnosis[]): Diagnosis {
  return { ok: servers.every(({ ok }) => ok), servers }
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

function wrongCall(message: string): VmsealError {
  return new VmsealError('VMSEAL_INVALID_ARGUMENT', message)
}

function describeAll({ servers }: Diagnosis): string {
  return servers.map(describe).join('\n\n')
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
