/** `vmseal kms enrol`, `clients` and what a client may do. */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { KmsOperationName } from '../../kms/permissions.js'
import { VmsealError } from '../../errors.js'
import { collect, directoryName, readText } from '../arguments.js'
import { output, table } from '../output.js'
import { order } from './control.js'

interface Directory {
  readonly directory: string
}

const theDirectory = [
  '-d, --directory <dir>',
  'directory of the KMS, which must be serving',
  directoryName,
] as const

export function addClientCommands(kms: Command): void {
  kms
    .command('enrol')
    .description('Let in a client: issue certificate and key, sign its request, or pin its certificate.')
    .argument('<name>', 'name of the client, new or known')
    .requiredOption(...theDirectory)
    .option(
      '--output <dir>',
      'where certificate and key go; default: issued/NAME of the directory',
      directoryName,
    )
    .option('--request <file>', 'sign this certificate signing request (PEM); the key stays with the client')
    .option('--certificate <file>', 'pin this certificate (PEM), whoever issued it')
    .action(enrol)
  kms
    .command('trust-authority')
    .description('Let in whoever has a certificate of this authority.')
    .argument('<file>', 'certificate of the authority (PEM)')
    .requiredOption(...theDirectory)
    .option('--common-name <name>', 'only clients of this common name; may be given several times', collect)
    .option('--operation <name>', 'they may do only this; may be given several times', collect)
    .action(
      async (
        file: string,
        options: Directory & { commonName?: string[]; operation?: KmsOperationName[] },
      ) => {
        const answer = await order(options.directory, 'trustAuthority', {
          certificate: readText(file),
          ...(options.commonName ? { commonNames: options.commonName } : {}),
          ...(options.operation ? { operations: options.operation } : {}),
        })
        output.answer(answer, ({ keyHash }) => `trusted: ${keyHash}`)
      },
    )
  kms
    .command('distrust-authority')
    .description('Let in no client of this authority any more; connections are closed, keys stay.')
    .argument('<keyHash>', 'as `vmseal kms clients` shows it')
    .requiredOption(...theDirectory)
    .action(async (keyHash: string, { directory }: Directory) =>
      output.answer(await order(directory, 'distrustAuthority', { keyHash }), () => 'no longer trusted'),
    )
  kms
    .command('clients')
    .description('List clients, trusted authorities and grants.')
    .requiredOption(...theDirectory)
    .action(listClients)
  for (const verb of ['enable', 'disable'] as const)
    kms
      .command(verb)
      .description(
        verb === 'enable' ? 'Let a client in again.' : 'Refuse a client, on its open connections too.',
      )
      .argument('<name>')
      .requiredOption(...theDirectory)
      .action(async (name: string, { directory }: Directory) =>
        output.answer(await order(directory, verb, { name }), () => `${name} is ${verb}d`),
      )
  addPermissionCommands(kms)
}

function addPermissionCommands(kms: Command): void {
  kms
    .command('allow')
    .description('Say what a client may do, from its next request on.')
    .argument('<name>')
    .argument('[operations...]', 'KMIP operations, for instance Get Locate; none: all')
    .requiredOption(...theDirectory)
    .action(async (name: string, operations: KmsOperationName[], { directory }: Directory) => {
      const values = operations.length === 0 ? { name } : { name, operations }
      output.answer(
        await order(directory, 'allow', values),
        (answer) => `${name} may: ${list(answer.operations)}`,
      )
    })
  kms
    .command('grant')
    .description('Let a client use a key of another, or all keys.')
    .argument('<keyId>', 'id of the key, or all')
    .argument('<name>')
    .argument('<operations...>', 'KMIP operations, for instance Get GetAttributes')
    .requiredOption(...theDirectory)
    .action(async (keyId: string, name: string, operations: KmsOperationName[], { directory }: Directory) =>
      output.answer(
        await order(directory, 'grant', { keyId, name, operations }),
        () => `${name} may use ${keyId === 'all' ? 'all keys' : keyId}: ${list(operations)}`,
      ),
    )
  kms
    .command('revoke-grant')
    .description('Take a grant back.')
    .argument('<keyId>', 'id of the key, or all')
    .argument('<name>')
    .requiredOption(...theDirectory)
    .action(async (keyId: string, name: string, { directory }: Directory) =>
      output.answer(await order(directory, 'revokeGrant', { keyId, name }), () => 'taken back'),
    )
}

interface EnrolOptions extends Directory {
  readonly output?: string
  readonly request?: string
  readonly certificate?: string
}

async function enrol(name: string, options: EnrolOptions): Promise<void> {
  const { directory, request, certificate } = options
  if ([options.output, request, certificate].filter((option) => option !== undefined).length > 1)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'give one of --output, --request and --certificate')
  if (request !== undefined) {
    const signed = await order(directory, 'sign', { name, request: readText(request) })
    output.answer(signed, () => signed.certificate)
    return
  }
  if (certificate !== undefined) {
    const pinned = await order(directory, 'pin', { name, certificate: readText(certificate) })
    output.answer(pinned, () => `${name} is let in with this certificate until it expires`)
    return
  }
  const target = options.output === undefined ? {} : { directory: resolve(options.output) }
  const issued = await order(directory, 'enrol', { name, ...target })
  output.answer(issued, (files) =>
    table(
      ['client', name],
      [
        ['certificate', files.certificateFile],
        ['private key', files.privateKeyFile],
        ['authority', files.caCertificateFile],
      ],
    ),
  )
}

async function listClients({ directory }: Directory): Promise<void> {
  output.answer(await order(directory, 'clients', {}), ({ clients, authorities, grants }) => {
    const parts = [
      table(
        ['client', 'state', 'may', 'certificates', 'last expires'],
        clients.map(({ name, enabled, operations, certificates }) => [
          name,
          enabled ? 'enabled' : 'disabled',
          list(operations ?? 'all'),
          String(certificates.length),
          certificates
            .map(({ expires }) => expires ?? '')
            .toSorted()
            .at(-1)
            ?.slice(0, 10) ?? '',
        ]),
      ),
    ]
    if (authorities.length > 0)
      parts.push(
        table(
          ['authority', 'expires', 'names', 'may', 'key hash'],
          authorities.map(({ subject, expires, commonNames, operations, keyHash }) => [
            subject,
            expires.slice(0, 10),
            list(commonNames ?? 'all'),
            list(operations ?? 'all'),
            keyHash,
          ]),
        ),
      )
    if (grants.length > 0)
      parts.push(
        table(
          ['grant to', 'key', 'operations'],
          grants.map(({ client, keyId, operations }) => [client, keyId, list(operations)]),
        ),
      )
    return parts.join('\n\n')
  })
}

function list(names: readonly string[] | 'all'): string {
  return names === 'all' ? names : names.join(' ')
}
