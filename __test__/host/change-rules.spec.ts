import test from 'ava'
import fc from 'fast-check'
import { isVmsealError } from '../../src/errors.js'
import { checkChange, type CryptoStates } from '../../src/host/change-rules.js'
import type { CryptoSpec, ReconfigureSpec } from '../../src/rpc/host-api.js'

const key = { keyId: 'k', providerId: 'p' }
const encrypt: CryptoSpec = { type: 'encrypt', key }
const decrypt: CryptoSpec = { type: 'decrypt' }

function states(homeSealed: boolean, ...sealed: boolean[]): CryptoStates {
  return {
    homeSealed,
    disks: sealed.map((state, index) => ({ diskId: `d${index}`, sealed: state, label: `disk ${index}` })),
  }
}

test('a change passes if and only if it fits the states and leaves states that go together', (t) => {
  const crypto = fc.option(fc.constantFrom(encrypt, decrypt), { nil: undefined })
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
        const homeAfter = home ? home.type === 'encrypt' : homeSealed
        const after = before.disks.map((disk, index) => {
          const change = disks[index]?.[1]
          return change ? change.type === 'encrypt' : disk.sealed
        })
        const fits =
          (home === undefined || homeAfter !== homeSealed) &&
          changes.every(({ diskId, crypto: { type } }) => {
            const disk = before.disks.find((candidate) => candidate.diskId === diskId)
            return disk?.sealed === (type === 'decrypt')
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
