//! AWS-LC through its EVP interface: the key set once, a new IV and an update per sector.

use std::ffi::c_int;
use std::ptr::{null, null_mut};

use aws_lc_sys as lc;
use vmseal_secret::SecretKey;

use crate::Outcome;
use crate::report::Implementation;
use crate::sector_cipher::{Maker, OneSector, PerSector, tweak};

/// The version of the library that was built.
pub fn version() -> String {
    format!("AWS-LC {}", String::from_utf8_lossy(lc::AWSLC_VERSION_NUMBER_STRING).trim_end_matches('\0'))
}

/// XTS of AWS-LC.
pub fn maker() -> Maker {
    Maker {
        implementation: Implementation {
            name: "AWS-LC".to_owned(),
            version: version(),
            call_path: "C: EVP_aes_256_xts, key once; per sector EVP_CipherInit_ex(iv) + EVP_CipherUpdate",
            peer: true,
        },
        kernel: None,
        make: Box::new(|key: &SecretKey, sector_size| {
            let context = |encrypt| key.expose(|bytes| Context::new(bytes, encrypt));
            let cipher = Contexts { encrypting: context(true)?, decrypting: context(false)? };
            Ok(Box::new(PerSector { cipher, sector_size }))
        }),
    }
}

struct Contexts {
    encrypting: Context,
    decrypting: Context,
}

struct Context(*mut lc::EVP_CIPHER_CTX);

// SAFETY: a context may be used by one thread after another.
unsafe impl Send for Context {}

impl Context {
    fn new(key: &[u8], encrypt: bool) -> Outcome<Context> {
        if key.len() != 64 {
            return Err("AES-256-XTS takes 64 bytes of key".into());
        }
        // SAFETY: the key has the length of the cipher; the IV comes later.
        unsafe {
            let context = Context(lc::EVP_CIPHER_CTX_new());
            let cipher = lc::EVP_aes_256_xts();
            let direction = c_int::from(encrypt);
            if lc::EVP_CipherInit_ex(context.0, cipher, null_mut(), key.as_ptr(), null(), direction) != 1 {
                return Err("AWS-LC refused the key".into());
            }
            Ok(context)
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it is ours and used no more.
        unsafe { lc::EVP_CIPHER_CTX_free(self.0) };
    }
}

impl OneSector for Contexts {
    unsafe fn cipher(&mut self, encrypt: bool, sector: u64, from: *const u8, to: *mut u8, length: usize) {
        let context = if encrypt { self.encrypting.0 } else { self.decrypting.0 };
        let mut written = 0;
        // SAFETY: XTS takes an IV of 16 bytes and writes as many bytes as it reads.
        let done = unsafe {
            lc::EVP_CipherInit_ex(context, null(), null_mut(), null(), tweak(sector).as_ptr(), -1) == 1
                && lc::EVP_CipherUpdate(context, to, &mut written, from, length as c_int) == 1
        };
        assert!(done && written as usize == length, "AWS-LC failed");
    }
}
