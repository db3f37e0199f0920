/** The protocol side of the KMS: answers leave when their group is durable. */
import { KmipServer } from '../kmip/server.js'
import type { KmipCaller, KmipServerOptions, KmipService } from '../kmip/server.js'
import type { KmipReply } from '../kmip/reply.js'
import type { KeyHandle } from '../native/load.js'
import type { GroupCommit } from './group-commit.js'

/** A server whose answers wait for their group. */
export class DurableServer extends KmipServer {
  readonly #commit: GroupCommit

  constructor(service: KmipService, options: KmipServerOptions, commit: GroupCommit) {
    super(service, options)
    this.#commit = commit
  }

  /** Rejects if the group was undone: what was asked did not happen, and the connection ends. */
  override async process(
    message: Uint8Array,
    keys: readonly KeyHandle[],
    caller: KmipCaller,
  ): Promise<KmipReply> {
    const reply = await super.process(message, keys, caller)
    try {
      await this.#commit.settled()
      return reply
    } catch (error) {
      for (const key of reply.keys) key.dispose()
      throw error
    }
  }
}
