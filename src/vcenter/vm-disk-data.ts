/** The data of a VM's disks, as a guest reads and writes it. */
import type { HostApi } from '../rpc/host-api.js'
import type { DiskRecord, VmRecord } from '../store/store.js'
import type { Services } from './services.js'
import { findDisk, referenceOf } from './vm-record.js'
import type { VmTaskOptions, VmTasks } from './vm-tasks.js'
import { VmUnlocking } from './vm-unlocking.js'

export class VmDiskData {
  readonly #services: Services
  readonly #tasks: VmTasks

  constructor(services: Services, tasks: VmTasks) {
    this.#services = services
    this.#tasks = tasks
  }

  /** `offset` in bytes; durable when it resolves. */
  async write(disk: string, offset: number, data: Uint8Array, options: VmTaskOptions): Promise<void> {
    const vm = await this.#tasks.record()
    const { diskId } = await this.#accessible(vm, disk)
    const text = Buffer.from(data).toString('base64')
    await this.#onHost(vm, options, (api) => api.writeDisk(referenceOf(vm), diskId, offset, text))
  }

  /** SHA-256, hex. */
  async digest(disk: string, options: VmTaskOptions): Promise<{ sha256: string; bytes: number }> {
    const vm = await this.#tasks.record()
    const { diskId } = await this.#accessible(vm, disk)
    const work = options.signal ? { signal: options.signal } : {}
    return this.#onHost(vm, options, (api) => api.digestDisk(referenceOf(vm), diskId, work))
  }

  /** `offset` and `length` in bytes. */
  async read(disk: string, offset: number, length: number, options: VmTaskOptions): Promise<Buffer> {
    const vm = await this.#tasks.record()
    const { diskId } = await this.#accessible(vm, disk)
    const text = await this.#onHost(vm, options, (api) =>
      api.readDisk(referenceOf(vm), diskId, offset, length),
    )
    return Buffer.from(text, 'base64')
  }

  async #accessible(vm: VmRecord, name: string): Promise<DiskRecord> {
    const disk = findDisk(vm.disks, name)
    if (disk.key) await this.#services.access.require('Cryptographer.Access', { type: 'vm', id: vm.id })
    return disk
  }

  #onHost<Result>(
    vm: VmRecord,
    options: VmTaskOptions,
    request: (api: HostApi) => Promise<Result>,
  ): Promise<Result> {
    const host = this.#tasks.host(vm, options.host)
    return this.#tasks.recorded('access', vm, () =>
      new VmUnlocking(this.#services).withKeys(vm, host, () => host.call(request)),
    )
  }
}
