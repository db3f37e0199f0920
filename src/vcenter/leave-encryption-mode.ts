/** A host leaves encryption mode: no VM comes to it meanwhile, and it goes only when none is there that would be locked by it. */
import { VmsealError } from '../errors.js'
import type { TaskRecord } from '../store/store.js'
import type { HostConnection } from './host-connections.js'
import { tolerateKnown } from './key-distribution.js'
import { synchroniseHost } from './host-sync.js'
import { takeFromHost } from './key-provider/key-use.js'
import type { Services } from './services.js'
import { keysOf } from './vm-record.js'

/** Tasks that chose a host before it was closed may still bring it a VM. They are among the newest. */
const newestTasks = 1000
const mostTurns = 8
const bringers: ReadonlySet<string> = new Set([
  'VirtualMachines.create',
  'VirtualMachines.import',
  'VirtualMachines.register',
  'VirtualMachines.restore',
  'VirtualMachine.clone',
  'VirtualMachine.migrate',
  'VirtualMachine.liveMigrate',
])

/**
 * The keys of the cluster and the host key leave the host. VMSEAL_INVALID_STATE while one of its VMs is encrypted or may become so:
 * then the host has its keys as before.
 */
export async function leaveEncryptionMode(services: Services, host: HostConnection): Promise<void> {
  const { events, hostEncryption } = services
  await host.closedToVms(async () => {
    await requireNoEncryptedVm(services, host)
    let taken = 0
    try {
      // A VM that is made on another host has its key sent to every host of the cluster, this one too.
      for (let turn = 0; turn < mostTurns; turn += 1) {
        const keys = await host.call((api) => api.listKeys())
        if (turn > 0 && keys.length === 0) break
        taken += keys.length
        for (const key of keys) await takeFromHost(host, key, events)
        // What began on one of its own VMs in between has either ended, is a task still, or finds no key.
        await requireNoEncryptedVm(services, host)
      }
      await hostEncryption.disable(host)
    } catch (error) {
      if (taken > 0) {
        host.missSomething()
        await synchroniseHost(services, host).catch(tolerateKnown)
      }
      throw error
    }
  })
}

async function requireNoEncryptedVm(services: Services, host: HostConnection): Promise<void> {
  const { store } = services
  // Tasks first: one that ends in between has told the store of its VM.
  const under = (await store.tasks.list(newestTasks)).filter(
    ({ state }) => state === 'queued' || state === 'running',
  )
  const vms = await store.virtualMachines.listByHost(host.hostId)
  const own = new Set(vms.map(({ name }) => name))
  const task = under.find((one: TaskRecord) => bringers.has(one.name) || own.has(one.entity))
  if (task)
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `task ${task.name} of ${task.entity} is under way and may need keys on host ${host.name}. Wait for its end`,
      { details: { subject: task.id } },
    )
  const encrypted = vms.find((vm) => keysOf(vm).length > 0)
  if (encrypted)
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `VM ${encrypted.name} of host ${host.name} is encrypted. Move it to another host, or decrypt it, first`,
      { details: { subject: encrypted.name } },
    )
}
