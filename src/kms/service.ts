/** What the KMIP operations do to the keys of the store. Every change is durable before its answer is made. */
import { randomUUID } from 'node:crypto'
import { VmsealError } from '../errors.js'
import { native } from '../native/load.js'
import { attributeDefinition } from '../kmip/attribute-table.js'
import type { Attribute, AttributeValue } from '../kmip/attributes.js'
import { kmipFailure } from '../kmip/failure.js'
import type { GetResponse } from '../kmip/operations/get.js'
import type { ObjectResponse } from '../kmip/operations/operation.js'
import type { RequestOf, ResponseOf } from '../kmip/operations/table.js'
import type { KmipService, OperationContext } from '../kmip/server.js'
import { enumerations, enumerationSymbol, enumerationValue } from '../kmip/ttlv/enumerations.js'
import type { ProtocolVersion } from '../kmip/version.js'
import type { Clients, KmsClient } from './clients.js'
import { isMultiple, isStorable, ownAttributes } from './key-attributes.js'
import { toKeyQuery } from './key-filter.js'
import type { KeyChange, KeyIdentity, KeyRow, Keys } from './keys.js'
import { isDestroyed, nextState } from './life-cycle.js'
import type { SealedRecords } from './sealed-records.js'

const keyLengths: readonly number[] = [128, 192, 256]
const maxLocated = 1000
const maxAttributes = 256

export class KeyService implements KmipService {
  readonly #keys: Keys
  readonly #clients: Clients
  readonly #records: SealedRecords

  constructor(keys: Keys, clients: Clients, records: SealedRecords) {
    this.#keys = keys
    this.#clients = clients
    this.#records = records
  }

  /** The enabled client of a public key. Throws Authentication Not Successful. */
  authenticate(clientKeyHash: string): KmsClient {
    const client = this.#clients.byKeyHash(clientKeyHash)
    if (!client)
      throw kmipFailure('AuthenticationNotSuccessful', 'this certificate is not enrolled at the KMS')
    if (!client.enabled)
      throw kmipFailure('AuthenticationNotSuccessful', `the client ${client.name} is disabled`)
    return client
  }

  Create(request: RequestOf<'Create'>, { clientKeyHash, version }: OperationContext): ResponseOf<'Create'> {
    const owner = this.authenticate(clientKeyHash).name
    if (request.objectType !== 'SymmetricKey')
      throw kmipFailure('InvalidField', `only symmetric keys are made here, not ${request.objectType}`)
    const identity = { id: randomUUID(), owner, ...template(request.attributes, version) }
    const stored = request.attributes.filter(({ name }) => isStorable(name))
    const key = native.KeyHandle.generate(identity.length / 8)
    try {
      this.#keys.insert(identity, this.#records.seal(identity, key), stored, now())
    } finally {
      key.dispose()
    }
    return { id: identity.id, objectType: 'SymmetricKey' }
  }

  Get(request: RequestOf<'Get'> & ObjectResponse, context: OperationContext): GetResponse {
    if (request.keyFormatType !== undefined && request.keyFormatType !== 'Raw')
      throw kmipFailure(
        'KeyFormatTypeNotSupported',
        `keys are given as Raw here, not as ${request.keyFormatType}`,
      )
    const key = this.#living(request.id, context)
    const opened = this.#records.open(key, this.#keys.record(key.id))
    if (opened.length * 8 === key.length)
      return {
        id: key.id,
        key: opened,
        algorithm: enumerationSymbol('CryptographicAlgorithm', key.algorithm),
        length: key.length,
      }
    opened.dispose()
    throw new VmsealError(
      'VMSEAL_SEALED_RECORD_INVALID',
      `the record of the key ${key.id} has the wrong length`,
    )
  }

