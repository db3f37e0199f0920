/** What the KMIP operations do to the keys of the store. Answers leave when the group of their changes is durable. */
import { randomUUID } from 'node:crypto'
import { kmipFailure } from '../kmip/failure.js'
import type { GetResponse } from '../kmip/operations/get.js'
import type { AttributeResponse, ObjectResponse } from '../kmip/operations/operation.js'
import type { RequestOf, ResponseOf } from '../kmip/operations/table.js'
import type { KmipCaller, KmipService, OperationContext } from '../kmip/server.js'
import { enumerations, enumerationSymbol, enumerationValue } from '../kmip/ttlv/enumerations.js'
import { native } from '../native/load.js'
import type { KeyHandle } from '../native/load.js'
import {
  addInstance,
  adjustInstance,
  deleteInstance,
  modifyInstance,
  setInstance,
} from './attribute-changes.js'
import type { Caller } from './clients.js'
import type { Enrolment } from './enrolment.js'
import { ownAttributes } from './key-attributes.js'
import { toKeyQuery } from './key-filter.js'
import type { KeyChange, KeyIdentity, KeyRow, Keys } from './keys.js'
import { checkArchived, isDestroyed, nextState, openToDestroyed } from './life-cycle.js'
import { readNewKey } from './new-key.js'
import type { KmsOperationName } from './permissions.js'
import type { SealedRecords } from './sealed-records.js'
import { checkWrapping, checkWrappingKey, wrapUnder } from './wrapped-get.js'

const maxLocated = 1000

/** The request with the id of its object. */
type On<O extends KmsOperationName> = RequestOf<O> & ObjectResponse

export class KeyService implements KmipService {
  readonly #keys: Keys
  readonly #enrolment: Enrolment
  readonly #records: SealedRecords

  constructor(keys: Keys, enrolment: Enrolment, records: SealedRecords) {
    this.#keys = keys
    this.#enrolment = enrolment
    this.#records = records
  }

  /** The enabled client of a public key. Throws Authentication Not Successful. */
  authenticate(caller: KmipCaller): Caller {
    const client = this.#enrolment.clientOf(caller)
    if (!client)
      throw kmipFailure('AuthenticationNotSuccessful', 'this certificate is not enrolled at the KMS')
    if (!client.enabled)
      throw kmipFailure('AuthenticationNotSuccessful', `the client ${client.name} is disabled`)
    return client
  }

  Create(request: RequestOf<'Create'>, context: OperationContext): ResponseOf<'Create'> {
    const owner = this.#allowed('Create', context).name
    if (request.objectType !== 'SymmetricKey')
      throw kmipFailure('InvalidField', `only symmetric keys are made here, not ${request.objectType}`)
    const { form, stored } = readNewKey(request.attributes, context.version)
    const identity = { id: randomUUID(), owner, ...form }
    const key = native.KeyHandle.generate(identity.length / 8)
    try {
      this.#keys.insert(identity, this.#records.seal(identity, key), stored, now())
    } finally {
      key.dispose()
    }
    return { id: identity.id, objectType: 'SymmetricKey' }
  }

  Register(request: RequestOf<'Register'>, context: OperationContext): ResponseOf<'Register'> {
    const owner = this.#allowed('Register', context).name
    const algorithm = enumerationValue('CryptographicAlgorithm', request.algorithm)
    const given = { length: request.length, ...(algorithm === undefined ? {} : { algorithm }) }
    const { form, stored } = readNewKey(request.attributes, context.version, given)
    const identity = { id: randomUUID(), owner, ...form }
    this.#keys.insert(identity, this.#records.seal(identity, request.key), stored, now())
    return { id: identity.id }
  }

  /** The replacement takes over attributes and name; the two are linked. A key is replaced once. */
  ReKey(request: On<'ReKey'>, context: OperationContext): ResponseOf<'ReKey'> {
    const old = this.#usable('ReKey', request.id, context)
    if (request.offset !== undefined && request.offset !== 0)
      throw kmipFailure('InvalidField', 'keys are not activated at a later time here: the offset must be 0')
    const { form, stored } = readNewKey(request.attributes ?? [], context.version, old)
    const identity: KeyIdentity = { id: randomUUID(), owner: old.owner, ...form }
    const key = native.KeyHandle.generate(identity.length / 8)
    try {
      const activation: KeyChange =
        request.offset === undefined ? {} : { state: 'Active', activationDate: now() }
      this.#keys.replace(old, identity, this.#records.seal(identity, key), stored, activation, now())
    } finally {
      key.dispose()
    }
    return { id: identity.id }
  }

