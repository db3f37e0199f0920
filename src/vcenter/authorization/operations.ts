/**
 * The one table of what a user needs for each public operation. It has a row for every method of every class that a
 * user's view of a vCenter leads to; `Rules` does not compile without one.
 */
import type { EventEmitter } from 'node:events'
import type { InventoryEntity, Store } from '../../store/store.js'
import type { Alarms } from '../alarms.js'
import type { Cluster, Clusters } from '../clusters.js'
import type { EventLog } from '../events.js'
import type { Hosts } from '../hosts.js'
import type { KeyProviders } from '../key-providers.js'
import type { KeyRotation } from '../key-rotation.js'
import type { ClientCertificates } from '../key-provider/client-certificates.js'
import type { ProviderKeys } from '../key-provider/provider-keys.js'
import type { ServerTrust } from '../key-provider/server-trust.js'
import type { StoragePolicies } from '../storage-policies.js'
import type { Tasks } from '../tasks.js'
import type { VCenter } from '../vcenter.js'
import type { VirtualMachine } from '../virtual-machine.js'
import type { VirtualMachines } from '../virtual-machines.js'
import type { VirtualMachineSummary } from '../vm-search.js'
import type { Permissions, Roles, Users } from './authorization.js'
import { clusterEntity, resolveObject, rootEntity } from './inventory-objects.js'
import type { InventoryObject } from './inventory-objects.js'
import type { Privilege } from './privileges.js'
import { call, internal, stream, task, type Need, type Rules } from './rules.js'

type ClusterName = string | { readonly id: string }

/** The privilege on the root: what belongs to the whole vCenter. */
const atRoot = (...ids: Privilege[]): Need[] => ids.map((privilege) => ({ privilege, on: () => rootEntity }))

const onThis =
  (type: 'vm' | 'cluster') =>
  (...ids: Privilege[]): Need[] =>
    ids.map((privilege) => ({
      privilege,
      on: (_: Store, { id }: { readonly id: string }) => ({ type, id }),
    }))
const onVm = onThis('vm')
const onCluster = onThis('cluster')

/** On the cluster that a specification names. */
const inCluster = (...ids: Privilege[]): Need[] =>
  ids.map((privilege) => ({
    privilege,
    on: (store: Store, _: object, { cluster }: { readonly cluster: ClusterName }) =>
      clusterEntity(store, cluster),
  }))
const onDatastore = (...ids: Privilege[]): Need[] =>
  ids.map((privilege) => ({
    privilege,
    on: (_: Store, __: object, { datastore }: { readonly datastore: string }) => ({
      type: 'datastore' as const,
      id: datastore,
    }),
  }))
const onNamed = (kind: 'cluster' | 'host' | 'virtualMachine', ...ids: Privilege[]): Need[] =>
  ids.map((privilege) => ({
    privilege,
    on: (store: Store, _: object, name: string) =>
      resolveObject(store, { [kind]: name } as unknown as InventoryObject),
  }))
const onSpecified = (...ids: Privilege[]): Need[] =>
  ids.map((privilege) => ({
    privilege,
    on: (store: Store, _: object, { on }: { readonly on: InventoryObject }) => resolveObject(store, on),
  }))

export const virtualMachineRules: Rules<VirtualMachine> = {
  info: call(onVm('System.Read')),
  applyPolicy: task(onVm('StorageProfile.Apply'), [
    'Cryptographer.Encrypt',
    'Cryptographer.Decrypt',
    'Cryptographer.RegisterHost',
  ]),
  compliance: call(onVm('System.Read')),
  apply: task(onVm('StorageProfile.Apply'), [
    'Cryptographer.Encrypt',
    'Cryptographer.Decrypt',
    'Cryptographer.Recrypt',
    'Cryptographer.RegisterHost',
  ]),
  recrypt: task(onVm('Cryptographer.Recrypt')),
  // What was begun is gone on with: the privilege of what it is.
  resumeConversion: task(onVm('System.Read'), [
    'Cryptographer.Encrypt',
    'Cryptographer.Decrypt',
    'Cryptographer.Recrypt',
  ]),
  addDisk: task(onVm('VirtualMachine.Config.AddNewDisk'), [
    'Cryptographer.EncryptNew',
    'Cryptographer.RegisterHost',
  ]),
  attachDisk: task(onVm('VirtualMachine.Config.AddExistingDisk'), [
    'Cryptographer.AddDisk',
    'Cryptographer.RegisterVM',
  ]),
  // The key is on the host: no crypto privilege.
  powerOn: call(onVm('VirtualMachine.Interact.PowerOn')),
  powerOff: call(onVm('VirtualMachine.Interact.PowerOff')),
  unlock: call(onVm('Cryptographer.RegisterVM')),
  reload: call(onVm('System.Read')),
  detachDisk: call(onVm('VirtualMachine.Config.RemoveDisk')),
  digest: call(onVm('VirtualMachine.Provisioning.DiskRandomRead'), ['Cryptographer.Access']),
  readDisk: call(onVm('VirtualMachine.Provisioning.DiskRandomRead'), ['Cryptographer.Access']),
  writeDisk: call(onVm('VirtualMachine.Provisioning.DiskRandomAccess'), ['Cryptographer.Access']),
  snapshots: call(onVm('System.Read')),
  // A child is made under the KEK of its disk: no crypto privilege, as in vSphere.
  createSnapshot: task(onVm('VirtualMachine.State.CreateSnapshot')),
  revertToSnapshot: task(onVm('VirtualMachine.State.RevertToSnapshot')),
  removeSnapshot: task(onVm('VirtualMachine.State.RemoveSnapshot')),
  removeAllSnapshots: task(onVm('VirtualMachine.State.RemoveSnapshot')),
  consolidateDisks: task(onVm('VirtualMachine.State.RemoveSnapshot')),
  migrate: task(onVm('Resource.ColdMigrate'), ['Cryptographer.Migrate', 'Cryptographer.RegisterHost']),
  liveMigrate: task(onVm('Resource.HotMigrate'), ['Cryptographer.Migrate', 'Cryptographer.RegisterHost']),
  setMigrateEncryption: call(onVm('VirtualMachine.Config.Settings')),
  relocate: task(onVm('Resource.ColdMigrate'), ['Datastore.AllocateSpace', 'Cryptographer.Migrate']),
  export: task(onVm('VirtualMachine.Provisioning.GetVmFiles'), [
    'Cryptographer.Access',
    'Cryptographer.RegisterHost',
  ]),
  clone: task(onVm('VirtualMachine.Provisioning.Clone'), [
    'VirtualMachine.Inventory.CreateFromExisting',
    'Datastore.AllocateSpace',
    'Cryptographer.Clone',
    'Cryptographer.Encrypt',
    'Cryptographer.Decrypt',
    'Cryptographer.Recrypt',
    'Cryptographer.RegisterHost',
  ]),
  unregister: call(onVm('VirtualMachine.Inventory.Unregister')),
  destroy: call(onVm('VirtualMachine.Inventory.Delete')),
}

