//! A client's own key and what it shows a KMS that is to trust it: a self-signed certificate or a signing request.

use std::path::Path;

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};

use super::authority::{LEAF_DAYS, new_key, parameters, unissued};
use super::key_file;
use crate::Error;

/// Makes a client key (ECDSA P-256) in a new file with mode 0600 and a self-signed client certificate, PEM, for a KMS that
/// pins single certificates.
///
/// Errors: [`Error::InvalidArgument`], [`Error::Io`] when the file exists or cannot be written.
pub fn create_self_signed(common_name: &str, key_file: &Path) -> Result<String, Error> {
    let mut params = parameters(common_name, LEAF_DAYS, None)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = new_key()?;
    let certificate = params.self_signed(&*key).map_err(unissued)?;
    key_file::create(key_file, &key)?;
    Ok(certificate.pem())
}

/// Makes a client key (ECDSA P-256) in a new file with mode 0600 and a certificate signing request (PKCS#10, PEM) for the
/// KMS's authority.
///
/// Errors: [`Error::InvalidArgument`], [`Error::Io`] when the file exists or cannot be written.
pub fn create_request(common_name: &str, key_file: &Path) -> Result<String, Error> {
    let mut params = parameters(common_name, LEAF_DAYS, None)?;
    // The authority decides on number and validity; rcgen refuses to put them into a request.
    params.serial_number = None;
    let key = new_key()?;
    let request = params.serialize_request(&*key).map_err(unissued)?;
    let pem = request.pem().map_err(unissued)?;
    key_file::create(key_file, &key)?;
    Ok(pem)
}
