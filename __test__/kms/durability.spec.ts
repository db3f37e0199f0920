import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { KmipClient } from '../../src/kmip/client.js'
import type { KmsCredentials, KmsEndpoint } from '../../src/kms/kms.js'
import { connect, startKms, temporaryDirectory } from './running-kms.js'

interface Served {
  endpoint: KmsEndpoint
  credentials: KmsCredentials
  kill: () => Promise<void>
}

async function serve(t: ExecutionContext, directory: string): Promise<Served> {
  const script = fileURLToPath(new URL('serve.ts', import.meta.url))
  const child = spawn(process.execPath, ['--import=tsx', script, directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(child, 'exit')
  t.teardown(() => void child.kill('SIGKILL'))
  const [line] = (await Promise.race([
    once(child.stdout, 'data'),
    ended.then(() => {
      throw new Error('the KMS did not start')
    }),
  ])) as [Buffer]
  const kill = async () => {
    child.kill('SIGKILL')
    await ended
  }
  return { ...(JSON.parse(line.toString()) as Omit<Served, 'kill'>), kill }
}

test('what was answered survives kill -9 in the middle of work', async (t) => {
  const directory = temporaryDirectory(t)
  const acknowledged: string[] = []
  const activated: string[] = []
  const destroyed: string[] = []
  /** Also those whose Destroy was not answered: they may be there or not. */
  const doomed: string[] = []
  for (let round = 0; round < 3; round++) {
    const { endpoint, credentials, kill } = await serve(t, directory)
    const client = await KmipClient.connect({ ...endpoint, ...credentials })
    const work = (async () => {
      for (let n = 0; ; n++) {
        const { id } = await client.create()
        acknowledged.push(id)
        if (n % 3 === 0) {
          await client.activate(id)
          activated.push(id)
        } else if (n % 3 === 1) {
          doomed.push(id)
          await client.destroy(id)
          destroyed.push(id)
        }
      }
    })()
    const stopped = t.throwsAsync(work)
    while (acknowledged.length < 15 * (round + 1)) await new Promise((resolve) => setTimeout(resolve, 5))
    await kill()
    await stopped
    client.close()
  }

  const kms = await startKms(t, directory)
  t.like(await kms.verifyAudit(), { ok: true, headChecked: true })
  const log = readFileSync(join(directory, 'audit.log'), 'utf8')
  for (const [operation, ids] of [
    ['Create', acknowledged],
    ['Activate', activated],
    ['Destroy', destroyed],
  ] as const)
    for (const id of ids) t.regex(log, new RegExp(`"operation":"${operation}"[^\\n]*"keyId":"${id}"`))
  t.true((await kms.verify()).ok)
  const client = await connect(t, kms, await kms.enrol('vcenter'))
  const living = new Set(await client.locate())
  for (const id of acknowledged) if (!doomed.includes(id)) t.true(living.has(id), id)
  for (const id of destroyed) t.false(living.has(id), id)
  for (const id of activated)
    t.deepEqual(await client.getAttributes(id, ['State']), [{ name: 'State', value: 'Active' }])
  for (const id of living) (await client.get(id)).key.dispose()
})
