//! Keys from passphrases: Argon2id (RFC 9106), straight into locked memory.

use argon2::{Algorithm, Argon2, Params, Version};
use vmseal_secret::SecretKey;

use crate::Error;
use crate::guard::guarded;

/// Cost of a derivation. RFC 9106 section 4 recommends 3 passes over 64 MiB with 4 lanes where memory is scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB, at most 1 GiB.
    pub memory_kib: u32,
    /// Passes over the memory, at most 64.
    pub passes: u32,
    /// Lanes, at most 64. They are worked on one after another.
    pub lanes: u32,
}

const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 64;
const MIN_SALT: usize = 16;
const MAX_SALT: usize = 64;

/// Derives a 32-byte key. The cost is bounded before memory is asked for, as it may come from a stored file.
///
/// Errors: [`Error::InvalidArgument`] for an empty passphrase, a salt outside 16 to 64 bytes or a cost out of bounds;
/// [`Error::Secret`].
pub fn derive(passphrase: &[u8], salt: &[u8], cost: Cost) -> Result<SecretKey, Error> {
    guarded(|| {
        let refused = |reason| Error::InvalidArgument { reason };
        if passphrase.is_empty() {
            return Err(refused("the passphrase is empty"));
        }
        if !(MIN_SALT..=MAX_SALT).contains(&salt.len()) {
            return Err(refused("the salt must have 16 to 64 bytes"));
        }
        if cost.memory_kib > MAX_MEMORY_KIB || cost.passes > MAX_PASSES || cost.lanes > MAX_LANES {
            return Err(refused("the cost is above 1 GiB, 64 passes or 64 lanes"));
        }
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
            .map_err(|_| refused("the cost is below what Argon2 allows (8 KiB for each lane, one pass)"))?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        SecretKey::try_init(32, |slot| {
            argon
                .hash_password_into(passphrase, salt, slot)
                .map_err(|_| refused("the passphrase is too long or the cost cannot be met"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };

    #[test]
    fn the_same_passphrase_gives_the_same_key_and_everything_else_another() {
        let key = derive(b"passphrase", &[7; 16], SMALL).unwrap();
        assert!(key.ct_eq(&derive(b"passphrase", &[7; 16], SMALL).unwrap()));
        let others = [
            derive(b"passphrasf", &[7; 16], SMALL),
            derive(b"passphrase", &[8; 16], SMALL),
            derive(b"passphrase", &[7; 17], SMALL),
            derive(b"passphrase", &[7; 16], Cost { passes: 2, ..SMALL }),
            derive(b"passphrase", &[7; 16], Cost { memory_kib: 128, ..SMALL }),
        ];
        for other in others {
            assert!(!key.ct_eq(&other.unwrap()));
        }
    }

    /// Python's argon2-cffi: `hash_secret_raw(b"vmseal passphrase", b"0123456789abcdef", 2, 256, 2, 32, Type.ID)`.
    #[test]
    fn it_is_argon2id_as_others_compute_it() {
        let expected = "3500582ed3d587b7ec87073667365c76b0340580b4a8ebb0e80dae4556b57c85";
        let cost = Cost { memory_kib: 256, passes: 2, lanes: 2 };
        let key = derive(b"vmseal passphrase", b"0123456789abcdef", cost).unwrap();
        let hex: String = key.expose(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        assert_eq!(hex, expected);
    }

    #[test]
    fn costs_and_salts_that_make_no_sense_are_refused() {
        let refused = [
            derive(b"", &[7; 16], SMALL),
            derive(b"x", &[7; 15], SMALL),
            derive(b"x", &[7; 65], SMALL),
            derive(b"x", &[7; 16], Cost { memory_kib: 7, ..SMALL }),
            derive(b"x", &[7; 16], Cost { memory_kib: u32::MAX, ..SMALL }),
            derive(b"x", &[7; 16], Cost { passes: 0, ..SMALL }),
            derive(b"x", &[7; 16], Cost { passes: u32::MAX, ..SMALL }),
            derive(b"x", &[7; 16], Cost { lanes: 0, ..SMALL }),
            derive(b"x", &[7; 16], Cost { lanes: 65, ..SMALL }),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT");
        }
    }
}
