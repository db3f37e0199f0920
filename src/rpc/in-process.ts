/**
 * A host in this process behind the same wall as one across a network: arguments, results, progress
 * and errors cross as JSON text, so nothing but JSON can cross.
 */
import { VmsealError, isErrorCode, isVmsealError, type ErrorDetails } from '../errors.js'
import type { HostApi, Work, WorkProgress } from './host-api.js'

export function connectInProcess(host: HostApi): HostApi {
  return {
    identify: () => call([], () => host.identify()),
    prepareCrypto: () => call([], () => host.prepareCrypto()),
    enableCrypto: (...values) => call(values, (...crossed) => host.enableCrypto(...crossed)),
    changeHostKey: (...values) => call(values, (...crossed) => host.changeHostKey(...crossed)),
    disableCrypto: () => call([], () => host.disableCrypto()),
    installKey: (...values) => call(values, (...crossed) => host.installKey(...crossed)),
    listKeys: () => call([], () => host.listKeys()),
    removeKey: (...values) => call(values, (...crossed) => host.removeKey(...crossed)),
    createVirtualMachine: (spec, work) =>
      call([spec], (crossed) => host.createVirtualMachine(crossed, cross(work))),
    reconfigureVirtualMachine: (vm, spec, work) =>
      call([vm, spec], (...crossed) => host.reconfigureVirtualMachine(...crossed, cross(work))),
    readVirtualMachine: (...values) => call(values, (...crossed) => host.readVirtualMachine(...crossed)),
    findVirtualMachines: (...values) => call(values, (...crossed) => host.findVirtualMachines(...crossed)),
    destroyVirtualMachine: (...values) =>
      call(values, (...crossed) => host.destroyVirtualMachine(...crossed)),
    powerOn: (...values) => call(values, (...crossed) => host.powerOn(...crossed)),
    powerOff: (...values) => call(values, (...crossed) => host.powerOff(...crossed)),
    digestDisk: (vm, diskId, work) =>
      call([vm, diskId], (...crossed) => host.digestDisk(...crossed, cross(work))),
    readDisk: (...values) => call(values, (...crossed) => host.readDisk(...crossed)),
  }
}

/** The JSON form of an error: what is in it is safe to show. */
interface ErrorMessage {
  readonly code: string
  readonly message: string
  readonly details: ErrorDetails
}

async function call<Values extends readonly unknown[], Result>(
  values: readonly [...Values],
  request: (...crossed: Values) => Promise<Result>,
): Promise<Result> {
  const crossed = throughJson(values) as Values
  let outcome: Result
  try {
    outcome = await request(...crossed)
  } catch (error) {
    throw fromMessage(throughJson(toMessage(error)))
  }
  return throughJson(outcome)
}

/** Callbacks go alongside; what they carry is JSON too. */
function cross(work: Work | undefined): Work {
  const { onProgress, signal } = work ?? {}
  return {
    ...(onProgress && { onProgress: (progress: WorkProgress) => onProgress(throughJson(progress)) }),
    ...(signal && { signal }),
  }
}

function throughJson<T>(value: T): T {
  return value === undefined ? value : (JSON.parse(JSON.stringify(value)) as T)
}

function toMessage(error: unknown): ErrorMessage {
  if (isVmsealError(error)) return { code: error.code, message: error.message, details: error.details }
  return {
    code: 'VMSEAL_INTERNAL',
    message: error instanceof Error ? error.message : String(error),
    details: {},
  }
}

function fromMessage({ code, message, details }: ErrorMessage): VmsealError {
  return new VmsealError(isErrorCode(code) ? code : 'VMSEAL_INTERNAL', message, { details })
}
