//! An authority, and the certificates it issues: ECDSA P-256, one authority and no intermediates.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, ServerName};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::{describe, key_file};
use crate::Error;

/// Usual validity of an authority, in days: 10 years.
pub const AUTHORITY_DAYS: u32 = 3_650;
/// Validity of issued certificates, in days; never beyond that of the authority.
pub const LEAF_DAYS: u32 = 825;
/// Certificates are valid from this much earlier, because clocks differ.
const BACKDATE: Duration = Duration::from_secs(300);
const DAY: u64 = 86_400;
/// Longest common name (X.520 ub-common-name), in characters.
const MAX_NAME: usize = 64;

/// Makes an authority valid for `days` days (1 to 36,500): returns its certificate, PEM, and writes its private key to
/// the new file `key_file`.
///
/// Errors: [`Error::InvalidArgument`]; [`Error::Io`], also when the file exists.
pub fn create_authority(common_name: &str, key_file: &Path, days: u32) -> Result<String, Error> {
    if !(1..=36_500).contains(&days) {
        return Err(Error::InvalidArgument("an authority is valid for 1 to 36,500 days".to_owned()));
    }
    let mut params = parameters(common_name, days, None)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = new_key()?;
    let certificate = params.self_signed(&*key).map_err(unissued)?;
    key_file::create(key_file, &key)?;
    Ok(certificate.pem())
}

/// Issues a server certificate for `names` (host names or IP addresses, at least one; the first is its common name):
/// returns it, PEM, and writes its private key to the new file `key_file`.
///
/// Errors: [`Error::InvalidArgument`], [`Error::Certificate`]; [`Error::Io`], also when the file exists.
pub fn issue_server(
    ca_certificate_pem: &str,
    ca_key_file: &Path,
    names: &[String],
    key_file: &Path,
) -> Result<String, Error> {
    let authority = Authority::open(ca_certificate_pem, ca_key_file)?;
    let params = server_parameters(names, &authority)?;
    issue_with_new_key(&params, &authority, key_file)
}

/// Issues a client certificate: returns it, PEM, and writes its private key to the new file `key_file`.
///
/// Errors: [`Error::InvalidArgument`], [`Error::Certificate`]; [`Error::Io`], also when the file exists.
pub fn issue_client(
    ca_certificate_pem: &str,
    ca_key_file: &Path,
    common_name: &str,
    key_file: &Path,
) -> Result<String, Error> {
    let authority = Authority::open(ca_certificate_pem, ca_key_file)?;
    let params = client_parameters(common_name, &authority)?;
    issue_with_new_key(&params, &authority, key_file)
}

/// Issues a client certificate, PEM, for the public key of a certificate signing request (PKCS#10, PEM).
///
/// Only the public key and, without `common_name`, the common name of the request are used: whatever else it asks for
/// is the authority's to decide. Its signature must prove that the asker has the private key. `not_after`, in seconds since
/// 1970, ends the validity earlier or later than usual, but not after that of the authority; it may have passed.
///
/// Errors: [`Error::InvalidArgument`], [`Error::Certificate`], [`Error::Io`].
pub fn sign_csr(
    ca_certificate_pem: &str,
    ca_key_file: &Path,
    csr_pem: &str,
    common_name: Option<&str>,
    not_after: Option<i64>,
) -> Result<String, Error> {
    let (requested, public_key) = read_csr(csr_pem)?;
    let name = common_name.or(requested.as_deref()).ok_or_else(|| bad_csr("has no common name; give one"))?;
    let authority = Authority::open(ca_certificate_pem, ca_key_file)?;
    let mut params = client_parameters(name, &authority)?;
    authority.end(&mut params, not_after)?;
    authority.sign(&params, &public_key)
}

/// Issues a server certificate for `names`, as [`issue_server`] does, PEM, for the public key of a certificate signing
/// request (PKCS#10, PEM); nothing else of the request counts. `not_after` as for [`sign_csr`].
///
/// Errors: [`Error::InvalidArgument`], [`Error::Certificate`], [`Error::Io`].
pub fn sign_server_csr(
    ca_certificate_pem: &str,
    ca_key_file: &Path,
    csr_pem: &str,
    names: &[String],
    not_after: Option<i64>,
) -> Result<String, Error> {
    let (_, public_key) = read_csr(csr_pem)?;
    let authority = Authority::open(ca_certificate_pem, ca_key_file)?;
    let mut params = server_parameters(names, &authority)?;
    authority.end(&mut params, not_after)?;
    authority.sign(&params, &public_key)
}

/// The common name, if there is one, and the public key of a signing request whose signature proves that the asker has
/// the private key.
fn read_csr(csr_pem: &str) -> Result<(Option<String>, SubjectPublicKeyInfo), Error> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(csr_pem.as_bytes()).map_err(|_| bad_csr("is not PEM"))?;
    if !matches!(pem.label.as_str(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
        return Err(bad_csr("is another kind of PEM; give BEGIN CERTIFICATE REQUEST"));
    }
    let (_, csr) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|_| bad_csr("cannot be read"))?;
    csr.verify_signature().map_err(|_| bad_csr("is not signed with its own key"))?;
    let info = &csr.certification_request_info;
    let name = info.subject.iter_common_name().next().and_then(|name| name.as_str().ok());
    let public_key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|_| bad_csr("has a public key of an unknown kind"))?;
    Ok((name.map(str::to_owned), public_key))
}

