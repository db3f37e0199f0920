/** Reads the fields of a structure by tag, whatever their order, and notices what it was not asked for. */
import { VmsealError } from '../../errors.js'
import { enumerationSymbol } from './enumerations.js'
import type { EnumerationName, EnumerationSymbol } from './enumerations.js'
import type { ItemType, ItemValues, TtlvNode } from './node.js'
import { tagName, tags } from './tags.js'
import type { TagName } from './tags.js'

/** Every method throws VMSEAL_KMIP_MALFORMED with the KMIP result reason that fits in `details.resultReason`. */
export class StructureReader {
  /** What nobody asked for yet, in order. */
  readonly #rest: TtlvNode[]
  readonly #name: string
  readonly #lenient: boolean

  /** `lenient`: unknown fields are ignored, which is the rule for a message of a later minor version. */
  constructor(node: TtlvNode, lenient = false) {
    this.#name = tagName(node.tag)
    this.#lenient = lenient
    if (node.type !== 'Structure') throw broken('InvalidMessage', `${this.#name} is no structure`)
    this.#rest = [...node.value]
  }

  get lenient(): boolean {
    return this.#lenient
  }

  optional<T extends ItemType>(name: TagName, type: T): ItemValues[T] | undefined {
    return this.#single(name, type)?.value as ItemValues[T] | undefined
  }

  required<T extends ItemType>(name: TagName, type: T): ItemValues[T] {
    const value = this.optional(name, type)
    if (value === undefined) throw broken('InvalidMessage', `${this.#name} lacks ${name}`)
    return value
  }

  optionalSymbol<E extends EnumerationName>(
    name: TagName,
    enumeration: E,
  ): EnumerationSymbol<E> | number | undefined {
    const value = this.optional(name, 'Enumeration')
    return value === undefined ? undefined : enumerationSymbol(enumeration, value)
  }

  requiredSymbol<E extends EnumerationName>(name: TagName, enumeration: E): EnumerationSymbol<E> | number {
    return enumerationSymbol(enumeration, this.required(name, 'Enumeration'))
  }

  /** Every item of this tag and type, in order. */
  all<T extends ItemType>(name: TagName, type: T): ItemValues[T][] {
    return this.#take(name, type).map((node) => node.value as ItemValues[T])
  }

  optionalStructure(name: TagName): StructureReader | undefined {
    const node = this.optionalNode(name)
    return node && new StructureReader(node, this.#lenient)
  }

  structure(name: TagName): StructureReader {
    return new StructureReader(this.node(name), this.#lenient)
  }

  structures(name: TagName): StructureReader[] {
    return this.nodes(name).map((node) => new StructureReader(node, this.#lenient))
  }

  optionalNode(name: TagName): TtlvNode | undefined {
    return this.#single(name)
  }

  /** The item as it is, of any type. */
  node(name: TagName): TtlvNode {
    const node = this.#single(name)
    if (!node) throw broken('InvalidMessage', `${this.#name} lacks ${name}`)
    return node
  }

  nodes(name: TagName): TtlvNode[] {
    return this.#take(name)
  }

  /** Ends the reading: a field that nobody asked for is an Invalid Field (KMIP 1.4, section 11.1). */
  end(): void {
    const [node] = this.#rest
    if (node && !this.#lenient)
      throw broken('InvalidField', `${this.#name} holds ${tagName(node.tag)}, which has no place there`)
  }

  /** True if there are fields that nobody asked for. */
  get hasRest(): boolean {
    return this.#rest.length > 0
  }

  #single(name: TagName, type?: ItemType): TtlvNode | undefined {
    const found = this.#take(name, type)
    if (found.length > 1) throw broken('InvalidMessage', `${this.#name} holds ${name} more than once`)
    return found[0]
  }

  #take(name: TagName, type?: ItemType): TtlvNode[] {
    const tag = tags[name]
    const found: TtlvNode[] = []
    let kept = 0
    for (const node of this.#rest)
      if (node.tag === tag) found.push(node)
      else this.#rest[kept++] = node
    this.#rest.length = kept
    for (const node of found)
      if (type !== undefined && node.type !== type)
        throw broken('InvalidMessage', `${name} is of type ${node.type} instead of ${type}`)
    return found
  }
}

function broken(resultReason: string, what: string): VmsealError {
  return new VmsealError('VMSEAL_KMIP_MALFORMED', `broken KMIP message: ${what}`, {
    details: { resultReason },
  })
}
