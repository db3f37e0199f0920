/** The rules by class, as the guard looks them up. */
import { Alarms } from '../alarms.js'
import { Cluster, Clusters } from '../clusters.js'
import { EventLog } from '../events.js'
import { Hosts } from '../hosts.js'
import { KeyProviders } from '../key-providers.js'
import { KeyRotation } from '../key-rotation.js'
import { ClientCertificates } from '../key-provider/client-certificates.js'
import { ProviderKeys } from '../key-provider/provider-keys.js'
import { ServerTrust } from '../key-provider/server-trust.js'
import { StoragePolicies } from '../storage-policies.js'
import { Tasks } from '../tasks.js'
import { VirtualMachine } from '../virtual-machine.js'
import { VirtualMachines } from '../virtual-machines.js'
import { Authorization, Permissions, Roles, Users } from './authorization.js'
import * as operations from './operations.js'
import type { Rule } from './rules.js'

type ClassOfOperations = abstract new (...values: never[]) => object

/** Each row's types were checked where it stands; from here on they are looked up by name. */
const rules = <Row>(type: ClassOfOperations, rows: Row) =>
  [type.prototype as object, { name: type.name, rows: rows as Readonly<Record<string, Rule>> }] as const

export const operationTable: ReadonlyMap<
  object,
  { readonly name: string; readonly rows: Readonly<Record<string, Rule>> }
> = new Map([
  rules(VirtualMachine, operations.virtualMachineRules),
  rules(VirtualMachines, operations.virtualMachinesRules),
  rules(Cluster, operations.clusterRules),
  rules(Clusters, operations.clustersRules),
  rules(Hosts, operations.hostsRules),
  rules(StoragePolicies, operations.storagePoliciesRules),
  rules(KeyProviders, operations.keyProvidersRules),
  rules(KeyRotation, operations.keyRotationRules),
  rules(ClientCertificates, operations.clientCertificatesRules),
  rules(ServerTrust, operations.serverTrustRules),
  rules(ProviderKeys, operations.providerKeysRules),
  rules(Tasks, operations.tasksRules),
  rules(EventLog, operations.eventLogRules),
  rules(Alarms, operations.alarmsRules),
  rules(Authorization, {}),
  rules(Users, operations.usersRules),
  rules(Roles, operations.rolesRules),
  rules(Permissions, operations.permissionsRules),
])

export function rulesOf(target: object): Readonly<Record<string, Rule>> | undefined {
  return operationTable.get(Object.getPrototypeOf(target) as object)?.rows
}

export function ruleOf(target: object, name: string | symbol): Rule | undefined {
  const rows = rulesOf(target)
  return typeof name === 'string' && rows && Object.hasOwn(rows, name) ? rows[name] : undefined
}
