//! Fetching a server's certificate before anybody trusts it: the "trust this KMS" step.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use crate::client::reach;
use crate::deadline::Deadline;
use crate::proxy::Proxy;
use crate::tls::{self, TlsStream};
use crate::{Error, pki};

/// The certificate chain that the server at `host`:`port` shows, PEM, its own certificate first. Nothing is sent to it but
/// a TLS handshake, and nothing about it is trusted: a person or a pin has to. With a `proxy` it is reached through that.
///
/// Errors: [`Error::Connection`], [`Error::Tls`] when it is no TLS server, [`Error::Timeout`].
pub fn fetch_server_certificate(
    host: &str,
    port: u16,
    proxy: Option<&Proxy>,
    timeout: Duration,
) -> Result<String, Error> {
    let peer = format!("{host}:{port}");
    let deadline = Deadline::after(timeout, "fetching the server's certificate");
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Error::InvalidArgument(format!("{host:?} is neither a host name nor an IP address")))?;
    let socket = reach(host, port, proxy, &peer, deadline)?;
    let provider = tls::provider();
    let seen = Arc::new(Witness { provider: provider.clone(), chain: Mutex::default() });
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(tls::TlsVersions::Both.supported())
        .map_err(|error| tls::unusable(&error))?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let side =
        UnbufferedClientConnection::new(Arc::new(config), name).map_err(|error| tls::unusable(&error))?;
    let outcome = TlsStream::handshake(side, socket, peer, deadline);
    let chain = std::mem::take(&mut *seen.chain.lock().unwrap_or_else(PoisonError::into_inner));
    match outcome {
        // A server that demands a client certificate ends a TLS 1.2 handshake after it has shown its own.
        Err(error) if chain.is_empty() => Err(error),
        outcome => {
            if let Ok(stream) = outcome {
                stream.close();
            }
            Ok(chain.iter().map(|certificate| pki::to_pem(certificate)).collect())
        }
    }
}

/// Looks at the chain and believes nothing; signatures are checked, so the server has the key of what it shows.
#[derive(Debug)]
struct Witness {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates).map(|one| one.clone().into_owned());
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain.collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
