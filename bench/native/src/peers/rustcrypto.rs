//! RustCrypto: the `xts-mode` crate over the `aes` crate, one call for all sectors.

use aes::Aes256;
use aes::cipher::KeyInit;
use vmseal_secret::SecretKey;
use xts_mode::{Xts128, get_tweak_default};

use crate::report::Implementation;
use crate::sector_cipher::{Maker, Operation, SectorCipher};

/// XTS of RustCrypto.
pub fn maker() -> Maker {
    Maker {
        implementation: Implementation {
            name: "RustCrypto xts-mode".to_owned(),
            version: "xts-mode 0.6 over aes 0.9".to_owned(),
            call_path: "Rust: Xts128::encrypt_area, one call for all sectors (copies first: it works in place only)",
            peer: true,
        },
        kernel: None,
        make: Box::new(|key: &SecretKey, sector_size| {
            let half = |range| key.expose(|bytes| Aes256::new_from_slice(&bytes[range]));
            let (data, tweak) = (half(0..32)?, half(32..64)?);
            Ok(Box::new(Area { xts: Xts128::new(data, tweak), sector_size }))
        }),
    }
}

struct Area {
    xts: Xts128<Aes256>,
    sector_size: usize,
}

impl SectorCipher for Area {
    fn run(&mut self, operation: Operation, source: &mut [u8], destination: &mut [u8], first_sector: u64) {
        let area = if operation.in_place() {
            source
        } else {
            destination.copy_from_slice(source);
            destination
        };
        let first = u128::from(first_sector);
        if operation.encrypts() {
            self.xts.encrypt_area(area, self.sector_size, first, get_tweak_default);
        } else {
            self.xts.decrypt_area(area, self.sector_size, first, get_tweak_default);
        }
    }
}
