/** A disk that fails, as the simulation plays it. */
import test from 'ava'
import { diskFaults, failing } from './disk.js'
import { Party, Simulation } from './scheduler.js'

test('what a failing disk does nevertheless has ended when its failure is told, and is told as nothing else', async (t) => {
  let begun = 0
  for (let seed = 1; seed <= 40; seed += 1) {
    const party = new Party('esx-1', new Simulation(seed, 0))
    diskFaults(party.simulation).spoil('esx-1', 1)
    let state = 'not begun'
    const work = async (): Promise<void> => {
      state = 'begun'
      await new Promise((resolve) => setImmediate(resolve))
      state = 'ended'
      throw new Error('the file is gone meanwhile')
    }
    const error = await t.throwsAsync(async () => failing(party, 'sync', work))
    t.regex((error as { code?: string }).code ?? '', /^(EIO|ENOSPC)$/, `seed ${seed}`)
    t.not(state, 'begun', `seed ${seed}`)
    if (state === 'ended') begun += 1
  }
  t.true(begun > 0 && begun < 40, `${begun} of 40 were done`)
})
