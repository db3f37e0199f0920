//! Certificates and private keys from PEM. Private keys are read here, from their file, and nowhere else.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use zeroize::Zeroizing;

use crate::{Error, PlainMessage};

/// Longest key file read, in bytes; an RSA key of 16,384 bits needs 13 KiB.
const MAX_KEY_FILE: usize = 64 * 1024;

/// The certificates of a PEM text, at least one. `whose` names them in the error.
pub(crate) fn certificates(pem: &str, whose: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::Certificate(format!("{whose}: the PEM text cannot be read: {error:?}")))?;
    if found.is_empty() {
        return Err(Error::Certificate(format!(
            "{whose}: no certificate found; give PEM with BEGIN CERTIFICATE"
        )));
    }
    Ok(found)
}

/// The CA certificates of PEM texts as trust anchors.
pub(crate) fn authorities<'a>(pems: impl IntoIterator<Item = &'a str>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for pem in pems {
        for certificate in certificates(pem, "CA certificate")? {
            roots.add(certificate).map_err(|error| {
                Error::Certificate(format!("CA certificate: {error}; it cannot be trusted as it is"))
            })?;
        }
    }
    Ok(roots)
}

/// The bytes of a private key file, in a buffer that is wiped.
pub(crate) fn read_key_file(path: &Path) -> Result<PlainMessage, Error> {
    let mut file = File::open(path).map_err(Error::io("open private key file", path))?;
    let mut bytes = PlainMessage::zeroed(MAX_KEY_FILE + 1);
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read private key file", path)(error)),
        }
    }
    if length > MAX_KEY_FILE {
        return Err(Error::Certificate(format!("{} is too large for a private key file", path.display())));
    }
    let mut exact = PlainMessage::with_capacity(length);
    exact.append(&bytes[..length]);
    Ok(exact)
}

/// A certificate chain (PEM, the end certificate first) with its private key from `key_file`.
pub(crate) fn credentials(chain_pem: &str, key_file: &Path) -> Result<Arc<SingleCertAndKey>, Error> {
    let chain = certificates(chain_pem, "certificate chain")?;
    let pem = read_key_file(key_file)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map(Zeroizing::new).map_err(|_| {
        Error::Certificate(format!(
            "{} holds no unencrypted private key in PEM (PKCS#8, SEC 1 or PKCS#1)",
            key_file.display()
        ))
    })?;
    let signing = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| {
        Error::Certificate(format!(
            "the private key in {} is of a kind TLS cannot use; use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 \
             to 4096 bits",
            key_file.display()
        ))
    })?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Arc::new(SingleCertAndKey::from(pair)))
        }
        Err(_) => Err(Error::Certificate(format!(
            "the private key in {} does not belong to the certificate",
            key_file.display()
        ))),
    }
}