  GetAttributes(
    { id, names }: RequestOf<'GetAttributes'> & ObjectResponse,
    context: OperationContext,
  ): ResponseOf<'GetAttributes'> {
    const key = this.#known(id, context)
    const attributes = [...ownAttributes(key), ...this.#keys.storedAttributes(id)]
    const wanted = new Set(names)
    return {
      id,
      attributes: names.length === 0 ? attributes : attributes.filter(({ name }) => wanted.has(name)),
    }
  }

  AddAttribute(
    { id, attribute }: RequestOf<'AddAttribute'> & ObjectResponse,
    context: OperationContext,
  ): ResponseOf<'AddAttribute'> {
    const key = this.#living(id, context)
    const { name, value } = attribute
    checkSettable(name, context.version)
    const stored = this.#keys.storedAttributes(id)
    if (!isMultiple(name) && stored.some((other) => other.name === name))
      throw kmipFailure('IllegalOperation', `the key has its one ${name} already`)
    if (stored.length >= maxAttributes)
      throw kmipFailure('IllegalOperation', `a key has at most ${maxAttributes} attributes here`)
    const index = this.#keys.addAttribute(key, attribute, now())
    return { id, attribute: { name, index, value } }
  }

  Activate({ id }: ObjectResponse, context: OperationContext): ResponseOf<'Activate'> {
    const key = this.#living(id, context)
    const time = now()
    this.#keys.change(id, { state: nextState(key.state, 'Activate'), activationDate: time }, time)
    return { id }
  }

  Revoke(request: RequestOf<'Revoke'> & ObjectResponse, context: OperationContext): ResponseOf<'Revoke'> {
    const key = this.#known(request.id, context)
    if (typeof request.reason === 'number')
      throw kmipFailure('InvalidField', `there is no revocation reason ${request.reason}`)
    const time = now()
    const compromised = request.reason === 'KeyCompromise' || request.reason === 'CACompromise'
    const occurred = request.compromiseOccurrenceDate
    const change: KeyChange = compromised
      ? {
          state: nextState(key.state, 'Compromise'),
          compromiseDate: time,
          // Unknown: as early as it can have been (KMIP 1.4, section 3.29).
          compromiseOccurrenceDate: occurred ? Math.floor(occurred.getTime() / 1000) : key.initialDate,
        }
      : { state: nextState(key.state, 'Deactivate'), deactivationDate: time }
    const reason = {
      revocationReason: enumerations.RevocationReasonCode[request.reason],
      revocationMessage: request.message ?? null,
    }
    this.#keys.change(request.id, { ...change, ...reason }, time)
    return { id: request.id }
  }

  Destroy({ id }: ObjectResponse, context: OperationContext): ResponseOf<'Destroy'> {
    const key = this.#living(id, context)
    const time = now()
    this.#keys.destroy(id, { state: nextState(key.state, 'Destroy'), destroyDate: time }, time)
    return { id }
  }

  Locate(request: RequestOf<'Locate'>, { clientKeyHash, version }: OperationContext): ResponseOf<'Locate'> {
    const owner = this.authenticate(clientKeyHash).name
    const limit = Math.min(request.maximumItems ?? maxLocated, maxLocated)
    const found = this.#keys.locate(owner, toKeyQuery(request, version), limit, request.offsetItems ?? 0)
    return { ids: found.ids, locatedItems: found.total }
  }

  /** A key of the caller. Another client's does not exist for it. */
  #known(id: string, { clientKeyHash }: OperationContext): KeyRow {
    const key = this.#keys.find(id, this.authenticate(clientKeyHash).name)
    if (!key) throw kmipFailure('ItemNotFound', `there is no key ${id}`)
    return key
  }

  #living(id: string, context: OperationContext): KeyRow {
    const key = this.#known(id, context)
    if (isDestroyed(key.state)) throw kmipFailure('ItemNotFound', `the key ${id} was destroyed`)
    return key
  }
}

/** Reads and checks the attributes of a new key. */
function template(
  attributes: readonly Attribute[],
  version: ProtocolVersion,
): Pick<KeyIdentity, 'algorithm' | 'length' | 'usageMask'> {
  const seen = new Map<string, AttributeValue>()
  for (const { name, value } of attributes) {
    if (!attributeDefinition(name, version) && !name.startsWith('x-')) throw refused(name, 'is unknown here')
    if (!isStorable(name) && !chosen.has(name)) throw refused(name, 'cannot be given to a new key here')
    if (seen.has(name) && (chosen.has(name) || !isMultiple(name)))
      throw refused(name, 'is given more than once')
    seen.set(name, value)
  }
  if (attributes.length > maxAttributes)
    throw kmipFailure('InvalidField', `a key has at most ${maxAttributes} attributes`)
  const [algorithm, length, usageMask] = [...chosen].map((name) => seen.get(name))
  if (algorithm !== 'AES') throw refused('Cryptographic Algorithm', 'must be AES')
  if (typeof length !== 'number' || !keyLengths.includes(length))
    throw refused('Cryptographic Length', `must be one of ${keyLengths.join(', ')}`)
  if (typeof usageMask !== 'number' || usageMask <= 0)
    throw refused('Cryptographic Usage Mask', 'must be given')
  return {
    algorithm: enumerationValue('CryptographicAlgorithm', algorithm) as number,
    length,
    usageMask,
  }
}

const chosen: ReadonlySet<string> = new Set([
  'Cryptographic Algorithm',
  'Cryptographic Length',
  'Cryptographic Usage Mask',
])

function checkSettable(name: string, version: ProtocolVersion): void {
  if (name.startsWith('x-')) return
  if (name.startsWith('y-')) throw kmipFailure('PermissionDenied', `${name} is the server's to set`)
  const definition = attributeDefinition(name, version)
  if (!definition) throw refused(name, 'is unknown here')
  if (definition.settable !== 'always')
    throw kmipFailure('PermissionDenied', `${name} cannot be changed by clients`)
  if (!isStorable(name)) throw refused(name, 'cannot be added here')
}

function refused(name: string, why: string) {
  return kmipFailure('InvalidField', `the attribute ${JSON.stringify(name)} ${why}`)
}

/** Seconds since 1970. */
function now(): number {
  return Math.floor(Date.now() / 1000)
}
