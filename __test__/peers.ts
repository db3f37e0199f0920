/** Other people's programs that tests work against. */
import { spawnSync } from 'node:child_process'
import type { ExecutionContext } from 'ava'

/**
 * True if the peer is there. When it is not, the test says so and passes, unless VMSEAL_REQUIRE_PEERS=1 makes that a
 * failure. `name` is how people install it.
 */
export function requirePeer(t: ExecutionContext, name: string, present: boolean): boolean {
  if (present) return true
  if (process.env.VMSEAL_REQUIRE_PEERS === '1') t.fail(`${name} is not installed and VMSEAL_REQUIRE_PEERS=1`)
  else {
    t.log(`skipped: ${name} not installed`)
    t.pass()
  }
  return false
}

/** True if the program starts and ends well with these arguments. */
export function runs(program: string, ...args: string[]): boolean {
  return spawnSync(program, args, { stdio: 'ignore' }).status === 0
}
