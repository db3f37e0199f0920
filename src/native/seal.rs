//! KEKs on their way to a host (HPKE) and at rest in the KMS.

use std::sync::{Arc, Mutex, PoisonError};

use napi::Result;
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use vmseal_wrap::{at_rest, hpke};

use crate::fault::{coded, guard};
use crate::key::KeyHandle;

/// The HPKE key pair of a host. The private key lives in this process only.
#[napi]
pub struct HostKeyPair {
    pair: Mutex<Option<Arc<hpke::HostKey>>>,
}

#[napi]
impl HostKeyPair {
    #[napi(factory)]
    pub fn generate() -> Result<Self> {
        let pair = guard(hpke::HostKey::generate)?;
        Ok(Self { pair: Mutex::new(Some(Arc::new(pair))) })
    }

    /// X25519 public key, 32 bytes.
    #[napi(getter)]
    pub fn public_key(&self) -> Result<Buffer> {
        Ok(Buffer::from(self.get()?.public_key().to_vec()))
    }

    /// Opens a key sealed to this host with the same `aad`, or VMSEAL_SEAL_INVALID.
    #[napi]
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<KeyHandle> {
        let pair = self.get()?;
        guard(|| pair.open(aad, sealed)).map(KeyHandle::new)
    }

    /// Wipes the private key. Idempotent.
    #[napi]
    pub fn dispose(&self) {
        drop(self.pair.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn get(&self) -> Result<Arc<hpke::HostKey>> {
        let pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        pair.clone().ok_or_else(|| coded("VMSEAL_KEY_DISPOSED", "the host key pair was disposed"))
    }
}

/// Seals a key to a host's public key (RFC 9180, base mode): `enc || ciphertext`.
#[napi]
pub fn seal_for_host(public_key: &[u8], aad: &[u8], key: &KeyHandle) -> Result<Buffer> {
    let key = key.get()?;
    guard(|| hpke::seal(public_key, aad, &key)).map(Buffer::from)
}

/// Seals a key for the KMS store under its root key, bound to `aad`.
#[napi]
pub fn seal_record(root: &KeyHandle, key: &KeyHandle, aad: &[u8]) -> Result<Buffer> {
    let (root, key) = (root.get()?, key.get()?);
    guard(|| at_rest::seal(&root, &key, aad)).map(Buffer::from)
}

/// Opens a record of the KMS store, or VMSEAL_SEALED_RECORD_INVALID.
#[napi]
pub fn open_record(root: &KeyHandle, record: &[u8], aad: &[u8]) -> Result<KeyHandle> {
    let root = root.get()?;
    guard(|| at_rest::open(&root, record, aad)).map(KeyHandle::new)
}
