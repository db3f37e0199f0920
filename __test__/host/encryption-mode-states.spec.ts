/** Row F1 of the feature table: the transition table of the host encryption mode, pair by pair. */
import test from 'ava'
import { VmsealError } from '../../src/errors.js'
import {
  hostCryptoTransitions,
  nextHostCryptoState,
  type HostCryptoSignal,
} from '../../src/host/encryption-mode-states.js'
import type { HostCryptoState } from '../../src/rpc/host-api.js'

const states: HostCryptoState[] = ['incapable', 'prepared', 'safe', 'pendingIncapable']
const signals: HostCryptoSignal[] = ['prepare', 'enable', 'changeKey', 'disable', 'restart']

/** Every pair; what is not listed here is refused. */
const allowed = new Map<string, HostCryptoState>([
  ['incapable prepare', 'prepared'],
  ['prepared enable', 'safe'],
  ['safe enable', 'safe'],
  ['safe changeKey', 'safe'],
  ['prepared disable', 'pendingIncapable'],
  ['safe disable', 'pendingIncapable'],
  ['incapable restart', 'incapable'],
  ['prepared restart', 'incapable'],
  ['safe restart', 'incapable'],
  ['pendingIncapable restart', 'incapable'],
])

for (const state of states)
  for (const signal of signals) {
    const expected = allowed.get(`${state} ${signal}`)
    test(`F1: host ${state}: ${signal} ${expected ? `leads to ${expected}` : 'is refused'}`, (t) => {
      if (expected) t.is(nextHostCryptoState(state, signal), expected)
      else
        t.throws(() => nextHostCryptoState(state, signal), {
          instanceOf: VmsealError,
          code: 'VMSEAL_INVALID_STATE',
        })
    })
  }

test('F1: every mode is reached from incapable, and a restart leads back from each', (t) => {
  const reached = new Set<HostCryptoState>(['incapable'])
  for (const state of reached)
    for (const next of Object.values(hostCryptoTransitions[state])) reached.add(next)
  t.deepEqual([...reached].toSorted(), states.toSorted())
  for (const state of states) t.is(nextHostCryptoState(state, 'restart'), 'incapable')
})
