/** From what storage policies ask for to what has to be encrypted and decrypted. Pure. */
import { VmsealError } from '../errors.js'

/** Which parts of a VM are encrypted, or are asked to be. Disks by id. */
export interface EncryptionState {
  readonly home: boolean
  readonly disks: ReadonlyMap<string, boolean>
}

/** Parts that are absent stay as they are. */
export interface EncryptionWish {
  readonly home?: boolean | undefined
  readonly disks: ReadonlyMap<string, boolean>
}

type CryptoChange = 'encrypt' | 'decrypt'

export interface CryptoPlan {
  readonly home?: CryptoChange
  readonly disks: ReadonlyMap<string, CryptoChange>
}

/**
 * What changes. VMSEAL_ENCRYPTION_MISMATCH if the VM would end with an encrypted disk and a plain home: an
 * encrypted disk cannot belong to a plain VM, so home goes first when encrypting and last when decrypting.
 */
export function planCryptoChange(state: EncryptionState, wish: EncryptionWish): CryptoPlan {
  refuseMismatch({
    home: wish.home ?? state.home,
    disks: new Map([...state.disks].map(([id, encrypted]) => [id, wish.disks.get(id) ?? encrypted])),
  })
  const home = changeOf(state.home, wish.home)
  const disks = new Map<string, CryptoChange>()
  for (const [id, encrypted] of state.disks) {
    const change = changeOf(encrypted, wish.disks.get(id))
    if (change) disks.set(id, change)
  }
  return home ? { home, disks } : { disks }
}

/** The rule for a VM as a whole, also for one that is yet to be made. */
export function refuseMismatch(state: EncryptionState): void {
  if (state.home) return
  const encrypted = [...state.disks].filter(([, wanted]) => wanted).map(([id]) => id)
  if (encrypted.length > 0)
    throw new VmsealError(
      'VMSEAL_ENCRYPTION_MISMATCH',
      `VM home would be plain while disk ${encrypted.join(', ')} is encrypted. ` +
        'Encrypt VM home before or with its disks; decrypt disks before or with VM home',
    )
}

export function changesNothing(plan: CryptoPlan): boolean {
  return plan.home === undefined && plan.disks.size === 0
}

function changeOf(encrypted: boolean, wanted: boolean | undefined): CryptoChange | undefined {
  if (wanted === undefined || wanted === encrypted) return undefined
  return wanted ? 'encrypt' : 'decrypt'
}
