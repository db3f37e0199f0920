/** The operations that are spoken here, by name. A further one needs its file and a line in this table. */
import { enumerationSymbol } from '../ttlv/enumerations.js'
import { activate } from './activate.js'
import { addAttribute } from './add-attribute.js'
import { adjustAttribute } from './adjust-attribute.js'
import { archive } from './archive.js'
import { check } from './check.js'
import { create } from './create.js'
import { deleteAttribute } from './delete-attribute.js'
import { destroy } from './destroy.js'
import { discoverVersions } from './discover-versions.js'
import { getAttributeList } from './get-attribute-list.js'
import { getAttributes } from './get-attributes.js'
import { get } from './get.js'
import { locate } from './locate.js'
import { modifyAttribute } from './modify-attribute.js'
import type { OperationCodec } from './operation.js'
import { query } from './query.js'
import { reKey } from './re-key.js'
import { recover } from './recover.js'
import { register } from './register.js'
import { revoke } from './revoke.js'
import { setAttribute } from './set-attribute.js'

export const operationTable = {
  Create: create,
  Register: register,
  ReKey: reKey,
  Locate: locate,
  Check: check,
  Get: get,
  GetAttributes: getAttributes,
  GetAttributeList: getAttributeList,
  AddAttribute: addAttribute,
  ModifyAttribute: modifyAttribute,
  DeleteAttribute: deleteAttribute,
  SetAttribute: setAttribute,
  AdjustAttribute: adjustAttribute,
  Activate: activate,
  Revoke: revoke,
  Destroy: destroy,
  Archive: archive,
  Recover: recover,
  Query: query,
  DiscoverVersions: discoverVersions,
} as const

export type OperationName = keyof typeof operationTable

export type RequestOf<O extends OperationName> =
  (typeof operationTable)[O] extends OperationCodec<infer Request, infer _> ? Request : never

export type ResponseOf<O extends OperationName> =
  (typeof operationTable)[O] extends OperationCodec<infer _, infer Response> ? Response : never

/** The codec of an operation, its types forgotten. */
export function operationCodec(name: OperationName): OperationCodec<unknown, unknown> {
  return operationTable[name]
}

/** The name of an operation code that is spoken here. */
export function operationName(code: number): OperationName | undefined {
  const name = enumerationSymbol('Operation', code)
  return typeof name === 'string' && isOffered(name) ? name : undefined
}

function isOffered(name: string): name is OperationName {
  return Object.hasOwn(operationTable, name)
}
