/** Every operation on a VM with keys is on record before it begins and after it ends; so is one that was refused. */
import { isVmsealError, type CryptoKeyId, type ErrorCode } from '../errors.js'
import type { EventLog, VCenterEventDetails } from './events.js'
import { withoutKeys } from './key-distribution.js'

type Operation = VCenterEventDetails['com.vmware.vc.crypto.Operation']

interface Subject {
  readonly operation: Operation['operation']
  readonly vm: string
  readonly host: string
  readonly keys: readonly CryptoKeyId[]
}

/** Errors of operations that are on record already. */
const recorded = new WeakSet<object>()

export async function recordOperation<Result>(
  events: EventLog,
  subject: Subject,
  act: () => Promise<Result>,
): Promise<Result> {
  if (subject.keys.length === 0) return act()
  const append = (outcome: Operation['outcome'], error?: ErrorCode): Promise<void> =>
    events.append('com.vmware.vc.crypto.Operation', { ...subject, outcome, ...(error ? { error } : {}) })
  await append('began')
  try {
    const result = await act()
    await append('success')
    return result
  } catch (error) {
    if (typeof error === 'object' && error !== null) recorded.add(error)
    const code = isVmsealError(error) ? error.code : 'VMSEAL_INTERNAL'
    await append('error', code)
    await tellNoSpace(events, subject, code)
    throw error
  }
}

/** Around all of an operation: what fails before it began, for a rule, a key or a privilege, was refused. */
export async function recordRefusal<Result>(
  events: EventLog,
  subject: Subject,
  act: () => Promise<Result>,
): Promise<Result> {
  try {
    return await act()
  } catch (error) {
    if (isVmsealError(error) && !recorded.has(error) && error.code !== 'VMSEAL_CANCELLED') {
      recorded.add(error)
      const keys = withoutKeys([...subject.keys, ...(error.details.requiredKeys ?? [])], [])
      await events.append('com.vmware.vc.crypto.Operation', {
        ...subject,
        keys,
        outcome: 'refused',
        error: error.code,
      })
      await tellNoSpace(events, subject, error.code)
    }
    throw error
  }
}

async function tellNoSpace(events: EventLog, { vm, host, keys }: Subject, code: ErrorCode): Promise<void> {
  if (code === 'VMSEAL_NO_SPACE')
    await events.append('com.vmware.vc.vm.crypto.NoDiskSpace', { vm, host, keys })
}