fn bad_csr(reason: &str) -> Error {
    Error::Certificate(format!("the certificate signing request {reason}"))
}

/// 128 random bits as hexadecimal text.
pub(super) fn random_hex() -> Result<String, Error> {
    Ok(random()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(super) struct Authority {
    certificate: CertificateDer<'static>,
    key: Zeroizing<KeyPair>,
    /// Seconds since 1970.
    not_after: i64,
}

impl Authority {
    fn open(certificate_pem: &str, key_file: &Path) -> Result<Authority, Error> {
        let der = describe::first(certificate_pem)?;
        let certificate = describe::parse(&der)?;
        if !certificate.is_ca() {
            return Err(Error::Certificate("this is no CA certificate: it may not issue others".to_owned()));
        }
        let key = key_file::read(key_file)?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(Error::Certificate(format!(
                "the private key in {} does not belong to the CA certificate",
                key_file.display()
            )));
        }
        let not_after = certificate.validity().not_after.timestamp();
        Ok(Authority { certificate: der, key, not_after })
    }

    /// Sets the end of validity, when another than the usual one is asked for.
    fn end(&self, params: &mut CertificateParams, not_after: Option<i64>) -> Result<(), Error> {
        let Some(asked) = not_after else { return Ok(()) };
        let seconds = u64::try_from(asked.min(self.not_after)).unwrap_or_default();
        let not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        if not_after <= params.not_before {
            return Err(Error::InvalidArgument("a certificate ends after it begins".to_owned()));
        }
        params.not_after = not_after;
        Ok(())
    }

    fn sign(&self, params: &CertificateParams, public_key: &impl PublicKeyData) -> Result<String, Error> {
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &*self.key).map_err(unissued)?;
        Ok(params.signed_by(public_key, &issuer).map_err(unissued)?.pem())
    }
}

fn issue_with_new_key(
    params: &CertificateParams,
    authority: &Authority,
    key_file: &Path,
) -> Result<String, Error> {
    let key = new_key()?;
    let certificate = authority.sign(params, &*key)?;
    key_file::create(key_file, &key)?;
    Ok(certificate)
}

fn server_parameters(names: &[String], authority: &Authority) -> Result<CertificateParams, Error> {
    let first = names.first().ok_or_else(|| {
        Error::InvalidArgument("a server certificate needs at least one host name or IP address".to_owned())
    })?;
    for name in names {
        if ServerName::try_from(name.strip_prefix("*.").unwrap_or(name)).is_err() {
            return Err(Error::InvalidArgument(format!("{name:?} is neither a host name nor an IP address")));
        }
    }
    // The common name is only a label: a host name that is too long for it still counts by its subject alternative name.
    let label = if first.len() <= MAX_NAME { first } else { "vmseal server" };
    let mut params = parameters(label, LEAF_DAYS, Some(authority))?;
    params.subject_alt_names = CertificateParams::new(names).map_err(unissued)?.subject_alt_names;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn client_parameters(common_name: &str, authority: &Authority) -> Result<CertificateParams, Error> {
    let mut params = parameters(common_name, LEAF_DAYS, Some(authority))?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// What all certificates have in common; for a leaf of `authority`, or for an authority itself.
pub(super) fn parameters(
    common_name: &str,
    days: u32,
    authority: Option<&Authority>,
) -> Result<CertificateParams, Error> {
    let length = common_name.chars().count();
    if !(1..=MAX_NAME).contains(&length) || common_name.chars().any(char::is_control) {
        return Err(Error::InvalidArgument(format!(
            "a common name has 1 to {MAX_NAME} characters and no control characters"
        )));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let not_before = now.saturating_sub(BACKDATE);
    let mut not_after = now + Duration::from_secs(u64::from(days) * DAY);
    if let Some(authority) = authority {
        not_after = not_after.min(Duration::from_secs(authority.not_after.max(0) as u64));
        if not_after <= now {
            return Err(Error::Certificate(
                "the CA certificate has expired; make a new authority".to_owned(),
            ));
        }
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // Certificates count whole seconds.
    params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(not_before.as_secs());
    params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(not_after.as_secs());
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    if authority.is_some() {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
    }
    Ok(params)
}

pub(super) fn new_key() -> Result<Zeroizing<KeyPair>, Error> {
    KeyPair::generate().map(Zeroizing::new).map_err(unissued)
}

/// Random, positive and never zero (RFC 5280 section 4.1.2.2).
fn serial() -> Result<[u8; 16], Error> {
    let mut serial = random()?;
    serial[0] = serial[0] & 0x7F | 0x40;
    Ok(serial)
}

fn random() -> Result<[u8; 16], Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| vmseal_secret::Error::Random)?;
    Ok(bytes)
}

pub(super) fn unissued(error: rcgen::Error) -> Error {
    Error::Certificate(format!("the certificate cannot be issued: {error}"))
}
