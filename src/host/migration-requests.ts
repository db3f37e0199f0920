/** What arrives of live migrations, checked before anything is done with it: VMSEAL_INVALID_ARGUMENT names the field. */
import type {
  IncomingMigrationSpec,
  MigrateEncryption,
  MigrationPiece,
  OutgoingMigrationSpec,
} from '../rpc/host-api.js'
import { migrateEncryptionModes } from './migrate-encryption-setting.js'
import { checkTime, checkUuid, isBase64, record, requireThat } from './requests.js'

/** Of one piece: a segment of a stream, in base64. */
const pieceLimit = Math.ceil((1024 * 1024) / 3) * 4

export function checkMigrateEncryption(mode: unknown): asserts mode is MigrateEncryption {
  requireThat(
    migrateEncryptionModes.some((known) => known === mode),
    'migrateEncryption',
    `one of ${migrateEncryptionModes.join(', ')}`,
  )
}

export function checkIncomingMigration(spec: unknown): asserts spec is IncomingMigrationSpec {
  const { migrationId, memory, sealTo } = record(spec, 'spec')
  checkUuid(migrationId, 'spec.migrationId')
  checkPath(memory, 'spec.memory')
  if (sealTo === undefined) return
  const { hostId, publicKey } = record(sealTo, 'spec.sealTo')
  checkHostId(hostId, 'spec.sealTo.hostId')
  requireThat(isBase64(publicKey, 128), 'spec.sealTo.publicKey', 'base64 of at most 128 characters')
}

export function checkOutgoingMigration(spec: unknown): asserts spec is OutgoingMigrationSpec {
  const { migrationId, targetHostId, memory, key } = record(spec, 'spec')
  checkUuid(migrationId, 'spec.migrationId')
  checkHostId(targetHostId, 'spec.targetHostId')
  checkPath(memory, 'spec.memory')
  if (key === undefined) return
  const fields = record(key, 'spec.key')
  checkUuid(fields['migrationId'], 'spec.key.migrationId')
  checkUuid(fields['vmId'], 'spec.key.vmId')
  checkHostId(fields['hostId'], 'spec.key.hostId')
  checkHostId(fields['targetHostId'], 'spec.key.targetHostId')
  requireThat(isBase64(fields['nonce'], 128), 'spec.key.nonce', 'base64 of at most 128 characters')
  requireThat(isBase64(fields['sealed'], 1024), 'spec.key.sealed', 'base64 of at most 1024 characters')
  checkTime(fields['expiresAt'], 'spec.key.expiresAt')
}

export function checkMigrationPiece(piece: unknown): asserts piece is MigrationPiece {
  const { data, last } = record(piece, 'piece')
  requireThat(
    data === '' || isBase64(data, pieceLimit),
    'piece.data',
    `base64 of at most ${pieceLimit} characters`,
  )
  requireThat(typeof last === 'boolean', 'piece.last', 'true or false')
}

export function checkMigrationOutcome(outcome: unknown): void {
  requireThat(outcome === 'moved' || outcome === 'abandoned', 'outcome', 'moved or abandoned')
}

function checkHostId(value: unknown, field: string): void {
  requireThat(typeof value === 'string' && value !== '' && value.length <= 100, field, 'a host id')
}

function checkPath(value: unknown, field: string): void {
  requireThat(
    typeof value === 'string' && value !== '' && value.length <= 4096 && !value.includes('\0'),
    field,
    'a path',
  )
}
