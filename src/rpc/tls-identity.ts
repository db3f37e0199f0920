/**
 * Who is who on the wire: TLS 1.3 alone, certificates of one CA, and the one public key that the other side is known by.
 * Node's TLS takes its private key as bytes, which are wiped as soon as they are loaded; docs/decisions.md says what
 * this key can do and what it cannot.
 */
import { X509Certificate, createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { SecureContextOptions, TLSSocket } from 'node:tls'
import { VmsealError } from '../errors.js'

/** Our side of a connection. */
export interface LinkCredentials {
  /** PEM of the CA that both sides have their certificates from. */
  readonly caCertificate: string
  /** PEM. */
  readonly certificate: string
  /** Mode 0600. */
  readonly privateKeyFile: string
}

/** Loads the key, hands the options over, and wipes the key's bytes. */
export function withTlsOptions<Result>(
  { certificate, privateKeyFile, ...more }: Omit<LinkCredentials, 'caCertificate'> & Partial<LinkCredentials>,
  use: (options: SecureContextOptions) => Result,
): Result {
  let key: Buffer
  try {
    key = readFileSync(privateKeyFile)
  } catch (cause) {
    throw new VmsealError('VMSEAL_CERTIFICATE_INVALID', `the private key ${privateKeyFile} cannot be read`, {
      cause,
      details: { subject: privateKeyFile },
    })
  }
  try {
    const ca = more.caCertificate === undefined ? {} : { ca: more.caCertificate }
    return use({ ...ca, cert: certificate, key, minVersion: 'TLSv1.3' })
  } catch (cause) {
    if (cause instanceof VmsealError) throw cause
    throw new VmsealError(
      'VMSEAL_CERTIFICATE_INVALID',
      `certificate and private key ${privateKeyFile} cannot be used: ${String(cause)}`,
      { cause, details: { subject: privateKeyFile } },
    )
  } finally {
    key.fill(0)
  }
}

/** Hex SHA-256 of a certificate's public key (SPKI): what a party is known by. */
export function keyHashOf(certificate: X509Certificate): string {
  const spki = certificate.publicKey.export({ type: 'spki', format: 'der' })
  return createHash('sha256').update(spki).digest('hex')
}

/** Of the other side of a connection; undefined when it showed no certificate. */
export function peerKeyHash(socket: TLSSocket): string | undefined {
  const certificate = socket.getPeerX509Certificate()
  return certificate && keyHashOf(certificate)
}

/** Reads one PEM certificate: VMSEAL_CERTIFICATE_INVALID. */
export function readCertificate(pem: string): X509Certificate {
  try {
    return new X509Certificate(pem)
  } catch (cause) {
    throw new VmsealError('VMSEAL_CERTIFICATE_INVALID', 'this is no certificate in PEM', { cause })
  }
}
