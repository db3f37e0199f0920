/** A search of the inventory in SQLite: one statement, and as much of it by index as the question allows. */
import type { Parameters, SqliteDatabase } from './sqlite-database.js'
import type { VmQuery, VmSummaryRecord } from './store.js'

export function searchVms(database: SqliteDatabase, query: VmQuery): VmSummaryRecord[] {
  const conditions: string[] = []
  const parameters: Record<string, string | number> = {}
  const add = (condition: string, values: Readonly<Record<string, string | number>>): void => {
    conditions.push(condition)
    Object.assign(parameters, values)
  }
  const { name, clusterId, hostId, datastore, policyId, key, encrypted, cryptoState, powerState, after } =
    query
  // LIKE would read % and _ of a name as wildcards.
  if (name !== undefined) add(`instr(lower(vm.name), lower(@name)) > 0`, { name })
  if (clusterId !== undefined) add(`vm.cluster_id = @clusterId`, { clusterId })
  if (hostId !== undefined) add(`vm.host_id = @hostId`, { hostId })
  if (datastore !== undefined) add(`vm.datastore = @datastore`, { datastore })
  if (cryptoState !== undefined) add(`vm.crypto_state = @cryptoState`, { cryptoState })
  if (powerState !== undefined) add(`vm.power_state = @powerState`, { powerState })
  if (encrypted !== undefined) add(`(vm.key_id IS NOT NULL) = @encrypted`, { encrypted: Number(encrypted) })
  if (policyId !== undefined)
    add(
      `vm.id IN (SELECT id FROM vm WHERE home_policy_id = @policyId
         UNION SELECT vm_id FROM disk WHERE policy_id = @policyId)`,
      { policyId },
    )
  if (key !== undefined) {
    const ofKey = `provider_id = @keyProviderId${key.keyId === undefined ? '' : ` AND key_id = @keyId`}`
    add(
      `vm.id IN (SELECT id FROM vm WHERE ${ofKey} UNION SELECT vm_id FROM disk WHERE ${ofKey}
         UNION SELECT vm_id FROM former_key WHERE ${ofKey})`,
      { keyProviderId: key.providerId, ...(key.keyId === undefined ? {} : { keyId: key.keyId }) },
    )
  }
  if (after !== undefined) add(`vm.name > @after`, { after })
  const where = conditions.length > 0 ? `WHERE ${conditions.join(' AND ')}` : ''
  const limit = query.limit === undefined ? '' : `LIMIT @limit`
  const all: Parameters = { ...parameters, ...(query.limit === undefined ? {} : { limit: query.limit }) }
  // A row as one text: the driver makes an object of every column, which takes most of the time of a long list.
  return database
    .all<{ readonly row: string }>(
      `SELECT json_array(vm.id, vm.name, vm.cluster_id, vm.host_id, vm.datastore, vm.crypto_state, vm.power_state,
         vm.home_policy_id, vm.provider_id, vm.key_id,
         (SELECT json_array(count(*), count(disk.key_id)) FROM disk WHERE disk.vm_id = vm.id)) AS row
       FROM vm ${where} ORDER BY vm.name ${limit}`,
      all,
    )
    .map(({ row }) => summaryOf(JSON.parse(row) as SummaryRow))
}

type SummaryRow = [
  id: string,
  name: string,
  clusterId: string,
  hostId: string | null,
  datastore: string,
  cryptoState: VmSummaryRecord['cryptoState'],
  powerState: VmSummaryRecord['powerState'],
  homePolicyId: string,
  providerId: string | null,
  keyId: string | null,
  disks: [all: number, encrypted: number],
]

function summaryOf([
  id,
  name,
  clusterId,
  hostId,
  datastore,
  cryptoState,
  powerState,
  homePolicyId,
  providerId,
  keyId,
  [disks, encryptedDisks],
]: SummaryRow): VmSummaryRecord {
  const homeKey = providerId === null || keyId === null ? null : { providerId, keyId }
  return {
    id,
    name,
    clusterId,
    hostId,
    datastore,
    cryptoState,
    powerState,
    homePolicyId,
    homeKey,
    disks,
    encryptedDisks,
  }
}
