/** Somebody who works with vCenter all the time, at random, and remembers what must have become of each VM. */
import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { isVmsealError, type VCenter } from '../../src/index.js'
import { clusters } from './template.js'
import type { World } from './world.js'

const encryption = 'VM Encryption Policy'
const plain = 'Datastore Default'
const imageBytes = 8192
const mostVms = 3

/** What is known of a VM. `undefined` and ranges: an operation failed, or nobody knows how it ended. */
export interface KnownVm {
  readonly name: string
  readonly cluster: string
  readonly datastore: string
  /** SHA-256 of every disk it ever had. */
  readonly sha256: string
  /** Stands all over its disks. */
  readonly marker: string
  files: 'there' | 'gone' | undefined
  inventory: 'in' | 'out' | undefined
  encrypted: boolean | undefined
  disks: [least: number, most: number]
  /** Other operations changed it, or tried to: it may have been there before the task that made it ended. */
  changed: boolean
}

type Outcome = 'ok' | 'error' | 'unknown'

interface Operation {
  readonly label: string
  readonly act: (vcenter: VCenter) => Promise<unknown>
  readonly apply?: (outcome: Outcome) => void
}

export class Administrator {
  readonly vms: KnownVm[] = []
  /** What should not have happened. */
  readonly violations: string[] = []
  readonly #world: World
  readonly #underway = new Set<Operation>()
  #made = 0
  done = 0
  refused = 0

  constructor(world: World) {
    this.#world = world
    mkdirSync(world.path('images'))
  }

