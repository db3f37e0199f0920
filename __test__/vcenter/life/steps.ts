/** Random steps in the life of VMs, from a seed and what there is. Most can be done; some have to be refused. */
import type { Random } from '../../simulation/random.js'
import { encryption, encrypts, gold, plain, shapeOf, type Model, type Vm } from './model.js'

export type Step =
  | { readonly do: 'create'; readonly vm: string; readonly host: string; readonly policy: string; readonly disks: readonly string[]; readonly perDiskKeys: boolean; readonly empty: boolean }
  | { readonly do: 'apply'; readonly vm: string; readonly home?: string; readonly disks?: string | Readonly<Record<string, string>>; readonly inPlace: boolean; readonly perDiskKeys: boolean; readonly provider?: string }
  | { readonly do: 'addDisk'; readonly vm: string; readonly policy: string }
  | { readonly do: 'detach'; readonly vm: string; readonly disk: string }
  | { readonly do: 'attach'; readonly vm: string; readonly file: string; readonly policy?: string }
  | { readonly do: 'write'; readonly vm: string; readonly disk: string; readonly at: number }
  | { readonly do: 'powerOn' | 'powerOff' | 'unregister' | 'register' | 'destroy' | 'removeAll' | 'consolidate' | 'lose'; readonly vm: string }
  | { readonly do: 'snapshot' | 'revert'; readonly vm: string; readonly name: string }
  | { readonly do: 'remove'; readonly vm: string; readonly name: string; readonly children: boolean }
  | { readonly do: 'clone'; readonly vm: string; readonly name: string; readonly snapshot?: string; readonly policy?: string; readonly keys: 'same' | 'new' }
  | { readonly do: 'link'; readonly vm: string; readonly name: string; readonly snapshot: string }
  | { readonly do: 'migrate'; readonly vm: string; readonly host: string; readonly forgetful: boolean }
  | { readonly do: 'recrypt'; readonly vm: string; readonly depth: 'shallow' | 'deep'; readonly home: boolean; readonly disks: boolean | readonly string[]; readonly inPlace: boolean; readonly provider?: string }
  | { readonly do: 'rekey'; readonly from: string; readonly to: string; readonly dryRun: boolean } // prettier-ignore

const mostVms = 3
const mostDisks = 3
const mostSnapshots = 4
export const providers = ['kms-1', 'kms-2'] as const

const weights: readonly (readonly [Step['do'], number])[] = [
  ['create', 6],
  ['apply', 12],
  ['addDisk', 4],
  ['detach', 4],
  ['attach', 6],
  ['write', 8],
  ['powerOn', 3],
  ['powerOff', 6],
  ['snapshot', 7],
  ['revert', 4],
  ['remove', 5],
  ['removeAll', 2],
  ['consolidate', 2],
  ['clone', 4],
  ['link', 3],
  ['migrate', 5],
  ['recrypt', 10],
  ['rekey', 3],
  ['unregister', 2],
  ['register', 8],
  ['destroy', 3],
  ['lose', 1],
]
const lot = weights.flatMap(([name, weight]) => Array.from({ length: weight }, () => name))

export function nextStep(random: Random, model: Model, hosts: readonly string[], index: number): Step {
  if (model.vms.size === 0) return create(random, hosts, index)
  for (;;) {
    const step = propose(random, model, hosts, index, random.pick(lot))
    if (step) return step
  }
}

