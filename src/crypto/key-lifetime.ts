/** Keys without a handle of their own are wiped after they were collected. */
import { direct } from '../native/load.js'

const { disposeKey } = direct

/** The tokens of keys that follow one another. */
interface TokenRun {
  readonly first: number
  readonly count: number
}

/** Wipes unwrapped keys that were collected without `dispose`. A token is never used again, so twice does no harm. */
const abandoned = new FinalizationRegistry<readonly TokenRun[]>((runs) => {
  for (const { first, count } of runs)
    for (let token = first; token < first + count; token += 1) disposeKey(token)
})

/**
 * What keys that were unwrapped by up to 16 calls in the same run of JavaScript share: to register each would take a good
 * part of the time of unwrapping it.
 */
let group: { readonly lifetime: object; readonly runs: TokenRun[] } | undefined

export function lifetimeOf(first: number, count: number): object {
  if (group === undefined || group.runs.length === 16) {
    group = { lifetime: {}, runs: [] }
    abandoned.register(group.lifetime, group.runs)
    // So that it is not kept from being collected.
    void settled.then(endGroup)
  }
  group.runs.push({ first, count })
  return group.lifetime
}

const settled = Promise.resolve()

function endGroup(): void {
  group = undefined
}
