import test from 'ava'
import fc from 'fast-check'
import { isVmsealError } from '../../src/errors.js'
import {
  checkChange,
  cryptoTransitions,
  mayBePoweredOn,
  type CryptoStates,
} from '../../src/host/change-rules.js'
import type { CryptoSpec, ReconfigureSpec } from '../../src/rpc/host-api.js'

const key = { keyId: 'k', providerId: 'p' }
const encrypt: CryptoSpec = { type: 'encrypt', key }
const decrypt: CryptoSpec = { type: 'decrypt' }
const deepRecrypt: CryptoSpec = { type: 'deepRecrypt', newKey: key }

function states(homeSealed: boolean, ...sealed: boolean[]): CryptoStates {
  return {
    homeSealed,
    snapshots: 0,
    shape: 'none',
    disks: sealed.map((state, index) => ({ diskId: `d${index}`, sealed: state, label: `disk ${index}` })),
  }
}

const everyChange = Object.keys(cryptoTransitions) as CryptoSpec['type'][]

function specOf(type: CryptoSpec['type']): CryptoSpec {
  if (type === 'decrypt') return { type }
  return type === 'encrypt' ? { type, key } : { type, newKey: key }
}

test('every change in every state, of VM home and of a disk: what the table says', (t) => {
  for (const type of everyChange)
    for (const sealed of [false, true]) {
      const fits = (cryptoTransitions[type].from === 'encrypted') === sealed
      const home = () => checkChange(states(sealed), { home: specOf(type) })
      if (fits) t.notThrows(home, type)
      else t.throws(home, { code: 'VMSEAL_INVALID_STATE' }, type)
      const disk = () =>
        checkChange(states(true, sealed), { disks: [{ diskId: 'd0', crypto: specOf(type) }] })
      if (fits) t.notThrows(disk, type)
      else t.throws(disk, { code: 'VMSEAL_DISK_STATE' }, type)
    }
})

test('D4: with snapshots, or where nobody knows of them, only a shallow recrypt goes; disks may be added', (t) => {
  for (const snapshots of [1, 5, 'unknown'] as const)
    for (const type of everyChange) {
      const before = { ...states(true, type !== 'encrypt'), snapshots }
      const change = () => checkChange(before, { disks: [{ diskId: 'd0', crypto: specOf(type) }] })
      if (type === 'shallowRecrypt') t.notThrows(change)
      else t.throws(change, { code: 'VMSEAL_SNAPSHOTS_EXIST' }, type)
      t.notThrows(() => checkChange(before, { addDisks: [{ diskId: 'new', capacityBytes: 512, key }] }))
    }
})

test('D4, D7: chains that branch or are shared keep their keys; a single one takes another KEK', (t) => {
  for (const shape of ['single', 'tree', 'linkedClone', 'linkedCloneParent'] as const)
    for (const type of everyChange) {
      const before = { ...states(true, type !== 'encrypt'), shape }
      const change = () => checkChange(before, { disks: [{ diskId: 'd0', crypto: specOf(type) }] })
      if (shape === 'single' && type === 'shallowRecrypt') t.notThrows(change)
      else t.throws(change, { code: 'VMSEAL_DISK_CHAIN' }, `${shape} ${type}`)
    }
  const [disk] = states(true, true).disks
  const chained = { ...states(true), disks: disk ? [{ ...disk, chained: true }] : [] }
  t.throws(() => checkChange(chained, { removeDisks: ['d0'] }), { code: 'VMSEAL_SNAPSHOTS_EXIST' })
})

test('only a request of nothing but shallow recrypts may find the VM on', (t) => {
  for (const type of everyChange) {
    t.is(mayBePoweredOn({ home: specOf(type) }), type === 'shallowRecrypt')
    for (const other of everyChange) {
      const spec = { home: specOf(type), disks: [{ diskId: 'd0', crypto: specOf(other) }] }
      const shallow = [type, other].filter((one) => one === 'shallowRecrypt').length
      t.is(mayBePoweredOn(spec), shallow === 2)
      if (shallow === 1)
        t.throws(() => checkChange(states(true, true), spec), { code: 'VMSEAL_INVALID_ARGUMENT' })
    }
  }
  const addDisks = [{ diskId: 'd1', capacityBytes: 512 }]
  t.false(mayBePoweredOn({ home: specOf('shallowRecrypt'), addDisks }))
  t.false(mayBePoweredOn({}))
})

