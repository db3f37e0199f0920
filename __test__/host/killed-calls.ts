/**
 * A process that is killed, in this process: from a call on, nothing that changes a file gets through any more, and whoever made it
 * hears nothing but failures. Import this before anything of the product.
 */
import { createRequire, syncBuiltinESMExports } from 'node:module'
import { native } from '../../src/native/load.js'

type AnyFunction = (this: unknown, ...values: unknown[]) => unknown

const promises = createRequire(import.meta.url)('node:fs/promises') as Record<string, AnyFunction>

/** Calls that change something, since the count began. */
let calls = Infinity
let last = Infinity

function step(): void {
  calls += 1
  if (calls > last) throw Object.assign(new Error('killed'), { code: 'EIO', syscall: 'killed', errno: -5 })
}

for (const name of ['open', 'rename', 'unlink', 'link', 'mkdir', 'rmdir', 'rm'] as const) {
  const original = promises[name] as AnyFunction
  promises[name] = async (...values) => {
    const reads = name === 'open' && (values[1] === undefined || values[1] === 'r' || isRead(values[1]))
    if (calls !== Infinity && !reads) step()
    return original(...values)
  }
}
syncBuiltinESMExports()

for (const name of ['copyFile', 'sumFile', 'resealCopy', 'recryptFile', 'encryptFile'] as const) {
  const original = native[name] as unknown as AnyFunction
  Object.defineProperty(native, name, {
    configurable: true,
    writable: true,
    value: (...values: unknown[]) => {
      if (calls !== Infinity) step()
      return original(...values)
    },
  })
}

/** Flags without a way to write, of a file that need not be made: the kernel's O_RDONLY is 0. */
function isRead(flags: unknown): boolean {
  const directory = 0o200000
  return typeof flags === 'number' && (flags & 3) === 0 && (flags & directory) === 0
}

/** Runs `act` and kills it at its call number `at`, from 0. True: it ended before that. */
export async function killedAt(at: number, act: () => Promise<unknown>): Promise<boolean> {
  calls = 0
  last = at
  try {
    await act()
    return calls <= at
  } catch (error) {
    if (calls <= at) throw error
    return false
  }
}

/** After the killed party was stopped: a party that is started now is alive. */
export function endKill(): void {
  calls = Infinity
  last = Infinity
}
