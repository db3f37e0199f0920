/** Does a step at a real site. */
import type { CryptoKeyId, VirtualMachine } from '../../../src/index.js'
import type { Site } from '../site.js'
import { keysOf, type Key, type Model } from './model.js'
import type { Step } from './steps.js'

export interface Performer {
  readonly site: Site
  /** A disk image on the host. */
  readonly image: string
  /** Stops the KMS of a provider; what it returns starts it again. */
  readonly stopKms: (provider: string) => Promise<() => Promise<void>>
  readonly written: (step: Step) => Buffer
  readonly idOf: (key: Key) => CryptoKeyId
}

const bytes = 16 * 1024

/** Name of the VM that came to be or was changed, when its disks have ids to be learned. */
export async function perform(performer: Performer, model: Model, step: Step): Promise<string | undefined> {
  const { site } = performer
  const { vcenter, cluster } = site
  if (step.do === 'create') {
    const { vm: name, host, policy, perDiskKeys } = step
    const place = { name, cluster, datastore: 'ds1', host, policy, perDiskKeys, settings: { 'guestinfo.secret': homeSecret } } // prettier-ignore
    if (step.empty)
      await vcenter.virtualMachines.create({
        ...place,
        disks: step.disks.map((one) => ({ capacityBytes: bytes, policy: one })),
      })
    else
      await vcenter.virtualMachines.import({
        ...place,
        disks: step.disks.map((one) => ({ source: performer.image, policy: one })),
      })
    return name
  }
  if (step.do === 'rekey') {
    const result = await vcenter.rekey({ provider: step.from, newProvider: step.to, dryRun: step.dryRun })
      .done
    const outcomes = [...result.virtualMachines, ...result.hosts]
    const wrong = outcomes.find(({ state }) => state !== (step.dryRun ? 'waiting' : 'done'))
    if (wrong) throw new Error(`the rekey of ${wrong.name} is ${wrong.state}: ${wrong.error?.message}`)
    return undefined
  }
  if (step.do === 'register') {
    const { vm: name } = step
    const host = model.vms.get(name)?.host ?? ''
    await vcenter.virtualMachines.register({ cluster, datastore: 'ds1', vmx: `${name}/${name}.vmx`, host })
    return undefined
  }
  return onVm(performer, model, step, await vcenter.virtualMachines.get(step.vm))
}

/** Stands in the .vmx of a VM whose home is plain, and in no other file. */
export const homeSecret = 'what only the settings know'

async function onVm(
  performer: Performer,
  model: Model,
  step: Exclude<Step, { readonly do: 'create' | 'rekey' | 'register' }>,
  vm: VirtualMachine,
): Promise<string | undefined> {
  switch (step.do) {
    case 'apply': {
      const { home, disks, inPlace, perDiskKeys, provider: keyProvider } = step
      const wish = { ...(home && { home }), ...(disks && { disks }) }
      const conversion = inPlace ? 'inPlace' : 'copy'
      await vm.applyPolicy(wish, { conversion, perDiskKeys, ...(keyProvider && { keyProvider }) }).done
      return undefined
    }
    case 'recrypt': {
      const { depth, home, disks, inPlace, provider: keyProvider } = step
      const more = { ...(inPlace && { conversion: 'inPlace' as const }), ...(keyProvider && { keyProvider }) }
      await vm.recrypt({ depth, home, disks, ...more }).done
      return undefined
    }
    case 'addDisk':
      await vm.addDisk({ capacityBytes: bytes, policy: step.policy }).done
      return step.vm
    case 'attach':
      await vm.attachDisk({ file: step.file, ...(step.policy && { policy: step.policy }) }).done
      return step.vm
    case 'detach':
      await detach(model, step, vm)
      return undefined
    case 'write':
      await vm.writeDisk(step.disk, step.at, performer.written(step))
      return undefined
    case 'powerOn':
      await vm.powerOn()
      return undefined
    case 'powerOff':
      await vm.powerOff()
      return undefined
    case 'snapshot':
      await vm.createSnapshot({ name: step.name }).done
      return undefined
    case 'revert':
      await vm.revertToSnapshot(step.name).done
      return undefined
    case 'remove':
      await vm.removeSnapshot(step.name, { children: step.children }).done
      return undefined
    case 'removeAll':
      await vm.removeAllSnapshots().done
      return undefined
    case 'consolidate':
      await vm.consolidateDisks().done
      return undefined
    case 'clone': {
      const { name, snapshot, policy, keys } = step
      const of = { ...(snapshot && { snapshot }), ...(policy && { policy: { home: policy, disks: policy } }) }
      await vm.clone({ name, keys, ...of }).done
      return name
    }
    case 'link':
      await vm.clone({ name: step.name, snapshot: step.snapshot, linked: true }).done
      return step.name
    case 'migrate':
      if (step.forgetful) await forget(performer, model, step.vm, step.host)
      await vm.migrate({ host: step.host }).done
      return undefined
    case 'unregister':
      await vm.unregister()
      return undefined
    case 'destroy':
      await vm.destroy()
      return undefined
    case 'lose':
      await lose(performer, model, vm)
      return undefined
  }
}

