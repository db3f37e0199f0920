/** The life of a key as data (KMIP 1.4, section 3.22; NIST SP 800-57 part 1, section 7). */
import type { EnumerationSymbol } from '../kmip/ttlv/enumerations.js'
import { kmipFailure } from '../kmip/failure.js'

export type KeyState = EnumerationSymbol<'State'>

/** Activate and Destroy are operations; Revoke is Compromise or Deactivate, according to its reason. */
export const keyActions = ['Activate', 'Deactivate', 'Compromise', 'Destroy'] as const
export type KeyAction = (typeof keyActions)[number]

/** Where an action leads; what is not listed is refused. */
export const keyTransitions: Readonly<Record<KeyState, Partial<Record<KeyAction, KeyState>>>> = {
  PreActive: { Activate: 'Active', Compromise: 'Compromised', Destroy: 'Destroyed' },
  Active: { Deactivate: 'Deactivated', Compromise: 'Compromised' },
  Deactivated: { Compromise: 'Compromised', Destroy: 'Destroyed' },
  Compromised: { Destroy: 'DestroyedCompromised' },
  Destroyed: { Compromise: 'DestroyedCompromised' },
  DestroyedCompromised: {},
}

/** The state after `action`. Throws Permission Denied where the table has none. */
export function nextState(state: KeyState, action: KeyAction): KeyState {
  const next = keyTransitions[state][action]
  if (next === undefined)
    throw kmipFailure('PermissionDenied', `${action} is not allowed in the state ${state}`)
  return next
}

/** The key material is gone. */
export function isDestroyed(state: KeyState): boolean {
  return state === 'Destroyed' || state === 'DestroyedCompromised'
}

/** What may be done with a key that is archived; anything else needs Recover first. */
const openToArchived: ReadonlySet<string> = new Set([
  'GetAttributes',
  'GetAttributeList',
  'Recover',
  'Revoke',
  'Destroy',
])

/** Throws Object Archived. */
export function checkArchived(operation: string, archiveDate: number | null): void {
  if (archiveDate !== null && !openToArchived.has(operation))
    throw kmipFailure('ObjectArchived', 'the key is archived; recover it first')
}

/** What may be done with a key that is destroyed: its attributes stay, and it may still be said to be compromised. */
export const openToDestroyed: ReadonlySet<string> = new Set(['GetAttributes', 'GetAttributeList', 'Revoke'])
