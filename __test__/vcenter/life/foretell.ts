/** What a step has to come to: the fault, or the keys that are made and what is true afterwards. */
import type { ErrorCode } from '../../../src/index.js'
import {
  clonesOf,
  consolidate,
  encryption,
  encrypts,
  keysOf,
  newKey,
  newVm,
  plain,
  removeSnapshot,
  revert,
  shapeOf,
  takeSnapshot,
  type Disk,
  type Key,
  type LooseDisk,
  type Model,
  type Vm,
} from './model.js'
import type { Step } from './steps.js'

export interface Outcome {
  readonly fault?: ErrorCode
  /** How many keys are made at each provider. */
  readonly keys?: Readonly<Record<string, number>>
  /** Makes the model so. `disks`: the ids of the disks of the VM that was made or changed, in order. */
  readonly effect?: (disks: readonly string[]) => void
}

/** Of every disk that is made. */
export interface Contents {
  readonly image: Buffer
  readonly written: (step: Step) => Buffer
}

type StepOf<Kind extends Step['do']> = Extract<Step, { readonly do: Kind }>

export function foretell(model: Model, step: Step, contents: Contents): Outcome {
  switch (step.do) {
    case 'create':
      return created(model, step, contents)
    case 'rekey':
      return rekeyed(model, step)
    default:
      return ofVm(model, step, vmOf(model, step.vm), contents)
  }
}

function ofVm(
  model: Model,
  step: Exclude<Step, { readonly do: 'create' | 'rekey' }>,
  vm: Vm,
  contents: Contents,
): Outcome {
  const off: Outcome = { fault: 'VMSEAL_INVALID_POWER_STATE' }
  const snapshot = vm.snapshots.find(({ name }) => 'name' in step && name === step.name)
  switch (step.do) {
    case 'apply':
      return applied(model, step, vm)
    case 'recrypt':
      return recrypted(model, step, vm)
    case 'clone':
      return cloned(model, step, vm)
    case 'attach':
      return attached(model, step, vm)
    case 'addDisk': {
      const encrypted = encrypts(step.policy)
      if (encrypted && !vm.home.key) return { fault: 'VMSEAL_ENCRYPTION_MISMATCH' }
      if (vm.on) return off
      const key = encrypted ? newKey(model, 'kms-1') : undefined
      return {
        keys: { 'kms-1': key ? 1 : 0 },
        effect: (ids) => give(vm, { id: ids.at(-1) ?? '', policy: step.policy, key }, empty),
      }
    }
    case 'detach':
      if (vm.on) return off
      if (shapeOf(model, vm) !== 'none') return { fault: 'VMSEAL_SNAPSHOTS_EXIST' }
      // Which file that is only the site knows: whoever does it puts it among the loose ones.
      return { effect: () => void (vm.disks = vm.disks.filter(({ id }) => id !== step.disk)) }
    case 'write':
      return { effect: () => void contents.written(step).copy(vm.contents.get(step.disk) as Buffer, step.at) }
    case 'powerOn':
      return vm.on ? off : { effect: () => void (vm.on = true) }
    case 'powerOff':
      return { effect: () => void (vm.on = false) }
    case 'snapshot':
      return { effect: () => takeSnapshot(vm, step.name) }
    case 'revert':
      return { effect: () => snapshot && revert(model, vm, snapshot) }
    case 'remove':
      return { effect: () => snapshot && removeSnapshot(model, vm, snapshot, step.children) }
    case 'removeAll':
      return {
        effect: () => {
          for (const root of vm.snapshots.filter(({ parent }) => !parent))
            removeSnapshot(model, vm, root, true)
        },
      }
    case 'consolidate':
      return { effect: () => consolidate(model, vm) }
    case 'link': {
      const source = vm.snapshots.find(({ name }) => name === step.snapshot)
      const made = newVm(step.name, vm.host, { ...vm.home }, source?.link)
      return {
        effect: (ids) => {
          for (const [index, { id, policy, key }] of vm.disks.entries())
            give(made, { id: ids[index] ?? '', policy, key }, source?.contents.get(id))
          model.vms.set(made.name, made)
        },
      }
    }
    case 'migrate':
      return vm.on ? off : { effect: () => void (vm.host = step.host) }
    case 'unregister':
      return vm.on ? off : { effect: () => void (vm.registered = false) }
    case 'register':
      return {
        effect: () => {
          // A policy is not kept in the files: it is one of those that there always are.
          vm.registered = true
          vm.home.policy = vm.home.key ? encryption : plain
          for (const disk of vm.disks) disk.policy = disk.key ? encryption : plain
        },
      }
    case 'destroy':
      if (vm.on) return off
      if (clonesOf(model, vm).length > 0) return { fault: 'VMSEAL_DISK_CHAIN' }
      return { effect: () => void model.vms.delete(vm.name) }
    case 'lose':
      return {}
  }
}

