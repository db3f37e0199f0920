//! The hashes a LUKS header may name, and what is built from them.

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use crate::in_place::above_wiped_stack;

/// SHA-1 only for headers of before 2016: as PBKDF2 and for stripes its weakness (collisions) does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha256,
    Sha512,
}

impl Hash {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "sha1" => Some(Self::Sha1),
            "sha256" => Some(Self::Sha256),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    /// PBKDF2 with HMAC (RFC 8018).
    pub(super) fn pbkdf2(self, password: &[u8], salt: &[u8], iterations: u32, into: &mut [u8]) {
        above_wiped_stack(|| match self {
            Self::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(password, salt, iterations, into),
            Self::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, into),
            Self::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, iterations, into),
        });
    }

    /// One diffusion of the anti-forensic splitter (LUKS on-disk format 2.4), in place.
    pub(super) fn diffuse(self, state: &mut [u8]) {
        above_wiped_stack(|| match self {
            Self::Sha1 => diffuse::<Sha1>(state),
            Self::Sha256 => diffuse::<Sha256>(state),
            Self::Sha512 => diffuse::<Sha512>(state),
        });
    }

    /// The digest of public bytes.
    pub(super) fn sum(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => Sha1::digest(bytes).to_vec(),
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }
}

fn diffuse<D: Digest>(state: &mut [u8]) {
    for (number, block) in state.chunks_mut(<D as Digest>::output_size()).enumerate() {
        let hash = D::new().chain_update((number as u32).to_be_bytes()).chain_update(&*block).finalize();
        block.copy_from_slice(&hash[..block.len()]);
    }
}
