/** What a message may look like: predicates over parsed JSON. Fields that nobody asks for are let through. */
export type Shape = (value: unknown) => boolean

export const nothing: Shape = (value) => value === undefined || value === null

/** A safe integer from 0. */
export const count: Shape = (value) => Number.isSafeInteger(value) && (value as number) >= 0

/** Text of 1 to `limit` UTF-16 units. */
export function text(limit = 1000): Shape {
  return (value) => typeof value === 'string' && value.length > 0 && value.length <= limit
}

export function matching(pattern: RegExp): Shape {
  return (value) => typeof value === 'string' && pattern.test(value)
}

export function oneOf(...values: readonly string[]): Shape {
  return (value) => typeof value === 'string' && values.includes(value)
}

export function optional(shape: Shape): Shape {
  return (value) => value === undefined || shape(value)
}

export function listOf(shape: Shape, limit = 100_000): Shape {
  return (value) => Array.isArray(value) && value.length <= limit && value.every(shape)
}

export function object(fields: Readonly<Record<string, Shape>>): Shape {
  return (value) =>
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.entries(fields).every(([name, shape]) =>
      shape(Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined),
    )
}
