/** What a user may be allowed to do. Ids are vSphere's where it has one. */

/** All privileges, with what each is for. */
const privileges = {
  'System.View': 'see that an object exists',
  'System.Read': 'see the state of an object',
  'Alarm.Acknowledge': 'say that one sees to an alarm',
  'Alarm.SetStatus': 'clear an alarm',
  'Authorization.ModifyPermissions': 'give and take roles on an object',
  'Authorization.ModifyRoles': 'make, change and remove roles',
  'Authorization.ModifyUsers': 'make and remove users',
  'Cryptographer.Access': 'read an encrypted disk as a guest does, export an encrypted VM',
  'Cryptographer.AddDisk': 'attach an existing encrypted disk',
  'Cryptographer.Clone': 'clone an encrypted VM',
  'Cryptographer.Decrypt': 'decrypt VM home or a disk',
  'Cryptographer.Encrypt': 'encrypt VM home or a disk of an existing VM',
  'Cryptographer.EncryptNew': 'make an encrypted VM or disk',
  'Cryptographer.ManageEncryptionPolicy': 'make and change storage policies that encrypt',
  'Cryptographer.ManageKeyServers': 'register key providers, their servers, trust and default',
  'Cryptographer.ManageKeys': 'make, list, query and remove keys',
  'Cryptographer.Migrate': 'move an encrypted VM to another host or datastore',
  'Cryptographer.ReadKeyServersInfo': 'see the key providers',
  'Cryptographer.Recrypt': 'give an encrypted VM new keys',
  'Cryptographer.RegisterHost': 'let a host hold keys: host encryption mode, host key, hosts that join',
  'Cryptographer.RegisterVM': 'register an encrypted VM with its keys, unlock a VM',
  'Datastore.AllocateSpace': 'use space of a datastore',
  'Global.CancelTask': 'cancel a task of somebody else',
  'Global.Diagnostics': 'read events and verify the event log',
  'Host.Config.Connection': 'connect and reconnect a host',
  'Host.Inventory.AddHostToCluster': 'add a host to a cluster',
  'Host.Inventory.CreateCluster': 'make a cluster',
  'Host.Inventory.DeleteCluster': 'remove a cluster that is empty',
  'Host.Inventory.EditCluster': 'change the settings of a cluster',
  'Host.Inventory.RemoveHostFromCluster': 'take a host out of a cluster',
  'Host.Inventory.RenameCluster': 'give a cluster another name',
  'Resource.AssignVMToPool': 'run VMs on the hosts of a cluster',
  'Resource.ColdMigrate': 'move a VM that is off',
  'Resource.HotMigrate': 'move a VM that runs',
  'StorageProfile.Apply': 'give a VM home or disk a storage policy',
  'StorageProfile.Update': 'make and change storage policies',
  'StorageProfile.View': 'see storage policies',
  'VirtualMachine.Config.AddExistingDisk': 'attach an existing disk',
  'VirtualMachine.Config.AddNewDisk': 'add a new disk',
  'VirtualMachine.Config.RemoveDisk': 'detach a disk',
  'VirtualMachine.Config.Settings': 'change a VM',
  'VirtualMachine.Interact.PowerOff': 'power a VM off',
  'VirtualMachine.Interact.PowerOn': 'power a VM on',
  'VirtualMachine.Inventory.Create': 'make a VM',
  'VirtualMachine.Inventory.CreateFromExisting': 'make a VM from another one',
  'VirtualMachine.Inventory.Delete': 'destroy a VM with its files',
  'VirtualMachine.Inventory.Register': 'register a VM that lies on a datastore',
  'VirtualMachine.Inventory.Unregister': 'take a VM out of the inventory',
  'VirtualMachine.Provisioning.Clone': 'clone a VM',
  'VirtualMachine.Provisioning.DiskRandomAccess': 'write to a disk of a VM',
  'VirtualMachine.Provisioning.DiskRandomRead': 'read a disk of a VM',
  'VirtualMachine.Provisioning.GetVmFiles': 'export the files of a VM',
  'VirtualMachine.Provisioning.PutVmFiles': 'restore the files of a VM',
  'VirtualMachine.State.CreateSnapshot': 'take a snapshot',
  'VirtualMachine.State.RemoveSnapshot': 'remove a snapshot',
  'VirtualMachine.State.RevertToSnapshot': 'go back to a snapshot',
} as const

export type Privilege = keyof typeof privileges

export const allPrivileges = Object.keys(privileges) as readonly Privilege[]

export function isPrivilege(value: unknown): value is Privilege {
  return typeof value === 'string' && Object.hasOwn(privileges, value)
}

/** A role that is always there and never changes. */
export interface BuiltInRole {
  readonly name: string
  readonly privileges: readonly Privilege[]
}

/** What leads to keys without being called so: a host of one's own is given them, diagnostics tell about them. */
const closeToKeys: ReadonlySet<Privilege> = new Set(['Global.Diagnostics', 'Host.Inventory.AddHostToCluster'])

const administratorRole = 'Administrator'

export const builtInRoles: readonly BuiltInRole[] = [
  { name: administratorRole, privileges: allPrivileges },
  {
    name: 'No cryptography administrator',
    privileges: allPrivileges.filter((id) => !id.startsWith('Cryptographer.') && !closeToKeys.has(id)),
  },
  { name: 'Read-only', privileges: ['System.View', 'System.Read'] },
  { name: 'No access', privileges: [] },
]
