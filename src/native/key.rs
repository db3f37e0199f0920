//! Key handles: what JavaScript holds instead of keys.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use napi::bindgen_prelude::{Buffer, BufferSlice, Object};
use napi::{Env, Result};
use napi_derive::napi;
use vmseal_secret::SecretKey;
use vmseal_wrap::passphrase::{self, Cost};

use crate::background;
use crate::direct::{Call, DirectCall};
use crate::fault::{caught, coded, guard};
use crate::token::{Tokens, forget, forget_many};

thread_local! {
    static KEYS: RefCell<Tokens<Kept>> = RefCell::new(Tokens::new());
}

/// A key that has a token.
enum Kept {
    /// Known by its token only: no allocation of its own, which counts where thousands are unwrapped.
    Alone(SecretKey),
    /// Has a handle too.
    Shared(Arc<SecretKey>),
}

impl Kept {
    fn key(&self) -> &SecretKey {
        match self {
            Kept::Alone(key) => key,
            Kept::Shared(key) => key,
        }
    }
}

/// A key in locked native memory. Its bytes cannot be read from JavaScript.
#[napi]
pub struct KeyHandle {
    key: Mutex<Option<Arc<SecretKey>>>,
    length: u32,
    /// The bits of the token, once it was asked for; else 0.
    token: AtomicU64,
}

impl Drop for KeyHandle {
    fn drop(&mut self) {
        self.forget_token();
    }
}

/// Runs `work` on the key of a token, or fails with VMSEAL_KEY_DISPOSED.
pub(crate) fn with_key<R>(token: f64, work: impl FnOnce(&SecretKey) -> Result<R>) -> Result<R> {
    KEYS.with_borrow(|keys| keys.get(token).map_or_else(|| Err(disposed()), |kept| work(kept.key())))
}

/// [`with_key`] for two keys.
pub(crate) fn with_two_keys<R>(
    one: f64,
    other: f64,
    work: impl FnOnce(&SecretKey, &SecretKey) -> Result<R>,
) -> Result<R> {
    with_key(one, |one| with_key(other, |other| work(one, other)))
}

/// [`with_key`] for several keys.
pub(crate) fn with_keys<R>(tokens: &[f64], work: impl FnOnce(&[&SecretKey]) -> Result<R>) -> Result<R> {
    KEYS.with_borrow(|keys| {
        let found = tokens.iter().map(|token| keys.get(*token).map(Kept::key).ok_or_else(disposed));
        work(&found.collect::<Result<Vec<_>>>()?)
    })
}

fn disposed() -> napi::Error {
    coded("VMSEAL_KEY_DISPOSED", "the key was disposed")
}

/// Keeps a key that JavaScript knows by its token only, until `Dispose`.
pub(crate) fn keep(key: SecretKey) -> f64 {
    #[cfg(feature = "planted-faults")]
    crate::planted_faults::leak(&key);
    KEYS.with_borrow_mut(|tokens| tokens.insert(Kept::Alone(key)))
}

/// [`keep`] for several keys, whose tokens follow one another; gives the first.
pub(crate) fn keep_all(keys: Vec<SecretKey>) -> f64 {
    #[cfg(feature = "planted-faults")]
    keys.iter().for_each(crate::planted_faults::leak);
    KEYS.with_borrow_mut(|tokens| tokens.insert_run(keys.into_iter().map(Kept::Alone)))
}

/// Wipes the key of a token, unless something is using it or a handle of it holds it. Idempotent.
pub(crate) struct Dispose;

impl DirectCall for Dispose {
    fn run(call: &mut Call) -> Result<Option<f64>> {
        forget(&KEYS, call.number(0)?);
        Ok(None)
    }
}

/// `Dispose` for several keys: their tokens, and their number.
pub(crate) struct DisposeAll;

impl DirectCall for DisposeAll {
    fn run(call: &mut Call) -> Result<Option<f64>> {
        let count = call.number(1)?;
        forget_many(&KEYS, call.numbers(0, count)?, |keys| {
            let alone = keys.into_iter().filter_map(|kept| match kept {
                Kept::Alone(key) => Some(key),
                // Another holder may be using it.
                Kept::Shared(_) => None,
            });
            SecretKey::drop_many(alone.collect());
        });
        Ok(None)
    }
}

