/** One random sequence of steps at a site of its own, from one seed. */
import { existsSync } from 'node:fs'
import path from 'node:path'
import type { ExecutionContext } from 'ava'
import { Kms, isVmsealError } from '../../../src/index.js'
import { Random } from '../../simulation/random.js'
import { makeImage, marker, openSite } from '../site.js'
import { KeyNames, agree } from './agree.js'
import { foretell } from './foretell.js'
import { encryption, gold, newModel } from './model.js'
import { perform, type Performer } from './perform.js'
import { nextStep, type Step } from './steps.js'

export interface SequenceReport {
  /** What steps came to, such as `clone done` and `recrypt VMSEAL_DISK_CHAIN`. */
  readonly outcomes: readonly string[]
}

type Teardown = Pick<ExecutionContext, 'teardown'>

const stepsOfASequence = 25
const hosts = ['esx-1', 'esx-2']
const imageBytes = 16 * 1024

/** Rejects with the seed, the steps so far and what does not agree. */
export async function runSequence(
  seed: number,
  trace: (text: string) => void = () => {},
): Promise<SequenceReport> {
  const teardowns: (() => unknown)[] = []
  try {
    return await run({ teardown: (act) => void teardowns.push(act) }, seed, trace)
  } finally {
    for (const act of teardowns.toReversed()) await act()
  }
}

async function run(t: Teardown, seed: number, trace: (text: string) => void): Promise<SequenceReport> {
  // Memory where there is such a directory: what a disk keeps over a power failure is tested elsewhere.
  const parent = existsSync('/dev/shm') ? '/dev/shm' : undefined
  const site = await openSite(t as ExecutionContext, { hosts, ...(parent && { parent }) })
  const counts: Record<string, number> = {}
  const running = new Map<string, Kms>()
  const watch = (provider: string, kms: Kms): void => {
    running.set(provider, kms)
    kms.on('operation', ({ operation }) => {
      if (operation === 'Create') counts[provider] = (counts[provider] ?? 0) + 1
    })
  }
  watch('kms-1', site.kms)
  const second = await Kms.start({ directory: path.join(site.directory, 'kms-2') })
  watch('kms-2', second)
  t.teardown(async () => {
    for (const kms of running.values()) await kms.stop()
  })
  const credentials = await second.enrol('vcenter')
  await site.vcenter.keyProviders.add({ id: 'kms-2', servers: [second.endpoint], credentials })
  await site.vcenter.storagePolicies.clone(encryption, gold)
  const image = await makeImage(path.join(site.directory, 'a.raw'), 'a', imageBytes / 2 ** 20)

  const random = new Random(seed)
  const model = newModel(hosts)
  const names = new KeyNames()
  const performer: Performer = {
    site,
    image: image.file,
    written: (step) => Buffer.from(`${marker}${JSON.stringify(step)}`.padEnd(512).slice(0, 512)),
    idOf: (key) => ({ keyId: names.idOf(key), providerId: key.provider }),
    stopKms: async (provider) => {
      const kms = running.get(provider) as Kms
      const { port } = kms.endpoint
      await kms.stop()
      const directory = path.join(site.directory, provider === 'kms-1' ? 'kms' : provider)
      return async () => watch(provider, await Kms.start({ directory, port }))
    },
  }
  const contents = { image: image.bytes, written: performer.written }
  const steps: Step[] = []
  const outcomes: string[] = []
  try {
    for (let index = 0; index < stepsOfASequence; index += 1) {
      const step = nextStep(random, model, hosts, index)
      steps.push(step)
      trace(JSON.stringify(step))
      const foretold = foretell(model, step, contents)
      for (const provider of Object.keys(counts)) counts[provider] = 0
      const fault = await perform(performer, model, step).then(
        async (name) => {
          if (foretold.fault) throw new Error(`was done, and ${foretold.fault} was foretold`)
          const info = name && (await (await site.vcenter.virtualMachines.get(name)).info())
          foretold.effect?.(info ? info.disks.map(({ diskId }) => diskId) : [])
          return undefined
        },
        (error: unknown) => {
          if (!isVmsealError(error) || error.code !== foretold.fault) throw error
          return error.code
        },
      )
      for (const provider of ['kms-1', 'kms-2']) {
        const made = counts[provider] ?? 0
        const right = fault ? 0 : (foretold.keys?.[provider] ?? 0)
        if (made !== right) throw new Error(`${made} keys were made at ${provider} where ${right} are right`)
      }
      await agree(site, model, names)
      outcomes.push(`${step.do} ${fault ?? 'done'}`)
    }
  } catch (cause) {
    const said = steps.map((step, index) => `  ${index} ${JSON.stringify(step)}`).join('\n')
    const reason = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)
    throw new Error(
      `seed ${seed}, step ${steps.length - 1}: ${reason}\n${said}\nsee it again: npm run lives -- --from ${seed} --seeds 1 --trace`,
      { cause },
    )
  }
  return { outcomes }
}
