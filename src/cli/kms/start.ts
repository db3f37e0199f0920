/** `vmseal kms start`: serves until it is told to end. */
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { Kms } from '../../kms/kms.js'
import { native } from '../../native/load.js'
import { directoryName, portNumber, readPassphrase } from '../arguments.js'
import { addCoreDumps, leavesCoreDumps, settleCoreDumps, type CoreDumpOption } from '../core-dumps.js'
import { output } from '../output.js'
import { firstSignal } from '../signal.js'
import { openKmsControl } from './control.js'

interface StartOptions extends CoreDumpOption {
  readonly directory: string
  readonly host: string
  readonly port: number
  readonly passphraseFile?: string
  readonly log?: true
}

export function addStart(kms: Command): void {
  const start = kms
    .command('start')
    .description(
      'Serve KMIP. The first start makes authority, certificates and store; keys are sealed at rest.',
    )
    .requiredOption(
      '-d, --directory <dir>',
      'holds everything of this KMS; made when it is missing',
      directoryName,
    )
    .option(
      '--host <address>',
      'address to listen on, also a name in the certificate of the server',
      '127.0.0.1',
    )
    .option('--port <port>', 'port; 0: the system chooses', portNumber, 5696)
    .option(
      '--passphrase-file <file>',
      'the root key is opened with the first line of this file (-: standard input) instead of lying in a file; chosen at the first start',
    )
    .option('--log', 'a line for each operation')
  addCoreDumps(start)
    .addHelpText(
      'after',
      `
Example:
  vmseal kms start --directory /var/lib/vmseal/kms --host 192.0.2.10
  vmseal kms enrol vcenter --directory /var/lib/vmseal/kms      in another terminal, as the same user
It ends at SIGINT or SIGTERM, when no operation is under way any more.`,
    )
    .action(serve)
}

async function serve(options: StartOptions): Promise<void> {
  const { directory, host, port, passphraseFile, log } = options
  settleCoreDumps(options)
  // From here on: a signal during the start ends it as soon as it serves.
  const signal = firstSignal()
  const kms = await Kms.start({
    directory,
    host,
    port,
    ...(passphraseFile === undefined ? {} : { passphrase: readPassphrase(passphraseFile) }),
  })
  try {
    const control = await openKmsControl(directory, kms)
    try {
      announce(kms, resolve(directory))
      if (log) reportOperations(kms)
      kms.on('rejected', ({ remoteAddress, reason }) =>
        output.event('rejected', { remoteAddress, reason }, `rejected ${remoteAddress}: ${reason}`),
      )
      output.event('stopping', { signal: await signal }, 'stopping')
    } finally {
      await control.close()
    }
  } finally {
    await kms.stop()
  }
}

function announce(kms: Kms, directory: string): void {
  const caCertificateFile = join(directory, 'ca.pem')
  const { keyHash } = native.describeCertificate(readFileSync(caCertificateFile, 'utf8'))
  const { host, port } = kms.endpoint
  const clients = kms.clients.length
  output.event(
    'serving',
    {
      endpoint: kms.endpoint,
      directory,
      caCertificateFile,
      authorityKeyHash: keyHash,
      clients,
      coreDumps: leavesCoreDumps(),
    },
    [
      `serving KMIP at ${host}:${port}, ${clients} client${clients === 1 ? '' : 's'} enrolled`,
      `authority: ${caCertificateFile} (SHA-256 of its key: ${keyHash})`,
      ...(clients === 0 ? [`let a client in: vmseal kms enrol NAME --directory ${directory}`] : []),
    ].join('\n'),
  )
}

function reportOperations(kms: Kms): void {
  kms.on('operation', ({ time, operation, clientName = 'nobody', keyId, result }) =>
    output.event(
      'operation',
      { time: time.toISOString(), operation, client: clientName, keyId, result },
      `${time.toISOString()} ${clientName} ${operation}${keyId === undefined ? '' : ` ${keyId}`}: ${result}`,
    ),
  )
}
