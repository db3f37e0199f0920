import test from 'ava'
import fc from 'fast-check'
import { isVmsealError } from '../../src/errors.js'
import {
  checkCreateSpec,
  checkReconfigureSpec,
  checkReference,
  checkSealedKey,
} from '../../src/host/requests.js'

const id = '6000c291-35bd-4d2d-a77e-709fb2c53635'
const other = '6000c291-35bd-4d2d-a77e-709fb2c53636'
const key = { keyId: 'k1', providerId: 'kms-1' }
const disk = { diskId: id, capacityBytes: 1024 }
const spec = { vmId: id, name: 'db01', datastore: 'ds1', disks: [disk] }

test('sound requests pass', (t) => {
  t.notThrows(() => checkReference({ datastore: 'ds1', vmx: 'db01/db01.vmx' }))
  t.notThrows(() => checkCreateSpec(spec))
  t.notThrows(() =>
    checkCreateSpec({
      ...spec,
      homeKey: key,
      disks: [{ ...disk, key, sectorSize: 4096 }],
      settings: { memsize: '64' },
    }),
  )
  t.notThrows(() => checkReconfigureSpec({}))
  t.notThrows(() =>
    checkReconfigureSpec({
      home: { type: 'encrypt', key },
      disks: [{ diskId: id, crypto: { type: 'decrypt' } }],
      addDisks: [{ diskId: other, source: 'x.raw' }],
    }),
  )
})

test('unsound creations are refused', (t) => {
  for (const bad of [
    null,
    [],
    'spec',
    { ...spec, vmId: 'x' },
    { ...spec, vmId: id.toUpperCase() },
    { ...spec, name: '../x' },
    { ...spec, name: '.hidden' },
    { ...spec, name: 'a/b' },
    { ...spec, name: 'a ' },
    { ...spec, name: 'x'.repeat(81) },
    { ...spec, name: '' },
    { ...spec, datastore: 7 },
    { ...spec, disks: undefined },
    { ...spec, disks: [disk, disk] },
    { ...spec, disks: [{ diskId: id }] },
    { ...spec, disks: [{ ...disk, source: 'both' }] },
    { ...spec, disks: [{ diskId: id, source: 'a\0b' }] },
    { ...spec, disks: [{ ...disk, capacityBytes: 0 }] },
    { ...spec, disks: [{ ...disk, capacityBytes: 1000 }] },
    { ...spec, disks: [{ ...disk, capacityBytes: 512.5 }] },
    { ...spec, disks: [{ ...disk, capacityBytes: Number.NaN }] },
    { ...spec, disks: [{ ...disk, capacityBytes: 2 ** 53 }] },
    { ...spec, disks: [{ ...disk, sectorSize: 512 }] },
    { ...spec, homeKey: key, disks: [{ ...disk, key, sectorSize: 1024 }] },
    { ...spec, homeKey: { keyId: 'k' } },
    { ...spec, homeKey: { keyId: '', providerId: 'p' } },
    { ...spec, homeKey: { keyId: 'a\nb', providerId: 'p' } },
    { ...spec, settings: { 'a b': '1' } },
    { ...spec, settings: { a: 1 } },
    { ...spec, settings: { a: '1', A: '2' } },
    { ...spec, settings: { a: 'x'.repeat(70_000) } },
    ...['displayName', 'nvram', 'NVRAM', 'vmseal.gen', 'VMSEAL.dek.0', 'scsi0:0.fileName', 'uuid.bios'].map(
      (name) => ({
        ...spec,
        settings: { [name]: 'x' },
      }),
    ),
  ])
    t.throws(
      () => checkCreateSpec(bad),
      { code: 'VMSEAL_INVALID_ARGUMENT' },
      JSON.stringify(bad)?.slice(0, 200),
    )
  t.throws(() => checkCreateSpec({ ...spec, disks: [{ ...disk, key }] }), {
    code: 'VMSEAL_ENCRYPTION_MISMATCH',
  })
})

test('unsound reconfigurations are refused', (t) => {
  const crypto = { type: 'encrypt', key }
  for (const bad of [
    undefined,
    { home: 'encrypt' },
    { home: { type: 'recrypt' } },
    { home: { type: 'encrypt' } },
    { disks: {} },
    { disks: [{ diskId: id }] },
    { disks: [{ diskId: 'x', crypto }] },
    { disks: [{ diskId: id, crypto: { type: 'decrypt' }, sectorSize: 512 }] },
    { disks: [{ diskId: id, crypto, sectorSize: 8192 }] },
    {
      disks: [
        { diskId: id, crypto },
        { diskId: id, crypto },
      ],
    },
    { addDisks: [disk, disk] },
    { addDisks: [null] },
  ])
    t.throws(() => checkReconfigureSpec(bad), { code: 'VMSEAL_INVALID_ARGUMENT' }, JSON.stringify(bad))
})

test('unsound seals are refused before they are opened', (t) => {
  const sealed = { ...key, hostId: id, nonce: 'AAAA', expiresAt: '2026-01-01T00:00:00.000Z', sealed: 'AAAA' }
  t.notThrows(() => checkSealedKey(sealed))
  for (const change of [
    { nonce: '' },
    { nonce: 'A' },
    { nonce: 'AAAA\n' },
    { nonce: 'A'.repeat(132) },
    { sealed: '****' },
    { sealed: 'A'.repeat(2000) },
    { expiresAt: 'tomorrow' },
    { expiresAt: '2026-01-01' },
    { expiresAt: '2026-01-01T00:00:00+01:00' },
    { expiresAt: '2026-99-99T00:00:00Z' },
    { hostId: 7 },
    { keyId: undefined },
  ])
    t.throws(
      () => checkSealedKey({ ...sealed, ...change }),
      { code: 'VMSEAL_INVALID_ARGUMENT' },
      JSON.stringify(change),
    )
})

test('anything else is refused with a code too', (t) => {
  fc.assert(
    fc.property(fc.anything({ withNullPrototype: true, withBigInt: true }), (value) => {
      const checks: ((value: unknown) => void)[] = [
        checkReference,
        checkCreateSpec,
        checkReconfigureSpec,
        checkSealedKey,
      ]
      for (const check of checks)
        try {
          check(value)
        } catch (error) {
          t.true(isVmsealError(error), String(error))
        }
    }),
  )
})
