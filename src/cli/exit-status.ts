/** What the exit status of the command means, by kind of error. Scripts branch on it; the numbers do not change. */
import { isVmsealError } from '../errors.js'

export const exitStatuses = [
  { status: 0, meaning: 'done' },
  {
    status: 1,
    meaning:
      'failed: the machine, its files, the other side of a connection, or vmseal; or a check did not hold',
  },
  { status: 2, meaning: 'the call, or a file that it names, is wrong' },
  { status: 3, meaning: 'the acting user lacks a privilege; nothing was done' },
  { status: 4, meaning: 'not possible now; the same call may succeed later without a change' },
  { status: 5, meaning: 'cancelled' },
] as const

export type ExitStatus = (typeof exitStatuses)[number]['status']

export function exitStatusOf(error: unknown): ExitStatus {
  if (!isVmsealError(error)) return 1
  if (error.code === 'VMSEAL_NO_PERMISSION') return 3
  if (error.code === 'VMSEAL_CANCELLED') return 5
  if (error.retryable) return 4
  return error.fault === 'caller' || error.fault === 'data' ? 2 : 1
}