/** Undefined: there is nothing now that such a step could be done to. */
function propose(
  random: Random,
  model: Model,
  hosts: readonly string[],
  index: number,
  kind: Step['do'],
): Step | undefined {
  const all = [...model.vms.values()]
  if (kind === 'create') return all.length < mostVms ? create(random, hosts, index) : undefined
  if (kind === 'rekey') return rekey(random, model)
  const one = random.pick(all)
  const vm = one.name
  if (kind === 'register') return one.registered ? undefined : { do: kind, vm }
  if (!one.registered) return undefined
  const shape = shapeOf(model, one)
  const disk = random.pick(one.disks)?.id
  const snapshot = random.pick(one.snapshots)?.name
  const policy = random.pick([encryption, encryption, gold, plain])
  switch (kind) {
    case 'apply':
      return applied(random, one)
    case 'addDisk':
      return shape === 'none' && one.disks.length < mostDisks ? { do: kind, vm, policy } : undefined
    case 'detach': {
      const mayGo = shape === 'none' ? one.disks.length > 1 : shape === 'single' || shape === 'tree'
      return disk && mayGo ? { do: kind, vm, disk } : undefined
    }
    case 'attach': {
      const owners = new Set(all.filter(({ snapshots }) => snapshots.length === 0).map(({ name }) => name))
      const loose = random.pick(model.loose.filter(({ owner }) => owners.has(owner)))
      if (!loose || shape !== 'none' || one.disks.length >= mostDisks) return undefined
      const fitting = loose.key ? random.pick([encryption, gold]) : undefined
      const wish = random.chance(0.8) ? fitting : random.pick([encryption, plain])
      return { do: kind, vm, file: loose.file, ...(wish && { policy: wish }) }
    }
    case 'write':
      return disk ? { do: kind, vm, disk, at: 512 * random.below(16) } : undefined
    case 'powerOn':
    case 'destroy':
      return { do: kind, vm }
    case 'powerOff':
      return one.on ? { do: kind, vm } : undefined
    case 'snapshot':
      return one.snapshots.length < mostSnapshots ? { do: kind, vm, name: `s${index}` } : undefined
    case 'revert':
      return snapshot ? { do: kind, vm, name: snapshot } : undefined
    case 'remove':
      return snapshot ? { do: kind, vm, name: snapshot, children: random.chance(0.3) } : undefined
    case 'removeAll':
    case 'consolidate':
    case 'unregister':
      return { do: kind, vm }
    case 'lose':
      return one.home.key && all.every(({ on, registered }) => !on && registered)
        ? { do: kind, vm }
        : undefined
    case 'clone':
      return all.length < mostVms
        ? {
            do: kind,
            vm,
            name: `vm${index}`,
            keys: random.pick(['same', 'new']),
            ...(snapshot && random.chance(0.5) && { snapshot }),
            ...(random.chance(0.5) && { policy }),
          }
        : undefined
    case 'link':
      return snapshot && all.length < mostVms && shape !== 'linkedClone'
        ? { do: kind, vm, name: `vm${index}`, snapshot }
        : undefined
    case 'migrate':
      return { do: kind, vm, host: random.pick(hosts), forgetful: random.chance(0.5) }
    case 'recrypt':
      return recrypted(random, one)
  }
}

function create(random: Random, hosts: readonly string[], index: number): Step {
  const policy = random.pick([encryption, gold, plain])
  const disks = Array.from({ length: 1 + random.below(2) }, () =>
    random.chance(0.7) ? policy : random.pick([encryption, plain]),
  )
  return {
    do: 'create',
    vm: `vm${index}`,
    host: random.pick(hosts),
    policy,
    disks,
    perDiskKeys: random.chance(0.2),
    empty: random.chance(0.2),
  }
}

function applied(random: Random, vm: Vm): Step {
  const policy = () => random.pick([encryption, encryption, gold, plain, plain])
  const some = Object.fromEntries(
    vm.disks.filter(() => random.chance(0.5)).map(({ id }) => [id, policy()] as const),
  )
  return {
    do: 'apply',
    vm: vm.name,
    inPlace: random.chance(0.4),
    perDiskKeys: random.chance(0.2),
    ...(random.chance(0.7) && { home: policy() }),
    ...(random.chance(0.8) && { disks: random.chance(0.6) ? policy() : some }),
    ...(random.chance(0.15) && { provider: 'kms-2' }),
  }
}

function recrypted(random: Random, vm: Vm): Step {
  const depth = random.pick(['shallow', 'deep'] as const)
  return {
    do: 'recrypt',
    vm: vm.name,
    depth,
    home: random.chance(0.8),
    disks: random.chance(0.7) || random.pick([false, vm.disks.slice(0, 1).map(({ id }) => id)]),
    inPlace: depth === 'deep' && random.chance(0.5),
    ...(random.chance(0.25) && { provider: 'kms-2' }),
  }
}

/** Where no VM would fail: what a rekey does with one that does is tested beside this. */
function rekey(random: Random, model: Model): Step | undefined {
  const from = random.pick(providers)
  const shapes = new Set(
    [...model.vms.values()]
      .filter((vm) => vm.registered && encrypts(vm.home.policy))
      .map((vm) => shapeOf(model, vm)),
  )
  if ([...shapes].some((shape) => shape !== 'none' && shape !== 'single')) return undefined
  return { do: 'rekey', from, to: random.pick(providers), dryRun: random.chance(0.2) }
}
