/** Two KMS with the same authority and clients, each with keys of its own: replicas that are not in step. */
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { ExecutionContext } from 'ava'
import { Kms } from '../../src/kms/kms.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import type { KmsServerAddress } from '../../src/store/store.js'
import { KeyProvider, type KeyProviderOptions } from '../../src/vcenter/key-provider.js'

export async function openReplicas(t: ExecutionContext) {
  const directory = await mkdtemp(path.join(tmpdir(), 'vmseal-replicas-'))
  const first = await Kms.start({ directory: path.join(directory, 'a') })
  const credentials = await first.enrol('vcenter', { directory: path.join(directory, 'issued') })
  await first.stop()
  await cp(path.join(directory, 'a'), path.join(directory, 'b'), { recursive: true })
  const servers = [
    await Kms.start({ directory: path.join(directory, 'a') }),
    await Kms.start({ directory: path.join(directory, 'b') }),
  ] as const
  const seen = servers.map((kms) => {
    const operations: string[] = []
    kms.on('operation', ({ operation }) => operations.push(operation))
    return operations
  })
  const store = openSqliteStore(path.join(directory, 'vcenter.db'))
  const events: { kind: string; text: string }[] = []
  t.teardown(async () => {
    await Promise.all(servers.map((kms) => kms.stop()))
    await store.close()
    await rm(directory, { recursive: true, force: true })
  })
  const provider = (
    addresses: readonly KmsServerAddress[],
    options: Partial<KeyProviderOptions> = {},
  ): KeyProvider => {
    const made = new KeyProvider({
      record: { id: 'kms-1', servers: addresses, ...credentials, addedAt: '' },
      privateKeyFile: credentials.privateKeyFile,
      creations: store.keyCreations,
      onUnreachable: async (text) => void events.push({ kind: 'unreachable', text }),
      onDistrust: async (server) => void events.push({ kind: 'distrust', text: server }),
      ...options,
    })
    t.teardown(() => made.close())
    return made
  }
  return { directory, servers, seen, credentials, store, events, provider }
}
