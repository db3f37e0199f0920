/** Test vectors live outside the project: in VMSEAL_VECTORS, or in `shared/vectors` beside the checkout. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { requirePeer } from './peers.js'

const folder =
  process.env['VMSEAL_VECTORS'] ?? fileURLToPath(new URL('../../shared/vectors', import.meta.url))

/** The text of a vector file, or undefined with the test marked as skipped. */
export function vectors(t: ExecutionContext, path: string): string | undefined {
  const file = join(folder, path)
  return requirePeer(t, `test vectors (VMSEAL_VECTORS): ${path}`, existsSync(file))
    ? readFileSync(file, 'utf8')
    : undefined
}
