/** Every operation on a VM with keys is on record before it begins and after it ends. */
import { isVmsealError, type CryptoKeyId } from '../errors.js'
import type { EventLog, VCenterEventDetails } from './events.js'

type Operation = VCenterEventDetails['com.vmware.vc.crypto.Operation']

export async function recordOperation<Result>(
  events: EventLog,
  subject: { operation: Operation['operation']; vm: string; host: string; keys: readonly CryptoKeyId[] },
  act: () => Promise<Result>,
): Promise<Result> {
  if (subject.keys.length === 0) return act()
  const append = (outcome: Operation['outcome'], error?: Operation['error']): Promise<void> =>
    events.append('com.vmware.vc.crypto.Operation', { ...subject, outcome, ...(error ? { error } : {}) })
  await append('began')
  try {
    const result = await act()
    await append('success')
    return result
  } catch (error) {
    await append('error', isVmsealError(error) ? error.code : 'VMSEAL_INTERNAL')
    throw error
  }
}
