//! Who wraps keys: vmseal first, then the peers.

use std::hint::black_box;
use std::ptr::null;

use vmseal_secret::SecretKey;
use vmseal_wrap::key_wrap;

use crate::Outcome;
use crate::peers::openssl::{EvpContext, Libcrypto};

const KEY: usize = 64;
const WRAPPED: usize = KEY + 8;

/// Wraps and unwraps the same keys again and again.
pub trait KeyWrapper {
    fn name(&self) -> String;
    fn is_peer(&self) -> bool;
    /// Wraps every key of the batch.
    fn wrap(&mut self);
    /// Unwraps what `wrap` made and checks that it is whole.
    fn unwrap(&mut self);
    /// What `wrap` made.
    fn wrapped(&self) -> Vec<Vec<u8>>;
}

/// vmseal, every OpenSSL in reach, AWS-LC when it was built.
pub fn implementations<'a>(
    kek: &'a SecretKey,
    keys: &'a [SecretKey],
    libcryptos: &[&'static Libcrypto],
) -> Outcome<Vec<Box<dyn KeyWrapper + 'a>>> {
    let plain = Plain::of(keys);
    let mut all: Vec<Box<dyn KeyWrapper + 'a>> = vec![Box::new(Vmseal { kek, keys, wrapped: Vec::new() })];
    for library in libcryptos {
        let context = |encrypt| kek.expose(|bytes| library.context("AES-256-WRAP", bytes, encrypt, true));
        let (wrapping, unwrapping) = (context(true)?, context(false)?);
        all.push(Box::new(OpenSsl { library, wrapping, unwrapping, plain: plain.clone() }));
    }
    #[cfg(feature = "aws-lc")]
    all.push(Box::new(kek.expose(|bytes| aws_lc::AwsLc::new(bytes, plain.clone()))));
    Ok(all)
}

struct Vmseal<'a> {
    kek: &'a SecretKey,
    keys: &'a [SecretKey],
    wrapped: Vec<Vec<u8>>,
}

impl KeyWrapper for Vmseal<'_> {
    fn name(&self) -> String {
        "vmseal".to_owned()
    }

    fn is_peer(&self) -> bool {
        false
    }

    fn wrap(&mut self) {
        self.wrapped = match self.keys {
            [key] => vec![key_wrap::wrap(self.kek, key).expect("a good key")],
            keys => {
                let keys: Vec<&SecretKey> = keys.iter().collect();
                key_wrap::wrap_many(self.kek, &keys).expect("good keys")
            }
        };
    }

    fn unwrap(&mut self) {
        match self.wrapped.as_slice() {
            [wrapped] => drop(black_box(key_wrap::unwrap(self.kek, wrapped).expect("our own wrap"))),
            wrapped => {
                let wrapped: Vec<&[u8]> = wrapped.iter().map(Vec::as_slice).collect();
                let keys = key_wrap::unwrap_many(self.kek, &wrapped).expect("a good KEK");
                assert!(keys.iter().all(Result::is_ok), "our own wraps");
                black_box(keys);
            }
        }
    }

    fn wrapped(&self) -> Vec<Vec<u8>> {
        self.wrapped.clone()
    }
}

/// Keys as the peers want them: plain bytes of keys that protect nothing.
#[derive(Clone)]
struct Plain {
    keys: Vec<[u8; KEY]>,
    wrapped: Vec<[u8; WRAPPED]>,
}

impl Plain {
    fn of(keys: &[SecretKey]) -> Plain {
        let bytes = |key: &SecretKey| key.expose(|bytes| std::array::from_fn(|index| bytes[index]));
        Plain { keys: keys.iter().map(bytes).collect(), wrapped: vec![[0; WRAPPED]; keys.len()] }
    }

    fn wrapped(&self) -> Vec<Vec<u8>> {
        self.wrapped.iter().map(|one| one.to_vec()).collect()
    }
}

struct OpenSsl {
    library: &'static Libcrypto,
    wrapping: EvpContext,
    unwrapping: EvpContext,
    plain: Plain,
}

