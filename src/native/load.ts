/**
 * The one place that loads the addon. Everything else imports `native` from here.
 * Errors come out of the addon as `CODE\0message`, with a third part `not sent` when a KMIP request never left; here they
 * become `VmsealError`.
 */
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { VmsealError, isErrorCode } from '../errors.js'
import type * as Binding from './binding.js'

export type {
  CertificateDescription,
  DiskBinding,
  DiskHandle,
  HostKeyPair,
  KeyHandle,
  KeyMemoryStatus,
  KmipConnection,
  KmipConnectionOptions,
  KmipConnector,
  KmipExchange,
  KmipListener,
  KmipListenerOptions,
  KmipRequest,
  NativeTask,
  NewKeyId,
  SealSpec,
  XtsHandle,
} from './binding.js'

const binding = loadAddon()

/**
 * Calls that take less time than the frame around those of `native`. Who makes one catches, and passes what was thrown
 * to `rethrow`. They know objects by their tokens.
 */
export const direct = binding.directCalls()

/** The addon, with every error turned into a `VmsealError`. */
export const native: typeof Binding = translateErrors(binding)

function loadAddon(): typeof Binding {
  const packageRoot = fileURLToPath(new URL('../..', import.meta.url))
  const require = createRequire(import.meta.url)
  try {
    const load = require('node-gyp-build') as (directory: string) => typeof Binding
    return load(packageRoot)
  } catch (cause) {
    const platform = `${process.platform}-${process.arch}, Node ${process.versions.node}`
    throw new VmsealError(
      'VMSEAL_NATIVE_NOT_FOUND',
      `no native addon for ${platform} under build/Release or prebuilds of ${packageRoot}. ` +
        'Build it from source: npm ci && npm run build:native (needs cargo, https://rustup.rs)',
      { cause },
    )
  }
}

function translateErrors<T extends object>(addon: T): T {
  const translated = Object.entries(addon).map(([name, value]) => {
    if (typeof value !== 'function') return [name, value] as const
    return [name, isClass(value) ? translateClass(value) : translateFunction(value as AnyFunction)] as const
  })
  return Object.fromEntries(translated) as T
}

type AnyFunction = (this: unknown, ...values: unknown[]) => unknown
type AnyClass = AnyFunction & { prototype: object }

function isClass(value: unknown): value is AnyClass {
  const prototype = (value as { prototype?: object }).prototype
  return prototype !== undefined && Object.getOwnPropertyNames(prototype).length > 1
}

/**
 * Members of the prototype are translated in place: the addon's objects are ours alone. Static members cannot be
 * changed in place, so another constructor with the same prototype stands for the class.
 */
function translateClass(original: AnyClass): AnyClass {
  for (const [name, property] of Object.entries(Object.getOwnPropertyDescriptors(original.prototype))) {
    if (name === 'constructor') continue
    if (typeof property.value === 'function')
      property.value = translateFunction(property.value as AnyFunction)
    else if ('get' in property) property.get = translateFunction(Reflect.get(property, 'get') as AnyFunction)
    Object.defineProperty(original.prototype, name, property)
  }
  const facade = function (): never {
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `a ${original.name} is not made with new`)
  } as unknown as AnyClass
  facade.prototype = original.prototype
  for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(original))) {
    if (typeof value !== 'function') continue
    const method = translateFunction(value as AnyFunction)
    Object.defineProperty(facade, name, { value: (...values: unknown[]) => method.apply(original, values) })
  }
  return Object.defineProperty(facade, 'name', { value: original.name })
}

function translateFunction(original: AnyFunction): AnyFunction {
  return function (this: unknown, ...values: unknown[]): unknown {
    try {
      const result = original.apply(this, values)
      return result instanceof Promise ? result.catch(rethrow) : result
    } catch (error) {
      rethrow(error)
    }
  }
}

/** Throws the `VmsealError` of what the addon threw. */
export function rethrow(error: unknown): never {
  throw toVmsealError(error)
}

function toVmsealError(error: unknown): VmsealError {
  if (!(error instanceof Error)) return new VmsealError('VMSEAL_INTERNAL', String(error))
  const [code, message, mark] = error.message.split('\0')
  if (message !== undefined && isErrorCode(code))
    return new VmsealError(code, message, mark === 'not sent' ? { details: { notSent: true } } : {})
  // What napi itself refuses before our code runs: a wrong type or a missing argument.
  const status = (error as NodeJS.ErrnoException).code
  if (status !== undefined && !status.startsWith('VMSEAL') && status !== 'GenericFailure')
    return new VmsealError('VMSEAL_INVALID_ARGUMENT', error.message, { cause: error })
  // What Node refuses while an argument is taken apart, for instance a field of undefined.
  if (error instanceof TypeError)
    return new VmsealError('VMSEAL_INVALID_ARGUMENT', error.message, { cause: error })
  return new VmsealError('VMSEAL_INTERNAL', error.message, { cause: error })
}
