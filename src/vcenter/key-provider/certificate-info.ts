/** A certificate as people look at it: whose, whose word, how long. */
import { native } from '../../native/load.js'

export interface CertificateInfo {
  readonly subject: string
  readonly issuer: string
  /** Lower-case hexadecimal. */
  readonly serial: string
  /** ISO 8601, UTC. */
  readonly notBefore: string
  /** ISO 8601, UTC. */
  readonly notAfter: string
  /** Whole days; negative when it has expired. */
  readonly daysToExpiry: number
  /** Hex SHA-256 of the public key (SPKI). */
  readonly keyHash: string
}

const day = 24 * 60 * 60 * 1000

/** Days before the expiry at which a warning is due. */
const warningDays = [60, 30, 7] as const

/** The first certificate of a PEM text. VMSEAL_CERTIFICATE_INVALID. */
export function describeForPeople(certificate: string, now: Date): CertificateInfo {
  const { notBefore, notAfter, subject, issuer, serial, keyHash } = native.describeCertificate(certificate)
  return {
    subject,
    issuer,
    serial,
    notBefore: new Date(notBefore * 1000).toISOString(),
    notAfter: new Date(notAfter * 1000).toISOString(),
    daysToExpiry: Math.floor((notAfter * 1000 - now.getTime()) / day),
    keyHash,
  }
}

/** The warning that a certificate has reached: the smallest one, or none. */
export function dueWarning({ daysToExpiry }: CertificateInfo): number | undefined {
  return warningDays.findLast((days) => daysToExpiry < days)
}
