/** How fast a provider fetches the keys of a whole site: COUNT keys, then COUNT distinct fetches, with the embedded KMS. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { KmipClient } from '../src/kmip/client.js'
import { Kms } from '../src/kms/kms.js'
import { openSqliteStore } from '../src/store/sqlite-store.js'
import { KeyProvider } from '../src/vcenter/key-provider.js'

const count = Number(process.argv[2] ?? 40_000)
const directory = await mkdtemp(path.join(tmpdir(), 'vmseal-fetch-'))
const kms = await Kms.start({ directory: path.join(directory, 'kms') })
const credentials = await kms.enrol('vcenter')
const store = openSqliteStore(path.join(directory, 'vcenter.db'))
const provider = new KeyProvider({
  record: { id: 'p', servers: [kms.endpoint], ...credentials, addedAt: '' },
  privateKeyFile: credentials.privateKeyFile,
  creations: store.keyCreations,
})
const client = await KmipClient.connect({ ...kms.endpoint, ...credentials })
const ids: string[] = []
// Few keys stand for many: each fetch is a message of its own all the same.
for (let made = 0; made < Math.min(count, 500); made += 1) {
  const { id } = await client.create()
  await client.activate(id)
  ids.push(id)
}
client.close()
const begin = performance.now()
let fetched = 0
const failures = await provider.fetchKeys(
  Array.from({ length: count }, (_, index) => ids[index % ids.length] ?? ''),
  () => void (fetched += 1),
)
const seconds = (performance.now() - begin) / 1000
const rate = Math.round(count / seconds)
process.stdout.write(
  `${JSON.stringify({ keys: fetched, failed: failures.size, seconds: Math.round(seconds * 10) / 10, perSecond: rate })}\n`,
)
await provider.close()
await store.close()
await kms.stop()
await rm(directory, { recursive: true, force: true })
