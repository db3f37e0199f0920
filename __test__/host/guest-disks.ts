/** The disks of a VM as its guest knows them: what it wrote, kept beside the real thing to compare with. */
import { createHash, randomBytes } from 'node:crypto'
import type { ExecutionContext } from 'ava'
import type { HostApi, VmReference } from '../../src/rpc/host-api.js'

interface SomeVm {
  readonly reference: VmReference
}

const piece = 1024 * 1024

export class GuestDisks {
  readonly #host: HostApi
  readonly #vm: SomeVm
  readonly #ids: readonly string[]
  #disks: Buffer[]

  private constructor(host: HostApi, vm: SomeVm, ids: readonly string[], disks: Buffer[]) {
    this.#host = host
    this.#vm = vm
    this.#ids = ids
    this.#disks = disks
  }

  static async of(host: HostApi, vm: SomeVm): Promise<GuestDisks> {
    const { disks } = await host.readVirtualMachine(vm.reference)
    const contents: Buffer[] = []
    for (const { diskId, capacityBytes } of disks) {
      const parts: Buffer[] = []
      for (let offset = 0; offset < capacityBytes; offset += piece) {
        const length = Math.min(piece, capacityBytes - offset)
        parts.push(Buffer.from(await host.readDisk(vm.reference, diskId, offset, length), 'base64'))
      }
      contents.push(Buffer.concat(parts))
    }
    return new GuestDisks(
      host,
      vm,
      disks.map(({ diskId }) => diskId),
      contents,
    )
  }

  get sizes(): number[] {
    return this.#disks.map(({ length }) => length)
  }

  async write(disk: number, offset: number, length: number): Promise<void> {
    await this.#write(disk, offset, randomBytes(length))
  }

  async zero(disk: number, offset: number, length: number): Promise<void> {
    await this.#write(disk, offset, Buffer.alloc(length))
  }

  async writeText(disk: number, offset: number, text: string): Promise<void> {
    await this.#write(disk, offset, Buffer.from(text.repeat(20)))
  }

  copy(): Buffer[] {
    return this.#disks.map((disk) => Buffer.from(disk))
  }

  restore(disks: readonly Buffer[]): void {
    this.#disks = disks.map((disk) => Buffer.from(disk))
  }

  /** Byte for byte, by digest. */
  async check(t: ExecutionContext, when: string, vm: SomeVm = this.#vm): Promise<void> {
    const { disks } = await this.#host.readVirtualMachine(vm.reference)
    const found: string[] = []
    for (const { diskId } of disks) found.push((await this.#host.digestDisk(vm.reference, diskId)).sha256)
    t.deepEqual(
      found,
      this.#disks.map((disk) => createHash('sha256').update(disk).digest('hex')),
      when,
    )
  }

  async #write(disk: number, offset: number, bytes: Buffer): Promise<void> {
    const content = this.#disks[disk] as Buffer
    const part = bytes.subarray(0, content.length - offset)
    await this.#host.writeDisk(this.#vm.reference, this.#ids[disk] as string, offset, part.toString('base64'))
    part.copy(content, offset)
  }
}