const empty = Buffer.alloc(16 * 1024)

function created(model: Model, step: StepOf<'create'>, { image }: Contents): Outcome {
  if (!encrypts(step.policy) && step.disks.some(encrypts)) return { fault: 'VMSEAL_ENCRYPTION_MISMATCH' }
  const keys = choose(model, [step.policy, ...step.disks].map(encrypts), step.perDiskKeys, 'kms-1')
  return {
    keys: keys.made,
    effect: (ids) => {
      const vm = newVm(step.vm, step.host, { policy: step.policy, key: keys.of[0] })
      for (const [index, policy] of step.disks.entries())
        give(vm, { id: ids[index] ?? '', policy, key: keys.of[index + 1] }, step.empty ? empty : image)
      model.vms.set(vm.name, vm)
    },
  }
}

function applied(model: Model, step: StepOf<'apply'>, vm: Vm): Outcome {
  const home = step.home ?? vm.home.policy
  const wish = (disk: Disk) => (typeof step.disks === 'string' ? step.disks : step.disks?.[disk.id])
  const wanted = vm.disks.map((disk) => wish(disk) ?? disk.policy)
  if (!encrypts(home) && wanted.some(encrypts)) return { fault: 'VMSEAL_ENCRYPTION_MISMATCH' }
  const parts = [vm.home, ...vm.disks]
  const changes = [home, ...wanted].map((policy, index) => encrypts(policy) !== (parts[index]?.key !== undefined)) // prettier-ignore
  const fault = changes.includes(true) ? refusalOfConversion(model, vm) : undefined
  if (fault) return { fault }
  const encrypted = changes.map((change, index) => change && parts[index]?.key === undefined)
  const keys = choose(model, encrypted, step.perDiskKeys, step.provider ?? 'kms-1')
  return {
    keys: keys.made,
    effect: () => {
      for (const [index, part] of parts.entries()) {
        part.policy = [home, ...wanted][index] as string
        if (changes[index]) part.key = keys.of[index]
      }
    },
  }
}

function recrypted(model: Model, step: StepOf<'recrypt'>, vm: Vm): Outcome {
  const named = Array.isArray(step.disks) ? (step.disks as string[]) : undefined
  const disks = vm.disks.filter(({ id }) => (named ? named.includes(id) : step.disks === true))
  if (named && disks.some(({ key }) => !key)) return { fault: 'VMSEAL_DISK_STATE' }
  const parts = [...(step.home ? [vm.home] : []), ...disks].filter(({ key }) => key)
  if (parts.length === 0) return { fault: 'VMSEAL_INVALID_STATE' }
  const shape = shapeOf(model, vm)
  const fault =
    step.depth === 'deep'
      ? refusalOfConversion(model, vm)
      : shape === 'none' || shape === 'single'
        ? undefined
        : 'VMSEAL_DISK_CHAIN'
  if (fault) return { fault }
  const key = newKey(model, step.provider ?? 'kms-1')
  return {
    keys: { [key.provider]: 1 },
    effect: () => {
      for (const part of parts) part.key = key
    },
  }
}

