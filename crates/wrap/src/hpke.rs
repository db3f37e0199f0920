//! A key sealed to the public key of one host: HPKE (RFC 9180) in base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
//! AES-256-GCM.
//!
//! Base mode does not tell who sealed: the caller authenticates the channel and binds host, provider, key id, request
//! nonce and expiry through `aad`.

use std::convert::Infallible;

use ::hpke::aead::{Aead, AeadTag, AesGcm256};
use ::hpke::inout::InOutBuf;
use ::hpke::kdf::HkdfSha256;
use ::hpke::kem::X25519HkdfSha256;
use ::hpke::rand_core::{TryCryptoRng, TryRng};
use ::hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, setup_receiver, setup_sender_with_rng};
use vmseal_secret::SecretKey;
use zeroize::Zeroizing;

use crate::Error;
use crate::guard::guarded;
use crate::key_wrap::{MAX_KEY_LEN, MIN_KEY_LEN};

/// Length of a public key and of the encapsulated key at the head of a seal, in bytes.
pub const PUBLIC_KEY_LEN: usize = 32;
/// Tells these seals from every other use of HPKE (the `info` of RFC 9180 section 5.1).
pub const INFO: &[u8] = b"vmseal kek push 1";

const TAG_LEN: usize = 16;

/// The key pair of a host. The private key stays in locked memory; only while a seal is opened does the curve code hold
/// it on the stack, which is wiped after.
#[derive(Debug)]
pub struct HostKey {
    private: SecretKey,
    public: [u8; PUBLIC_KEY_LEN],
}

impl HostKey {
    /// Makes a new key pair. Errors: those of locked memory.
    pub fn generate() -> Result<HostKey, Error> {
        HostKey::from_private(SecretKey::generate(32)?)
    }

    /// The public key, to give to whoever seals keys to this host.
    pub fn public_key(&self) -> [u8; PUBLIC_KEY_LEN] {
        self.public
    }

    /// Opens what [`seal`] made for this host with the same `aad`; anything else is [`Error::SealInvalid`].
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<SecretKey, Error> {
        let key = open_with::<AesGcm256>(&self.private, INFO, aad, sealed)?;
        if key.len() < MIN_KEY_LEN { Err(Error::SealInvalid) } else { Ok(key) }
    }

    /// Any 32 bytes are an X25519 private key (RFC 7748 section 5 clamps them).
    fn from_private(private: SecretKey) -> Result<HostKey, Error> {
        guarded(|| {
            let mut public = [0; PUBLIC_KEY_LEN];
            X25519HkdfSha256::sk_to_pk(&private_key(&private)?).write_exact(&mut public);
            Ok(HostKey { private, public })
        })
    }
}

/// Seals a key of 16 to 4096 bytes to a host: the encapsulated key (32 bytes) followed by ciphertext and tag, so 48 bytes
/// longer than the key. Every call uses a new ephemeral key.
///
/// Errors: [`Error::KeyLength`], [`Error::InvalidArgument`] (not a usable X25519 public key), [`Error::Random`].
pub fn seal(public_key: &[u8], aad: &[u8], key: &SecretKey) -> Result<Vec<u8>, Error> {
    if !(MIN_KEY_LEN..=MAX_KEY_LEN).contains(&key.len()) {
        return Err(Error::KeyLength {
            what: "the key to seal",
            expected: "16 to 4096 bytes",
            actual: key.len(),
        });
    }
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|_| Error::Random)?;
    seal_with::<AesGcm256>(&mut EphemeralSeed { bytes: seed, taken: 0 }, public_key, INFO, aad, key)
}

fn open_with<A: Aead>(
    private: &SecretKey,
    info: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<SecretKey, Error> {
    // Lengths first: an empty key or one that no slot can hold never comes to the curve.
    let key_len = sealed.len().checked_sub(PUBLIC_KEY_LEN + TAG_LEN).ok_or(Error::SealInvalid)?;
    if !(1..=MAX_KEY_LEN).contains(&key_len) {
        return Err(Error::SealInvalid);
    }
    let (encapsulated, rest) = sealed.split_at(PUBLIC_KEY_LEN);
    let (ciphertext, tag) = rest.split_at(key_len);
    guarded(|| {
        let encapsulated = Deserializable::from_bytes(encapsulated).map_err(|_| Error::SealInvalid)?;
        let tag = AeadTag::<A>::from_bytes(tag).map_err(|_| Error::SealInvalid)?;
        // Refuses small-order points: their shared secret is zero (RFC 9180 section 7.1.4).
        let mut context = setup_receiver::<A, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &private_key(private)?,
            &encapsulated,
            info,
        )
        .map_err(|_| Error::SealInvalid)?;
        SecretKey::try_init(key_len, |slot| {
            let buffer = InOutBuf::new(ciphertext, slot).map_err(|_| Error::SealInvalid)?;
            context.open_inout_detached(buffer, aad, &tag).map_err(|_| Error::SealInvalid)
        })
    })
}

fn seal_with<A: Aead>(
    ephemeral: &mut EphemeralSeed,
    public_key: &[u8],
    info: &[u8],
    aad: &[u8],
    key: &SecretKey,
) -> Result<Vec<u8>, Error> {
    const UNUSABLE: Error =
        Error::InvalidArgument { reason: "not an X25519 public key; ask the host for its key again" };
    guarded(|| {
        let public_key = Deserializable::from_bytes(public_key).map_err(|_| UNUSABLE)?;
        let (encapsulated, mut context) = setup_sender_with_rng::<A, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public_key,
            info,
            ephemeral,
        )
        .map_err(|_| UNUSABLE)?;
        let mut sealed = vec![0; PUBLIC_KEY_LEN + key.len() + TAG_LEN];
        let (head, rest) = sealed.split_at_mut(PUBLIC_KEY_LEN);
        let (ciphertext, tag) = rest.split_at_mut(key.len());
        encapsulated.write_exact(head);
        let made = key.expose(|bytes| {
            let buffer = InOutBuf::new(bytes, ciphertext).expect("both have the length of the key");
            context.seal_inout_detached(buffer, aad).expect("a new context seals its first message")
        });
        made.write_exact(tag);
        Ok(sealed)
    })
}

/// The type wipes itself when dropped.
fn private_key(bytes: &SecretKey) -> Result<<X25519HkdfSha256 as Kem>::PrivateKey, Error> {
    bytes.expose(<X25519HkdfSha256 as Kem>::PrivateKey::from_bytes).map_err(|_| Error::SealInvalid)
}

/// The 32 random bytes from which the ephemeral key is derived (DeriveKeyPair, RFC 9180 section 7.1.3), drawn
/// beforehand so that a failing random source is an error and not a panic.
struct EphemeralSeed {
    bytes: Zeroizing<[u8; 32]>,
    taken: usize,
}

impl TryRng for EphemeralSeed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut word = [0; 4];
        self.try_fill_bytes(&mut word).map(|()| u32::from_le_bytes(word))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut word = [0; 8];
        self.try_fill_bytes(&mut word).map(|()| u64::from_le_bytes(word))
    }

    /// Giving out a byte twice would be a weak key: better to panic, should the library ever ask for more.
    fn try_fill_bytes(&mut self, destination: &mut [u8]) -> Result<(), Infallible> {
        let end = self.taken + destination.len();
        destination.copy_from_slice(&self.bytes[self.taken..end]);
        self.taken = end;
        Ok(())
    }
}

impl TryCryptoRng for EphemeralSeed {}

#[cfg(test)]
mod tests;