/// A handle of the key of a token.
#[napi]
pub fn key_of_token(token: f64) -> Result<KeyHandle> {
    KEYS.with_borrow_mut(|tokens| {
        // Nobody sees that the key is away: this thread is the only one that knows the token.
        let key = match tokens.remove(token).ok_or_else(disposed)? {
            Kept::Alone(key) => Arc::new(key),
            Kept::Shared(key) => key,
        };
        tokens.put_back(token, Kept::Shared(Arc::clone(&key)));
        Ok(KeyHandle::of(key))
    })
}

impl KeyHandle {
    pub(crate) fn new(key: SecretKey) -> Self {
        Self::shared(Arc::new(key))
    }

    pub(crate) fn shared(key: Arc<SecretKey>) -> Self {
        #[cfg(feature = "planted-faults")]
        crate::planted_faults::leak(&key);
        Self::of(key)
    }

    fn of(key: Arc<SecretKey>) -> Self {
        let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
        Self { key: Mutex::new(Some(key)), length, token: AtomicU64::new(0) }
    }

    /// The key, or VMSEAL_KEY_DISPOSED.
    pub(crate) fn get(&self) -> Result<Arc<SecretKey>> {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        key.clone().ok_or_else(disposed)
    }

    fn forget_token(&self) {
        forget(&KEYS, f64::from_bits(self.token.swap(0, Ordering::Relaxed)));
    }
}

#[napi]
impl KeyHandle {
    /// A new random key of `length` bytes.
    #[napi(factory)]
    pub fn generate(length: u32) -> Result<Self> {
        guard(|| SecretKey::generate(length as usize).map(Self::new))
    }

    /// Copies `bytes` into locked memory and wipes the source.
    #[napi(factory)]
    pub fn import_unsafe(#[napi(ts_arg_type = "Uint8Array")] mut bytes: BufferSlice) -> Result<Self> {
        let key = guard(|| {
            SecretKey::try_init(bytes.len(), |slot| -> std::result::Result<(), vmseal_secret::Error> {
                slot.copy_from_slice(&bytes);
                Ok(())
            })
        });
        vmseal_secret::wipe(&mut bytes);
        key.map(Self::new)
    }

    /// Makes a random key and writes it durably to a new file with mode 0600. Fails if the file exists.
    #[napi(factory)]
    pub fn create_file(path: String, length: u32) -> Result<Self> {
        let key = guard(|| SecretKey::generate(length as usize))?;
        caught(|| write_new_file(Path::new(&path), &key).map_err(|error| io_error(&path, &error)))?;
        Ok(Self::new(key))
    }

    /// Reads a key from a file straight into locked memory.
    #[napi(factory)]
    pub fn load_file(path: String) -> Result<Self> {
        caught(|| {
            let mut file = File::open(&path).map_err(|error| io_error(&path, &error))?;
            let length = file.metadata().map_err(|error| io_error(&path, &error))?.len();
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let mut read = Ok(());
            let key = guard(|| {
                SecretKey::try_init(length, |slot| -> std::result::Result<(), vmseal_secret::Error> {
                    read = file.read_exact(slot);
                    Ok(())
                })
            })?;
            read.map_err(|error| io_error(&path, &error))?;
            Ok(Self::new(key))
        })
    }

