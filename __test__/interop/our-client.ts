/** Our client through every operation at a server: what each came to. */
import { isVmsealError } from '../../src/errors.js'
import { attributeValue, nameValue } from '../../src/kmip/attributes.js'
import { KmipClient } from '../../src/kmip/client.js'
import type { KmipClientOptions } from '../../src/kmip/client.js'
import { cryptographicUsage } from '../../src/kmip/ttlv/enumerations.js'
import { isSince } from '../../src/kmip/version.js'
import type { ProtocolVersion } from '../../src/kmip/version.js'
import { native } from '../../src/native/load.js'
import type { KeyHandle } from '../../src/native/load.js'

/** Operation: `ok`, or the result reason or error code with which it ended. */
export type Outcome = Record<string, string>

/** In the order of the columns of a matrix. */
export const operations = [
  'DiscoverVersions',
  'Query',
  'Create',
  'Register',
  'Locate',
  'Get',
  'Get wrapped',
  'GetAttributes',
  'GetAttributeList',
  'AddAttribute',
  'ModifyAttribute',
  'DeleteAttribute',
  'SetAttribute',
  'Check',
  'ReKey',
  'Activate',
  'Archive',
  'Recover',
  'Revoke',
  'Destroy',
  'batch',
] as const

export async function tryOurClient(options: KmipClientOptions, version: ProtocolVersion): Promise<Outcome> {
  const trial = new Trial(options, version)
  try {
    await trial.run()
  } finally {
    trial.end()
  }
  return trial.outcome
}

class Trial {
  readonly outcome: Outcome = {}
  readonly #options: KmipClientOptions
  readonly #version: ProtocolVersion
  readonly #keys: KeyHandle[] = []
  #client: KmipClient | undefined

  constructor(options: KmipClientOptions, version: ProtocolVersion) {
    this.#options = { ...options, protocolVersions: [version] }
    this.#version = version
  }

