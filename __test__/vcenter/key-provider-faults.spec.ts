/**
 * H5 under the worst network: every kind of fault, at random places, while keys are made and fetched. The long run is
 * bench/key-provider-faults.ts.
 */
import test from 'ava'
import { faults } from './fault-proxy.js'
import { runFaults } from './fault-run.js'

const wanted = 2000

test.serial(
  `H5: ${wanted} faults leave no orphan, no duplicate, and no call past its deadline`,
  async (t) => {
    const seed = Math.floor(Math.random() * 2 ** 32)
    const result = await runFaults(wanted, seed)
    t.log({ ...result, seed, struck: Object.fromEntries(result.struck) })
    t.true(result.faults >= wanted)
    for (const fault of faults) t.true((result.struck.get(fault) ?? 0) > wanted / 40, fault)
    t.deepEqual(result.unexpected, [])
    t.deepEqual(result.orphans, [])
    t.is(result.duplicates, 0)
    t.is(result.late, 0)
    // The faults are no excuse for getting nothing done.
    t.true(result.created > wanted / 10)
    t.true(result.fetched > wanted / 10)
  },
)
