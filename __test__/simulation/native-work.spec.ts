import { readFileSync } from 'node:fs'
import test from 'ava'
import { simulatedPromises, simulatedTasks } from './native-work.js'

/** What a party calls on the KMIP link, which is a simulation of its own. */
const links = new Set(['fetchServerCertificate'])

test('whatever the addon does on other threads has its time from the simulation', (t) => {
  const binding = readFileSync(new URL('../../src/native/binding.d.ts', import.meta.url), 'utf8')
  const functions = [...binding.matchAll(/^export declare function (\w+)\(.*\): (NativeTask|Promise<.*>)$/gm)]
  const named = (wanted: (result: string) => boolean) =>
    functions.flatMap(([, name = '', result = '']) => (wanted(result) && !links.has(name) ? [name] : []))
  t.deepEqual(
    named((result) => result === 'NativeTask'),
    [...simulatedTasks],
  )
  t.deepEqual(
    named((result) => result !== 'NativeTask'),
    [...simulatedPromises],
  )
})
