/** The way from the command line to a vCenter: the one that runs in a directory, else the directory itself, for one call. */
import { setTimeout as delay } from 'node:timers/promises'
import { isVmsealError } from '../../errors.js'
import type { VCenter } from '../../vcenter/vcenter.js'
import type { Caller } from '../control/socket.js'
import { withVCenter } from '../vcenter-directory.js'
import { orderVCenter } from '../vcenter/control.js'
import { version } from '../version.js'
import { VerbPerformer, type VerbOrder } from './perform.js'

export interface ReachOptions {
  readonly onEvent: (event: object) => void
  readonly cancel: AbortSignal
  /** A vCenter that is opened for this call alone waits for its hosts. */
  readonly needsHosts: boolean
  readonly waitSeconds: number
  /** Only a vCenter that runs will do. */
  readonly mustRun: boolean
}

/** Another command that has the directory open is done soon; a vCenter that starts listens soon. */
const patienceMs = 3000
const lookAgainMs = 100

export async function reach(directory: string, order: VerbOrder, options: ReachOptions): Promise<unknown> {
  const end = performance.now() + patienceMs
  for (;;) {
    try {
      return await orderVCenter(directory, { action: 'perform', values: order }, options)
    } catch (error) {
      if (!isVmsealError(error, 'VMSEAL_VCENTER_NOT_RUNNING') || options.mustRun) throw error
    }
    try {
      return await withVCenter(directory, (vcenter) => performHere(vcenter, order, options))
    } catch (error) {
      if (!isVmsealError(error, 'VMSEAL_FILE_LOCKED') || performance.now() > end) throw error
    }
    await delay(lookAgainMs)
  }
}

async function performHere(vcenter: VCenter, order: VerbOrder, options: ReachOptions): Promise<unknown> {
  if (options.needsHosts) await hostsConnected(vcenter, options.waitSeconds, options.cancel)
  const caller: Caller = {
    cancelled: options.cancel,
    gone: new AbortController().signal,
    tell: async (event) => options.onEvent(event),
    mention: options.onEvent,
  }
  return new VerbPerformer(vcenter, version).perform(order, caller)
}

/** A host that stays away is named by what fails without it. */
async function hostsConnected(vcenter: VCenter, seconds: number, cancel: AbortSignal): Promise<void> {
  const end = performance.now() + seconds * 1000
  while (performance.now() < end && !cancel.aborted) {
    const hosts = await vcenter.hosts.list()
    if (hosts.every(({ connectionState }) => connectionState === 'connected')) return
    await delay(lookAgainMs)
  }
}
