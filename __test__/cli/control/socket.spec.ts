/** The control socket that a KMS and a vCenter share: events on the way, cancelling, hanging up, and who may use it. */
import { once } from 'node:events'
import { chmodSync, statSync } from 'node:fs'
import { createConnection } from 'node:net'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { order } from '../../../src/cli/control/order.js'
import { ControlSocket, type Act } from '../../../src/cli/control/socket.js'
import { VmsealError, isVmsealError } from '../../../src/index.js'
import { temporaryDirectory } from '../../kms/running-kms.js'

const served = { code: 'VMSEAL_VCENTER_NOT_RUNNING', what: 'vCenter' } as const

async function open(t: ExecutionContext, act: Act): Promise<{ directory: string; control: ControlSocket }> {
  const directory = temporaryDirectory(t)
  const control = await ControlSocket.open(directory, act)
  t.teardown(() => control.close())
  return { directory, control }
}

const ask = (directory: string, options = {}): Promise<unknown> =>
  order(served, directory, { action: 'act', values: { n: 1 } }, options)

test('events come in order before the result, however many, to a reader that is slow', async (t) => {
  const count = 20_000
  const { directory } = await open(t, async ({ values }, { tell }) => {
    for (let n = 0; n < count; n += 1) await tell({ n, filler: 'x'.repeat(100) })
    return values
  })
  const seen: number[] = []
  const result = await ask(directory, { onEvent: ({ n }: { n: number }) => void seen.push(n) })
  t.deepEqual(result, { n: 1 })
  t.deepEqual(seen, [...Array(count).keys()])
})

test('an answer may be longer than an order may be', async (t) => {
  const long = 'x'.repeat(8 * 1024 * 1024)
  const { directory } = await open(t, () => long)
  t.is(await ask(directory), long)
})

test('errors keep code, message and details; one that is not ours is VMSEAL_INTERNAL', async (t) => {
  const { directory } = await open(t, ({ values }) => {
    throw 'n' in values ? new VmsealError('VMSEAL_NO_SPACE', 'full', { details: { subject: 'ds1' } }) : new Error('oh')
  }) // prettier-ignore
  const error = await t.throwsAsync(ask(directory), { code: 'VMSEAL_NO_SPACE', message: 'full' })
  t.deepEqual(isVmsealError(error) && error.details, { subject: 'ds1' })
  await t.throwsAsync(order(served, directory, { action: 'a', values: {} }), { code: 'VMSEAL_INTERNAL' })
})

test('who ordered may cancel, before and while it is done; anything else that he says is ignored', async (t) => {
  const { directory } = await open(t, async (_, { cancelled, tell }) => {
    await tell({ begun: true })
    if (!cancelled.aborted) await once(cancelled, 'abort')
    return 'cancelled'
  })
  const cancel = new AbortController()
  t.is(await ask(directory, { cancel: cancel.signal, onEvent: () => cancel.abort() }), 'cancelled')
  t.is(await ask(directory, { cancel: AbortSignal.abort() }), 'cancelled')
  const socket = createConnection(path.join(directory, 'control.sock'))
  socket.write('{"action":"act","values":{}}\n{"cancel":"yes"}\nnull\nnonsense\n\n{"cancel":true}\n')
  t.regex(await text(socket), /"result":"cancelled"/)
})

test('work learns that the one who ordered it hung up', async (t) => {
  let gone: Promise<unknown> = Promise.resolve()
  const { directory } = await open(t, async (_, caller) => {
    gone = caller.gone.aborted ? Promise.resolve() : once(caller.gone, 'abort')
    await caller.tell({ begun: true })
    await gone
    // Nobody reads it, and nobody waits for that.
    await caller.tell({ late: true })
    return null
  })
  const socket = createConnection(path.join(directory, 'control.sock'))
  socket.write('{"action":"act","values":{}}\n')
  await once(socket, 'data')
  socket.destroy()
  await gone
  t.pass()
})

test('closing ends what only follows something, and lets work end', async (t) => {
  const { directory, control } = await open(t, async ({ action }, { gone, tell }) => {
    await tell({ begun: true })
    if (action === 'follow') {
      if (!gone.aborted) await once(gone, 'abort')
      return 'followed'
    }
    await delay(50)
    return 'done'
  })
  const begun: Promise<void>[] = []
  const start = (action: string): Promise<unknown> => {
    let heard = (): void => {}
    begun.push(new Promise((resolve) => (heard = resolve)))
    return order(served, directory, { action, values: {} }, { onEvent: () => heard() })
  }
  const answers = [start('follow'), start('work')]
  await Promise.all(begun)
  await control.close()
  t.deepEqual(await Promise.all(answers), ['followed', 'done'])
  await t.throwsAsync(ask(directory), { code: 'VMSEAL_VCENTER_NOT_RUNNING' })
})

test('the socket is its owner’s alone, and is not made where others may enter', async (t) => {
  const { directory } = await open(t, () => null)
  t.is(statSync(path.join(directory, 'control.sock')).mode & 0o777, 0o600)
  const shared = temporaryDirectory(t)
  for (const mode of [0o710, 0o701, 0o770, 0o755]) {
    chmodSync(shared, mode)
    await t.throwsAsync(
      ControlSocket.open(shared, () => null),
      { code: 'VMSEAL_PERMISSION_DENIED' },
    )
  }
})

test('nobody serves: no socket, a socket that is left over, a directory that is not there', async (t) => {
  const directory = temporaryDirectory(t)
  await t.throwsAsync(ask(directory), { code: 'VMSEAL_VCENTER_NOT_RUNNING' })
  await t.throwsAsync(ask(path.join(directory, 'nowhere')), { code: 'VMSEAL_VCENTER_NOT_RUNNING' })
})
