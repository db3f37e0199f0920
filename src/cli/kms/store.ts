/** `vmseal kms status`, `verify`, `audit verify`, `backup`, `restore`, `rotate-root-key`. */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { isVmsealError } from '../../errors.js'
import type { AuditVerification } from '../../kms/audit-verification.js'
import { Kms } from '../../kms/kms.js'
import { directoryName, readPassphrase } from '../arguments.js'
import { coreDumpText } from '../core-dumps.js'
import { output, table } from '../output.js'
import { order } from './control.js'

interface Directory {
  readonly directory: string
}

const serving = [
  '-d, --directory <dir>',
  'directory of the KMS, which must be serving',
  directoryName,
] as const

export function addStoreCommands(kms: Command): void {
  kms
    .command('status')
    .description('Say whether a KMS serves a directory, and where.')
    .requiredOption(...serving)
    .action(async ({ directory }: Directory) =>
      output.answer(await order(directory, 'status', { directory: resolve(directory) }), (status) =>
        table(
          ['endpoint', `${status.endpoint.host}:${status.endpoint.port}`],
          [
            ['directory', status.directory],
            ['process', String(status.processId)],
            ['authority', status.caCertificateFile],
            ['clients', String(status.clients)],
            ['core dumps', coreDumpText(status.coreDumps)],
          ],
        ),
      ),
    )
  kms
    .command('verify')
    .description('Open every key record and name those that do not open. Status 1 if there is one.')
    .requiredOption(...serving)
    .action(async ({ directory }: Directory) => {
      const found = await order(directory, 'verify', {})
      if (!found.ok) process.exitCode = 1
      output.answer(found, ({ ok, keys, broken }) =>
        ok ? `${keys} keys, every record opens` : `these records do not open:\n${broken.join('\n')}`,
      )
    })
  kms
    .command('audit')
    .description('The audit log.')
    .command('verify')
    .description('Find any change of the audit log, or a gap in it. Status 1 if there is one.')
    .requiredOption('-d, --directory <dir>', 'directory of the KMS, serving or not', directoryName)
    .action(async ({ directory }: Directory) => {
      const found = await verifyAudit(directory)
      if (!found.ok) process.exitCode = 1
      output.answer(found, describeAudit)
    })
  kms
    .command('rotate-root-key')
    .description('Seal every record under a new root key; keys in use are not touched.')
    .requiredOption(...serving)
    .action(async ({ directory }: Directory) =>
      output.answer(
        await order(directory, 'rotateRootKey', {}),
        () => 'every record is sealed under a new root key',
      ),
    )
  addBackupCommands(kms)
}

function addBackupCommands(kms: Command): void {
  kms
    .command('backup')
    .description('Write an encrypted backup to a new file.')
    .argument('<file>')
    .requiredOption(...serving)
    .option(
      '--passphrase-file <file>',
      'first line: what the backup is sealed with; without it the root key of this KMS opens it',
    )
    .action(async (file: string, { directory, passphraseFile }: Directory & { passphraseFile?: string }) => {
      const sealed = passphraseFile === undefined ? {} : { passphraseFile: resolve(passphraseFile) }
      const answer = await order(directory, 'backup', { file: resolve(file), ...sealed })
      output.answer(answer, () => `written to ${answer.file}, sealed by the ${answer.sealedBy}`)
    })
  kms
    .command('restore')
    .description('Make the directory of a KMS from a backup.')
    .argument('<file>')
    .requiredOption('-d, --directory <dir>', 'new directory', directoryName)
    .option('--passphrase-file <file>', 'passphrase of the backup (first line; -: standard input)')
    .option(
      '--root-key <file>',
      'for a backup without a passphrase: root.key of the KMS that it was made of, after a rotation its root-N.key',
    )
    .option(
      '--store-passphrase-file <file>',
      'opens the restored KMS; without it its root key lies in a file',
    )
    .action(restore)
}

interface RestoreWords extends Directory {
  readonly passphraseFile?: string
  readonly rootKey?: string
  readonly storePassphraseFile?: string
}

async function restore(file: string, words: RestoreWords): Promise<void> {
  const { directory, passphraseFile, rootKey, storePassphraseFile } = words
  await Kms.restore(file, {
    directory,
    ...(passphraseFile === undefined ? {} : { passphrase: readPassphrase(passphraseFile) }),
    ...(rootKey === undefined ? {} : { rootKeyFile: resolve(rootKey) }),
    ...(storePassphraseFile === undefined ? {} : { storePassphrase: readPassphrase(storePassphraseFile) }),
  })
  output.answer(
    { directory: resolve(directory) },
    (made) => `restored; start it: vmseal kms start --directory ${made.directory}`,
  )
}

/** Only the KMS that serves a directory knows the end of its log. */
async function verifyAudit(directory: string): Promise<AuditVerification> {
  try {
    return await order(directory, 'verifyAudit', {})
  } catch (error) {
    if (!isVmsealError(error, 'VMSEAL_KMS_NOT_SERVED')) throw error
    return Kms.verifyAudit(directory)
  }
}

const reasons = {
  altered: 'this record was altered',
  gap: 'records are missing or out of order here',
  cut: 'the end is missing',
  'not-the-log': 'this is not the log of this KMS',
} as const

function describeAudit({ records, ok, firstBreak, headChecked }: AuditVerification): string {
  if (firstBreak)
    return `BROKEN at line ${firstBreak.line} (record ${firstBreak.sequence}): ${reasons[firstBreak.reason]}; ${records} records before it are good`
  const end = headChecked ? '' : '; the end was not checked'
  return ok ? `${records} records, unbroken${end}` : 'BROKEN'
}
