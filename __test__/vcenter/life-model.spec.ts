/**
 * The life of VMs through vCenter against a model: real KMSs, hosts and files. After each step of a random sequence policies, states,
 * keys, snapshots, files and data are as foretold, a refusal has its fault and makes no key, and no file of an encrypted part holds
 * plaintext. More of it: `npm run lives`.
 */
import test from 'ava'
import { runSequence } from './life/sequence.js'

const lanes = 4
const sequencesOfALane = 10

// Each has a site of its own, and waits half of its time for it.
for (let lane = 0; lane < lanes; lane += 1)
  test(`I1, J1, J2, J3, J6, D4, D7, M5: random lives of VMs: state, files and keys agree with the model after each step (${lane + 1} of ${lanes})`, async (t) => {
    t.timeout(1_200_000)
    const seen = new Set<string>()
    for (let index = 0; index < sequencesOfALane; index += 1) {
      const { outcomes } = await runSequence(1 + lane * sequencesOfALane + index)
      for (const outcome of outcomes) seen.add(outcome)
    }
    for (const kind of ['apply', 'clone', 'snapshot', 'migrate', 'recrypt'])
      t.true(seen.has(`${kind} done`), kind)
    t.true([...seen].filter((outcome) => outcome.includes('VMSEAL_')).length >= 5, [...seen].join(', '))
  })
