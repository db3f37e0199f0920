/** What the operations of a vCenter are built from. Made once, in vcenter.ts. */
import type { Store } from '../store/store.js'
import type { Access } from './authorization/access.js'
import type { EventLog } from './events.js'
import type { HostConnections } from './host-connections.js'
import type { HostEncryption } from './host-encryption.js'
import type { InterruptedConversions } from './interrupted-conversions.js'
import type { KeyDistribution } from './key-distribution.js'
import type { KeyRestoration } from './key-restoration.js'
import type { KeyProviders } from './key-providers.js'
import type { NetworkHosts } from './network-hosts.js'
import type { StoragePolicies } from './storage-policies.js'
import type { Tasks } from './tasks.js'
import type { VmIntents } from './vm-intents.js'
import type { VmInventory } from './vm-inventory.js'

export interface Services {
  readonly networkHosts: NetworkHosts
  readonly store: Store
  readonly clock: () => Date
  readonly events: EventLog
  readonly access: Access
  readonly tasks: Tasks
  readonly keyProviders: KeyProviders
  readonly storagePolicies: StoragePolicies
  readonly connections: HostConnections
  readonly distribution: KeyDistribution
  readonly hostEncryption: HostEncryption
  readonly restoration: KeyRestoration
  readonly intents: VmIntents
  readonly inventory: VmInventory
  readonly conversions: InterruptedConversions
}
