/** The host agent: it alone makes DEKs and opens wrapped ones. */
import { randomUUID } from 'node:crypto'
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { DiskHandle } from '../native/load.js'
import type {
  CloneSpec,
  CreateSpec,
  DiskDescription,
  HostApi,
  HostIdentity,
  HostKeyChange,
  KeysInFiles,
  ReconfigureSpec,
  SealedKey,
  SnapshotSpec,
  VmConfig,
  VmReference,
  Work,
} from '../rpc/host-api.js'
import { describeDisk } from './attachment.js'
import { asksForKeys, mayBePoweredOn } from './change-rules.js'
import { cloneVirtualMachine } from './clone.js'
import { createVirtualMachine } from './create.js'
import { Datastore } from './datastore.js'
import { destroyVirtualMachine } from './destroy.js'
import { openForReading } from './disk-chain.js'
import { DiskConsolidation } from './disk-consolidation.js'
import { writeToDisk } from './disk-write.js'
import { EncryptionMode } from './encryption-mode.js'
import { GuestStates, type GuestState } from './guest-state.js'
import type { HostContext } from './host-context.js'
import {
  describeHostDump,
  extractHostDump,
  rewrapHostDumps,
  writeHostDump,
  type HostDumpDescription,
} from './host-dumps.js'
import { hostIdOf } from './host-id.js'
import { interruptedKeysOf } from './interrupted-request.js'
import { ioError } from './io-error.js'
import { KeyCache } from './key-cache.js'
import { findKeys } from './keys-in-files.js'
import { registerBoot } from './lock.js'
import { PoweredOnVms } from './power.js'
import { convertInPlace, resumeConversions } from './in-place.js'
import { reconfigure } from './reconfigure.js'
import {
  checkCloneSpec,
  checkCreateSpec,
  checkData,
  checkKey,
  checkRange,
  checkReconfigureSpec,
  checkReference,
  checkSealedKey,
  checkSnapshotSpec,
  checkUuid,
} from './requests.js'
import { Snapshots } from './snapshots.js'
import { shallowRecrypt } from './shallow-recrypt.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { readConsistently, readVirtualMachine, toConfig } from './vm-config.js'
import { WorkMeter } from './work.js'

export interface HostOptions {
  /** Name of the host, unique in its vCenter. */
  readonly name: string
  /** Name to directory; each directory exists. */
  readonly datastores: Readonly<Record<string, string>>
  /** UUID that stays over restarts; default: derived from the name. A host id belongs to one machine. */
  readonly id?: string
  /** Where the host's own dumps lie, encrypted with the host key. An existing directory; default: none are kept. */
  readonly dumpDirectory?: string
  /** The clock that expiry of seals is measured with, in milliseconds. */
  readonly now?: () => number
  /** Room on a datastore, in bytes; default: what the file system says. */
  readonly freeBytes?: (datastore: string) => Promise<number>
}

const readLimit = 1024 * 1024

/** One start of the host: everything that a restart loses. */
interface Boot {
  readonly id: string
  readonly keys: KeyCache
  readonly mode: EncryptionMode
  readonly context: HostContext
  readonly powered: PoweredOnVms
  readonly guests: GuestStates
  readonly consolidation: DiskConsolidation
  readonly snapshots: Snapshots
  readonly stopping: AbortController
  readonly requests: Set<Promise<unknown>>
  readonly unregister: () => void
}

export class Host implements HostApi {
  readonly id: string
  readonly name: string
  readonly #options: HostOptions
  readonly #datastores: ReadonlyMap<string, Datastore>
  #boot: Boot | undefined

  private constructor(options: HostOptions, datastores: ReadonlyMap<string, Datastore>) {
    this.id = options.id ?? hostIdOf(options.name)
    this.name = options.name
    this.#options = options
    this.#datastores = datastores
    this.#boot = this.#start()
  }

