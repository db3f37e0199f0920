import type { Command } from 'commander'
import { addClientCommands } from './clients.js'
import { addStart } from './start.js'
import { addStoreCommands } from './store.js'

export function addKmsCommands(program: Command): void {
  const kms = program
    .command('kms')
    .description(
      'A key management server: KMIP over mutual TLS, keys sealed at rest, hash-chained audit log.',
    )
  addStart(kms)
  addClientCommands(kms)
  addStoreCommands(kms)
}
