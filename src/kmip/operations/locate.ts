/** Locate (KMIP 1.4, section 4.9). */
import type { Attribute } from '../attributes.js'
import { kmipFailure } from '../failure.js'
import { enumerations } from '../ttlv/enumerations.js'
import type { EnumerationSymbol } from '../ttlv/enumerations.js'
import { enumeration, integer, textString } from '../ttlv/node.js'
import { tags } from '../ttlv/tags.js'
import { isSince } from '../version.js'
import { attributeWire } from '../wire/attributes.js'
import type { OperationCodec } from './operation.js'

export interface LocateRequest {
  readonly maximumItems?: number
  /** Since 1.3. */
  readonly offsetItems?: number
  /** 1 on-line, 2 archived. */
  readonly storageStatusMask?: number
  /** Since 1.1. */
  readonly objectGroupMember?: EnumerationSymbol<'ObjectGroupMember'> | number
  /** All must match. The same date twice is a range. */
  readonly attributes: readonly Attribute[]
  /** The request held a filter that could not be read: nothing may match it. */
  readonly unreadableFilter?: true
}

export interface LocateResponse {
  readonly ids: readonly string[]
  /** How many match without the limits; since 1.3. */
  readonly locatedItems?: number
}

export const locate: OperationCodec<LocateRequest, LocateResponse> = {
  name: 'Locate',
  since: '1.0',
  encodeRequest(request, version) {
    const fields = []
    if (request.maximumItems !== undefined) fields.push(integer(tags.MaximumItems, request.maximumItems))
    if (request.offsetItems !== undefined && isSince(version, '1.3'))
      fields.push(integer(tags.OffsetItems, request.offsetItems))
    if (request.storageStatusMask !== undefined)
      fields.push(integer(tags.StorageStatusMask, request.storageStatusMask))
    const { objectGroupMember } = request
    if (objectGroupMember !== undefined && isSince(version, '1.1'))
      fields.push(
        enumeration(
          tags.ObjectGroupMember,
          typeof objectGroupMember === 'number'
            ? objectGroupMember
            : enumerations.ObjectGroupMember[objectGroupMember],
        ),
      )
    if (request.attributes.length === 0) return fields
    return [...fields, ...attributeWire(version).encodeList(request.attributes, version)]
  },
  decodeRequest(payload, version) {
    const maximumItems = payload.optional('MaximumItems', 'Integer')
    const offsetItems = isSince(version, '1.3') ? payload.optional('OffsetItems', 'Integer') : undefined
    if ((maximumItems ?? 0) < 0 || (offsetItems ?? 0) < 0)
      throw kmipFailure('InvalidField', 'Maximum Items and Offset Items cannot be negative')
    const storageStatusMask = payload.optional('StorageStatusMask', 'Integer')
    const member = isSince(version, '1.1')
      ? payload.optionalSymbol('ObjectGroupMember', 'ObjectGroupMember')
      : undefined
    const attributes = attributeWire(version).decodeList(payload, version)
    return {
      attributes,
      ...(maximumItems === undefined ? {} : { maximumItems }),
      ...(offsetItems === undefined ? {} : { offsetItems }),
      ...(storageStatusMask === undefined ? {} : { storageStatusMask }),
      ...(member === undefined ? {} : { objectGroupMember: member }),
      ...(payload.hasRest ? { unreadableFilter: true } : {}),
    }
  },
  encodeResponse: ({ ids, locatedItems }, version) => [
    ...(locatedItems !== undefined && isSince(version, '1.3')
      ? [integer(tags.LocatedItems, locatedItems)]
      : []),
    ...ids.map((id) => textString(tags.UniqueIdentifier, id)),
  ],
  decodeResponse(payload) {
    const locatedItems = payload.optional('LocatedItems', 'Integer')
    return {
      ids: payload.all('UniqueIdentifier', 'TextString'),
      ...(locatedItems === undefined ? {} : { locatedItems }),
    }
  },
}
