/** A VM that is off as a folder of ciphertext under a KEK that the place where it is restored knows. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { ExportDescription } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import { recordOperation } from './crypto-operation.js'
import type { HostConnection } from './host-connections.js'
import { withoutKeys } from './key-distribution.js'
import { takeUnusedFromHosts } from './key-provider/key-use.js'
import { makeKey } from './new-key.js'
import type { Services } from './services.js'
import { refuseCancelled, type TaskContext } from './task.js'
import { TaskKeys, type KeyName } from './task-keys.js'
import { keysOf, referenceOf } from './vm-record.js'
import { VmUnlocking } from './vm-unlocking.js'

export interface ExportOptions {
  /** Absolute path, on the VM's host, of the folder that is made. */
  readonly to: string
  /** The existing key that wraps everything in the export: one that the place where it is restored can get. */
  readonly keyId?: KeyName
  /** The provider of a new key for it; default: the default provider. */
  readonly provider?: string
  readonly signal?: AbortSignal
}

export interface ExportedVirtualMachine extends ExportDescription {
  readonly folder: string
  /** Name of the host on whose file system the folder is. */
  readonly host: string
}

const part = 'export'

export class VmExport {
  readonly #services: Services
  readonly #keys: TaskKeys

  constructor(services: Services) {
    this.#services = services
    this.#keys = new TaskKeys(services)
  }

  /** Every refusal but those of the host's file system comes before a key is made. */
  async export(vm: VmRecord, options: ExportOptions, context: TaskContext): Promise<ExportedVirtualMachine> {
    const { access, connections, events, inventory } = this.#services
    const { to, keyId, provider } = options
    if (typeof to !== 'string' || !to.startsWith('/'))
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'to is an absolute path on the host of the VM')
    if (keyId !== undefined && provider !== undefined)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'keyId is an existing key, provider that of a new one')
    if (keysOf(vm).length > 0) await access.require('Cryptographer.Access', { type: 'vm', id: vm.id })
    const host = connections.place(vm.clusterId, vm.datastore, { preferred: vm.hostId })
    await inventory.requireNotRunning(vm)
    const { record, config } = await inventory.read(vm, host)
    const busy = config.disks.find(({ conversion }) => conversion !== undefined)
    if (busy)
      throw new VmsealError(
        'VMSEAL_DISK_IN_CONVERSION',
        `${busy.device} of ${vm.name} is in conversion: resume the conversion of the VM first`,
        { details: { subject: vm.name } },
      )
    const named = keyId === undefined ? {} : { named: new Map([[part, keyId]]) }
    const plan = await this.#keys.plan([part], { ...named, providerId: provider }, vm.clusterId)
    refuseCancelled(context.signal)
    await host.identify()
    await this.#services.hostEncryption.ensureSafe(host)
    const key = plan.existing.get(part) ?? (await this.#newKey(vm, plan.providerId, context))
    try {
      await this.#services.distribution.ensure([key], host, context.step)
      refuseCancelled(context.signal)
      const keys = withoutKeys([...keysOf(record), key], [])
      const subject = { operation: 'export', vm: vm.name, host: host.name, keys } as const
      const description = await recordOperation(events, subject, () =>
        this.#onHost(record, host, { to, key }, context),
      )
      return { ...description, folder: to, host: host.name }
    } finally {
      // The export needs it, the hosts do not.
      await takeUnusedFromHosts(this.#services, [key])
    }
  }

  async #newKey(
    { id, name }: VmRecord,
    providerId: string | undefined,
    { step }: TaskContext,
  ): Promise<CryptoKeyId> {
    if (providerId === undefined) throw new VmsealError('VMSEAL_NO_DEFAULT_KEY_PROVIDER')
    // Nobody here uses it afterwards: what it is for stands at the KMS.
    const key = await makeKey(this.#services, providerId, { name: `export of ${name}`, identifier: id })
    step({ actor: 'kms', action: 'key created', ...key })
    return key
  }

  async #onHost(
    record: VmRecord,
    host: HostConnection,
    spec: { readonly to: string; readonly key: CryptoKeyId },
    { signal, onProgress, step }: TaskContext,
  ): Promise<ExportDescription> {
    step({ actor: 'host', action: 'work started', host: host.name, work: `export ${record.name}` })
    const act = () =>
      host.call((api) => api.exportVirtualMachine(referenceOf(record), spec, { signal, onProgress }))
    const made = await new VmUnlocking(this.#services).withKeys(record, host, act, step)
    step({ actor: 'host', action: 'work committed', host: host.name })
    return made
  }
}
