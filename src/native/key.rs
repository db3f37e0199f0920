//! Key handles: what JavaScript holds instead of keys.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use napi::Result;
use napi::bindgen_prelude::BufferSlice;
use napi_derive::napi;
use vmseal_secret::SecretKey;

use crate::fault::{caught, coded, guard};

/// A key in locked native memory. Its bytes cannot be read from JavaScript.
#[napi]
pub struct KeyHandle {
    key: Mutex<Option<Arc<SecretKey>>>,
    length: u32,
}

impl KeyHandle {
    pub(crate) fn new(key: SecretKey) -> Self {
        Self::shared(Arc::new(key))
    }

    pub(crate) fn shared(key: Arc<SecretKey>) -> Self {
        #[cfg(feature = "planted-faults")]
        crate::planted_faults::leak(&key);
        let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
        Self { key: Mutex::new(Some(key)), length }
    }

    /// The key, or VMSEAL_KEY_DISPOSED.
    pub(crate) fn get(&self) -> Result<Arc<SecretKey>> {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        key.clone().ok_or_else(|| coded("VMSEAL_KEY_DISPOSED", "the key was disposed"))
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

    /// Length in bytes; stays after dispose.
    #[napi(getter)]
    pub fn length(&self) -> u32 {
        self.length
    }

    #[napi(getter)]
    pub fn disposed(&self) -> bool {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Compares two keys, in constant time in their contents.
    #[napi]
    pub fn equals(&self, other: &KeyHandle) -> Result<bool> {
        Ok(self.get()?.ct_eq(&*other.get()?))
    }

    /// Wipes the key now, or when the operation that is using it ends. Idempotent.
    #[napi]
    pub fn dispose(&self) {
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
