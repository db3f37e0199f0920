//! The volume key, from a passphrase: slot by slot, within a bounded amount of work.

use std::fs::File;
use std::path::Path;

use argon2::{Argon2, Params, Version};
use subtle::ConstantTimeEq as _;
use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use super::key_slot::{MATERIAL, xor};
use super::volume::{Kdf, KeyDigest, KeySlot, Volume};
use super::{KEY, SECTOR};
use crate::buffer::Buffer;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::in_place::above_wiped_stack;
use crate::transform::refuse_when_wiped;

/// Work that a header may ask for altogether: about a minute of PBKDF2, some times what cryptsetup writes.
const MAX_ITERATIONS: u64 = 200_000_000;
/// Most memory of one slot: what cryptsetup asks for at most by itself.
const MAX_MEMORY_KIB: u32 = 1 << 20;
/// Passes times memory, altogether: 64 passes over the most memory.
const MAX_PASSES_KIB: u64 = 64 << 20;

/// What the slots that were tried have cost.
#[derive(Default)]
struct Spent {
    iterations: u64,
    passes_kib: u64,
}

/// The key of the first slot that `passphrase` opens. `file` is the header's.
///
/// [`Error::LuksPassphrase`] when no slot opens, [`Error::LuksUnsupported`] when trying asks for more than is allowed.
pub(super) fn unlock(
    path: &Path,
    file: &File,
    volume: &Volume,
    passphrase: &SecretKey,
    control: &Control,
) -> Result<SecretKey> {
    let mut spent = Spent::default();
    for slot in &volume.slots {
        control.check()?;
        spent.take(path, slot)?;
        if let Some(key) = open(path, file, slot, passphrase)? {
            refuse_when_wiped()?;
            return Ok(key);
        }
    }
    Err(Error::LuksPassphrase { path: path.to_owned() })
}

impl Spent {
    /// Refuses before the work, and before memory is asked for.
    fn take(&mut self, path: &Path, slot: &KeySlot) -> Result<()> {
        let refused = |what: String| {
            let advice = "change its cost with cryptsetup luksChangeKey, or copy the volume";
            Err(Error::luks_unsupported(path, format!("its key slots ask for {what}; {advice}")))
        };
        match &slot.kdf {
            Kdf::Pbkdf2 { iterations, .. } => self.iterations += u64::from(*iterations),
            Kdf::Argon2 { passes, memory_kib, .. } => {
                if *memory_kib > MAX_MEMORY_KIB {
                    return refused(format!(
                        "{memory_kib} KiB of memory, at most {MAX_MEMORY_KIB} are given"
                    ));
                }
                self.passes_kib += u64::from(*passes) * u64::from(*memory_kib);
            }
        }
        // The digest of a volume key is checked once a slot.
        self.iterations += u64::from(slot.digest.iterations);
        if self.iterations > MAX_ITERATIONS || self.passes_kib > MAX_PASSES_KIB {
            return refused("more computation than any real header".to_owned());
        }
        Ok(())
    }
}

fn open(path: &Path, file: &File, slot: &KeySlot, passphrase: &SecretKey) -> Result<Option<SecretKey>> {
    let mut buffer = Buffer::new(MATERIAL);
    let material = buffer.first(MATERIAL);
    material.copy_from_slice(&super::volume::read(path, file, slot.material, MATERIAL)?);
    let key = slot_key(path, &slot.kdf, passphrase)?;
    match Xts::new(&key, SECTOR as u32, 1) {
        Ok(xts) => xts.decrypt(material, 0)?,
        // Equal halves come from no passphrase in practice.
        Err(_) => return Ok(None),
    }
    let candidate = merge(slot, material)?;
    Ok(is_right(&slot.digest, &candidate)?.then_some(candidate))
}

fn slot_key(path: &Path, kdf: &Kdf, passphrase: &SecretKey) -> Result<SecretKey> {
    SecretKey::try_init(KEY, |into| {
        passphrase.expose(|password| match kdf {
            Kdf::Pbkdf2 { hash, iterations, salt } => {
                hash.pbkdf2(password, salt, *iterations, into);
                Ok(())
            }
            Kdf::Argon2 { algorithm, passes, memory_kib, lanes, salt } => above_wiped_stack(|| {
                let failed = |_| Error::luks_invalid(path, "a key slot in it has an impossible cost");
                let params = Params::new(*memory_kib, *passes, *lanes, Some(KEY)).map_err(failed)?;
                Argon2::new(*algorithm, Version::V0x13, params)
                    .hash_password_into(password, salt, into)
                    .map_err(failed)
            }),
        })
    })
}

/// The reverse of the splitter (LUKS on-disk format 2.4).
fn merge(slot: &KeySlot, material: &[u8]) -> Result<SecretKey> {
    let (stripes, last) = material.split_at(MATERIAL - KEY);
    SecretKey::try_init(KEY, |state| -> Result<()> {
        for stripe in stripes.chunks_exact(KEY) {
            xor(state, stripe);
            slot.hash.diffuse(state);
        }
        xor(state, last);
        Ok(())
    })
}

fn is_right(digest: &KeyDigest, candidate: &SecretKey) -> Result<bool> {
    // Not secret, but as long as the digest is, which is at most 64 bytes.
    let found = SecretKey::try_init(digest.digest.len(), |into| -> Result<()> {
        candidate.expose(|key| digest.hash.pbkdf2(key, &digest.salt, digest.iterations, into));
        Ok(())
    })?;
    Ok(found.expose(|found| found.ct_eq(&digest.digest).into()))
}
