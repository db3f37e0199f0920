/** Work on a disk where it lies: whatever stops it, the message says how to go on. */
import { VmsealError, isVmsealError } from '../../errors.js'
import { native, type NativeTask } from '../../native/load.js'
import { follow } from './progress.js'

/** Runs the task to its end; the code of a failure stays as it is. */
export async function runInPlace(label: string, path: string, start: () => NativeTask): Promise<string> {
  try {
    return await follow(label, start())
  } catch (error) {
    if (!isVmsealError(error) || !isInConversion(path)) throw error
    throw new VmsealError(error.code, `${error.message}. ${goOn(path)}`, {
      cause: error,
      details: { ...error.details, subject: path },
    })
  }
}

/** The next step for a disk in conversion. */
function goOn(path: string): string {
  return `Nothing is lost and the disk is in conversion; go on with: vmseal disk resume ${path}`
}

function isInConversion(path: string): boolean {
  try {
    native.inspectImage(path)
    return false
  } catch (error) {
    return isVmsealError(error, 'VMSEAL_DISK_IN_CONVERSION')
  }
}