  /** Operations that wait for an answer of a vCenter that lives. */
  get waiting(): string[] {
    return [...this.#underway].map(({ label }) => label)
  }

  /** Begins one operation, chosen at random; it ends when it ends. */
  begin(): void {
    const { random } = this.#world.simulation
    const known = this.vms.filter(({ files }) => files !== 'gone')
    if (known.length === 0 || (known.length < mostVms && random.chance(0.3)))
      return this.#start(this.#create())
    const vm = random.pick(known)
    if (vm.inventory === 'out') return this.#start(this.#register(vm))
    const choices = [
      () => this.#policy(vm, true),
      () => this.#policy(vm, false),
      () => this.#policy(vm, true),
      () => this.#recrypt(vm, 'shallow'),
      () => this.#recrypt(vm, 'deep'),
      () => this.#addDisk(vm),
      () => this.#detachDisk(vm),
      () => this.#onVm(vm, 'powerOn', (found) => found.powerOn()),
      () => this.#onVm(vm, 'powerOff', (found) => found.powerOff()),
      () => this.#onVm(vm, 'unlock', (found) => found.unlock()),
      () => this.#onVm(vm, 'info', (found) => found.info()),
      () => this.#unregister(vm),
      () => this.#destroy(vm),
      () => this.#host(),
      () => ({ label: 'rekey', act: (vcenter) => vcenter.rekey({ provider: 'kms-1' }).done }),
    ] satisfies (() => Operation)[]
    this.#start(random.pick(choices)())
  }

  /** When the vCenter is gone nobody tells how its operations ended. */
  lose(): void {
    for (const operation of this.#underway) operation.apply?.('unknown')
    this.#underway.clear()
  }

  #start(operation: Operation): void {
    const { vcenter, simulation } = this.#world
    const what = vcenter?.what
    if (!vcenter?.party.alive || !what) return
    this.#underway.add(operation)
    simulation.note('administrator', `${operation.label} begins`)
    const end = (outcome: Outcome, error?: unknown): void => {
      if (!this.#underway.delete(operation)) return
      const code = isVmsealError(error) ? error.code : error === undefined ? '' : describe(error)
      simulation.note('administrator', `${operation.label} ${outcome} ${code}`)
      if (error !== undefined && (!isVmsealError(error) || error.code === 'VMSEAL_INTERNAL'))
        this.violations.push(`${operation.label} failed with no typed error: ${describe(error)}`)
      if (outcome === 'ok') this.done += 1
      else this.refused += 1
      operation.apply?.(outcome)
    }
    void vcenter.party.run(() =>
      operation.act(what).then(
        () => end('ok'),
        (error: unknown) => end('error', error),
      ),
    )
  }

  #create(): Operation {
    const { random } = this.#world.simulation
    const { name: cluster, datastore } = random.chance(0.8) ? clusters[0] : clusters[1]
    const name = `vm-${(this.#made += 1)}`
    const marker = `plaintext of ${name} of seed ${this.#world.simulation.seed}. `
    const bytes = Buffer.alloc(imageBytes, marker)
    const source = this.#world.path('images', name)
    writeFileSync(source, bytes)
    const encrypted = random.chance(0.6)
    const disks = random.chance(0.3) ? [source, source] : [source]
    const vm: KnownVm = {
      name,
      cluster,
      datastore,
      marker,
      sha256: createHash('sha256').update(bytes).digest('hex'),
      files: undefined,
      inventory: undefined,
      encrypted: undefined,
      disks: [disks.length, disks.length],
      changed: false,
    }
    this.vms.push(vm)
    const policy = encrypted ? encryption : plain
    return {
      label: `create ${name} ${encrypted ? 'encrypted' : 'plain'}`,
      act: (vcenter) => vcenter.virtualMachines.import({ name, cluster, datastore, policy, disks }),
      apply: (outcome) => {
        if (outcome !== 'ok' || vm.changed) return
        vm.files = 'there'
        vm.inventory = 'in'
        vm.encrypted = encrypted
      },
    }
  }

  #policy(vm: KnownVm, encrypt: boolean): Operation {
    vm.changed = true
    const policy = encrypt ? encryption : plain
    const cancel = this.#world.simulation.random.chance(0.1)
    return {
      ...this.#onVm(vm, encrypt ? 'encrypt' : 'decrypt', (found) => {
        const task = found.applyPolicy({ home: policy, disks: policy })
        if (cancel) setTimeout(() => task.cancel(), 30)
        return task.done
      }),
      apply: (outcome) => {
        vm.encrypted = outcome === 'ok' ? encrypt : vm.encrypted === encrypt ? encrypt : undefined
      },
    }
  }

  #recrypt(vm: KnownVm, depth: 'shallow' | 'deep'): Operation {
    return this.#onVm(vm, `${depth} recrypt`, (found) => found.recrypt({ depth }).done)
  }

  #addDisk(vm: KnownVm): Operation {
    const source = this.#world.path('images', vm.name)
    return {
      ...this.#onVm(vm, 'add disk', (found) => found.addDisk({ source }).done),
      apply: (outcome) => {
        vm.disks = [vm.disks[0] + Number(outcome === 'ok'), vm.disks[1] + 1]
      },
    }
  }

  #detachDisk(vm: KnownVm): Operation {
    return {
      ...this.#onVm(vm, 'detach disk', async (found) => {
        const { disks } = await found.info()
        await found.detachDisk(disks.at(-1)?.device ?? 'scsi0:0')
      }),
      apply: (outcome) => {
        vm.disks = [Math.max(0, vm.disks[0] - 1), vm.disks[1] - Number(outcome === 'ok')]
      },
    }
  }

  #unregister(vm: KnownVm): Operation {
    vm.changed = true
    return {
      ...this.#onVm(vm, 'unregister', (found) => found.unregister()),
      apply: (outcome) => {
        vm.inventory = outcome === 'ok' ? 'out' : undefined
      },
    }
  }

  #register(vm: KnownVm): Operation {
    vm.changed = true
    const { name, cluster, datastore } = vm
    return {
      label: `register ${name}`,
      act: (vcenter) => vcenter.virtualMachines.register({ cluster, datastore, vmx: `${name}/${name}.vmx` }),
      apply: (outcome) => {
        vm.inventory = outcome === 'ok' ? 'in' : undefined
      },
    }
  }

  #destroy(vm: KnownVm): Operation {
    vm.changed = true
    return {
      ...this.#onVm(vm, 'destroy', (found) => found.destroy()),
      apply: (outcome) => {
        vm.files = outcome === 'ok' ? 'gone' : undefined
        vm.inventory = outcome === 'ok' ? 'out' : undefined
      },
    }
  }

  #host(): Operation {
    const { random } = this.#world.simulation
    const name = random.pick(clusters.flatMap(({ hosts }) => hosts))
    const choices: Operation[] = [
      { label: `change key of ${name}`, act: (vcenter) => vcenter.hosts.changeHostKey(name) },
      { label: `configure key of ${name}`, act: (vcenter) => vcenter.hosts.configureCryptoKey(name) },
      { label: `reconnect ${name}`, act: (vcenter) => vcenter.hosts.reconnect(name) },
    ]
    return random.pick(choices)
  }

  #onVm(
    { name }: KnownVm,
    label: string,
    act: (vm: Awaited<ReturnType<VCenter['virtualMachines']['get']>>) => Promise<unknown>,
  ): Operation {
    return {
      label: `${label} ${name}`,
      act: async (vcenter) => act(await vcenter.virtualMachines.get(name)),
    }
  }
}

export function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
