import test from 'ava'
import fc from 'fast-check'
import { VmsealError } from '../../src/errors.js'
import { changesNothing, planCryptoChange, refuseMismatch } from '../../src/vcenter/policy-plan.js'

const booleans = [false, true]
const wishes = [undefined, false, true]

/** Home and two disks in every state, with every wish for each: 8 x 27 pairs. */
for (const home of booleans)
  for (const first of booleans)
    for (const second of booleans) {
      const possible = home || !(first || second)
      const title = [home, first, second].map((encrypted) => (encrypted ? 'encrypted' : 'plain')).join(', ')
      test(`home, disk, disk = ${title}: every wish changes just what differs, or is refused`, (t) => {
        let refused = 0
        for (const homeWish of wishes)
          for (const firstWish of wishes)
            for (const secondWish of wishes) {
              const state = { home, disks: new Map([['a', first], ['b', second]]) } // prettier-ignore
              const disks = new Map<string, boolean>()
              if (firstWish !== undefined) disks.set('a', firstWish)
              if (secondWish !== undefined) disks.set('b', secondWish)
              const end = { home: homeWish ?? home, first: firstWish ?? first, second: secondWish ?? second }
              if (!end.home && (end.first || end.second)) {
                refused += 1
                t.throws(() => planCryptoChange(state, { home: homeWish, disks }), {
                  instanceOf: VmsealError,
                  code: 'VMSEAL_ENCRYPTION_MISMATCH',
                })
                continue
              }
              const plan = planCryptoChange(state, { home: homeWish, disks })
              t.is(plan.home, changed(home, end.home))
              t.is(plan.disks.get('a'), changed(first, end.first))
              t.is(plan.disks.get('b'), changed(second, end.second))
              t.is(changesNothing(plan), home === end.home && first === end.first && second === end.second)
            }
        t.true(refused > 0)
        if (!possible) t.throws(() => refuseMismatch({ home, disks: new Map([['a', first], ['b', second]]) })) // prettier-ignore
      })
    }

test('a disk that the VM does not have is no change', (t) => {
  t.true(
    changesNothing(planCryptoChange({ home: true, disks: new Map() }, { disks: new Map([['x', true]]) })),
  )
})

test('a refusal names every disk that stands in the way', (t) => {
  const disks = new Map([['a', true], ['b', false], ['c', true]]) // prettier-ignore
  const error = t.throws(() => planCryptoChange({ home: true, disks }, { home: false, disks: new Map() }))
  t.regex(error.message, /disk a, c is encrypted/)
})

test('after any allowed plan the state obeys the rule and the same wish changes nothing more', (t) => {
  const disks = fc.dictionary(fc.constantFrom('a', 'b', 'c', 'd'), fc.boolean())
  const holds = fc.check(
    fc.property(
      fc.boolean(),
      disks,
      fc.option(fc.boolean(), { nil: undefined }),
      disks,
      (home, now, homeWish, wish) => {
        const state = { home, disks: new Map(Object.entries(now)) }
        const wanted = { home: homeWish, disks: new Map(Object.entries(wish)) }
        let plan
        try {
          plan = planCryptoChange(state, wanted)
        } catch (error) {
          return error instanceof VmsealError && error.code === 'VMSEAL_ENCRYPTION_MISMATCH'
        }
        const after = {
          home: plan.home ? plan.home === 'encrypt' : home,
          disks: new Map([...state.disks].map(([id, old]) => [id, plan.disks.has(id) ? plan.disks.get(id) === 'encrypt' : old])), // prettier-ignore
        }
        refuseMismatch(after)
        return changesNothing(planCryptoChange(after, wanted))
      },
    ),
    { numRuns: 2000 },
  )
  t.false(holds.failed, JSON.stringify(holds.counterexample))
})

function changed(from: boolean, to: boolean): 'encrypt' | 'decrypt' | undefined {
  if (from === to) return undefined
  return to ? 'encrypt' : 'decrypt'
}
