//! Other people's implementations, as far as this machine has them.

#[cfg(feature = "aws-lc")]
pub mod aws_lc;
mod isal;
mod libgcrypt;
pub mod openssl;
mod rustcrypto;

use std::ffi::{CStr, c_char};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use vmseal_secret::SecretKey;

use crate::Outcome;
use crate::sector_cipher::{Maker, Operation, own_kernels};
use openssl::Libcrypto;

/// Who takes part and who cannot.
pub struct Found {
    pub ciphers: Vec<Maker>,
    pub absent: Vec<(&'static str, String)>,
    /// Every OpenSSL in reach, for key wrap.
    pub libcryptos: Vec<&'static Libcrypto>,
}

/// Looks for all peers. One whose ciphertext differs from ours is not measured.
pub fn find() -> Found {
    let mut found = Found { ciphers: own_kernels(), absent: Vec::new(), libcryptos: Vec::new() };
    let in_node = Libcrypto::of_this_process();
    let system = Libcrypto::of_the_system();
    for (name, candidate) in [("OpenSSL inside Node", in_node), ("OpenSSL libcrypto.so.3", system)] {
        match candidate {
            Ok(library) if found.libcryptos.iter().any(|other| other.number == library.number) => {
                let reason = format!("the same version takes part already: {}", library.version);
                found.absent.push((name, reason));
            }
            Ok(library) => {
                found.libcryptos.push(library);
                found.add(name, Ok(openssl::maker(library)));
            }
            Err(error) => found.absent.push((name, error.to_string())),
        }
    }
    #[cfg(feature = "aws-lc")]
    found.add("AWS-LC", Ok(aws_lc::maker()));
    #[cfg(not(feature = "aws-lc"))]
    found.absent.push(("AWS-LC", "it was not built (cargo feature aws-lc)".to_owned()));
    found.add("ISA-L crypto", isal::maker());
    found.add("libgcrypt", libgcrypt::maker());
    found.add("RustCrypto xts-mode", Ok(rustcrypto::maker()));
    found
}

impl Found {
    fn add(&mut self, name: &'static str, maker: Outcome<Maker>) {
        match maker.and_then(|maker| agrees_with_ours(&maker).map(|()| maker)) {
            Ok(maker) => self.ciphers.push(maker),
            Err(error) => self.absent.push((name, error.to_string())),
        }
    }
}

/// Every operation at two sector sizes gives the bytes of our portable kernel.
fn agrees_with_ours(maker: &Maker) -> Outcome<()> {
    const FIRST_SECTOR: u64 = (1 << 33) + 5;
    let key = SecretKey::generate(64)?;
    let plain: Vec<u8> = (0..64 << 10).map(|index| ((index * 167) >> 3) as u8).collect();
    for sector_size in [512, 4096] {
        let ours = vmseal_xts::Xts::with_kernel(&key, sector_size, 1, vmseal_xts::Kernel::Portable)?;
        let mut sealed = plain.clone();
        ours.encrypt(&mut sealed, FIRST_SECTOR)?;
        let mut theirs = (maker.make)(&key, sector_size as usize)?;
        for operation in Operation::ALL {
            let (given, wanted) = if operation.encrypts() { (&plain, &sealed) } else { (&sealed, &plain) };
            let (mut source, mut destination) = (given.clone(), vec![0; given.len()]);
            theirs.run(operation, &mut source, &mut destination, FIRST_SECTOR);
            let made = if operation.in_place() { &source } else { &destination };
            if made != wanted {
                return Err(format!(
                    "{operation:?} at {sector_size} bytes differs from vmseal: not measured"
                )
                .into());
            }
        }
    }
    Ok(())
}

/// Opens the first library that exists; it stays loaded.
fn open(names: &[&str]) -> Outcome<&'static Library> {
    // Symbols that Node exports itself must not take the place of the library's own.
    const OWN_SYMBOLS_FIRST: i32 = if cfg!(all(target_os = "linux", target_env = "gnu")) { 8 } else { 0 };
    let mut last = None;
    for name in names {
        // SAFETY: these are system libraries whose initialisers have no demands.
        match unsafe { Library::open(Some(*name), RTLD_NOW | RTLD_LOCAL | OWN_SYMBOLS_FIRST) } {
            Ok(library) => return Ok(Box::leak(Box::new(library))),
            Err(error) => last = Some(error),
        }
    }
    Err(last
        .map_or_else(|| "no name to look for".into(), |error| format!("not on this machine: {error}").into()))
}

/// A function of a library that stays loaded.
///
/// # Safety
/// `T` is the type of the function of this name.
unsafe fn function<T: Copy>(library: &'static Library, name: &str) -> Outcome<T> {
    // SAFETY: the caller vouches for the type.
    Ok(*unsafe { library.get::<T>(name) }?)
}

/// A constant text of a C library.
///
/// # Safety
/// `text` is null or a string that is never freed.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return "unknown".to_owned();
    }
    // SAFETY: it is a string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
