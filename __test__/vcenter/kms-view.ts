/** What the KMS holds for vCenter, asked by a client of its own. */
import { KmipClient } from '../../src/kmip/client.js'
import type { Site } from './site.js'

export function connectAsVCenter(site: Site): Promise<KmipClient> {
  return KmipClient.connect({ ...site.kms.endpoint, ...site.credentials })
}

/** Every key of vCenter that the KMS has, host keys left out, with the named attributes. */
export async function keysAtKms(site: Site, names: readonly string[]) {
  const client = await connectAsVCenter(site)
  try {
    const keys = []
    const hosts = new Set<unknown>(site.hosts.map(({ id }) => id))
    for (const id of await client.locate()) {
      const [madeFor] = await client.getAttributes(id, ['x-Identifier'])
      if (hosts.has(madeFor?.value)) continue
      keys.push({
        id,
        ...Object.fromEntries(
          names.length === 0
            ? []
            : (await client.getAttributes(id, names)).map(({ name, value }) => [name, value]),
        ),
      })
    }
    return keys
  } finally {
    client.close()
  }
}
