/** Shapes of JSON values: what a report file must look like, and the TypeScript type that follows from it. */

/** Checks a value and gives it back typed; throws a `ShapeError` that names the place. */
export type Shape<T> = (value: unknown, place: string) => T
export type TypeOf<S> = S extends Shape<infer T> ? T : never

/** A value that is not what it should be. */
export class ShapeError extends Error {
  constructor(place: string, expected: string, value: unknown) {
    super(`${place} must be ${expected}, not ${JSON.stringify(value)?.slice(0, 60) ?? 'absent'}`)
    this.name = 'ShapeError'
  }
}

export const text: Shape<string> = (value, place) => {
  if (typeof value === 'string') return value
  throw new ShapeError(place, 'a text', value)
}

export const number: Shape<number> = (value, place) => {
  if (typeof value === 'number' && Number.isFinite(value)) return value
  throw new ShapeError(place, 'a number', value)
}

export const flag: Shape<boolean> = (value, place) => {
  if (typeof value === 'boolean') return value
  throw new ShapeError(place, 'true or false', value)
}

/** Exactly this value. */
export function exactly<const T extends string | number>(wanted: T): Shape<T> {
  return (value, place) => {
    if (value === wanted) return wanted
    throw new ShapeError(place, JSON.stringify(wanted), value)
  }
}

/** One of these texts. */
export function oneOf<const T extends string>(...wanted: readonly T[]): Shape<T> {
  return (value, place) => {
    const found = wanted.find((one) => one === value)
    if (found !== undefined) return found
    throw new ShapeError(place, `one of ${wanted.join(', ')}`, value)
  }
}

/** The value or null; an absent member counts as null. */
export function nullable<T>(shape: Shape<T>): Shape<T | null> {
  return (value, place) => (value === null || value === undefined ? null : shape(value, place))
}

export function list<T>(shape: Shape<T>): Shape<T[]> {
  return (value, place) => {
    if (!Array.isArray(value)) throw new ShapeError(place, 'a list', value)
    return value.map((one: unknown, index) => shape(one, `${place}[${index}]`))
  }
}

/** An object with these members; others are dropped. */
export function object<const S extends Record<string, Shape<unknown>>>(
  members: S,
): Shape<{ -readonly [K in keyof S]: TypeOf<S[K]> }> {
  return (value, place) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw new ShapeError(place, 'an object', value)
    const given = value as Record<string, unknown>
    const entries = Object.entries(members).map(
      ([name, shape]) => [name, shape(given[name], `${place}.${name}`)] as const,
    )
    return Object.fromEntries(entries) as { -readonly [K in keyof S]: TypeOf<S[K]> }
  }
}
