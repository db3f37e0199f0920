/** What may not cross between Node and the addon: panics, wrong types, work after the end of its environment. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import test from 'ava'
import { VmsealError, errorCodes, isErrorCode } from '../../src/errors.js'
import { native } from '../../src/native/load.js'

test('a panic in a call, on the pool and in a task is an error, and the process goes on', (t) => {
  const addon = fileURLToPath(new URL('../../build/planted-faults', import.meta.url))
  const load = new URL('../../src/native/load.ts', import.meta.url).href
  const program = `
    const { native } = await import(${JSON.stringify(load)})
    const codes = []
    try { native.panicInCall() } catch (error) { codes.push(error.code) }
    await native.panicInBackground().catch((error) => codes.push(error.code))
    await native.panicInTask().done().catch((error) => codes.push(error.code))
    console.log(codes.join(' '))
  `
  const result = spawnSync(process.execPath, ['--import=tsx', '--input-type=module', '-e', program], {
    encoding: 'utf8',
    env: { ...process.env, VMSEAL_PREBUILD: addon },
  })
  t.is(result.status, 0, result.stderr)
  t.is(result.stdout.trim(), 'VMSEAL_INTERNAL VMSEAL_INTERNAL VMSEAL_INTERNAL')
})

test('every code that the crates can give stands in the table', (t) => {
  const { stdout } = spawnSync(
    'grep',
    ['-rhoE', '--include=*.rs', '(=> |coded\\()"VMSEAL_[A-Z_]+"', 'crates', 'src/native'],
    {
      encoding: 'utf8',
      cwd: fileURLToPath(new URL('../..', import.meta.url)),
    },
  )
  const codes = [...new Set([...stdout.matchAll(/"(VMSEAL_[A-Z_]+)"/g)].map(([, code]) => code))]
  t.true(codes.length > 30)
  t.deepEqual(
    codes.filter((code) => !isErrorCode(code)),
    [],
  )
})

test('the table of errors is complete prose', (t) => {
  for (const [code, entry] of Object.entries(errorCodes)) {
    t.regex(code, /^VMSEAL_[A-Z_]+$/)
    t.regex(entry.summary, /^([A-Z]|vmseal|vCenter|qemu).*\.$/)
    t.regex(entry.action, /^[A-Z].*\.$|npm/)
  }
})

/** Values of every kind that a caller could pass by mistake. */
const anything = fc.oneof(
  fc.anything(),
  fc.uint8Array({ maxLength: 600 }),
  fc.constantFrom(
    new SharedArrayBuffer(8),
    new Uint16Array(4),
    new DataView(new ArrayBuffer(8)),
    Symbol('x'),
  ),
  fc.bigInt(),
  fc.constant(native.KeyHandle.generate(32)),
  fc.constant(native.KeyHandle.generate(64)),
)

/** Calls that would start a server or wait for the network are tested elsewhere. */
const excluded = new Set([
  'inspectImage',
  'readDescriptor',
  'removeDisk',
  'removeUnfinishedDisk',
  'overwriteFile',
  'discardSource',
  'issueServerCertificate',
  'issueClientCertificate',
  'createAuthority',
  'encryptDisk',
  'decryptDisk',
  'importDisk',
  'createPlainDisk',
  'createSealedDisk',
  'encryptFile',
  'decryptFile',
  'createSelfSignedClient',
  'createCertificateRequest',
  'fetchServerCertificate',
])

for (const [name, call] of Object.entries(native).filter(
  ([key, value]) => typeof value === 'function' && !/^[A-Z]/.test(key) && !excluded.has(key),
))
  test(`${name}: any arguments give a result or a VmsealError`, async (t) => {
    await fc.assert(
      fc.asyncProperty(fc.array(anything, { maxLength: 4 }), async (values) => {
        try {
          await (call as (...values: unknown[]) => unknown)(...values)
        } catch (error) {
          if (!(error instanceof VmsealError) || error.code === 'VMSEAL_INTERNAL') throw error
        }
      }),
      { numRuns: 300 },
    )
    t.pass()
  })

test('methods refuse a foreign this', (t) => {
  for (const Class of [
    native.KeyHandle,
    native.XtsHandle,
    native.HostKeyPair,
    native.DiskHandle,
    native.NativeTask,
  ])
    for (const name of Object.getOwnPropertyNames(Class.prototype)) {
      if (name === 'constructor') continue
      const { value, get } = (Object.getOwnPropertyDescriptor(Class.prototype, name) ?? {}) as Record<
        string,
        unknown
      >
      const member = (value ?? get) as () => unknown
      for (const self of [{}, null, undefined, 7, Object.create(Class.prototype) as object])
        t.throws(
          () => Reflect.apply(member, self, [Buffer.alloc(512), 0]),
          { name: 'VmsealError' },
          `${Class.name}.${name}`,
        )
    }
})

test('handles cannot be made with new', (t) => {
  for (const Class of [native.KeyHandle, native.XtsHandle, native.HostKeyPair, native.NativeTask])
    t.throws(() => new (Class as unknown as new () => unknown)(), { code: 'VMSEAL_INVALID_ARGUMENT' })
})

test('generated types are what the addon has', (t) => {
  const types = readFileSync(new URL('../../src/native/binding.d.ts', import.meta.url), 'utf8')
  for (const name of Object.keys(native))
    t.regex(types, new RegExp(`export declare (class|function) ${name}\\b`))
})

test('exit in the middle of a conversion ends the process at once and leaves the source whole', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'vmseal-exit-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const source = join(directory, 'disk.raw')
  writeFileSync(source, Buffer.alloc(64 * 2 ** 20, 'plain '))
  const load = new URL('../../dist/native/load.js', import.meta.url).href
  const id = '6000c291-35bd-fd2d-e77e-709fb2c53635'
  const program = `
    const { native } = await import(${JSON.stringify(load)})
    const spec = { keyId: 'k', providerId: 'p', vmId: '${id}', diskId: '${id}', generation: 1, sectorSize: 512 }
    const kek = native.KeyHandle.generate(32)
    const task = native.encryptDisk(${JSON.stringify(source)}, ${JSON.stringify(join(directory, 'x.vmdk'))}, kek, spec)
    while (task.doneBytes === 0) await new Promise(setImmediate)
    process.exit(9)
  `
  const result = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
    timeout: 30_000,
  })
  t.is(result.status, 9, result.stderr)
  t.true(readFileSync(source).equals(Buffer.alloc(64 * 2 ** 20, 'plain ')))
})
