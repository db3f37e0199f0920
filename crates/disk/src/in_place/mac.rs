//! The key that authenticates a job's record: HKDF-SHA256(data key, salt = job id, "vmseal in-place job 1" || disk id).

use std::hint::black_box;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use vmseal_secret::SecretKey;

use crate::error::Result;
use crate::transform::refuse_when_wiped;

const INFO: &[u8] = b"vmseal in-place job 1";
const LEN: usize = 32;
/// Above the deepest call chain of HKDF and HMAC, which keep pads and hash states on the stack.
const STACK: usize = 16 * 1024;

pub(crate) struct MacKey(SecretKey);

impl MacKey {
    pub(crate) fn derive(data_key: &SecretKey, job: &[u8; 16], disk: &[u8; 16]) -> Result<Self> {
        let key = above_wiped_stack(|| {
            SecretKey::try_init(LEN, |slot| {
                data_key
                    .expose(|key| Hkdf::<Sha256>::new(Some(job), key).expand_multi_info(&[INFO, disk], slot))
                    .expect("32 bytes are one block of HKDF");
                Ok::<(), crate::Error>(())
            })
        })?;
        refuse_when_wiped()?;
        Ok(Self(key))
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> Result<[u8; 32]> {
        let tag = above_wiped_stack(|| {
            self.0.expose(|key| {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
                mac.update(bytes);
                mac.finalize().into_bytes().into()
            })
        });
        refuse_when_wiped()?;
        Ok(tag)
    }
}

/// Runs `work`, then wipes the stack it used: pads and states pass through frames that no `Drop` reaches.
pub(crate) fn above_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    let result = run(work);
    wipe_dead_stack();
    result
}

// Not inlined: its frame must begin where the frame of `wipe_dead_stack` begins.
#[inline(never)]
fn run<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn wipe_dead_stack() {
    // Seen by `black_box`, so the zeros are written.
    let mut area = [0u8; STACK];
    black_box(&mut area);
}
