//! OpenSSL 3 through its EVP interface: the cipher fetched and the key set once, a new IV and an update per sector.

use std::ffi::{CString, c_char, c_int, c_ulong, c_void};
use std::ptr::{null, null_mut};

use libloading::os::unix::Library;
use vmseal_secret::SecretKey;

use super::{function, open, text};
use crate::Outcome;
use crate::report::Implementation;
use crate::sector_cipher::{Maker, OneSector, PerSector, tweak};

type Fetch = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void;
type NewContext = unsafe extern "C" fn() -> *mut c_void;
type FreeContext = unsafe extern "C" fn(*mut c_void);
type SetFlags = unsafe extern "C" fn(*mut c_void, c_int);
type Init =
    unsafe extern "C" fn(*mut c_void, *const c_void, *mut c_void, *const u8, *const u8, c_int) -> c_int;
type Update = unsafe extern "C" fn(*mut c_void, *mut u8, *mut c_int, *const u8, c_int) -> c_int;

/// One OpenSSL: that of the system or that inside Node.
pub struct Libcrypto {
    pub version: String,
    /// The version without what packagers add to its text.
    pub number: c_ulong,
    pub name: &'static str,
    fetch: Fetch,
    new_context: NewContext,
    free_context: FreeContext,
    set_flags: SetFlags,
    init: Init,
    update: Update,
}

impl Libcrypto {
    /// `libcrypto.so.3`.
    pub fn of_the_system() -> Outcome<&'static Libcrypto> {
        Self::bind("OpenSSL (system)", open(&["libcrypto.so.3"])?)
    }

    /// What the Node that runs this was linked with.
    pub fn of_this_process() -> Outcome<&'static Libcrypto> {
        Self::bind("OpenSSL (Node)", Box::leak(Box::new(Library::this())))
    }

    fn bind(name: &'static str, library: &'static Library) -> Outcome<&'static Libcrypto> {
        // SAFETY: the types are those of OpenSSL 3's evp.h and crypto.h.
        let bound = unsafe {
            let version: unsafe extern "C" fn(c_int) -> *const c_char = function(library, "OpenSSL_version")?;
            let number: unsafe extern "C" fn() -> c_ulong = function(library, "OpenSSL_version_num")?;
            if number() >> 28 < 3 {
                return Err(format!("{} has no EVP_CIPHER_fetch", text(version(0))).into());
            }
            Libcrypto {
                version: text(version(0)),
                number: number(),
                name,
                fetch: function(library, "EVP_CIPHER_fetch")?,
                new_context: function(library, "EVP_CIPHER_CTX_new")?,
                free_context: function(library, "EVP_CIPHER_CTX_free")?,
                set_flags: function(library, "EVP_CIPHER_CTX_set_flags")?,
                init: function(library, "EVP_CipherInit_ex")?,
                update: function(library, "EVP_CipherUpdate")?,
            }
        };
        Ok(Box::leak(Box::new(bound)))
    }

    /// A context with the cipher and key set, ready for an IV.
    pub fn context(
        &'static self,
        cipher: &str,
        key: &[u8],
        encrypt: bool,
        wrap: bool,
    ) -> Outcome<EvpContext> {
        const ALLOW_WRAP: c_int = 1;
        let name = CString::new(cipher)?;
        // SAFETY: a null library context is the default one; the key has the length of the cipher (checked by `init`
        // of the callers' ciphers, which are fixed).
        unsafe {
            let fetched = (self.fetch)(null_mut(), name.as_ptr(), null());
            if fetched.is_null() {
                return Err(format!("{} does not know {cipher}", self.version).into());
            }
            let context = EvpContext { library: self, context: (self.new_context)() };
            if context.context.is_null() {
                return Err("no memory for a cipher context".into());
            }
            if wrap {
                (self.set_flags)(context.context, ALLOW_WRAP);
            }
            let direction = c_int::from(encrypt);
            if (self.init)(context.context, fetched, null_mut(), key.as_ptr(), null(), direction) != 1 {
                return Err(format!("{} refused the key for {cipher}", self.version).into());
            }
            Ok(context)
        }
    }
}

/// An `EVP_CIPHER_CTX`.
pub struct EvpContext {
    library: &'static Libcrypto,
    context: *mut c_void,
}

// SAFETY: a context may be used by one thread after another.
unsafe impl Send for EvpContext {}

impl EvpContext {
    /// Sets the IV and works on `length` bytes. Gives the bytes written, or 0 when it fails.
    ///
    /// # Safety
    /// `iv` is null or as long as the cipher wants; `from` is `length` readable bytes, `to` takes what the cipher writes.
    pub unsafe fn one_shot(&mut self, iv: *const u8, from: *const u8, to: *mut u8, length: usize) -> usize {
        let mut written = 0;
        // SAFETY: as the caller vouches.
        let done = unsafe {
            (self.library.init)(self.context, null(), null_mut(), null(), iv, -1) == 1
                && (self.library.update)(self.context, to, &mut written, from, length as c_int) == 1
        };
        if done { written as usize } else { 0 }
    }
}

impl Drop for EvpContext {
    fn drop(&mut self) {
        // SAFETY: it is ours and used no more.
        unsafe { (self.library.free_context)(self.context) };
    }
}

struct XtsContexts {
    encrypting: EvpContext,
    decrypting: EvpContext,
}

impl OneSector for XtsContexts {
    unsafe fn cipher(&mut self, encrypt: bool, sector: u64, from: *const u8, to: *mut u8, length: usize) {
        let context = if encrypt { &mut self.encrypting } else { &mut self.decrypting };
        // SAFETY: XTS takes an IV of 16 bytes and writes as many bytes as it reads.
        let written = unsafe { context.one_shot(tweak(sector).as_ptr(), from, to, length) };
        assert_eq!(written, length, "OpenSSL failed");
    }
}

/// XTS of this OpenSSL.
pub fn maker(library: &'static Libcrypto) -> Maker {
    Maker {
        implementation: Implementation {
            name: library.name.to_owned(),
            version: library.version.clone(),
            call_path: "C: EVP_CIPHER_fetch and key once; per sector EVP_CipherInit_ex(iv) + EVP_CipherUpdate",
            peer: true,
        },
        kernel: None,
        make: Box::new(|key: &SecretKey, sector_size| {
            let context = |encrypt| key.expose(|bytes| library.context("AES-256-XTS", bytes, encrypt, false));
            let cipher = XtsContexts { encrypting: context(true)?, decrypting: context(false)? };
            Ok(Box::new(PerSector { cipher, sector_size }))
        }),
    }
}
