/**
 * The one-time word that brings a host and a vCenter together. The host makes it and shows it to its administrator, who
 * gives it to vCenter. It names the host's public key, so vCenter knows the host before it sends a byte; and it holds a
 * secret, so the host knows that who comes was sent. It lives in the memory of the host only.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import { VmsealError } from '../errors.js'

const prefix = 'vmseal-join-1.'
const hashBytes = 32
const secretBytes = 32
/** RFC 5705 and RFC 8446 section 7.5: known to the two ends of one TLS session and to nobody else. */
const exporterLabel = 'EXPORTER-vmseal-join'

/** What vCenter gives a host that joins. */
export interface JoinGrant {
  /** PEM of vCenter's CA. */
  readonly caCertificate: string
  /** PEM: the host's certificate. */
  readonly certificate: string
  /** Hex SHA-256 of vCenter's public key: the only client that the host will talk to. */
  readonly vcenterKeyHash: string
}

export interface JoinTokenParts {
  /** Hex SHA-256 of the public key that the host shows. */
  readonly keyHash: string
  readonly secret: Buffer
}

export function writeJoinToken({ keyHash, secret }: JoinTokenParts): string {
  return prefix + Buffer.concat([Buffer.from(keyHash, 'hex'), secret]).toString('base64url')
}

export function makeJoinSecret(): Buffer {
  return randomBytes(secretBytes)
}

/** VMSEAL_JOIN_REFUSED for what is no join token. */
export function readJoinToken(token: unknown): JoinTokenParts {
  if (typeof token === 'string' && token.startsWith(prefix)) {
    const text = token.slice(prefix.length)
    const bytes = Buffer.from(text, 'base64url')
    if (bytes.length === hashBytes + secretBytes && bytes.toString('base64url') === text)
      return { keyHash: bytes.subarray(0, hashBytes).toString('hex'), secret: bytes.subarray(hashBytes) }
  }
  throw new VmsealError(
    'VMSEAL_JOIN_REFUSED',
    'this is no join token: copy the whole of what the host showed',
  )
}

/** Proves the secret for one grant within one TLS session; useless anywhere else. */
export function proveJoin(secret: Buffer, grant: JoinGrant, socket: TLSSocket): Buffer {
  const session = socket.exportKeyingMaterial(32, exporterLabel, Buffer.alloc(0))
  const { caCertificate, certificate, vcenterKeyHash } = grant
  return createHmac('sha256', secret)
    .update(session)
    .update(JSON.stringify(['vmseal join 1', caCertificate, certificate, vcenterKeyHash]))
    .digest()
}

export function isSameProof(expected: Buffer, given: unknown): boolean {
  const bytes = Buffer.from(typeof given === 'string' ? given : '', 'base64')
  return bytes.length === expected.length && timingSafeEqual(bytes, expected)
}
