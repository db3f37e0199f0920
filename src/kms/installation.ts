/** The files that make a directory a KMS: root key, authority, server certificate. Made on the first start. */
import {
  chmodSync,
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { VmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { Facts } from './facts.js'

export const storeFile = 'kms.db'
export const auditFile = 'audit.log'
export const authorityKeyFile = 'ca.key'

/** Makes the directory, for its owner alone. Throws VMSEAL_ALREADY_EXISTS for one that holds something else. */
export function prepareDirectory(directory: string): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  if (!existsSync(join(directory, storeFile)) && readdirSync(directory).length > 0)
    throw new VmsealError(
      'VMSEAL_ALREADY_EXISTS',
      `${directory} is neither empty nor the directory of a KMS`,
      {
        details: { subject: directory },
      },
    )
  chmodSync(directory, 0o700)
}

/** Makes the names of new files durable. */
export function syncDirectory(directory: string): void {
  for (const path of [directory, dirname(directory)]) {
    const handle = openSync(path, 'r')
    try {
      fsyncSync(handle)
    } finally {
      closeSync(handle)
    }
  }
}

export interface Authority {
  /** PEM. */
  readonly certificate: string
  readonly keyFile: string
}

/** The authority under which server and clients have their certificates. */
export function openAuthority(directory: string, facts: Facts): Authority {
  const keyFile = join(directory, authorityKeyFile)
  const copy = join(directory, 'ca.pem')
  const known = facts.get('authority')?.toString()
  if (known) {
    requireFile(keyFile, 'no certificate can be issued without it')
    if (!existsSync(copy)) writeFileSync(copy, known)
    return { certificate: known, keyFile }
  }
  // A key without its certificate was left by a start that did not end.
  rmSync(keyFile, { force: true })
  const certificate = native.createAuthority('vmseal KMS authority', keyFile)
  facts.put('authority', certificate)
  writeFileSync(copy, certificate)
  return { certificate, keyFile }
}

export interface ServerCertificate {
  /** PEM. */
  readonly certificate: string
  readonly privateKeyFile: string
}

interface ServerFact {
  readonly names: readonly string[]
  readonly certificate: string
  readonly file: string
}

const renewBefore = 30 * 24 * 60 * 60

/** The certificate of the server for these names; a new one when the names change or it is about to expire. */
export function openServerCertificate(
  directory: string,
  facts: Facts,
  authority: Authority,
  host: string,
): ServerCertificate {
  const names = [...new Set(['localhost', '127.0.0.1', '::1', ...(isWildcard(host) ? [] : [host])])]
  const known = readServerFact(facts)
  if (known && names.every((name) => known.names.includes(name)) && isFresh(known, directory))
    return { certificate: known.certificate, privateKeyFile: join(directory, known.file) }
  const file = known?.file === 'server.key' ? 'server-2.key' : 'server.key'
  rmSync(join(directory, file), { force: true })
  const certificate = native.issueServerCertificate(
    authority.certificate,
    authority.keyFile,
    names,
    join(directory, file),
  )
  facts.put('server', JSON.stringify({ names, certificate, file } satisfies ServerFact))
  if (known) rmSync(join(directory, known.file), { force: true })
  return { certificate, privateKeyFile: join(directory, file) }
}

function readServerFact(facts: Facts): ServerFact | undefined {
  const text = facts.get('server')?.toString()
  if (text === undefined) return undefined
  try {
    return JSON.parse(text) as ServerFact
  } catch {
    // It can be made anew.
    return undefined
  }
}

function isFresh({ certificate, file }: ServerFact, directory: string): boolean {
  const { notAfter } = native.describeCertificate(certificate)
  return existsSync(join(directory, file)) && notAfter > Date.now() / 1000 + renewBefore
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}

/** Throws VMSEAL_STORE_INVALID that says `why` the file is needed. */
export function requireFile(file: string, why: string): void {
  if (!existsSync(file))
    throw new VmsealError('VMSEAL_STORE_INVALID', `${file} is missing: ${why}; restore it from a backup`, {
      details: { subject: file },
    })
}