/** The disk is among the loose ones when it has left its VM, by the name that its files have. */
async function detach(
  model: Model,
  { vm: owner, disk: id }: { readonly vm: string; readonly disk: string },
  vm: VirtualMachine,
): Promise<void> {
  const file = (await vm.info()).disks.find(({ diskId }) => diskId === id)?.file ?? ''
  await vm.detachDisk(id)
  const known = model.vms.get(owner)
  const key = known?.disks.find((disk) => disk.id === id)?.key
  const content = known?.contents.get(id)
  if (content) model.loose.push({ file: `${owner}/${file}`, owner, id, key, content })
}

/** A host loses keys of a VM that comes to it, unless another VM there needs them. */
async function forget({ site, idOf }: Performer, model: Model, name: string, hostName: string) {
  const host = site.hosts.find((one) => one.name === hostName)
  const there = [...model.vms.values()].filter((vm) => vm.name !== name && vm.host === hostName)
  const needed = new Set(there.flatMap(keysOf))
  const vm = model.vms.get(name)
  if (!vm || vm.host === hostName) return
  const held = (await host?.listKeys()) ?? []
  for (const key of keysOf(vm).filter((one) => !needed.has(one)))
    if (held.some(({ keyId }) => keyId === idOf(key).keyId)) await host?.removeKey(idOf(key))
}

/** The key of VM home is taken from every host while its KMS is away: the VM is locked, says why, and comes back with the KMS. */
async function lose({ site, stopKms, idOf }: Performer, model: Model, vm: VirtualMachine): Promise<void> {
  const { vcenter } = site
  const known = model.vms.get(vm.name)?.home.key
  if (!known) throw new Error(`${vm.name} is plain`)
  const key = idOf(known)
  const start = await stopKms(known.provider)
  await vcenter.keyProviders.keys.remove([key], { force: true })
  const needing = [...model.vms.values()].filter(({ home }) => home.key === known)
  const refused = async (what: string, act: () => Promise<unknown>): Promise<void> => {
    const error = await act().then(
      () => undefined,
      (reason: unknown) => reason as { code?: string },
    )
    if (error?.code !== 'VMSEAL_ENCRYPTION_KEY_REQUIRED')
      throw new Error(`${what} of the locked ${vm.name} came to ${error?.code ?? 'be'}`)
  }
  for (const { name } of needing) {
    const { cryptoState, missingKeys } = await (await vcenter.virtualMachines.get(name)).info()
    if (cryptoState !== 'locked' || !missingKeys.some(({ keyId }) => keyId === key.keyId))
      throw new Error(`${name} is ${cryptoState} without its key`)
  }
  await refused('power on', () => vm.powerOn())
  await refused('a policy', () => vm.applyPolicy({ home: 'gold' }).done)
  await refused('a snapshot', () => vm.createSnapshot({ name: 'never' }).done)
  await refused('a recrypt', () => vm.recrypt({ depth: 'shallow' }).done)
  await start()
  for (const { name } of needing) await (await vcenter.virtualMachines.get(name)).unlock()
}
