/**
 * How payloads carry attributes: two adapters over one model. 1.x names them by text inside Attribute structures, 2.x
 * by their own tags inside an Attributes structure.
 */
import type { Attribute, AttributeValue } from '../attributes.js'
import type { TtlvNode } from '../ttlv/node.js'
import type { StructureReader } from '../ttlv/reader.js'
import { isSince } from '../version.js'
import type { ProtocolVersion } from '../version.js'
import { attributes1 } from './attributes-1.js'
import { attributes2 } from './attributes-2.js'

/** An instance of an attribute: 1.x tells instances apart by their index, 2.x by their value. */
export interface AttributeInstance {
  readonly name: string
  readonly index?: number
  readonly value?: AttributeValue
}

/** Encoders throw VMSEAL_INVALID_ARGUMENT for an attribute that the version lacks or whose value does not fit it. */
export interface AttributeWire {
  /** The attributes of a new object. */
  encodeTemplate(attributes: readonly Attribute[], version: ProtocolVersion): TtlvNode
  /** Undefined when the payload has none. */
  decodeTemplate(payload: StructureReader, version: ProtocolVersion): Attribute[] | undefined
  /** Attributes that an object has, or that Locate asks for. */
  encodeList(attributes: readonly Attribute[], version: ProtocolVersion): TtlvNode[]
  decodeList(payload: StructureReader, version: ProtocolVersion): Attribute[]
  encodeNames(names: readonly string[], version: ProtocolVersion): TtlvNode[]
  decodeNames(payload: StructureReader, version: ProtocolVersion): string[]
  /** A value that is to be given to an object, in place of `current` where there is one. */
  encodeNew(attribute: Attribute, version: ProtocolVersion, current?: AttributeValue): TtlvNode[]
  decodeNew(
    payload: StructureReader,
    version: ProtocolVersion,
  ): { readonly attribute: Attribute; readonly current?: AttributeValue }
  encodeInstance(instance: AttributeInstance, version: ProtocolVersion): TtlvNode[]
  decodeInstance(payload: StructureReader, version: ProtocolVersion): AttributeInstance
  /** The attribute in the answer to a change; 2.x does not repeat it. */
  encodeEcho(attribute: Attribute | undefined, version: ProtocolVersion): TtlvNode[]
  decodeEcho(payload: StructureReader, version: ProtocolVersion): Attribute | undefined
}

export function attributeWire(version: ProtocolVersion): AttributeWire {
  return isSince(version, '2.0') ? attributes2 : attributes1
}
