/** Requirement: no key in JavaScript, nor anywhere else in the process outside the key arena. */
import { spawn, spawnSync } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { fetchKek, openWrap } from '../../examples/main-job/independent-reader.js'
import type { KmsAccess } from '../../examples/main-job/independent-reader.js'
import { requirePeer } from '../peers.js'
import { needlesOf, scanFile, scanMemory } from './scanner.js'
import type { Finding } from './scanner.js'

interface Checkpoint extends KmsAccess {
  readonly name: string
  readonly pid: number
  readonly home: { readonly keyId: string; readonly file: string }
  readonly disks: readonly { readonly keyId: string; readonly file: string }[]
}

const scenario = fileURLToPath(new URL('scenario.mjs', import.meta.url))

/** Runs the scenario and calls back at its checkpoints with every key of the run as needles. */
async function fullRun(
  t: ExecutionContext,
  environment: Record<string, string>,
  see: (checkpoint: string, pid: number, needles: Map<string, Buffer>) => Promise<void> | void,
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'vmseal-absence-'))
  const child: ChildProcess = spawn(process.execPath, [scenario, directory], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...environment },
  })
  t.teardown(async () => {
    child.kill('SIGKILL')
    await rm(directory, { recursive: true, force: true })
  })
  const names: string[] = []
  let needles = new Map<string, Buffer>()
  for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) {
    const checkpoint = JSON.parse(line) as Checkpoint
    names.push(checkpoint.name)
    if (checkpoint.name === 'loaded') needles = await keysOf(checkpoint)
    await see(checkpoint.name, child.pid ?? 0, needles)
    child.stdin?.write('go on\n')
  }
  t.deepEqual(names, ['loaded', 'disposed'], 'the scenario ran to its end')
}

async function keysOf(run: Checkpoint): Promise<Map<string, Buffer>> {
  const needles = new Map<string, Buffer>()
  const keks = new Map<string, Buffer>()
  for (const { keyId, file } of [run.home, ...run.disks]) {
    const kek = keks.get(keyId) ?? (await fetchKek(run, keyId))
    keks.set(keyId, kek)
    const { dek } = await openWrap(await readFile(file, 'utf8'), kek)
    for (const [name, value] of needlesOf(`DEK of ${file}`, dek)) needles.set(name, value)
  }
  for (const [keyId, kek] of keks)
    for (const [name, value] of needlesOf(`KEK ${keyId}`, kek)) needles.set(name, value)
  return needles
}

function mayReadMemory(t: ExecutionContext): boolean {
  return requirePeer(t, 'reading /proc/PID/mem of a child (Linux, same user)', existsSync('/proc/self/smaps'))
}

for (const [memory, environment] of [
  ['memfd_secret', {}],
  ['locked memory', { VMSEAL_KEY_MEMORY: 'locked' }],
] as const) {
  test.serial(
    `no key in memory outside the arena while loaded, none at all after dispose (${memory})`,
    async (t) => {
      if (!mayReadMemory(t)) return t.pass()
      await fullRun(t, environment, (checkpoint, pid, needles) => {
        t.true(needles.size >= 5 * 10, 'two KEKs and three DEKs in several forms')
        const { findings, bytes } = scanMemory(pid, needles)
        t.log(`${checkpoint}: scanned ${(bytes / 2 ** 20).toFixed(0)} MiB for ${needles.size} needles`)
        t.true(bytes > 20 * 2 ** 20)
        t.deepEqual(findings, [])
      })
    },
  )
}

test.serial('A6, K2: a core dump, registers included, holds no key', async (t) => {
  const gcore = spawnSync('gcore', ['--help'], { stdio: 'ignore' }).error === undefined
  if (!requirePeer(t, 'gdb (gcore)', gcore)) return t.pass()
  const directory = await mkdtemp(join(tmpdir(), 'vmseal-core-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  await fullRun(t, {}, async (checkpoint, pid, needles) => {
    const { status, stderr } = spawnSync('gcore', ['-o', join(directory, checkpoint), String(pid)], {
      encoding: 'utf8',
    })
    t.is(status, 0, stderr)
    for (const file of await readdir(directory)) {
      t.deepEqual(scanFile(join(directory, file), needles), [])
      await rm(join(directory, file))
    }
  })
})

test.serial('K2: a crash report of Node holds no key', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'vmseal-report-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  const options = ['--report-on-signal', '--report-signal=SIGUSR2', `--report-directory=${directory}`]
  await fullRun(t, { NODE_OPTIONS: options.join(' ') }, async (checkpoint, pid, needles) => {
    process.kill(pid, 'SIGUSR2')
    const file = await reportIn(directory)
    t.deepEqual(scanFile(file, needles), [], checkpoint)
    await rm(file)
  })
})

/** The report, once all of it is there. */
async function reportIn(directory: string): Promise<string> {
  for (let turn = 0; turn < 600; turn += 1) {
    const [name] = await readdir(directory)
    if (name !== undefined && isWhole(await readFile(join(directory, name), 'utf8')))
      return join(directory, name)
    await pause(50)
  }
  throw new Error('Node wrote no report')
}

function isWhole(report: string): boolean {
  try {
    return JSON.parse(report) !== null
  } catch {
    return false
  }
}

test.serial('control: the same scanner finds the keys of a build that leaks on purpose', async (t) => {
  if (!mayReadMemory(t)) return t.pass()
  const findings: Finding[] = []
  await fullRun(
    t,
    { VMSEAL_PREBUILD: fileURLToPath(new URL('../../build/planted-faults', import.meta.url)) },
    (_, pid, needles) => {
      findings.push(...scanMemory(pid, needles).findings)
    },
  )
  t.true(findings.some(({ needle }) => needle.startsWith('KEK')))
  t.true(findings.some(({ needle }) => needle.startsWith('DEK')))
})
