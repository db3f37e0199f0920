/** VMs and their disks in SQLite. */
import type { CryptoKeyId } from '../errors.js'
import type { Parameters, SqliteDatabase } from './sqlite-database.js'
import { searchVms } from './sqlite-vm-search.js'
import type { DiskRecord, KeyPart, VmQuery, VmRecord, VmSummaryRecord, VmTable } from './store.js'

export class SqliteVmTable implements VmTable {
  readonly #database: SqliteDatabase

  constructor(database: SqliteDatabase) {
    this.#database = database
  }

  async list(): Promise<VmRecord[]> {
    const disks = new Map<string, DiskRecord[]>()
    for (const row of this.#database.all<DiskRow>(
      `SELECT ${diskColumns} FROM disk ORDER BY vm_id, position`,
    )) {
      const known = disks.get(row.vmId)
      if (known) known.push(diskOf(row))
      else disks.set(row.vmId, [diskOf(row)])
    }
    const rows = this.#database.all<VmRow>(`SELECT ${vmColumns} FROM vm ORDER BY name`)
    const former = new Map<string, CryptoKeyId[]>()
    for (const { vmId, ...key } of this.#database.all<CryptoKeyId & { vmId: string }>(
      `SELECT vm_id AS vmId, provider_id AS providerId, key_id AS keyId FROM former_key ORDER BY position`,
    ))
      former.set(vmId, [...(former.get(vmId) ?? []), key])
    return rows.map((row) => vmOf(row, disks.get(row.id) ?? [], former.get(row.id) ?? []))
  }

  async listNames(): Promise<Pick<VmRecord, 'id' | 'name' | 'clusterId'>[]> {
    return this.#database.all(`SELECT id, name, cluster_id AS clusterId FROM vm ORDER BY name`)
  }

  async search(query: VmQuery): Promise<VmSummaryRecord[]> {
    return searchVms(this.#database, query)
  }

  async usedKeys(): Promise<CryptoKeyId[]> {
    return this.#database.all<CryptoKeyId>(
      `SELECT provider_id AS providerId, key_id AS keyId FROM vm WHERE key_id IS NOT NULL
       UNION SELECT provider_id, key_id FROM disk WHERE key_id IS NOT NULL
       UNION SELECT provider_id, key_id FROM former_key`,
    )
  }

  async findByName(name: string): Promise<VmRecord | undefined> {
    return this.#select(`name = @name`, { name })[0]
  }

  async findById(id: string): Promise<VmRecord | undefined> {
    return this.#select(`id = @id`, { id })[0]
  }

  async listByHost(hostId: string): Promise<VmRecord[]> {
    return this.#select(`host_id = @hostId`, { hostId })
  }

  async insert(record: VmRecord): Promise<void> {
    this.#database.transaction(() => {
      this.#database.run(
        `INSERT INTO vm (id, revision, name, cluster_id, host_id, datastore, vmx, home_policy_id, provider_id, key_id,
           home_generation, crypto_state, power_state)
         VALUES (@id, @revision, @name, @clusterId, @hostId, @datastore, @vmx, @homePolicyId, @providerId, @keyId,
           @homeGeneration, @cryptoState, @powerState)`,
        vmParameters(record),
      )
      this.#insertParts(record)
    })
  }

  async update(record: VmRecord): Promise<boolean> {
    return this.#database.inGroup(() => {
      const updated = this.#database.run(
        `UPDATE vm SET revision = revision + 1, name = @name, cluster_id = @clusterId, host_id = @hostId,
           datastore = @datastore, vmx = @vmx, home_policy_id = @homePolicyId, provider_id = @providerId,
           key_id = @keyId, home_generation = @homeGeneration, crypto_state = @cryptoState, power_state = @powerState
         WHERE id = @id AND revision = @revision`,
        vmParameters(record),
      )
      if (updated === 0) return false
      // Of a disk that leaves the VM, which may come back.
      this.#database.run(
        `INSERT OR REPLACE INTO retired_generation (vm_id, part, generation)
           SELECT vm_id, id, generation FROM disk WHERE vm_id = @id AND generation IS NOT NULL
             AND id NOT IN (SELECT value FROM json_each(@disks))`,
        { id: record.id, disks: JSON.stringify(record.disks.map(({ diskId }) => diskId)) },
      )
      this.#database.run(`DELETE FROM disk WHERE vm_id = @id`, { id: record.id })
      this.#database.run(`DELETE FROM former_key WHERE vm_id = @id`, { id: record.id })
      this.#insertParts(record)
      return true
    })
  }

  async remove(id: string): Promise<void> {
    this.#database.transaction(() => {
      this.#database.run(
        `INSERT OR REPLACE INTO retired_generation (vm_id, part, generation)
           SELECT id, 'home', home_generation FROM vm WHERE id = @id AND home_generation IS NOT NULL
           UNION SELECT vm_id, id, generation FROM disk WHERE vm_id = @id AND generation IS NOT NULL`,
        { id },
      )
      this.#database.run(`DELETE FROM vm WHERE id = @id`, { id })
    })
  }

  async retiredGenerations(id: string): Promise<ReadonlyMap<string, number>> {
    const rows = this.#database.all<{ part: string; generation: number }>(
      `SELECT part, generation FROM retired_generation WHERE vm_id = @id`,
      { id },
    )
    return new Map(rows.map(({ part, generation }) => [part, generation]))
  }

  async keysOfCluster(clusterId: string): Promise<CryptoKeyId[]> {
    return this.#database.all<CryptoKeyId>(
      `SELECT provider_id AS providerId, key_id AS keyId FROM vm
         WHERE cluster_id = @clusterId AND key_id IS NOT NULL
       UNION
       SELECT disk.provider_id, disk.key_id FROM disk JOIN vm ON vm.id = disk.vm_id
         WHERE vm.cluster_id = @clusterId AND disk.key_id IS NOT NULL
       UNION
       SELECT former_key.provider_id, former_key.key_id FROM former_key JOIN vm ON vm.id = former_key.vm_id
         WHERE vm.cluster_id = @clusterId`,
      { clusterId },
    )
  }

  async partsOfKey({ providerId, keyId }: CryptoKeyId): Promise<KeyPart[]> {
    return this.#database.all<KeyPart>(
      `SELECT name AS virtualMachine, 'home' AS part FROM vm WHERE provider_id = @providerId AND key_id = @keyId
       UNION
       SELECT vm.name, disk.device FROM disk JOIN vm ON vm.id = disk.vm_id
         WHERE disk.provider_id = @providerId AND disk.key_id = @keyId
       UNION
       SELECT vm.name, 'former' FROM former_key JOIN vm ON vm.id = former_key.vm_id
         WHERE former_key.provider_id = @providerId AND former_key.key_id = @keyId
       ORDER BY 1, 2`,
      { providerId, keyId },
    )
  }

  async keysOfProvider(providerId: string): Promise<string[]> {
    return this.#database
      .all<{ keyId: string }>(
        `SELECT key_id AS keyId FROM vm WHERE provider_id = @providerId
         UNION SELECT key_id FROM disk WHERE provider_id = @providerId
         UNION SELECT key_id FROM former_key WHERE provider_id = @providerId
         UNION SELECT key_id FROM host WHERE provider_id = @providerId
         UNION SELECT crypto_key_id FROM cluster WHERE crypto_provider_id = @providerId AND crypto_key_id IS NOT NULL
         UNION SELECT json_extract(key.value, '$.keyId') FROM vm_intent, json_each(vm_intent.keys) AS key
           WHERE json_extract(key.value, '$.providerId') = @providerId`,
        { providerId },
      )
      .map((row) => row.keyId)
  }

  #select(condition: string, parameters: Parameters): VmRecord[] {
    return this.#database
      .all<VmRow>(`SELECT ${vmColumns} FROM vm WHERE ${condition} ORDER BY name`, parameters)
      .map((row) => {
        const disks = this.#database.all<DiskRow>(
          `SELECT ${diskColumns} FROM disk WHERE vm_id = @vmId ORDER BY position`,
          { vmId: row.id },
        )
        const formerKeys = this.#database.all<CryptoKeyId>(
          `SELECT provider_id AS providerId, key_id AS keyId FROM former_key WHERE vm_id = @vmId
             ORDER BY position`,
          { vmId: row.id },
        )
        return vmOf(row, disks.map(diskOf), formerKeys)
      })
  }

  #insertParts(record: VmRecord): void {
    for (const [position, { providerId, keyId }] of record.formerKeys.entries())
      this.#database.run(
        `INSERT INTO former_key (vm_id, position, provider_id, key_id)
         VALUES (@vmId, @position, @providerId, @keyId)`,
        { vmId: record.id, position, providerId, keyId },
      )
    for (const [position, disk] of record.disks.entries())
      this.#database.run(
        `INSERT INTO disk (vm_id, id, position, device, file, capacity_bytes, policy_id, provider_id, key_id,
           generation)
         VALUES (@vmId, @diskId, @position, @device, @file, @capacityBytes, @policyId, @providerId, @keyId,
           @generation)`,
        {
          vmId: record.id,
          diskId: disk.diskId,
          position,
          device: disk.device,
          file: disk.file,
          capacityBytes: disk.capacityBytes,
          policyId: disk.policyId,
          generation: disk.generation,
          ...keyParameters(disk.key),
        },
      )
  }
}