/** What a vCenter does itself; the rest of it is reached through its rooms. */
export const vcenterRules: Rules<Omit<VCenter, keyof EventEmitter>> = {
  rekey: task(atRoot('Cryptographer.Recrypt', 'Cryptographer.ManageKeyServers')),
  // After a disaster there are no users: it is for whoever holds the directory.
  rebuild: internal,
  as: internal,
  close: internal,
}

export const virtualMachinesRules: Rules<VirtualMachines> = {
  create: call(
    [...inCluster('VirtualMachine.Inventory.Create'), ...onDatastore('Datastore.AllocateSpace')],
    ['Cryptographer.EncryptNew', 'Cryptographer.RegisterHost'],
  ),
  // An image is a file of the host, so who imports reads it.
  import: call(
    [
      ...inCluster('VirtualMachine.Inventory.Create', 'VirtualMachine.Provisioning.PutVmFiles'),
      ...onDatastore('Datastore.AllocateSpace'),
    ],
    ['Cryptographer.EncryptNew', 'Cryptographer.RegisterHost'],
  ),
  // The export is a folder of the host, as the images of import are.
  restore: call(
    [
      ...inCluster('VirtualMachine.Inventory.Create', 'VirtualMachine.Provisioning.PutVmFiles'),
      ...onDatastore('Datastore.AllocateSpace'),
    ],
    ['Cryptographer.RegisterVM', 'Cryptographer.EncryptNew', 'Cryptographer.RegisterHost'],
  ),
  // Without Cryptographer.RegisterVM an encrypted VM is registered and stays locked.
  register: call(inCluster('VirtualMachine.Inventory.Register'), ['Cryptographer.RegisterVM']),
  list: {
    ...call(),
    entry: ({ id, clusterId }: VirtualMachine) => ({ entity: { type: 'vm', id }, clusterId }),
  },
  search: {
    ...call(),
    entry: ({ id, clusterId }: VirtualMachineSummary) => ({ entity: { type: 'vm', id }, clusterId }),
  },
  get: call(onNamed('virtualMachine', 'System.Read')),
}

export const clustersRules: Rules<Clusters> = {
  create: call(atRoot('Host.Inventory.CreateCluster')),
  list: { ...call(), entry: ({ id }: Cluster) => ({ entity: { type: 'cluster', id } }) },
  get: call(onNamed('cluster', 'System.Read')),
  rename: call(onNamed('cluster', 'Host.Inventory.RenameCluster')),
  remove: call(onNamed('cluster', 'Host.Inventory.DeleteCluster')),
}

const hostEntry = ({ id, clusterId }: { readonly id: string; readonly clusterId: string }) => ({
  entity: { type: 'host', id } as InventoryEntity,
  clusterId,
})

export const clusterRules: Rules<Cluster> = {
  addHost: call(onCluster('Host.Inventory.AddHostToCluster'), ['Cryptographer.RegisterHost']),
  hosts: { ...call(onCluster('System.Read')), entry: hostEntry },
  cryptoMode: call(onCluster('System.Read')),
  setCryptoMode: call(onCluster('Cryptographer.RegisterHost')),
  removeHost: call(onCluster('Host.Inventory.RemoveHostFromCluster')),
}

