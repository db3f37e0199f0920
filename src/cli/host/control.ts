/** The control socket of a host agent that runs: what its owner orders on its own machine. Arguments and results are JSON. */
import type { HostAgent } from '../../agent/host-agent.js'
import type { CryptoKeyId } from '../../errors.js'
import { isVmsealError } from '../../errors.js'
import type { HostDumpDescription } from '../../host/host-dumps.js'
import type { HostCryptoState, VmReference, Work } from '../../rpc/host-api.js'
import type { HostAddress } from '../../rpc/wire.js'
import { order as orderOf } from '../control/order.js'
import { ControlSocket, unknownOrder } from '../control/socket.js'
import { leavesCoreDumps } from '../core-dumps.js'
import { output } from '../output.js'
import { version } from '../version.js'

export interface HostStatus {
  readonly name: string
  readonly hostId: string
  readonly address: HostAddress
  readonly directory: string
  readonly processId: number
  readonly version: string
  readonly joined: boolean
  /** When the certificate that it shows its vCenter ends, ISO 8601. */
  readonly certificateExpires?: string
  readonly cryptoState: HostCryptoState
  readonly cryptoKeyId?: CryptoKeyId
  readonly coreDumps: boolean
}

interface VmDump {
  readonly vm: VmReference
  /** Tells dumps of one VM apart. */
  readonly label?: string
}

interface Serving {
  readonly agent: HostAgent
  readonly directory: string
}

const hostActions = {
  status: ({ agent, directory }: Serving): Promise<HostStatus> => statusOf(agent, directory),

  writeDump: async ({ agent }: Serving, { name, source }: { name: string; source: string }, work: Work) => {
    const file = await agent.host.writeDump(name, source, work)
    const { key } = await agent.host.describeDump(file)
    return told('dumpWritten', { file, key })
  },

  extractDump: (
    { agent }: Serving,
    { file, target }: { file: string; target: string },
    work: Work,
  ): Promise<{ target: string; dump: HostDumpDescription }> =>
    recorded({ file, target }, async () => ({
      target,
      dump: await agent.host.extractDump(file, target, work),
    })),

  writeVmDump: async ({ agent }: Serving, { vm, label, source }: VmDump & { source: string }, work: Work) => {
    await agent.host.saveGuestState(vm, coreOf(label), source, work)
    return told('dumpWritten', { ...vm })
  },

  extractVmDump: (
    { agent }: Serving,
    { vm, label, target }: VmDump & { target: string },
    work: Work,
  ): Promise<{ target: string; vm: VmReference }> =>
    recorded({ datastore: vm.datastore, vmx: vm.vmx, target }, async () => {
      await agent.host.readGuestState(vm, coreOf(label), target, work)
      return { target, vm }
    }),
} as const

type HostActions = typeof hostActions
type AnyAction = (serving: Serving, values: object, work: Work) => unknown

export function openHostControl(directory: string, agent: HostAgent): Promise<ControlSocket> {
  return ControlSocket.open(directory, ({ action, values }, { cancelled }) => {
    if (!Object.hasOwn(hostActions, action)) throw unknownOrder()
    const act = hostActions[action as keyof HostActions] as AnyAction
    return act({ agent, directory }, values, { signal: cancelled })
  })
}

/** Has the host agent of `directory` do it. Rejects with VMSEAL_HOST_NOT_RUNNING if none runs there, or as it refuses. */
export async function order<A extends keyof HostActions>(
  directory: string,
  action: A,
  values: Parameters<HostActions[A]> extends [unknown, infer Values extends object, ...unknown[]]
    ? Values
    : object,
  cancel?: AbortSignal,
): Promise<Awaited<ReturnType<HostActions[A]>>> {
  const served = { code: 'VMSEAL_HOST_NOT_RUNNING', what: 'host agent' } as const
  const answer = await orderOf(served, directory, { action, values }, cancel ? { cancel } : {})
  return answer as Awaited<ReturnType<HostActions[A]>>
}

async function statusOf(agent: HostAgent, directory: string): Promise<HostStatus> {
  const { hostId, name, cryptoState, cryptoKeyId } = await agent.host.identify()
  return {
    name,
    hostId,
    address: agent.address,
    directory,
    processId: process.pid,
    version,
    joined: agent.joined,
    ...(agent.certificateExpires && { certificateExpires: agent.certificateExpires.toISOString() }),
    cryptoState,
    ...(cryptoKeyId && { cryptoKeyId }),
    coreDumps: leavesCoreDumps(),
  }
}

function coreOf(label: string | undefined): { kind: 'core'; label?: string } {
  return { kind: 'core', ...(label === undefined ? {} : { label }) }
}

/** Plaintext leaves the host: what it prints, its log, says so before, and when it came to nothing. */
async function recorded<Result>(
  what: Readonly<Record<string, string>>,
  act: () => Promise<Result>,
): Promise<Result> {
  told('dumpExtraction', what)
  try {
    return await act()
  } catch (error) {
    told('dumpExtractionFailed', { ...what, error: isVmsealError(error) ? error.code : 'VMSEAL_INTERNAL' })
    throw error
  }
}

function told<Facts extends object>(event: string, facts: Facts): Facts {
  const text = Object.entries(facts).map(
    ([name, value]) => `${name} ${typeof value === 'string' ? value : JSON.stringify(value)}`,
  )
  output.event(event, facts, `${event}: ${text.join(', ')}`)
  return facts
}