const vmColumns = `id, revision, name, cluster_id AS clusterId, host_id AS hostId, datastore, vmx,
  home_policy_id AS homePolicyId, provider_id AS providerId, key_id AS keyId, home_generation AS homeGeneration,
  crypto_state AS cryptoState,
  power_state AS powerState`

const diskColumns = `vm_id AS vmId, id AS diskId, device, file, capacity_bytes AS capacityBytes, policy_id AS policyId,
  provider_id AS providerId, key_id AS keyId, generation`

export interface KeyColumns {
  readonly providerId: string | null
  readonly keyId: string | null
}
type VmRow = Omit<VmRecord, 'homeKey' | 'disks' | 'formerKeys'> & KeyColumns
type DiskRow = Omit<DiskRecord, 'key'> & KeyColumns & { readonly vmId: string }

function vmOf(
  { providerId, keyId, ...row }: VmRow,
  disks: DiskRecord[],
  formerKeys: CryptoKeyId[],
): VmRecord {
  return { ...row, homeKey: keyOf({ providerId, keyId }), disks, formerKeys }
}

function diskOf({ vmId: _vm, providerId, keyId, ...row }: DiskRow): DiskRecord {
  return { ...row, key: keyOf({ providerId, keyId }) }
}

export function keyOf({ providerId, keyId }: KeyColumns): CryptoKeyId | null {
  return providerId === null || keyId === null ? null : { providerId, keyId }
}

export function keyParameters(key: CryptoKeyId | null): Parameters {
  return { providerId: key?.providerId ?? null, keyId: key?.keyId ?? null }
}

function vmParameters({ disks: _disks, formerKeys: _keys, homeKey, ...columns }: VmRecord): Parameters {
  return { ...columns, ...keyParameters(homeKey) }
}
