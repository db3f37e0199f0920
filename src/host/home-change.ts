/** VM home in a change that is planned: its DEK before and after, its files, and the lines of the .vmx. */
import { VmsealError } from '../errors.js'
import { native, type KeyHandle, type NativeTask } from '../native/load.js'
import type { CryptoSpec, ReconfigureSpec } from '../rpc/host-api.js'
import { isIdentityKey, type HomeFile } from './home-description.js'
import type { HostContext } from './host-context.js'
import { newKeyOf } from './interrupted-request.js'
import { migrateEncryptionKey } from './migrate-encryption-setting.js'
import type { PlannedWork } from './planned-work.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { keysRequired, openHomeOf, type VirtualMachine } from './vm-config.js'
import { decryptHomeFile, encryptHomeFile, recryptHomeFile, sealConfig, wrapHomeDek } from './vm-home.js'
import type { VmxDocument } from './vmx.js'

/** The DEK of VM home, before or after the change, whichever is sealed; absent: plain before and after. */
export interface OpenHome {
  readonly dek?: KeyHandle
  /** Takes the place of `dek`. */
  readonly newDek?: KeyHandle
  readonly secrets?: VmxDocument
}

/** Opens VM home, and makes the DEK that it is to have. The caller disposes of both. */
export function openHome(
  context: HostContext,
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  change: ReconfigureSpec['home'],
): OpenHome {
  const opened = openHomeOf(vm, context.keys, files)
  if (opened === undefined) return change?.type === 'encrypt' ? { dek: native.KeyHandle.generate(32) } : {}
  if (change?.type !== 'deepRecrypt') return opened
  try {
    return { ...opened, newDek: native.KeyHandle.generate(32) }
  } catch (error) {
    opened.dek.dispose()
    throw error
  }
}

/** The state of a virtual TPM holds secrets of the guest. */
export function refuseVtpm(secrets: VmxDocument | undefined, files: VirtualMachineFiles): void {
  if (secrets?.get('vtpm.present')?.toUpperCase() !== 'TRUE') return
  const subject = files.label(files.vmx)
  throw new VmsealError('VMSEAL_VTPM_PRESENT', `${subject} has a virtual TPM: its home stays encrypted`, {
    details: { subject },
  })
}

export class HomeChange {
  readonly #context: HostContext
  readonly #files: VirtualMachineFiles
  readonly #vm: VirtualMachine
  readonly #open: OpenHome
  readonly #generation: number
  readonly #planned: PlannedWork

  /** `generation`: the one that the change makes. */
  constructor(
    context: HostContext,
    files: VirtualMachineFiles,
    vm: VirtualMachine,
    open: OpenHome,
    generation: number,
    planned: PlannedWork,
  ) {
    this.#context = context
    this.#files = files
    this.#vm = vm
    this.#open = open
    this.#generation = generation
    this.#planned = planned
  }

  async convertFiles(type: CryptoSpec['type']): Promise<HomeFile[]> {
    const { dek, newDek } = this.#open
    if (dek === undefined) throw new VmsealError('VMSEAL_INTERNAL', 'VM home has no DEK')
    const { vmId, homeFiles } = this.#vm.description
    const converted: HomeFile[] = []
    for (const { role, file } of type === 'encrypt' ? await this.#plainHomeFiles() : homeFiles) {
      const target = this.#planned.names.home(role)
      const bytes = await this.#files.byteLength(file)
      const paths = [this.#files.path(file), this.#files.path(target)] as const
      const start = (): NativeTask => {
        if (newDek) return recryptHomeFile(dek, newDek, vmId, role, ...paths)
        return (type === 'encrypt' ? encryptHomeFile : decryptHomeFile)(dek, vmId, role, ...paths)
      }
      this.#planned.steps.push({ label: `${newDek ? 'recrypt' : type} ${role}`, bytes, start })
      this.#planned.created.push(target)
      this.#planned.superseded.push(file)
      this.#planned.overwritten.push(file)
      // The stream's tags and header: 16 bytes a MiB and 40.
      this.#planned.neededBytes += Math.ceil(bytes * 1.0001) + 4096
      converted.push({ role, file: target })
    }
    return converted
  }

  /** The .vmx, in which disks and home files are not described yet, and the wrap of a home that is sealed. */
  compose(change: ReconfigureSpec['home']) {
    const { document, description } = this.#vm
    const { newDek, secrets } = this.#open
    const dek = newDek ?? this.#open.dek
    if (dek === undefined) return { document: document.copy() }
    if (change?.type === 'decrypt') {
      const plain = document.copy()
      if (secrets) plain.append(secrets, this.#files.label(this.#files.vmx))
      // As in vSphere: a VM that was encrypted stays careful until somebody says otherwise.
      plain.set(migrateEncryptionKey, 'required')
      return { document: plain }
    }
    const { vmId } = description
    const generation = this.#generation
    const [identity, plainLines] = secrets ? [document.copy(), secrets] : document.split(isIdentityKey)
    const config = sealConfig(dek, plainLines, vmId, generation)
    if (change === undefined && description.wrap)
      return { document: identity, wrap: { ...description.wrap, config } }
    const key = newKeyOf(change)
    if (key === undefined) throw new VmsealError('VMSEAL_INTERNAL', 'VM home has a DEK but no wrap')
    const kek = this.#context.keys.require(key, keysRequired(this.#files, [key]).message)
    const jwe = wrapHomeDek(kek, dek, vmId, key, generation)
    return { document: identity, wrap: { jwes: [jwe], generation, config } }
  }

  /**
   * The home files that the .vmx names, and those that only their names give away (.vswp, .vmss, ...), but for those that an
   * interrupted request of the same made: they are ciphertext, and made anew.
   */
  async #plainHomeFiles(): Promise<HomeFile[]> {
    const named = this.#vm.description.homeFiles
    const found: HomeFile[] = [...named]
    for (const file of (await this.#files.list()).toSorted()) {
      const role = this.#files.roleOf(file)
      if (role === undefined || this.#planned.made.has(file) || named.some((other) => other.file === file))
        continue
      if (found.some((other) => other.role === role))
        throw new VmsealError(
          'VMSEAL_INVALID_STATE',
          `${this.#files.label(file)} is not the ${role} that the .vmx names: remove one of them`,
        )
      found.push({ role, file })
    }
    return found
  }
}
