/** The Authentication of a request header: a user name with its password (KMIP 1.4, sections 2.1.2 and 6.6). */
import { kmipFailure } from './failure.js'
import { enumerations } from './ttlv/enumerations.js'
import { enumeration, structure, textString } from './ttlv/node.js'
import type { TtlvNode } from './ttlv/node.js'
import type { StructureReader } from './ttlv/reader.js'
import { tags } from './ttlv/tags.js'

export interface KmipCredential {
  readonly username: string
  readonly password?: string
}

export function encodeAuthentication({ username, password }: KmipCredential): TtlvNode {
  return structure(tags.Authentication, [
    structure(tags.Credential, [
      enumeration(tags.CredentialType, enumerations.CredentialType.UsernameAndPassword),
      structure(tags.CredentialValue, [
        textString(tags.Username, username),
        ...(password === undefined ? [] : [textString(tags.Password, password)]),
      ]),
    ]),
  ])
}

/** The first user name among the credentials; those of other types are not looked at. */
export function decodeAuthentication(authentication: StructureReader): KmipCredential | undefined {
  const credentials = authentication.structures('Credential')
  if (credentials.length === 0) throw kmipFailure('InvalidMessage', 'Authentication holds no credential')
  for (const credential of credentials) {
    const type = credential.requiredSymbol('CredentialType', 'CredentialType')
    const value = credential.structure('CredentialValue')
    if (type !== 'UsernameAndPassword') continue
    const username = value.required('Username', 'TextString')
    const password = value.optional('Password', 'TextString')
    return password === undefined ? { username } : { username, password }
  }
  return undefined
}
