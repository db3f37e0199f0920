/** Every verb, in the order of the help. A new one is a file, and a line here. */
import type { Command } from 'commander'
import { alarmAcknowledge, alarmClear, alarmFollow, alarmList } from './alarm/alarms.js'
import {
  permissionList,
  permissionRemove,
  permissionSet,
  permissionShow,
} from './authorization/permissions.js'
import {
  roleCreate,
  roleList,
  rolePrivileges,
  roleRemove,
  roleShow,
  roleUpdate,
} from './authorization/roles.js'
import { userCreate, userList, userRemove } from './authorization/users.js'
import {
  clusterCreate,
  clusterList,
  clusterRemove,
  clusterRename,
  clusterSetCryptoMode,
} from './cluster/clusters.js'
import { eventFollow, eventHead, eventList, eventVerify } from './event/events.js'
import { hostDisableEncryption, hostEnableEncryption, hostSetKey } from './host/encryption.js'
import { hostList } from './host/list.js'
import { hostAdd, hostReconnect, hostRemove, hostRenewCertificate } from './host/membership.js'
import { keyCreate, keyDestroy, keyRemove, keyUnused } from './key/change.js'
import { keyList, keyShow, providerKeys } from './key/list.js'
import { policyClone, policyCreate, policyList, policyRemove, policyUpdate } from './policy/policies.js'
import * as certificate from './provider/certificate.js'
import { providerDoctor } from './provider/doctor.js'
import * as registry from './provider/registry.js'
import { providerClearRotation, providerRotations, providerSetRotation } from './provider/rotation.js'
import { providerDistrust, providerStatus, providerTrust } from './provider/trust.js'
import { rekey } from './rekey.js'
import { taskCancel, taskFollow, taskList } from './task/tasks.js'
import { addVerb } from './verb/command.js'
import type { Verb } from './verb/verb.js'
import { vmApply } from './vm/apply.js'
import { vmClone } from './vm/clone.js'
import { vmCompliance } from './vm/compliance.js'
import { vmResumeConversion } from './vm/conversion-options.js'
import { vmCreate, vmImport } from './vm/create.js'
import { vmDiskDigest, vmDiskRead, vmDiskWrite } from './vm/disk-data.js'
import { vmAddDisk, vmAttachDisk, vmDetachDisk } from './vm/disks.js'
import { vmDecrypt, vmDecryptDisk, vmEncrypt, vmEncryptDisk, vmSetPolicy } from './vm/encrypt.js'
import { vmDestroy, vmRegister, vmUnregister } from './vm/inventory.js'
import { vmExport, vmRestore } from './vm/export.js'
import { vmList } from './vm/list.js'
import { vmMigrate } from './vm/migrate.js'
import { vmPowerOff, vmPowerOn } from './vm/power.js'
import { vmRecrypt, vmRecryptDisk } from './vm/recrypt.js'
import { vmSet } from './vm/set.js'
import { vmRelocate } from './vm/relocate.js'
import { vmReload, vmShow, vmUnlock } from './vm/show.js'
import {
  snapshotConsolidate,
  snapshotCreate,
  snapshotList,
  snapshotRemove,
  snapshotRevert,
} from './vm/snapshots.js'

export const verbs: readonly Verb[] = [
  vmList,
  vmShow,
  vmCreate,
  vmImport,
  vmClone,
  vmEncrypt,
  vmDecrypt,
  vmEncryptDisk,
  vmDecryptDisk,
  vmSetPolicy,
  vmApply,
  vmCompliance,
  vmRecrypt,
  vmRecryptDisk,
  vmResumeConversion,
  vmPowerOn,
  vmPowerOff,
  vmMigrate,
  vmSet,
  vmRelocate,
  vmExport,
  vmRestore,
  vmUnlock,
  vmReload,
  vmAddDisk,
  vmAttachDisk,
  vmDetachDisk,
  vmDiskDigest,
  vmDiskRead,
  vmDiskWrite,
  snapshotCreate,
  snapshotList,
  snapshotRevert,
  snapshotRemove,
  snapshotConsolidate,
  vmRegister,
  vmUnregister,
  vmDestroy,
  hostList,
  hostAdd,
  hostRemove,
  hostReconnect,
  hostRenewCertificate,
  hostEnableEncryption,
  hostSetKey,
  hostDisableEncryption,
  clusterCreate,
  clusterList,
  clusterRename,
  clusterRemove,
  clusterSetCryptoMode,
  registry.providerAdd,
  registry.providerList,
  providerStatus,
  registry.providerDefault,
  providerKeys,
  providerDoctor,
  providerTrust,
  providerDistrust,
  certificate.certificateShow,
  certificate.certificateRequest,
  certificate.certificateInstall,
  certificate.certificateSelfSigned,
  certificate.certificateUse,
  certificate.certificateUpload,
  certificate.certificateAuthority,
  certificate.certificateIssue,
  registry.providerAddServer,
  registry.providerRemoveServer,
  registry.providerLogin,
  providerSetRotation,
  providerClearRotation,
  providerRotations,
  registry.providerRemove,
  keyList,
  keyShow,
  keyCreate,
  keyRemove,
  keyUnused,
  keyDestroy,
  rekey,
  policyList,
  policyCreate,
  policyClone,
  policyUpdate,
  policyRemove,
  userList,
  userCreate,
  userRemove,
  roleList,
  roleShow,
  roleCreate,
  roleUpdate,
  roleRemove,
  rolePrivileges,
  permissionList,
  permissionSet,
  permissionRemove,
  permissionShow,
  eventList,
  eventFollow,
  eventHead,
  eventVerify,
  alarmList,
  alarmAcknowledge,
  alarmClear,
  alarmFollow,
  taskList,
  taskFollow,
  taskCancel,
]

/** The groups that only verbs are in. */
const groups: Readonly<Record<string, string>> = {
  vm: 'Virtual machines: their life, their encryption, their keys.',
  disk: 'Data of the disks of a VM, as a guest reads and writes it.',
  snapshot: 'Snapshots of a VM: states that it can be brought back to.',
  cluster: 'Clusters: the hosts of one have the keys of all its VMs.',
  key: 'Keys: what uses them, and those that nothing uses. There is never more of a key here than its id.',
  policy: 'Storage policies: they say what is encrypted, never with which key.',
  user: 'Users of a vCenter.',
  role: 'Roles: sets of privileges.',
  permission: 'Permissions: who has which role on what.',
  event: 'The event log: a chain of hashes, so that nothing can be taken out of it unseen.',
  alarm: 'Alarms: what needs attention now; they open and clear with events.',
  task: 'Tasks: what is under way, and what was.',
  certificate:
    'The certificate with which vCenter shows a KMS who it is; a key that is made here never leaves.',
}

export function verbNamed(name: string): Verb | undefined {
  return verbs.find((verb) => verb.name === name)
}

/** Below the groups that the program has, or new ones. */
export function addVerbs(program: Command): void {
  for (const verb of verbs) {
    if (verb.command === 'elsewhere') continue
    const words = verb.name.split(' ')
    const last = words.pop() ?? ''
    addVerb(words.reduce(groupOf, program), last, verb)
  }
}

function groupOf(parent: Command, word: string): Command {
  const known = parent.commands.find((command) => command.name() === word)
  return known ?? parent.command(word).description(groups[word] ?? '')
}
