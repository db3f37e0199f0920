import type { Command } from 'commander'
import { addDoctor } from './doctor.js'

export function addProviderCommands(program: Command): void {
  const provider = program.command('provider').description('Key providers: the client side of a KMS.')
  addDoctor(provider)
}
