//! libgcrypt: the key set once, a new IV and a call per sector.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};

use vmseal_secret::SecretKey;

use super::{function, open, text};
use crate::Outcome;
use crate::report::Implementation;
use crate::sector_cipher::{Maker, OneSector, PerSector, tweak};

type Open = unsafe extern "C" fn(*mut *mut c_void, c_int, c_int, c_uint) -> c_uint;
type Close = unsafe extern "C" fn(*mut c_void);
type SetBytes = unsafe extern "C" fn(*mut c_void, *const u8, usize) -> c_uint;
type Cipher = unsafe extern "C" fn(*mut c_void, *mut u8, usize, *const u8, usize) -> c_uint;

#[derive(Clone, Copy)]
struct Functions {
    open: Open,
    close: Close,
    set_key: SetBytes,
    set_iv: SetBytes,
    encrypt: Cipher,
    decrypt: Cipher,
}

/// XTS of libgcrypt, where its package is installed.
pub fn maker() -> Outcome<Maker> {
    const INITIALIZATION_FINISHED: c_int = 38;
    let library = open(&["libgcrypt.so.20"])?;
    // SAFETY: the types are those of gcrypt.h.
    let (functions, version) = unsafe {
        let check_version: unsafe extern "C" fn(*const c_char) -> *const c_char =
            function(library, "gcry_check_version")?;
        let control: unsafe extern "C" fn(c_int, ...) -> c_uint = function(library, "gcry_control")?;
        let functions = Functions {
            open: function(library, "gcry_cipher_open")?,
            close: function(library, "gcry_cipher_close")?,
            set_key: function(library, "gcry_cipher_setkey")?,
            set_iv: function(library, "gcry_cipher_setiv")?,
            encrypt: function(library, "gcry_cipher_encrypt")?,
            decrypt: function(library, "gcry_cipher_decrypt")?,
        };
        // The first call initialises the library.
        let version = text(check_version(null()));
        control(INITIALIZATION_FINISHED, 0_usize);
        (functions, version)
    };
    Ok(Maker {
        implementation: Implementation {
            name: "libgcrypt".to_owned(),
            version: format!("libgcrypt {version}"),
            call_path: "C: key once; per sector gcry_cipher_setiv + gcry_cipher_encrypt",
            peer: true,
        },
        kernel: None,
        make: Box::new(move |key: &SecretKey, sector_size| {
            let cipher = key.expose(|bytes| Handle::new(functions, bytes))?;
            Ok(Box::new(PerSector { cipher, sector_size }))
        }),
    })
}

struct Handle {
    functions: Functions,
    handle: *mut c_void,
}

// SAFETY: a handle may be used by one thread after another.
unsafe impl Send for Handle {}

impl Handle {
    fn new(functions: Functions, key: &[u8]) -> Outcome<Handle> {
        const AES256: c_int = 9;
        const MODE_XTS: c_int = 13;
        let mut handle = null_mut();
        // SAFETY: the arguments are of the documented types.
        let status = unsafe { (functions.open)(&mut handle, AES256, MODE_XTS, 0) };
        if status != 0 {
            return Err(format!("libgcrypt has no AES-256-XTS (error {status})").into());
        }
        let made = Handle { functions, handle };
        // SAFETY: the key is that many bytes.
        let status = unsafe { (functions.set_key)(handle, key.as_ptr(), key.len()) };
        if status == 0 { Ok(made) } else { Err(format!("libgcrypt refused the key (error {status})").into()) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it is ours and used no more.
        unsafe { (self.functions.close)(self.handle) };
    }
}

impl OneSector for Handle {
    unsafe fn cipher(&mut self, encrypt: bool, sector: u64, from: *const u8, to: *mut u8, length: usize) {
        let cipher = if encrypt { self.functions.encrypt } else { self.functions.decrypt };
        // A null source means in place.
        let (source, source_length) = if from == to.cast_const() { (null(), 0) } else { (from, length) };
        // SAFETY: the IV has 16 bytes and the buffers are those of the caller.
        let status = unsafe {
            (self.functions.set_iv)(self.handle, tweak(sector).as_ptr(), 16)
                | cipher(self.handle, to, length, source, source_length)
        };
        assert_eq!(status, 0, "libgcrypt failed");
    }
}
