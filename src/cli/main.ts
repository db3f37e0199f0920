#!/usr/bin/env node
import { run } from './program.js'

// Whoever read the output may have gone (`| head`): a KMS serves on.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})

process.exitCode = await run(process.argv.slice(2))
