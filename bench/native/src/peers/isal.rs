//! Intel ISA-L crypto with expanded keys: one call per sector.

use std::ffi::{c_int, c_uint};

use vmseal_secret::SecretKey;

use super::{function, open};
use crate::Outcome;
use crate::report::Implementation;
use crate::sector_cipher::{Maker, OneSector, PerSector, tweak};

type Expand = unsafe extern "C" fn(*const u8, *mut u8, *mut u8) -> c_int;
type Cipher = unsafe extern "C" fn(*const u8, *const u8, *const u8, u64, *const u8, *mut u8) -> c_int;
type Schedule = [u8; 16 * 15];

#[derive(Clone, Copy)]
struct Functions {
    expand: Expand,
    encrypt: Cipher,
    decrypt: Cipher,
}

/// XTS of ISA-L crypto 2.25 or newer, where it is installed.
pub fn maker() -> Outcome<Maker> {
    let library = open(&["libisal_crypto.so.2"])?;
    // SAFETY: the types are those of aes_keyexp.h, aes_xts.h and isal_crypto_api.h.
    let (functions, version) = unsafe {
        let functions = Functions {
            expand: function(library, "isal_aes_keyexp_256")?,
            encrypt: function(library, "isal_aes_xts_enc_256_expanded_key")?,
            decrypt: function(library, "isal_aes_xts_dec_256_expanded_key")?,
        };
        let version = function::<unsafe extern "C" fn() -> c_uint>(library, "isal_crypto_get_version");
        let version = version.map_or(0, |version| version());
        (functions, format!("{}.{}.{}", version >> 16 & 0xff, version >> 8 & 0xff, version & 0xff))
    };
    Ok(Maker {
        implementation: Implementation {
            name: "ISA-L crypto".to_owned(),
            version: format!("ISA-L crypto {version}"),
            call_path: "C: keys expanded once; per sector isal_aes_xts_enc_256_expanded_key",
            peer: true,
        },
        kernel: None,
        make: Box::new(move |key: &SecretKey, sector_size| {
            let cipher = key.expose(|bytes| Schedules::new(functions, bytes))?;
            Ok(Box::new(PerSector { cipher, sector_size }))
        }),
    })
}

struct Schedules {
    functions: Functions,
    data_encrypting: Schedule,
    data_decrypting: Schedule,
    tweak_encrypting: Schedule,
}

impl Schedules {
    fn new(functions: Functions, key: &[u8]) -> Outcome<Schedules> {
        let (data, tweak) =
            key.split_at_checked(32).filter(|(_, tweak)| tweak.len() == 32).ok_or("a key of 64 bytes")?;
        let empty = [0; 16 * 15];
        let mut made =
            Schedules { functions, data_encrypting: empty, data_decrypting: empty, tweak_encrypting: empty };
        let mut unused = empty;
        // SAFETY: each half is 32 bytes, each schedule 240.
        let status = unsafe {
            let data_schedules = (made.data_encrypting.as_mut_ptr(), made.data_decrypting.as_mut_ptr());
            (functions.expand)(data.as_ptr(), data_schedules.0, data_schedules.1)
                | (functions.expand)(tweak.as_ptr(), made.tweak_encrypting.as_mut_ptr(), unused.as_mut_ptr())
        };
        if status == 0 {
            Ok(made)
        } else {
            Err(format!("ISA-L crypto refused the key (error {status})").into())
        }
    }
}

impl OneSector for Schedules {
    unsafe fn cipher(&mut self, encrypt: bool, sector: u64, from: *const u8, to: *mut u8, length: usize) {
        let (cipher, data) = match encrypt {
            true => (self.functions.encrypt, &self.data_encrypting),
            false => (self.functions.decrypt, &self.data_decrypting),
        };
        let tweak = tweak(sector);
        let schedules = (self.tweak_encrypting.as_ptr(), data.as_ptr());
        // SAFETY: the schedules are whole, the tweak has 16 bytes, the buffers are those of the caller.
        let status = unsafe { cipher(schedules.0, schedules.1, tweak.as_ptr(), length as u64, from, to) };
        assert_eq!(status, 0, "ISA-L crypto failed");
    }
}
