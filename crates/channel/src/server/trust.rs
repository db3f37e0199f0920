//! Which client certificates are let in.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::{Error, pki, tls};

/// The clients a server trusts. Empty lists trust nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTrust {
    /// CA certificates, PEM, one or more in each text: clients with a certificate issued by them are let in.
    pub authorities_pem: Vec<String>,
    /// SHA-256 of public keys (SubjectPublicKeyInfo, DER): clients with these are let in, whoever issued their
    /// certificate, as long as it is within its validity.
    pub pinned: Vec<[u8; 32]>,
}

/// [`ClientTrust`] made ready to check with.
#[derive(Debug)]
pub(super) struct Trust {
    issued: Option<Arc<dyn ClientCertVerifier>>,
    pinned: HashSet<[u8; 32]>,
}

impl Trust {
    pub(super) fn new(trust: &ClientTrust, provider: &Arc<CryptoProvider>) -> Result<Trust, Error> {
        let roots = tls::authorities(trust.authorities_pem.iter().map(String::as_str))?;
        let issued = if roots.is_empty() {
            None
        } else {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| {
                    Error::Certificate(format!("the CA certificates cannot be used: {error}"))
                })?;
            Some(verifier)
        };
        Ok(Trust { issued, pinned: trust.pinned.iter().copied().collect() })
    }

    /// Checks a chain, the client's own certificate first.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), rustls::Error> {
        let (own, intermediates) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let refused = |error| Err(rustls::Error::InvalidCertificate(error));
        let Ok((_, certificate)) = X509Certificate::from_der(own) else {
            return refused(CertificateError::BadEncoding);
        };
        // RFC 5280 section 4.2.1.12: an extended key usage that is there limits the certificate to it.
        match certificate.extended_key_usage() {
            Ok(None) => {}
            Ok(Some(usage)) if usage.value.client_auth => {}
            Ok(Some(_)) => return refused(CertificateError::InvalidPurpose),
            Err(_) => return refused(CertificateError::BadEncoding),
        }
        if self.pinned.contains(&pki::spki_hash(&certificate)) {
            let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            let validity = certificate.validity();
            if now < validity.not_before.timestamp() {
                return refused(CertificateError::NotValidYet);
            }
            if now > validity.not_after.timestamp() {
                return refused(CertificateError::Expired);
            }
            return Ok(());
        }
        match &self.issued {
            Some(verifier) => match verifier.verify_client_cert(own, intermediates, now) {
                Ok(_) => Ok(()),
                // An authority of the same name with another key; the client's alert should say so too.
                Err(rustls::Error::InvalidCertificate(CertificateError::BadSignature)) => {
                    refused(CertificateError::UnknownIssuer)
                }
                Err(error) => Err(error),
            },
            None => refused(CertificateError::UnknownIssuer),
        }
    }
}

/// The checks of one connection. It remembers the certificate it was shown, for the log.
#[derive(Debug)]
pub(super) struct ConnectionVerifier {
    trust: Arc<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
    presented: Mutex<Option<String>>,
}

impl ConnectionVerifier {
    pub(super) fn new(trust: Arc<Trust>, provider: &CryptoProvider) -> ConnectionVerifier {
        let algorithms = provider.signature_verification_algorithms;
        ConnectionVerifier { trust, algorithms, presented: Mutex::new(None) }
    }

    /// The certificate the client has presented, in words.
    pub(super) fn presented(&self) -> Option<String> {
        self.presented.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientCertVerifier for ConnectionVerifier {
    /// None: pinned clients may come from any issuer, so clients are asked for whatever certificate they have.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        *self.presented.lock().unwrap_or_else(PoisonError::into_inner) = in_words(end_entity);
        let mut chain = vec![end_entity.clone()];
        chain.extend_from_slice(intermediates);
        self.trust.check(&chain, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Names come from a stranger here: control characters are escaped and the text is cut to what a log line bears.
fn in_words(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject: String =
        certificate.subject().to_string().chars().take(128).flat_map(char::escape_debug).collect();
    let mut text = format!("client certificate \"{subject}\", public key SHA-256 ");
    for byte in pki::spki_hash(&certificate) {
        write!(text, "{byte:02x}").ok()?;
    }
    Some(text)
}