  static async start(options: HostOptions): Promise<Host> {
    // eslint-disable-next-line no-control-regex
    if (typeof options.name !== 'string' || !/^[^\0-\x1f\x7f]{1,200}$/.test(options.name))
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        'name must be the name of the host, 1 to 200 characters',
      )
    if (options.id !== undefined) checkUuid(options.id, 'id')
    const datastores = new Map<string, Datastore>()
    for (const [name, directory] of Object.entries(options.datastores))
      datastores.set(name, await Datastore.open(name, directory))
    return new Host(options, datastores)
  }

  /** As a reboot: running requests are cancelled, VMs are off, the key cache is empty, the seal key is new. */
  async restart(): Promise<void> {
    await this.#halt()
    this.#boot = this.#start()
  }

  /** Ends the host and wipes its keys. Every later request: VMSEAL_HOST_UNREACHABLE. */
  async stop(): Promise<void> {
    await this.#halt()
  }

  identify(): Promise<HostIdentity> {
    return this.#serve(({ id, keys, mode }) => ({
      hostId: this.id,
      name: this.name,
      bootId: id,
      publicKey: keys.publicKey,
      datastores: [...this.#datastores.keys()],
      cryptoState: mode.state,
      ...(mode.hostKey && { cryptoKeyId: mode.hostKey.id }),
    }))
  }

  prepareCrypto(): Promise<void> {
    return this.#serve(({ mode }) => mode.prepare())
  }

  enableCrypto(hostKey: SealedKey): Promise<void> {
    return this.#serve(({ mode }) => {
      checkSealedKey(hostKey)
      mode.enable(hostKey)
    })
  }

  changeHostKey(hostKey: SealedKey): Promise<HostKeyChange> {
    return this.#serve(({ mode }) => {
      checkSealedKey(hostKey)
      return mode.changeKey(hostKey, (from, to) => rewrapHostDumps(this.#options.dumpDirectory, from, to))
    })
  }

  disableCrypto(): Promise<void> {
    return this.#serve(({ mode, powered }) => {
      powered.requireNoneEncrypted()
      mode.disable()
    })
  }

  installKey(key: SealedKey): Promise<void> {
    return this.#serve(({ keys, mode }) => {
      checkSealedKey(key)
      mode.requireSafe()
      keys.install(key)
    })
  }

  listKeys(): Promise<readonly CryptoKeyId[]> {
    return this.#serve(({ keys }) => keys.list())
  }

  removeKey(key: CryptoKeyId): Promise<void> {
    return this.#serve(({ keys }) => {
      checkKey(key, 'key')
      keys.remove(key)
    })
  }

  createVirtualMachine(spec: CreateSpec, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      checkCreateSpec(spec)
      if (spec.homeKey) boot.mode.requireSafe()
      const datastore = this.#datastore(spec.datastore)
      const files = datastore.filesOf(spec.name)
      await createVirtualMachine(boot.context, datastore, files, spec, stoppable(work, boot))
      return configOf(boot, files)
    })
  }

  reconfigureVirtualMachine(vm: VmReference, spec: ReconfigureSpec, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const files = this.#files(vm)
      checkReconfigureSpec(spec)
      if (asksForKeys(spec)) boot.mode.requireSafe()
      const stopping = stoppable(work, boot)
      if (mayBePoweredOn(spec))
        await boot.powered.hold(files, (lock) => shallowRecrypt(boot.context, files, lock, spec, stopping))
      else {
        boot.powered.requireOff(files)
        const change = spec.conversion === 'inPlace' && spec.disks?.length ? convertInPlace : reconfigure
        await change(boot.context, this.#datastore(vm.datastore), files, spec, stopping)
      }
      return configOf(boot, files)
    })
  }

  resumeConversion(vm: VmReference, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const files = this.#files(vm)
      boot.powered.requireOff(files)
      await resumeConversions(boot.context, files, stoppable(work, boot))
      return configOf(boot, files)
    })
  }

  readVirtualMachine(vm: VmReference): Promise<VmConfig> {
    return this.#serve((boot) => configOf(boot, this.#files(vm)))
  }

  describeDisk(datastore: string, file: string): Promise<DiskDescription> {
    return this.#serve(() => describeDisk(this.#datastore(datastore), file))
  }

  findKeys(datastore: string, after?: string): Promise<KeysInFiles> {
    return this.#serve(() => findKeys(this.#datastore(datastore), after))
  }

  findVirtualMachines(datastore: string): Promise<readonly VmReference[]> {
    return this.#serve(() => this.#datastore(datastore).find())
  }

  destroyVirtualMachine(vm: VmReference): Promise<void> {
    return this.#serve(async ({ context, powered }) => {
      const files = this.#files(vm)
      powered.requireOff(files)
      await destroyVirtualMachine(context, files)
    })
  }

  powerOn(vm: VmReference): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const files = this.#files(vm)
      await boot.powered.powerOn(files)
      return configOf(boot, files)
    })
  }

  powerOff(vm: VmReference): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const files = this.#files(vm)
      await boot.powered.powerOff(files)
      return configOf(boot, files)
    })
  }

  digestDisk(
    vm: VmReference,
    diskId: string,
    work: Work = {},
  ): Promise<{ readonly sha256: string; readonly bytes: number }> {
    return this.#serve((boot) =>
      withDisk(boot, this.#files(vm), diskId, async (disk) => {
        const bytes = disk.capacityBytes
        const step = { label: `digest ${diskId}`, bytes, start: () => disk.digest() }
        const meter = new WorkMeter(stoppable(work, boot), [step])
        const { sha256 } = JSON.parse(await meter.run(step)) as { sha256: string }
        meter.finish(step.label)
        return { sha256, bytes }
      }),
    )
  }

  readDisk(vm: VmReference, diskId: string, offset: number, length: number): Promise<string> {
    return this.#serve((boot) => {
      checkRange(offset, length, readLimit)
      return withDisk(boot, this.#files(vm), diskId, async (disk) => {
        if (offset + length > disk.capacityBytes)
          throw new VmsealError(
            'VMSEAL_INVALID_ARGUMENT',
            `the disk has ${disk.capacityBytes} bytes; ${length} bytes from ${offset} reach beyond its end`,
          )
        return (await disk.read(offset, length)).toString('base64')
      })
    })
  }

  createSnapshot(vm: VmReference, spec: SnapshotSpec, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const files = this.#files(vm)
      checkSnapshotSpec(spec)
      await boot.snapshots.create(this.#datastore(vm.datastore), files, spec, stoppable(work, boot))
      return configOf(boot, files)
    })
  }

  revertToSnapshot(vm: VmReference, snapshotId: string, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const files = this.#files(vm)
      checkUuid(snapshotId, 'snapshotId')
      await boot.snapshots.revert(files, snapshotId, stoppable(work, boot))
      return configOf(boot, files)
    })
  }

  removeSnapshot(vm: VmReference, snapshotId: string, children: boolean, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const files = this.#files(vm)
      checkUuid(snapshotId, 'snapshotId')
      await boot.snapshots.remove(files, snapshotId, children ?? false, stoppable(work, boot))
      return configOf(boot, files)
    })
  }

  consolidateDisks(vm: VmReference, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const files = this.#files(vm)
      await boot.consolidation.run(files, stoppable(work, boot))
      return configOf(boot, files)
    })
  }

  cloneVirtualMachine(vm: VmReference, spec: CloneSpec, work: Work = {}): Promise<VmConfig> {
    return this.#serve(async (boot) => {
      const source = this.#files(vm)
      checkCloneSpec(spec)
      if (spec.homeKey) boot.mode.requireSafe()
      const datastore = this.#datastore(spec.datastore)
      const target = datastore.filesOf(spec.name)
      const { context, powered } = boot
      await cloneVirtualMachine(context, powered, source, datastore, target, spec, stoppable(work, boot))
      return configOf(boot, target)
    })
  }

  writeDisk(vm: VmReference, diskId: string, offset: number, data: string): Promise<void> {
    return this.#serve(async (boot) => {
      const files = this.#files(vm)
      const bytes = checkData(data, readLimit)
      checkRange(offset, bytes.length, readLimit)
      checkUuid(diskId, 'diskId')
      await (boot.powered.write(files, diskId, offset, bytes) ??
        writeToDisk(boot.context, files, diskId, offset, bytes))
    })
  }

  /**
   * Keeps what a hypervisor writes of a guest, on or off, as a file of VM home: `source` is a file, or a pipe that it
   * writes to. Encrypted with the VM's key when VM home is; an earlier one of the kind is replaced, whole or not at all.
   */
  saveGuestState(vm: VmReference, state: GuestState, source: string, work: Work = {}): Promise<void> {
    return this.#serve((boot) => boot.guests.save(this.#files(vm), state, source, stoppable(work, boot)))
  }

  /** Decrypts such a file into the new file `target`. */
  readGuestState(vm: VmReference, state: GuestState, target: string, work: Work = {}): Promise<void> {
    return this.#serve((boot) => boot.guests.read(this.#files(vm), state, target, stoppable(work, boot)))
  }

  /** Removes such a file, for instance when the VM was resumed from it. */
  dropGuestState(vm: VmReference, state: GuestState): Promise<void> {
    return this.#serve((boot) => boot.guests.drop(this.#files(vm), state))
  }

  /**
   * Keeps a dump of the host, encrypted with the host key: `source` is a file, or a pipe that a crash handler writes to.
   * Returns the path of the dump. VMSEAL_INVALID_STATE while the host has no host key: a dump is never kept in clear text.
   */
  writeDump(name: string, source: string, work: Work = {}): Promise<string> {
    return this.#serve(async (boot) => {
      const { dumpDirectory, now = Date.now } = this.#options
      if (dumpDirectory === undefined)
        throw new VmsealError('VMSEAL_INVALID_STATE', `host ${this.name} was started without a dumpDirectory`)
      const hostKey = boot.mode.requireSafe()
      const dump = { name, source, writtenAt: new Date(now()).toISOString() }
      const host = { id: this.id, name: this.name }
      return writeHostDump(dumpDirectory, host, hostKey, dump, stoppable(work, boot))
    })
  }

  /** What a dump of a host says about itself; needs no key. */
  describeDump(file: string): Promise<HostDumpDescription> {
    return this.#serve(() => describeHostDump(file))
  }

  /**
   * Decrypts a dump of this host, or of one that had the same host key, into the new file `target`, mode 0600.
   * VMSEAL_ENCRYPTION_KEY_REQUIRED names the host key that it needs when that is another.
   */
  extractDump(file: string, target: string, work: Work = {}): Promise<HostDumpDescription> {
    return this.#serve((boot) =>
      extractHostDump(file, boot.mode.requireSafe(), target, stoppable(work, boot)),
    )
  }

  #start(): Boot {
    const id = randomUUID()
    const keys = new KeyCache(this.id, this.#options.now)
    const { freeBytes } = this.#options
    const context: HostContext = {
      name: this.name,
      owner: { hostId: this.id, bootId: id },
      keys,
      freeBytes: (datastore) => (freeBytes ? freeBytes(datastore.name) : datastore.freeBytes()),
    }
    const powered = new PoweredOnVms(context)
    const consolidation = new DiskConsolidation(context, powered)
    return {
      id,
      keys,
      mode: new EncryptionMode(this.name, keys),
      context,
      powered,
      guests: new GuestStates(context, powered),
      consolidation,
      snapshots: new Snapshots(context, powered, consolidation),
      stopping: new AbortController(),
      requests: new Set(),
      unregister: registerBoot(id),
    }
  }

  async #halt(): Promise<void> {
    const boot = this.#boot
    if (boot === undefined) return
    this.#boot = undefined
    boot.stopping.abort()
    await Promise.allSettled(boot.requests)
    try {
      await boot.powered.dispose()
    } finally {
      boot.mode.dispose()
      boot.keys.dispose()
      boot.unregister()
    }
  }

  /** Every request passes here: refused when stopped, waited for at a stop, rejects with `VmsealError` only. */
  async #serve<T>(request: (boot: Boot) => T | Promise<T>): Promise<T> {
    const boot = this.#boot
    if (boot === undefined)
      throw new VmsealError('VMSEAL_HOST_UNREACHABLE', `the host ${this.name} is stopped`)
    const running = (async () => request(boot))()
    boot.requests.add(running)
    try {
      return await running
    } catch (error) {
      throw ioError(error, this.name)
    } finally {
      boot.requests.delete(running)
    }
  }

  #datastore(name: string): Datastore {
    const datastore = this.#datastores.get(name)
    if (datastore !== undefined) return datastore
    throw new VmsealError(
      'VMSEAL_NOT_FOUND',
      `the host ${this.name} has no datastore ${JSON.stringify(name)}`,
      {
        details: { subject: name },
      },
    )
  }

  #files(vm: VmReference): VirtualMachineFiles {
    checkReference(vm)
    return this.#datastore(vm.datastore).files(vm)
  }
}

