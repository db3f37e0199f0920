/** The control socket of a serving KMS. */
import type { Kms } from '../../kms/kms.js'
import { order as orderOf } from '../control/order.js'
import { ControlSocket, unknownOrder } from '../control/socket.js'
import { kmsActions } from './actions.js'
import type { KmsActions } from './actions.js'

type AnyAction = (kms: Kms, values: object) => unknown

export function openKmsControl(directory: string, kms: Kms): Promise<ControlSocket> {
  return ControlSocket.open(directory, ({ action, values }) => {
    if (!Object.hasOwn(kmsActions, action)) throw unknownOrder()
    return (kmsActions[action as keyof KmsActions] as AnyAction)(kms, values)
  })
}

/** Has the KMS that serves `directory` do it. Rejects with VMSEAL_KMS_NOT_SERVED if there is none, or as it refuses. */
export async function order<A extends keyof KmsActions>(
  directory: string,
  action: A,
  values: Parameters<KmsActions[A]> extends [unknown, infer Values extends object] ? Values : object,
): Promise<Awaited<ReturnType<KmsActions[A]>>> {
  const served = { code: 'VMSEAL_KMS_NOT_SERVED', what: 'KMS' } as const
  return (await orderOf(served, directory, { action, values })) as Awaited<ReturnType<KmsActions[A]>>
}