function cloned(model: Model, step: StepOf<'clone'>, vm: Vm): Outcome {
  const snapshot = vm.snapshots.find(({ name }) => name === step.snapshot)
  const sources = [vm.home, ...vm.disks]
  const policies = sources.map(({ policy }) => step.policy ?? policy)
  if (step.policy === undefined && !encrypts(policies[0] ?? '') && policies.some(encrypts))
    return { fault: 'VMSEAL_ENCRYPTION_MISMATCH' }
  const needsKey = policies.map(
    (policy, index) => encrypts(policy) && (step.keys === 'new' || sources[index]?.key === undefined),
  )
  const keys = choose(model, needsKey, false, 'kms-1')
  return {
    keys: keys.made,
    effect: (ids) => {
      const part = (index: number) => {
        const policy = policies[index] as string
        const kept = encrypts(policy) ? sources[index]?.key : undefined
        return { policy, key: needsKey[index] ? keys.of[index] : kept }
      }
      const made = newVm(step.name, vm.host, part(0))
      for (const [index, { id }] of vm.disks.entries())
        give(made, { id: ids[index] ?? '', ...part(index + 1) }, (snapshot ?? vm).contents.get(id))
      model.vms.set(made.name, made)
      // What runs is cloned by way of a snapshot, whose removal consolidates.
      if (vm.on && !snapshot) consolidate(model, vm)
    },
  }
}

function attached(model: Model, step: StepOf<'attach'>, vm: Vm): Outcome {
  const loose = model.loose.find(({ file }) => file === step.file) as LooseDisk
  if (loose.key && !(step.policy && encrypts(step.policy))) return { fault: 'VMSEAL_POLICY_NOT_ENCRYPTION' }
  if (!loose.key && step.policy && encrypts(step.policy)) return { fault: 'VMSEAL_DISK_STATE' }
  if (loose.key && !vm.home.key) return { fault: 'VMSEAL_ENCRYPTION_MISMATCH' }
  if (vm.on) return { fault: 'VMSEAL_INVALID_POWER_STATE' }
  return {
    effect: (ids) => {
      if (loose.owner === vm.name) model.loose = model.loose.filter((one) => one !== loose)
      give(vm, { id: ids.at(-1) ?? '', policy: step.policy ?? plain, key: loose.key }, loose.content)
    },
  }
}

/** Of all VMs in the inventory, and of the host keys when the provider changes. */
function rekeyed(model: Model, step: StepOf<'rekey'>): Outcome {
  if (step.dryRun) return {}
  const vms = [...model.vms.values()].filter(
    (vm) => vm.registered && keysOf(vm).some(({ provider }) => provider === step.from),
  )
  const hosts = step.from === step.to ? [] : [...model.hostKeys].filter(([, id]) => id === step.from)
  return {
    keys: { [step.to]: vms.length + hosts.length },
    effect: () => {
      for (const [name] of hosts) model.hostKeys.set(name, step.to)
      for (const vm of vms) {
        const key = newKey(model, step.to)
        for (const part of [vm.home, ...vm.disks]) if (part.key?.provider === step.from) part.key = key
      }
    },
  }
}

/** Data is only written anew while the VM is off and every disk is one file. */
function refusalOfConversion(model: Model, vm: Vm): ErrorCode | undefined {
  if (vm.on) return 'VMSEAL_INVALID_POWER_STATE'
  if (vm.snapshots.length > 0) return 'VMSEAL_SNAPSHOTS_EXIST'
  return shapeOf(model, vm) === 'none' ? undefined : 'VMSEAL_DISK_CHAIN'
}

/** A key for each part that is wanted: one new key for all, or one for each. */
function choose(model: Model, wanted: readonly boolean[], each: boolean, provider: string) {
  let one: Key | undefined
  let made = 0
  const of = wanted.map((needs) => {
    if (!needs) return undefined
    if (one && !each) return one
    made += 1
    return (one = newKey(model, provider))
  })
  return { of, made: { [provider]: made } }
}

function give(vm: Vm, disk: Disk, content: Uint8Array | undefined): void {
  vm.disks.push(disk)
  vm.contents.set(disk.id, Buffer.from(content ?? empty))
}

function vmOf(model: Model, name: string): Vm {
  const vm = model.vms.get(name)
  if (!vm) throw new Error(`the model has no VM ${name}`)
  return vm
}