  end(): void {
    this.#client?.close()
    for (const key of this.#keys) key.dispose()
  }

  async run(): Promise<void> {
    const name = `vmseal ${this.#version} ${process.pid} ${Date.now()}`
    if (isSince(this.#version, '1.1'))
      await this.#try('DiscoverVersions', async (client) => {
        const spoken = (await client.discoverVersions()).map(({ major, minor }) => `${major}.${minor}`)
        expect(spoken.includes(this.#version), `${this.#version} is among ${spoken.join(' ')}`)
      })
    await this.#try('Query', async (client) => {
      expect((await client.query()).operations.includes('Create'), 'Create is offered')
    })
    const id = await this.#try('Create', async (client) => {
      const made = await client.create({ attributes: [{ name: 'Name', value: nameValue(name) }] })
      return made.id
    })
    if (id === undefined) return
    const key = await this.#try('Get', async (client) => {
      const got = this.#keep((await client.get(id)).key)
      expect(got.length === 32, '32 bytes')
      expect(this.#keep((await client.get(id)).key).equals(got), 'the same key twice')
      return got
    })
    await this.#try('Locate', async (client) => {
      const found = await client.locate({ name })
      expect(found.length === 1 && found[0] === id, 'found by its name')
    })
    await this.#attributes(id, name)
    await this.#try('Check', async (client) => {
      const allowed = await client.check(id, { usageMask: cryptographicUsage.Encrypt })
      expect(allowed.usageMask === undefined, 'Encrypt is allowed')
    })
    await this.#try('Activate', async (client) => {
      await client.activate(id)
      const state = attributeValue(await client.getAttributes(id, ['State']), 'State')
      expect(state === 'Active', 'Active')
    })
    await this.#try('Get wrapped', (client) => this.#wrapped(client, id, key))
    await this.#try('batch', async (client) => {
      const results = await client.getMany(Array.from({ length: 100 }, () => id))
      const got = results.flatMap((one) => (one.status === 'fulfilled' ? [this.#keep(one.value.key)] : []))
      expect(got.length === 100 && got.every((one) => key !== undefined && one.equals(key)), '100 keys')
    })
    await this.#try('ReKey', async (client) => {
      const fresh = await client.reKey(id)
      const other = this.#keep((await client.get(fresh.id)).key)
      expect(fresh.id !== id && key !== undefined && !other.equals(key), 'another key')
    })
    await this.#register()
    const archived = await this.#try('Archive', async (client) => {
      await client.archive(id)
      return true
    })
    if (archived) await this.#try('Recover', (client) => client.recover(id))
    await this.#try('Revoke', (client) => client.revoke(id, 'CessationOfOperation', 'the trial is over'))
    await this.#try('Destroy', async (client) => {
      await client.destroy(id)
      const left = await reasonOf(client.get(id))
      expect(left === 'ItemNotFound', `it is gone, not ${left}`)
    })
  }

  async #attributes(id: string, name: string): Promise<void> {
    await this.#try('GetAttributes', async (client) => {
      const attributes = await client.getAttributes(id)
      expect(attributeValue(attributes, 'Cryptographic Length') === 256, '256 bits')
      expect(attributeValue(attributes, 'State') === 'PreActive', 'Pre-Active')
      expect((await client.getAttributes(id, ['State', 'x-Nobody'])).length === 1, 'no x-Nobody')
    })
    await this.#try('GetAttributeList', async (client) => {
      expect((await client.getAttributeList(id)).includes('State'), 'State is listed')
    })
    const read = async (client: KmipClient) =>
      attributeValue(await client.getAttributes(id, ['x-Product']), 'x-Product')
    await this.#try('AddAttribute', async (client) => {
      await client.addAttribute(id, { name: 'x-Product', value: 'vmseal' })
      expect((await read(client)) === 'vmseal', 'it was added')
    })
    const renamed = `${name}, renamed`
    const nameOf = async (client: KmipClient) =>
      JSON.stringify(attributeValue(await client.getAttributes(id, ['Name']), 'Name') ?? '')
    await this.#try('ModifyAttribute', async (client) => {
      await client.modifyAttribute(id, { name: 'Name', index: 0, value: nameValue(renamed) }, nameValue(name))
      expect((await nameOf(client)).includes('renamed'), 'it was changed')
    })
    await this.#try('DeleteAttribute', async (client) => {
      const left = this.outcome['ModifyAttribute'] === 'ok' ? renamed : name
      await client.deleteAttribute(id, { name: 'Name', index: 0, value: nameValue(left) })
      expect((await nameOf(client)) === '""', 'it was deleted')
    })
    if (isSince(this.#version, '2.0'))
      await this.#try('SetAttribute', async (client) => {
        await client.setAttribute(id, { name: 'Contact Information', value: 'somebody' })
        const contact = await client.getAttributes(id, ['Contact Information'])
        expect(attributeValue(contact, 'Contact Information') === 'somebody', 'it was set')
      })
  }

  /** The wrapping key is got too, in the trial only: what it opens must be the key. */
  async #wrapped(client: KmipClient, id: string, key: KeyHandle | undefined): Promise<void> {
    const usageMask = cryptographicUsage.WrapKey | cryptographicUsage.UnwrapKey
    const { id: wrappingId } = await client.create({ usageMask })
    await client.activate(wrappingId)
    const wrappingKey = this.#keep((await client.get(wrappingId)).key)
    const { wrapped } = await client.getWrapped(id, wrappingId)
    const opened = this.#keep(native.unwrapKey(wrappingKey, wrapped))
    expect(key !== undefined && opened.equals(key), 'RFC 3394 opens to the key')
  }

  async #register(): Promise<void> {
    await this.#try('Register', async (client) => {
      const own = this.#keep(native.KeyHandle.generate(32))
      const { id } = await client.register(own)
      expect(this.#keep((await client.get(id)).key).equals(own), 'the key that was registered')
      await client.destroy(id)
    })
  }

  #keep(key: KeyHandle): KeyHandle {
    this.#keys.push(key)
    return key
  }

  /** On the connection of the step before, as long as the server keeps it. */
  async #try<T>(
    operation: (typeof operations)[number],
    work: (client: KmipClient) => Promise<T>,
  ): Promise<T | undefined> {
    try {
      if (!this.#client || this.#client.closed) this.#client = await KmipClient.connect(this.#options)
      const result = await work(this.#client)
      this.outcome[operation] = 'ok'
      return result
    } catch (error) {
      this.outcome[operation] = describe(error)
      return undefined
    }
  }
}

async function reasonOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'Success'
  } catch (error) {
    return describe(error)
  }
}

function describe(error: unknown): string {
  if (isVmsealError(error)) return error.details.resultReason ?? error.code
  return error instanceof Error ? error.message : String(error)
}

function expect(holds: boolean, what: string): void {
  if (!holds) throw new Error(`expected: ${what}`)
}
