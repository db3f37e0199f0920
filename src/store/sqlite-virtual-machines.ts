/** VMs and their disks in SQLite. */
import type { CryptoKeyId } from '../errors.js'
import type { Parameters, SqliteDatabase } from './sqlite-database.js'
import type { DiskRecord, VmRecord, VmTable } from './store.js'

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
    return rows.map((row) => vmOf(row, disks.get(row.id) ?? []))
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
           crypto_state, power_state)
         VALUES (@id, @revision, @name, @clusterId, @hostId, @datastore, @vmx, @homePolicyId, @providerId, @keyId,
           @cryptoState, @powerState)`,
        vmParameters(record),
      )
      this.#insertDisks(record)
    })
  }

  async update(record: VmRecord): Promise<boolean> {
    return this.#database.transaction(() => {
      const updated = this.#database.run(
        `UPDATE vm SET revision = revision + 1, name = @name, cluster_id = @clusterId, host_id = @hostId,
           datastore = @datastore, vmx = @vmx, home_policy_id = @homePolicyId, provider_id = @providerId,
           key_id = @keyId, crypto_state = @cryptoState, power_state = @powerState
         WHERE id = @id AND revision = @revision`,
        vmParameters(record),
      )
      if (updated === 0) return false
      this.#database.run(`DELETE FROM disk WHERE vm_id = @id`, { id: record.id })
      this.#insertDisks(record)
      return true
    })
  }

  async remove(id: string): Promise<void> {
    this.#database.run(`DELETE FROM vm WHERE id = @id`, { id })
  }

  async keysOfCluster(clusterId: string): Promise<CryptoKeyId[]> {
    return this.#database.all<CryptoKeyId>(
      `SELECT provider_id AS providerId, key_id AS keyId FROM vm
         WHERE cluster_id = @clusterId AND key_id IS NOT NULL
       UNION
       SELECT disk.provider_id, disk.key_id FROM disk JOIN vm ON vm.id = disk.vm_id
         WHERE vm.cluster_id = @clusterId AND disk.key_id IS NOT NULL`,
      { clusterId },
    )
  }

  async keysOfProvider(providerId: string): Promise<string[]> {
    return this.#database
      .all<{ keyId: string }>(
        `SELECT key_id AS keyId FROM vm WHERE provider_id = @providerId
         UNION SELECT key_id FROM disk WHERE provider_id = @providerId
         UNION SELECT key_id FROM host WHERE provider_id = @providerId`,
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
        return vmOf(row, disks.map(diskOf))
      })
  }

  #insertDisks(record: VmRecord): void {
    for (const [position, disk] of record.disks.entries())
      this.#database.run(
        `INSERT INTO disk (vm_id, id, position, device, file, capacity_bytes, policy_id, provider_id, key_id)
         VALUES (@vmId, @diskId, @position, @device, @file, @capacityBytes, @policyId, @providerId, @keyId)`,
        {
          vmId: record.id,
          diskId: disk.diskId,
          position,
          device: disk.device,
          file: disk.file,
          capacityBytes: disk.capacityBytes,
          policyId: disk.policyId,
          ...keyParameters(disk.key),
        },
      )
  }
}

const vmColumns = `id, revision, name, cluster_id AS clusterId, host_id AS hostId, datastore, vmx,
  home_policy_id AS homePolicyId, provider_id AS providerId, key_id AS keyId, crypto_state AS cryptoState,
  power_state AS powerState`

const diskColumns = `vm_id AS vmId, id AS diskId, device, file, capacity_bytes AS capacityBytes, policy_id AS policyId,
  provider_id AS providerId, key_id AS keyId`

export interface KeyColumns {
  readonly providerId: string | null
  readonly keyId: string | null
}
type VmRow = Omit<VmRecord, 'homeKey' | 'disks'> & KeyColumns
type DiskRow = Omit<DiskRecord, 'key'> & KeyColumns & { readonly vmId: string }

function vmOf({ providerId, keyId, ...row }: VmRow, disks: DiskRecord[]): VmRecord {
  return { ...row, homeKey: keyOf({ providerId, keyId }), disks }
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

function vmParameters({ disks: _disks, homeKey, ...columns }: VmRecord): Parameters {
  return { ...columns, ...keyParameters(homeKey) }
}