export const hostsRules: Rules<Hosts> = {
  list: { ...call(), entry: hostEntry },
  get: call(onNamed('host', 'System.Read')),
  // The host is not known by name yet: it says itself who it is.
  connect: call(atRoot('Host.Config.Connection')),
  reconnect: call(onNamed('host', 'Host.Config.Connection')),
  renewCertificate: call(onNamed('host', 'Host.Config.Connection')),
  configureCryptoKey: call(onNamed('host', 'Cryptographer.RegisterHost')),
  changeHostKey: call(onNamed('host', 'Cryptographer.RegisterHost')),
  disableEncryption: call(onNamed('host', 'Cryptographer.RegisterHost')),
}

export const storagePoliciesRules: Rules<StoragePolicies> = {
  create: call(atRoot('StorageProfile.Update'), ['Cryptographer.ManageEncryptionPolicy']),
  clone: call(atRoot('StorageProfile.View', 'StorageProfile.Update'), [
    'Cryptographer.ManageEncryptionPolicy',
  ]),
  update: call(atRoot('StorageProfile.Update'), ['Cryptographer.ManageEncryptionPolicy']),
  remove: call(atRoot('StorageProfile.Update'), ['Cryptographer.ManageEncryptionPolicy']),
  list: call(atRoot('StorageProfile.View')),
  get: call(atRoot('StorageProfile.View')),
}

const readProviders = call(atRoot('Cryptographer.ReadKeyServersInfo'))
const manageProviders = call(atRoot('Cryptographer.ManageKeyServers'))

export const keyProvidersRules: Rules<KeyProviders> = {
  add: manageProviders,
  list: readProviders,
  get: readProviders,
  addServer: manageProviders,
  removeServer: manageProviders,
  setServers: manageProviders,
  setAuthority: manageProviders,
  setLogin: manageProviders,
  getDefault: readProviders,
  setDefault: manageProviders,
  remove: manageProviders,
  status: manageProviders,
  doctor: manageProviders,
  open: internal,
  requireDefault: internal,
  close: internal,
}

const rotateKeys = call(atRoot('Cryptographer.Recrypt', 'Cryptographer.ManageKeyServers'))

export const keyRotationRules: Rules<KeyRotation> = {
  list: readProviders,
  set: rotateKeys,
  clear: rotateKeys,
  lookNow: internal,
  close: internal,
}

export const clientCertificatesRules: Rules<ClientCertificates> = {
  get: readProviders,
  getPending: manageProviders,
  generateSelfSigned: manageProviders,
  useSelfSigned: manageProviders,
  generateRequest: manageProviders,
  installSigned: manageProviders,
  upload: manageProviders,
  authority: manageProviders,
  useIssued: manageProviders,
}

export const serverTrustRules: Rules<ServerTrust> = {
  fetch: manageProviders,
  trust: manageProviders,
  distrust: manageProviders,
  list: readProviders,
}

const manageKeys = call(atRoot('Cryptographer.ManageKeys'))

export const providerKeysRules: Rules<ProviderKeys> = {
  list: manageKeys,
  create: manageKeys,
  query: manageKeys,
  usage: manageKeys,
  remove: manageKeys,
  unused: manageKeys,
  destroyUnused: manageKeys,
}

export const tasksRules: Rules<Tasks> = {
  list: call(atRoot('System.Read')),
  subscribe: stream(atRoot('System.Read')),
  // One's own task needs nothing.
  cancel: call([], ['Global.CancelTask']),
  start: internal,
  stop: internal,
  failInterrupted: internal,
  isWorkingOn: internal,
}

export const eventLogRules: Rules<EventLog> = {
  list: call(atRoot('Global.Diagnostics')),
  subscribe: stream(atRoot('Global.Diagnostics')),
  head: call(atRoot('Global.Diagnostics')),
  verify: call(atRoot('Global.Diagnostics')),
  append: internal,
  close: internal,
}

export const alarmsRules: Rules<Alarms> = {
  list: call(atRoot('System.Read')),
  subscribe: stream(atRoot('System.Read')),
  acknowledge: call(atRoot('Alarm.Acknowledge')),
  clear: call(atRoot('Alarm.SetStatus')),
  consider: internal,
  catchUp: internal,
  settle: internal,
}

export const usersRules: Rules<Users> = {
  create: call(atRoot('Authorization.ModifyUsers')),
  list: call(atRoot('System.Read')),
  remove: call(atRoot('Authorization.ModifyUsers')),
}

export const rolesRules: Rules<Roles> = {
  privileges: call(),
  list: call(atRoot('System.Read')),
  get: call(atRoot('System.Read')),
  create: call(atRoot('Authorization.ModifyRoles')),
  update: call(atRoot('Authorization.ModifyRoles')),
  remove: call(atRoot('Authorization.ModifyRoles')),
}

export const permissionsRules: Rules<Permissions> = {
  set: call(onSpecified('Authorization.ModifyPermissions')),
  remove: call(onSpecified('Authorization.ModifyPermissions')),
  list: call(atRoot('Authorization.ModifyPermissions')),
  effective: call(onSpecified('Authorization.ModifyPermissions')),
  own: call(),
}