test('a change passes if and only if it fits the states and leaves states that go together', (t) => {
  const crypto = fc.option(fc.constantFrom(encrypt, decrypt, deepRecrypt), { nil: undefined })
  const passes = new Set<boolean>()
  fc.assert(
    fc.property(
      fc.boolean(),
      fc.array(fc.tuple(fc.boolean(), crypto), { maxLength: 3 }),
      crypto,
      fc.option(fc.boolean(), { nil: undefined }),
      (homeSealed, disks, home, added) => {
        const before = states(homeSealed, ...disks.map(([sealed]) => sealed && homeSealed))
        const changes = disks.flatMap(([, change], index) =>
          change ? [{ diskId: `d${index}`, crypto: change }] : [],
        )
        const spec: ReconfigureSpec = {
          ...(home && { home }),
          disks: changes,
          ...(added !== undefined && {
            addDisks: [{ diskId: 'new', capacityBytes: 512, ...(added && { key }) }],
          }),
        }
        const homeAfter = home ? home.type !== 'decrypt' : homeSealed
        const after = before.disks.map((disk, index) => {
          const change = disks[index]?.[1]
          return change ? change.type !== 'decrypt' : disk.sealed
        })
        const fits =
          (home === undefined || (home.type === 'encrypt') !== homeSealed) &&
          changes.every(({ diskId, crypto: { type } }) => {
            const disk = before.disks.find((candidate) => candidate.diskId === diskId)
            return disk?.sealed === (type !== 'encrypt')
          })
        const together = homeAfter || !(after.includes(true) || added === true)
        passes.add(fits && together)
        try {
          checkChange(before, spec)
          t.true(fits && together)
        } catch (error) {
          if (!isVmsealError(error)) throw error
          t.false(fits && together, error.message)
        }
      },
    ),
    { numRuns: 1000 },
  )
  t.is(passes.size, 2)
})

test('each refusal has its code', (t) => {
  const cases: [CryptoStates, ReconfigureSpec, string][] = [
    [states(true), { home: encrypt }, 'VMSEAL_INVALID_STATE'],
    [states(false), { home: decrypt }, 'VMSEAL_INVALID_STATE'],
    [states(true, true), { disks: [{ diskId: 'd0', crypto: encrypt }] }, 'VMSEAL_DISK_STATE'],
    [states(true, false), { disks: [{ diskId: 'd0', crypto: decrypt }] }, 'VMSEAL_DISK_STATE'],
    [states(false, false), { disks: [{ diskId: 'd0', crypto: encrypt }] }, 'VMSEAL_ENCRYPTION_MISMATCH'],
    [states(true, true), { home: decrypt }, 'VMSEAL_ENCRYPTION_MISMATCH'],
    [
      states(true, true, true),
      { home: decrypt, disks: [{ diskId: 'd1', crypto: decrypt }] },
      'VMSEAL_ENCRYPTION_MISMATCH',
    ],
    [states(false), { addDisks: [{ diskId: 'n', capacityBytes: 512, key }] }, 'VMSEAL_ENCRYPTION_MISMATCH'],
    [
      states(true),
      { home: decrypt, addDisks: [{ diskId: 'n', capacityBytes: 512, key }] },
      'VMSEAL_ENCRYPTION_MISMATCH',
    ],
    [states(true), { disks: [{ diskId: 'd9', crypto: encrypt }] }, 'VMSEAL_NOT_FOUND'],
    [states(true, true), { addDisks: [{ diskId: 'd0', capacityBytes: 512 }] }, 'VMSEAL_ALREADY_EXISTS'],
  ]
  for (const [before, spec, code] of cases)
    t.throws(() => checkChange(before, spec), { code }, JSON.stringify(spec))
})
