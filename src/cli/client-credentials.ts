/** Who a client is to a KMS, from files that the command line names. */
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { VmsealError } from '../errors.js'
import type { KeyProviderCredentials } from '../vcenter/key-provider/spec.js'
import { readText } from './arguments.js'

export interface CredentialOptions {
  /** A folder that holds all three. */
  readonly credentials?: string
  readonly ca?: string
  readonly certificate?: string
  readonly key?: string
}

/** Undefined if no file is named. VMSEAL_INVALID_ARGUMENT for some of them. */
export function clientCredentials(options: CredentialOptions): KeyProviderCredentials | undefined {
  const named = [options.credentials, options.ca, options.certificate, options.key]
  return named.every((file) => file === undefined) ? undefined : requireClientCredentials(options)
}

/** Files that are named alone go before those of the folder. */
export function requireClientCredentials(options: CredentialOptions): KeyProviderCredentials {
  const folder = options.credentials === undefined ? undefined : filesOf(resolve(options.credentials))
  const ca = options.ca ?? folder?.ca
  const certificate = options.certificate ?? folder?.certificate
  const key = options.key ?? folder?.key
  if (ca === undefined || certificate === undefined || key === undefined)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'give --credentials, or --ca, --certificate and --key: who this client is to the KMS',
    )
  return {
    caCertificate: readText(ca),
    certificate: readText(certificate),
    privateKeyFile: resolve(key),
  }
}

/** The newest pair of the folder: each enrolment adds one. */
function filesOf(folder: string): { ca: string; certificate: string; key: string } {
  if (!existsSync(folder))
    throw new VmsealError('VMSEAL_NOT_FOUND', `there is no folder ${folder}`, {
      details: { subject: folder },
    })
  const names = new Set(readdirSync(folder))
  const pairs = [...names].filter((name) => name.endsWith('.key') && names.has(certificateOf(name)))
  const newest = pairs
    .map((name) => ({ name, time: statSync(join(folder, name)).mtimeMs }))
    .toSorted((a, b) => b.time - a.time)[0]?.name
  if (newest === undefined || !names.has('ca.pem'))
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `${folder} does not hold ca.pem, a certificate and its key, as \`vmseal kms enrol\` makes them`,
    )
  return {
    ca: join(folder, 'ca.pem'),
    certificate: join(folder, certificateOf(newest)),
    key: join(folder, newest),
  }
}

function certificateOf(keyFile: string): string {
  return keyFile.replace(/\.key$/, '.pem')
}
