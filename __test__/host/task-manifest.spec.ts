import test from 'ava'
import fc from 'fast-check'
import { isVmsealError } from '../../src/errors.js'
import { parseManifest, serialiseManifest } from '../../src/host/task-manifest.js'
import { VirtualMachineFiles } from '../../src/host/virtual-machine-files.js'

const files = new VirtualMachineFiles('ds1', '/nowhere', 'db01')
const owned = fc.oneof(
  fc
    .tuple(fc.option(fc.integer({ min: 0, max: 999_999 })), fc.constantFrom('', '-flat', '-f001', '-s012'))
    .map(([n, part]) => `db01${n === null ? '' : `_${n}`}${part}.vmdk`),
  fc.constantFrom(
    'db01.vmdk.vmseal',
    'db01_3.vmdk.vmseal',
    'db01.nvram',
    'db01_1.nvram',
    'db01-Snapshot1.vmsn',
  ),
)

test('a manifest is read back as written', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 0xffffffff }),
      fc.array(owned),
      fc.array(owned),
      (generation, created, superseded) => {
        const manifest = { generation, created, superseded }
        t.deepEqual(parseManifest(serialiseManifest(manifest), files), manifest)
      },
    ),
  )
})

test('hostile text ends in a manifest of this VM’s own files or in VMSEAL_STORE_INVALID', (t) => {
  const text = fc.oneof(
    fc.string(),
    fc.json(),
    fc
      .record({
        version: fc.constantFrom<unknown>(1, 2, '1'),
        generation: fc.oneof<fc.Arbitrary<unknown>[]>(fc.integer(), fc.double(), fc.string()),
        created: fc.oneof<fc.Arbitrary<unknown>[]>(fc.array(fc.oneof(owned, fc.string())), fc.anything()),
        superseded: fc.array(owned),
      })
      .map((value) => JSON.stringify(value)),
  )
  fc.assert(
    fc.property(text, (value) => {
      try {
        const { created, superseded } = parseManifest(value, files)
        for (const name of [...created, ...superseded]) t.regex(name, /^db01[^/]*\.(vmdk|vmseal|nvram|vmsn)$/)
      } catch (error) {
        if (!isVmsealError(error, 'VMSEAL_STORE_INVALID')) throw error
      }
    }),
    { numRuns: 2000 },
  )
})

test('names outside the VM’s disks and home files are refused', (t) => {
  for (const name of [
    '../db02/db02.vmdk',
    'db01/db01.vmdk',
    '/etc/passwd',
    '..',
    '.',
    '',
    'db02.vmdk',
    'db01x.vmdk',
    'db0x.vmdk',
    'db01.vmx',
    'db01.vmsd',
    'db01.vmx.lck',
    'db01.vmseal-task',
    'vmware.log',
    'db01.vmdk\n',
    'db01\0.vmdk',
    'db01/../x.nvram',
    'db01_1234567.vmdk',
    'DB01.vmdk',
    7,
    null,
    ['db01.vmdk'],
  ])
    for (const list of ['created', 'superseded']) {
      const manifest = { version: 1, generation: 2, created: [], superseded: [], [list]: [name] }
      t.throws(
        () => parseManifest(JSON.stringify(manifest), files),
        { code: 'VMSEAL_STORE_INVALID' },
        String(name),
      )
    }
})

test('a dot in a VM name is a dot, not any character', (t) => {
  const dotted = new VirtualMachineFiles('ds1', '/nowhere', 'a.b')
  t.is(dotted.kindOf('a.b.vmdk'), 'disk')
  t.is(dotted.kindOf('axb.vmdk'), undefined)
  t.is(dotted.kindOf('a.b-flat.vmdk'), 'disk')
  t.false(dotted.isDescriptor('a.b-flat.vmdk'))
})
