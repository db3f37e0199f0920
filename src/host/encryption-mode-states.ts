/** Host encryption mode as a table (vSphere's HostCryptoState and the calls of CryptoManagerHost). */
import { VmsealError } from '../errors.js'
import type { HostCryptoState } from '../rpc/host-api.js'

export type HostCryptoSignal = 'prepare' | 'enable' | 'changeKey' | 'disable' | 'restart'

/** What is not in the table is refused. A restart loses every key, so it leads to the start from everywhere. */
export const hostCryptoTransitions: Readonly<
  Record<HostCryptoState, Partial<Readonly<Record<HostCryptoSignal, HostCryptoState>>>>
> = {
  incapable: { prepare: 'prepared', restart: 'incapable' },
  prepared: { enable: 'safe', disable: 'pendingIncapable', restart: 'incapable' },
  // Enabling a safe host again: only with the key that it has, and nothing changes.
  safe: { enable: 'safe', changeKey: 'safe', disable: 'pendingIncapable', restart: 'incapable' },
  pendingIncapable: { restart: 'incapable' },
}

const nextStep: Readonly<Record<HostCryptoState, string>> = {
  incapable: 'prepare it first',
  prepared: 'enable it with a host key first',
  safe: 'it is enabled already',
  pendingIncapable: 'it was switched off: restart the host first',
}

/** The state after `signal`. VMSEAL_INVALID_STATE if the table has no such transition. */
export function nextHostCryptoState(state: HostCryptoState, signal: HostCryptoSignal): HostCryptoState {
  const next = hostCryptoTransitions[state][signal]
  if (next === undefined)
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `the host encryption mode is ${state}, which has no ${signal}: ${nextStep[state]}`,
    )
  return next
}