async function configOf(boot: Boot, files: VirtualMachineFiles): Promise<VmConfig> {
  const vm = await readConsistently(files, () => readVirtualMachine(files))
  const interruptedKeys = await interruptedKeysOf(files, vm.description.generation)
  const config = toConfig(vm, files, boot.keys, boot.powered.isOn(files) ? 'poweredOn' : 'poweredOff')
  return { ...config, ...(interruptedKeys.length > 0 && { interruptedKeys }) }
}

/** The open disk of a VM that is on, else one that is opened for the time of `use`. */
async function withDisk<T>(
  boot: Boot,
  files: VirtualMachineFiles,
  diskId: string,
  use: (disk: DiskHandle) => Promise<T>,
): Promise<T> {
  checkUuid(diskId, 'diskId')
  const open = boot.powered.disk(files, diskId)
  if (open !== undefined) return use(open)
  const disk = await readConsistently(files, async () => {
    const vm = await readVirtualMachine(files)
    const found = vm.disks.find((candidate) => candidate.diskId === diskId)
    if (found === undefined)
      throw new VmsealError('VMSEAL_NOT_FOUND', `${files.label(files.vmx)} has no disk ${diskId}`)
    return openForReading(found, vm.description.vmId, boot.keys, files)
  })
  try {
    return await use(disk)
  } finally {
    disk.close()
  }
}

function stoppable(work: Work, boot: Boot): Work {
  const signals = [boot.stopping.signal, ...(work.signal ? [work.signal] : [])]
  return { ...work, signal: AbortSignal.any(signals) }
}
