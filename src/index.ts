/** The public API of vmseal, and nothing else. */
export { VmsealError, errorCodes, isVmsealError } from './errors.js'
export type { CryptoKeyId, ErrorCode, ErrorDetails, Fault } from './errors.js'
export { HostAgent } from './agent/host-agent.js'
export type { HostAgentEvents, HostAgentOptions, JoinTokenInfo } from './agent/host-agent.js'
export { Host } from './host/host.js'
export type { HostOptions } from './host/host-options.js'
export type { GuestState } from './host/guest-state.js'
export { Kms } from './kms/kms.js'
export type { KmsCredentials, KmsEndpoint, KmsOperation, KmsOptions } from './kms/kms.js'
export type { KmsClient } from './kms/clients.js'
export type {
  AttachDisk,
  CloneSpec,
  CreateSpec,
  CryptoSpec,
  DiskConfig,
  DiskDescription,
  DiskConversion,
  HostApi,
  HostCapability,
  HostCryptoState,
  HostIdentity,
  HostKeyChange,
  IncomingMigration,
  IncomingMigrationSpec,
  KeysInFiles,
  MigrateEncryption,
  MigrationPiece,
  NewDisk,
  OutgoingMigrationSpec,
  ReconfigureSpec,
  SealedKey,
  SealedMigrationKey,
  SnapshotConfig,
  SnapshotSpec,
  VmConfig,
  VmReference,
  Work,
  WorkProgress,
} from './rpc/host-api.js'
export type { TurnedAway } from './rpc/https-listener.js'
export type { HostAddress } from './rpc/wire.js'
export { VCenter } from './vcenter/vcenter.js'
export type { VCenterEvents, VCenterOptions, VCenterSession } from './vcenter/vcenter.js'
export type {
  Authorization,
  Permission,
  Permissions,
  Role,
  Roles,
  Users,
} from './vcenter/authorization/authorization.js'
export type { InventoryObject } from './vcenter/authorization/inventory-objects.js'
export type { Privilege } from './vcenter/authorization/privileges.js'
export type { Alarm, AlarmEvent, AlarmName, Alarms } from './vcenter/alarms.js'
export type { Cluster, Clusters } from './vcenter/clusters.js'
export type {
  ClusterCryptoMode,
  ClusterCryptoModeInfo,
  CryptoModeChange,
  CryptoModePolicy,
  HostCryptoOutcome,
} from './vcenter/cluster-crypto-mode.js'
export type { ComplianceStatus, PartCompliance, VmCompliance } from './vcenter/compliance.js'
export type { DesiredState, PlannedChange } from './vcenter/desired-state.js'
export type { AttachDiskSpec } from './vcenter/disk-attachment.js'
export type { HostSync } from './vcenter/host-sync.js'
export type { KeyFailure, MissingKey } from './vcenter/missing-keys.js'
export type { RebuildOptions, RebuildReport, RebuiltVm } from './vcenter/rebuild.js'
export type { EventLog, VCenterEvent, VCenterEventDetails, VCenterEventId } from './vcenter/events.js'
export type { HostInfo, Hosts } from './vcenter/hosts.js'
export type { JoiningHost } from './vcenter/network-hosts.js'
export type { KeyProviderInfo, KeyProviders } from './vcenter/key-providers.js'
export type { KeyRotation, Rotation, RotationSpec } from './vcenter/key-rotation.js'
export type { KeyProviderCredentials, KeyProviderSpec } from './vcenter/key-provider/spec.js'
export type { CertificateInfo } from './vcenter/key-provider/certificate-info.js'
export type { ClientCertificates } from './vcenter/key-provider/client-certificates.js'
export type { DoctorHop, HopReport, ServerDiagnosis } from './vcenter/key-provider/doctor.js'
export type { KeyUsage, PartUsage } from './vcenter/key-provider/key-usage.js'
export type {
  KeyStateReason,
  KeyStatus,
  KeyUse,
  ProviderKeys,
  RemovedKey,
  UnusedKey,
} from './vcenter/key-provider/provider-keys.js'
export type { FetchedCertificate, ServerTrust } from './vcenter/key-provider/server-trust.js'
export type { KeyProviderStatus, KmsServerStatus, StatusColour } from './vcenter/key-provider/status.js'
export type { AppliedState, ApplyStateOptions } from './vcenter/state-application.js'
export type { StoragePolicies, StoragePolicy } from './vcenter/storage-policies.js'
export type { Task, TaskEvents, TaskProgress, TaskStep } from './vcenter/task.js'
export type { TaskUpdate } from './vcenter/task-updates.js'
export type { Tasks } from './vcenter/tasks.js'
export type { KeyName } from './vcenter/task-keys.js'
export type { AddDiskSpec, VirtualMachine } from './vcenter/virtual-machine.js'
export type {
  CreateVirtualMachineSpec,
  ImportVirtualMachineSpec,
  RegisterVirtualMachineSpec,
  RestoreVirtualMachineSpec,
  VirtualMachines,
} from './vcenter/virtual-machines.js'
export type { VirtualMachineQuery, VirtualMachineSummary } from './vcenter/vm-search.js'
export type { VirtualMachineDisk, VirtualMachineInfo } from './vcenter/vm-inventory.js'
export type { ApplyPolicyOptions, PolicyWish } from './vcenter/vm-reconfiguration.js'
export type { ConversionOptions } from './vcenter/vm-conversion.js'
export type { RekeyOptions, RekeyOutcome, RekeyResult } from './vcenter/provider-rekey.js'
export type { CloneOptions } from './vcenter/vm-cloning.js'
export type { LiveMigrateOptions } from './vcenter/vm-live-migration.js'
export type { MigrateOptions } from './vcenter/vm-migration.js'
export type { RelocateOptions } from './vcenter/vm-relocation.js'
export type { ExportOptions, ExportedVirtualMachine } from './vcenter/vm-export.js'
export type { RestorePlan } from './vcenter/vm-restoration.js'
export type { RecryptOptions } from './vcenter/vm-recrypt.js'
export type { CreateSnapshotOptions, RemoveSnapshotOptions } from './vcenter/vm-snapshots.js'
export type { HostOption } from './vcenter/vm-tasks.js'
export type {
  AlarmEntity,
  AlarmKind,
  AlarmStatus,
  EventHead,
  EventVerification,
  KeyHop,
  KmsServerAddress,
  UserRecord,
  TaskRecord,
  TaskState,
} from './store/store.js'