    /// Derives a 32-byte key from a passphrase with Argon2id (RFC 9106), off the event loop. The passphrase is wiped.
    #[napi(ts_return_type = "Promise<KeyHandle>")]
    pub fn from_passphrase<'env>(
        env: &'env Env,
        #[napi(ts_arg_type = "Uint8Array")] mut passphrase: BufferSlice,
        salt: &[u8],
        memory_kib: u32,
        passes: u32,
        lanes: u32,
    ) -> Result<Object<'env>> {
        // Freed memory is wiped by the allocator.
        let (words, salt) = (passphrase.to_vec(), salt.to_vec());
        vmseal_secret::wipe(&mut passphrase);
        let cost = Cost { memory_kib, passes, lanes };
        background::promise(env, move || guard(|| passphrase::derive(&words, &salt, cost)).map(Self::new))
    }

    /// SHA-256 of the key: the KMIP Digest attribute.
    #[napi]
    pub fn sha256(&self) -> Result<Buffer> {
        let key = self.get()?;
        guard(|| vmseal_wrap::key_digest(&key)).map(|digest| digest.to_vec().into())
    }

    /// Length in bytes; stays after dispose.
    #[napi(getter)]
    pub fn length(&self) -> u32 {
        self.length
    }

    #[napi(getter)]
    pub fn disposed(&self) -> bool {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// What calls on many or small keys know this key by; only good until it is disposed.
    #[napi(getter)]
    pub fn token(&self) -> Result<f64> {
        let known = f64::from_bits(self.token.load(Ordering::Relaxed));
        if known != 0.0 {
            return Ok(known);
        }
        let key = self.get()?;
        let token = KEYS.with_borrow_mut(|keys| keys.insert(Kept::Shared(key)));
        self.token.store(token.to_bits(), Ordering::Relaxed);
        Ok(token)
    }

    /// Compares two keys, in constant time in their contents.
    #[napi]
    pub fn equals(&self, other: &KeyHandle) -> Result<bool> {
        Ok(self.get()?.ct_eq(&*other.get()?))
    }

    /// Wipes the key now, or when the operation that is using it ends. Idempotent.
    #[napi]
    pub fn dispose(&self) {
        self.forget_token();
        drop(self.key.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// What locked memory the keys live in.
#[napi(object)]
pub struct KeyMemoryStatus {
    #[napi(ts_type = "'memfd_secret' | 'locked-memory'")]
    pub backing: String,
    /// Keys and expanded key schedules.
    pub allocations: f64,
    pub bytes_used: f64,
    pub bytes_reserved: f64,
    /// RLIMIT_MEMLOCK in bytes; absent when unlimited.
    pub lock_limit: Option<f64>,
    /// Whether a crash of this process would write a core file or feed a core handler.
    pub core_dumps_possible: bool,
}

/// From here on this process leaves no core dump, and nobody but root may trace it: for programs that serve.
#[napi]
pub fn forbid_core_dumps() -> Result<()> {
    guard(vmseal_secret::forbid_core_dumps)
}

/// The state of key memory. Fails with VMSEAL_KEY_MEMORY_UNAVAILABLE where nothing can be locked.
#[napi]
pub fn key_memory_status() -> Result<KeyMemoryStatus> {
    // The backing is decided at first use.
    drop(guard(|| SecretKey::generate(32))?);
    let status = vmseal_secret::status();
    Ok(KeyMemoryStatus {
        backing: match status.backing {
            Some(vmseal_secret::Backing::MemfdSecret) => "memfd_secret".to_owned(),
            _ => "locked-memory".to_owned(),
        },
        allocations: status.allocations as f64,
        bytes_used: status.bytes_used as f64,
        bytes_reserved: status.bytes_reserved as f64,
        lock_limit: status.lock_limit.map(|limit| limit as f64),
        core_dumps_possible: status.core_dumps_possible,
    })
}

fn write_new_file(path: &Path, key: &SecretKey) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    key.expose(|bytes| file.write_all(bytes))?;
    file.sync_all()?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

pub(crate) fn io_error(path: &str, error: &io::Error) -> napi::Error {
    let code = match error.kind() {
        io::ErrorKind::NotFound => "VMSEAL_NOT_FOUND",
        io::ErrorKind::AlreadyExists => "VMSEAL_ALREADY_EXISTS",
        io::ErrorKind::PermissionDenied => "VMSEAL_PERMISSION_DENIED",
        io::ErrorKind::StorageFull => "VMSEAL_NO_SPACE",
        _ => "VMSEAL_IO",
    };
    coded(code, format!("{path}: {error}"))
}
