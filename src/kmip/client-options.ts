/** What a KMIP client is told, and what it returns. */
import type { Attribute } from './attributes.js'
import type { KmipCredential } from './credential.js'
import type { PlainKey } from './operations/get.js'
import type { KeyWrapping } from './operations/key-wrapping.js'
import type { EnumerationSymbol } from './ttlv/enumerations.js'
import type { ProtocolVersion } from './version.js'

export interface KmipClientOptions {
  readonly host: string
  readonly port: number
  /** HTTP proxy that the server is reached through (CONNECT, without a password). */
  readonly proxy?: { readonly host: string; readonly port: number }
  /** PEM, one or more. */
  readonly caCertificate: string
  /** PEM chain of the client. */
  readonly certificate: string
  /** PEM file; it is read natively. */
  readonly privateKeyFile: string
  /** Name or address in the server's certificate; default: `host`. */
  readonly serverName?: string
  readonly connectTimeoutMs?: number
  readonly requestTimeoutMs?: number
  /** What may be spoken; default: all of 1.0 to 1.4. With one alone, the server is not asked. */
  readonly protocolVersions?: readonly ProtocolVersion[]
  /** Goes with every request; who the client is, its certificate says all the same. */
  readonly credential?: KmipCredential
}

export interface CreateOptions {
  /** Default AES. */
  readonly algorithm?: EnumerationSymbol<'CryptographicAlgorithm'>
  /** Bits; default 256. */
  readonly length?: number
  /** Bits of `cryptographicUsage`; default Encrypt and Decrypt. */
  readonly usageMask?: number
  readonly attributes?: readonly Attribute[]
}

export interface GetOptions {
  /** Asks for the State of the key in the same message. */
  readonly state?: boolean
}

export interface ManagedKey extends PlainKey {
  readonly state?: EnumerationSymbol<'State'> | number
}

/** What may be said about wrapping besides the wrapping key; default: RFC 3394 without encoding. */
export type WrapOptions = Partial<Omit<KeyWrapping, 'wrappingKeyId'>>

export interface ReKeyOptions {
  /** Seconds from now to the activation of the new key. */
  readonly offset?: number
  readonly attributes?: readonly Attribute[]
}

export interface LocateFilters {
  readonly name?: string
  readonly state?: EnumerationSymbol<'State'>
  readonly objectType?: EnumerationSymbol<'ObjectType'>
  /** All must match. */
  readonly attributes?: readonly Attribute[]
  readonly maximumItems?: number
  /** Since 1.3. */
  readonly offsetItems?: number
}
