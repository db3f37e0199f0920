import test from 'ava'
import { attributeValue } from '../../src/kmip/attributes.js'
import type { KmipClient } from '../../src/kmip/client.js'
import { keyActions, keyTransitions, nextState } from '../../src/kms/life-cycle.js'
import type { KeyAction, KeyState } from '../../src/kms/life-cycle.js'
import { refusal, startWithClient } from './running-kms.js'

/** KMIP 1.4, section 3.22, written a second time: state, then what each action leads to (`-`: refused). */
const expected = `
                       Activate  Deactivate   Compromise            Destroy
  PreActive            Active    -            Compromised           Destroyed
  Active               -         Deactivated  Compromised           -
  Deactivated          -         -            Compromised           Destroyed
  Compromised          -         -            -                     DestroyedCompromised
  Destroyed            -         -            DestroyedCompromised  -
  DestroyedCompromised -         -            -                     -
`
const [columns = [], ...rows] = expected
  .trim()
  .split('\n')
  .map((line) => line.trim().split(/ +/))

/** How a key gets into each state. */
const paths: Record<KeyState, KeyAction[]> = {
  PreActive: [],
  Active: ['Activate'],
  Deactivated: ['Activate', 'Deactivate'],
  Compromised: ['Compromise'],
  Destroyed: ['Destroy'],
  DestroyedCompromised: ['Compromise', 'Destroy'],
}

const perform: Record<KeyAction, (client: KmipClient, id: string) => Promise<void>> = {
  Activate: (client, id) => client.activate(id),
  Deactivate: (client, id) => client.revoke(id, 'CessationOfOperation'),
  Compromise: (client, id) => client.revoke(id, 'KeyCompromise'),
  Destroy: (client, id) => client.destroy(id),
}

test('the table is whole', (t) => {
  t.deepEqual(columns, [...keyActions])
  t.deepEqual(
    rows.map(([state]) => state),
    Object.keys(keyTransitions),
  )
})

for (const [state, ...cells] of rows as [KeyState, ...string[]][])
  for (const [index, next] of cells.entries()) {
    const action = columns[index] as KeyAction
    test(`${state}, ${action}: ${next === '-' ? 'refused' : next}`, async (t) => {
      if (next === '-') t.throws(() => nextState(state, action), { code: 'VMSEAL_KMIP_OPERATION_FAILED' })
      else t.is<string, string>(nextState(state, action), next)

      const { client } = await startWithClient(t)
      const { id } = await client.create()
      for (const step of paths[state]) await perform[step](client, id)
      if (next === '-') {
        const gone = state.startsWith('Destroyed') && (action === 'Activate' || action === 'Destroy')
        t.is(await refusal(t, perform[action](client, id)), gone ? 'ItemNotFound' : 'PermissionDenied')
      } else await perform[action](client, id)
      t.is(attributeValue(await client.getAttributes(id), 'State') as string, next === '-' ? state : next)
    })
  }

test('the dates of a life', async (t) => {
  const { client } = await startWithClient(t)
  const { id } = await client.create()
  await client.activate(id)
  await client.revoke(id, 'KeyCompromise')
  await client.destroy(id)
  const attributes = await client.getAttributes(id)
  for (const name of [
    'Initial Date',
    'Activation Date',
    'Compromise Date',
    'Compromise Occurrence Date',
    'Destroy Date',
  ])
    t.true(attributeValue(attributes, name) instanceof Date, name)
  t.is(attributeValue(attributes, 'Deactivation Date'), undefined)
})

test('a key can be had in the states 1 to 4', async (t) => {
  const { client } = await startWithClient(t)
  for (const state of ['PreActive', 'Active', 'Deactivated', 'Compromised'] as const) {
    const { id } = await client.create()
    for (const step of paths[state]) await perform[step](client, id)
    const { key, ...rest } = await client.get(id, { state: true })
    t.is(rest.state, state)
    key.dispose()
  }
})
