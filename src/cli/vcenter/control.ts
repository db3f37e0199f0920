/** The control socket of a vCenter that runs. */
import { resolve } from 'node:path'
import type { VCenter } from '../../vcenter/vcenter.js'
import { namesOf } from '../completion/names.js'
import { leavesCoreDumps } from '../core-dumps.js'
import { order, type OrderOptions } from '../control/order.js'
import type { Order } from '../control/protocol.js'
import { ControlSocket, unknownOrder } from '../control/socket.js'
import { VerbPerformer, type VerbOrder } from '../verb/perform.js'
import { version } from '../version.js'

export interface VCenterStatus {
  readonly directory: string
  readonly processId: number
  readonly version: string
  /** ISO 8601, UTC. */
  readonly runningSince: string
  readonly clusters: number
  readonly hosts: { readonly connected: number; readonly all: number }
  readonly virtualMachines: { readonly locked: number; readonly all: number }
  readonly tasksUnderWay: number
  readonly coreDumps: boolean
}

const served = { code: 'VMSEAL_VCENTER_NOT_RUNNING', what: 'vCenter' } as const
const newestTasks = 1000

/** `stop` is called by whoever orders it, and not waited for: the answer comes first. */
export function openVCenterControl(
  directory: string,
  vcenter: VCenter,
  stop: () => void,
): Promise<ControlSocket> {
  const performer = new VerbPerformer(vcenter, version)
  const runningSince = new Date().toISOString()
  return ControlSocket.open(directory, async ({ action, values }, caller) => {
    switch (action) {
      case 'perform':
        return performer.perform(values as VerbOrder, caller)
      case 'names':
        return namesOf(vcenter, String((values as { kind?: unknown }).kind))
      case 'status':
        return statusOf(vcenter, resolve(directory), runningSince)
      case 'stop':
        stop()
        return { processId: process.pid }
      default:
        throw unknownOrder()
    }
  })
}

/** Rejects with VMSEAL_VCENTER_NOT_RUNNING if none runs there, or as it refuses. */
export function orderVCenter(directory: string, request: Order, options?: OrderOptions): Promise<unknown> {
  return order(served, directory, request, options)
}

export async function statusOf(
  vcenter: VCenter,
  directory: string,
  runningSince: string,
): Promise<VCenterStatus> {
  const [clusters, hosts, vms, tasks] = await Promise.all([
    vcenter.clusters.list(),
    vcenter.hosts.list(),
    vcenter.virtualMachines.search(),
    vcenter.tasks.list({ limit: newestTasks }),
  ])
  return {
    directory,
    processId: process.pid,
    version,
    runningSince,
    clusters: clusters.length,
    hosts: {
      connected: hosts.filter(({ connectionState }) => connectionState === 'connected').length,
      all: hosts.length,
    },
    virtualMachines: {
      locked: vms.filter(({ cryptoState }) => cryptoState === 'locked').length,
      all: vms.length,
    },
    tasksUnderWay: tasks.filter(({ state }) => state === 'queued' || state === 'running').length,
    coreDumps: leavesCoreDumps(),
  }
}