impl KeyWrapper for OpenSsl {
    fn name(&self) -> String {
        self.library.name.to_owned()
    }

    fn is_peer(&self) -> bool {
        true
    }

    fn wrap(&mut self) {
        for (key, wrapped) in self.plain.keys.iter().zip(&mut self.plain.wrapped) {
            // SAFETY: without an IV the default one is used; a wrap is 8 bytes longer than the key.
            let written = unsafe { self.wrapping.one_shot(null(), key.as_ptr(), wrapped.as_mut_ptr(), KEY) };
            assert_eq!(written, WRAPPED, "OpenSSL failed");
        }
    }

    fn unwrap(&mut self) {
        for wrapped in &self.plain.wrapped {
            // The cipher may use the place of the last semiblock, too.
            let mut key = [0; WRAPPED];
            // SAFETY: without an IV the default one is used; the output is no longer than the input.
            let written =
                unsafe { self.unwrapping.one_shot(null(), wrapped.as_ptr(), key.as_mut_ptr(), WRAPPED) };
            assert_eq!(written, KEY, "OpenSSL failed");
            black_box(key);
        }
    }

    fn wrapped(&self) -> Vec<Vec<u8>> {
        self.plain.wrapped()
    }
}

#[cfg(feature = "aws-lc")]
mod aws_lc {
    use std::hint::black_box;
    use std::mem::MaybeUninit;
    use std::ptr::null;

    use aws_lc_sys as lc;

    use super::{KEY, KeyWrapper, Plain, WRAPPED};

    pub struct AwsLc {
        encrypting: lc::AES_KEY,
        decrypting: lc::AES_KEY,
        plain: Plain,
    }

    impl AwsLc {
        pub fn new(kek: &[u8], plain: Plain) -> AwsLc {
            assert_eq!(kek.len(), 32);
            let mut keys = [MaybeUninit::uninit(), MaybeUninit::uninit()];
            // SAFETY: the KEK has 256 bits; a call that gives 0 has filled in the key.
            let [encrypting, decrypting] = unsafe {
                let [encrypting, decrypting] = &mut keys;
                let status = lc::AES_set_encrypt_key(kek.as_ptr(), 256, encrypting.as_mut_ptr())
                    | lc::AES_set_decrypt_key(kek.as_ptr(), 256, decrypting.as_mut_ptr());
                assert_eq!(status, 0, "AWS-LC refused the KEK");
                keys.map(|key: MaybeUninit<lc::AES_KEY>| key.assume_init())
            };
            AwsLc { encrypting, decrypting, plain }
        }
    }

    impl KeyWrapper for AwsLc {
        fn name(&self) -> String {
            "AWS-LC".to_owned()
        }

        fn is_peer(&self) -> bool {
            true
        }

        fn wrap(&mut self) {
            for (key, wrapped) in self.plain.keys.iter().zip(&mut self.plain.wrapped) {
                let (from, to) = (key.as_ptr(), wrapped.as_mut_ptr());
                // SAFETY: without an IV the default one is used; a wrap is 8 bytes longer than the key.
                let written = unsafe { lc::AES_wrap_key(&self.encrypting, null(), to, from, KEY) };
                assert_eq!(written, WRAPPED as i32, "AWS-LC failed");
            }
        }

        fn unwrap(&mut self) {
            for wrapped in &self.plain.wrapped {
                let mut key = [0; KEY];
                let (from, to) = (wrapped.as_ptr(), key.as_mut_ptr());
                // SAFETY: without an IV the default one is used; the key is 8 bytes shorter than its wrap.
                let written = unsafe { lc::AES_unwrap_key(&self.decrypting, null(), to, from, WRAPPED) };
                assert_eq!(written, KEY as i32, "AWS-LC failed");
                black_box(key);
            }
        }

        fn wrapped(&self) -> Vec<Vec<u8>> {
            self.plain.wrapped()
        }
    }
}
