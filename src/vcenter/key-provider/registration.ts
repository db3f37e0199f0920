/** The registration of a key provider, as its parts see it. */
import type { KeyProviderRecord } from '../../store/store.js'

/** What a provider's parts need to change its registration. */
export interface ProviderRegistration {
  /** VMSEAL_NOT_FOUND. */
  record(id: string): Promise<KeyProviderRecord>
  /** Runs a change when those of this provider before it have ended. */
  inTurn<Result>(id: string, change: () => Promise<Result>): Promise<Result>
  /** Stores the record; connections of the old one are closed. */
  replace(record: KeyProviderRecord): Promise<void>
  /** Connections are made anew: whom the provider trusts has changed. */
  reopen(id: string): Promise<void>
}
