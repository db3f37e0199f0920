/** What a client may do: names of operations, stored as JSON. */
import { VmsealError } from '../errors.js'
import { operationTable } from '../kmip/operations/table.js'
import type { OperationName } from '../kmip/operations/table.js'

/** An operation that can be allowed or granted. DiscoverVersions and Query are open to every enabled client. */
export type KmsOperationName = Exclude<OperationName, 'DiscoverVersions' | 'Query'>

export function isAllowed(operation: string, operations: readonly string[] | undefined): boolean {
  return operations === undefined || operations.includes(operation)
}

/** Throws VMSEAL_INVALID_ARGUMENT for what is no operation of the KMS. */
export function checkOperations(operations: readonly string[]): void {
  for (const name of operations)
    if (!Object.hasOwn(operationTable, name) || name === 'DiscoverVersions' || name === 'Query')
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        `${JSON.stringify(name)} is no operation that can be allowed`,
      )
}

export function writeOperations(operations: readonly KmsOperationName[] | undefined): string | null {
  return operations === undefined ? null : JSON.stringify(operations)
}

export function readOperations(text: string | null): readonly string[] | undefined {
  return text === null ? undefined : (JSON.parse(text) as string[])
}
