//! TLS for both sides: versions, cipher suites, credentials, and the stream that wipes what it received.

mod credentials;
mod failure;
mod outgoing;
mod side;
pub(crate) mod socket;
mod stream;

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;

use crate::Error;

pub(crate) use credentials::{authorities, certificates, credentials, read_key_file};
pub(crate) use failure::describe;
pub(crate) use stream::TlsStream;

/// The TLS versions a side offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersions {
    /// TLS 1.2 and 1.3, the newer preferred.
    #[default]
    Both,
    /// TLS 1.2 only.
    Only12,
    /// TLS 1.3 only.
    Only13,
}

impl TlsVersions {
    pub(crate) fn supported(self) -> &'static [&'static SupportedProtocolVersion] {
        const ALL: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            TlsVersions::Both => ALL,
            TlsVersions::Only12 => &ALL[1..],
            TlsVersions::Only13 => &ALL[..1],
        }
    }
}

/// TLS 1.3, and ECDHE with AEAD ciphers for TLS 1.2: all that this provider has.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn unusable(error: &rustls::Error) -> Error {
    Error::Certificate(format!("TLS cannot be set up: {error}"))
}