  Get(request: On<'Get'>, context: OperationContext): GetResponse {
    if (request.keyFormatType !== undefined && request.keyFormatType !== 'Raw')
      throw kmipFailure(
        'KeyFormatTypeNotSupported',
        `keys are given as Raw here, not as ${request.keyFormatType}`,
      )
    const row = this.#usable('Get', request.id, context)
    const { id, length } = row
    const algorithm = enumerationSymbol('CryptographicAlgorithm', row.algorithm)
    const { wrapping } = request
    if (!wrapping) return { id, key: this.#open(row), algorithm, length }
    checkWrapping(wrapping)
    const wrappingRow = this.#usable('Get', wrapping.wrappingKeyId, context)
    checkWrappingKey(wrappingRow)
    const wrappingKey = this.#open(wrappingRow)
    try {
      const key = this.#open(row)
      try {
        return { id, wrapped: wrapUnder(wrappingKey, key, wrapping), wrapping, algorithm, length }
      } finally {
        key.dispose()
      }
    } finally {
      wrappingKey.dispose()
    }
  }

  GetAttributes({ id, names }: On<'GetAttributes'>, context: OperationContext): ResponseOf<'GetAttributes'> {
    const key = this.#usable('GetAttributes', id, context)
    const attributes = [...ownAttributes(key), ...this.#keys.storedAttributes(id)]
    const wanted = new Set(names)
    return {
      id,
      attributes: names.length === 0 ? attributes : attributes.filter(({ name }) => wanted.has(name)),
    }
  }

  GetAttributeList({ id }: ObjectResponse, context: OperationContext): ResponseOf<'GetAttributeList'> {
    const key = this.#usable('GetAttributeList', id, context)
    const attributes = [...ownAttributes(key), ...this.#keys.storedAttributes(id)]
    return { id, names: [...new Set(attributes.map(({ name }) => name))] }
  }

  AddAttribute({ id, attribute }: On<'AddAttribute'>, context: OperationContext): AttributeResponse {
    return { id, attribute: addInstance(this.#change('AddAttribute', id, context), attribute) }
  }

  ModifyAttribute(
    { id, attribute, current }: On<'ModifyAttribute'>,
    context: OperationContext,
  ): AttributeResponse {
    return { id, attribute: modifyInstance(this.#change('ModifyAttribute', id, context), attribute, current) }
  }

  DeleteAttribute({ id, ...instance }: On<'DeleteAttribute'>, context: OperationContext): AttributeResponse {
    const attribute = deleteInstance(this.#change('DeleteAttribute', id, context), instance)
    return attribute ? { id, attribute } : { id }
  }

  SetAttribute({ id, attribute }: On<'SetAttribute'>, context: OperationContext): ObjectResponse {
    setInstance(this.#change('SetAttribute', id, context), attribute)
    return { id }
  }

  AdjustAttribute(
    { id, name, type, value }: On<'AdjustAttribute'>,
    context: OperationContext,
  ): ObjectResponse {
    adjustInstance(this.#change('AdjustAttribute', id, context), name, type, value)
    return { id }
  }

  /** Names the bits of the use that the key is not for; keys have no usage limits and no leases here. */
  Check({ id, usageMask = 0 }: On<'Check'>, context: OperationContext): ResponseOf<'Check'> {
    const key = this.#usable('Check', id, context)
    const denied = usageMask & ~key.usageMask
    return denied === 0 ? { id } : { id, usageMask: denied }
  }

  Activate({ id }: ObjectResponse, context: OperationContext): ResponseOf<'Activate'> {
    const key = this.#usable('Activate', id, context)
    const time = now()
    this.#keys.change(id, { state: nextState(key.state, 'Activate'), activationDate: time }, time)
    return { id }
  }

  Revoke(request: On<'Revoke'>, context: OperationContext): ResponseOf<'Revoke'> {
    const key = this.#usable('Revoke', request.id, context)
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
    const key = this.#usable('Destroy', id, context)
    const time = now()
    const state = nextState(key.state, 'Destroy')
    this.#keys.destroy(id, { state, destroyDate: time, archiveDate: null }, time)
    return { id }
  }

  Archive({ id }: ObjectResponse, context: OperationContext): ResponseOf<'Archive'> {
    this.#usable('Archive', id, context)
    const time = now()
    this.#keys.change(id, { archiveDate: time }, time)
    return { id }
  }

  /** Of a key that is not archived nothing changes. */
  Recover({ id }: ObjectResponse, context: OperationContext): ResponseOf<'Recover'> {
    const key = this.#usable('Recover', id, context)
    if (key.archiveDate !== null) this.#keys.change(id, { archiveDate: null }, now())
    return { id }
  }

  Locate(request: RequestOf<'Locate'>, context: OperationContext): ResponseOf<'Locate'> {
    const caller = this.#allowed('Locate', context)
    const limit = Math.min(request.maximumItems ?? maxLocated, maxLocated)
    const sight = { client: caller.name, others: caller.locates }
    const query = toKeyQuery(request, context.version)
    const found = this.#keys.locate(sight, query, limit, request.offsetItems ?? 0)
    return { ids: found.ids, locatedItems: found.total }
  }

  #allowed(operation: KmsOperationName, context: OperationContext): Caller {
    const caller = this.authenticate(context)
    if (!caller.may(operation))
      throw kmipFailure('PermissionDenied', `the client ${caller.name} may not use ${operation}`)
    return caller
  }

  /** A key of the caller, or one it was granted, in a condition that the operation can be done with. */
  #usable(operation: KmsOperationName, id: string, context: OperationContext): KeyRow {
    const caller = this.#allowed(operation, context)
    const key = this.#keys.find(id)
    const grant = key && key.owner !== caller.name ? caller.grantOf(id, operation) : 'granted'
    // Another client's key does not exist for the caller.
    if (!key || grant === 'none') throw kmipFailure('ItemNotFound', `there is no key ${id}`)
    if (grant === 'other')
      throw kmipFailure('PermissionDenied', `the client ${caller.name} was not granted ${operation} of ${id}`)
    if (isDestroyed(key.state) && !openToDestroyed.has(operation))
      throw kmipFailure('ItemNotFound', `the key ${id} was destroyed`)
    checkArchived(operation, key.archiveDate)
    return key
  }

  #change(operation: KmsOperationName, id: string, context: OperationContext) {
    const key = this.#usable(operation, id, context)
    return { keys: this.#keys, key, version: context.version, now: now() }
  }

  #open(row: KeyRow): KeyHandle {
    return this.#records.open(row, this.#keys.record(row.id))
  }
}

/** Seconds since 1970. */
function now(): number {
  return Math.floor(Date.now() / 1000)
}
