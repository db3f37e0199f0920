//! What the TLS library reports, sorted by what a person has to do about it.

use rustls::{AlertDescription, CertificateError, Error as RustlsError, PeerIncompatible};

use crate::{Error, TlsReason};

/// The error of a TLS failure with `peer`.
pub(crate) fn describe(peer: &str, error: &RustlsError) -> Error {
    let reason = match error {
        RustlsError::InvalidCertificate(error) => certificate(error),
        RustlsError::NoCertificatesPresented => TlsReason::NoCertificate,
        RustlsError::AlertReceived(alert) => received(*alert),
        RustlsError::PeerIncompatible(problem) => incompatible(problem),
        _ => TlsReason::Protocol,
    };
    let detail = match error {
        RustlsError::AlertReceived(alert) => format!("it sent the alert {alert:?}"),
        // A refusal by our own rules says everything itself.
        RustlsError::InvalidCertificate(CertificateError::Other(other)) => other.0.to_string(),
        _ => error.to_string(),
    };
    Error::Tls { peer: peer.to_owned(), reason, detail }
}

/// The reason for which a certificate is refused.
fn certificate(error: &CertificateError) -> TlsReason {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsReason::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsReason::NotYetValid,
        // A CA of the same name with another key shows as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsReason::UnknownIssuer,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsReason::NameMismatch
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            TlsReason::WrongPurpose
        }
        _ => TlsReason::CertificateInvalid,
    }
}

fn received(alert: AlertDescription) -> TlsReason {
    match alert {
        AlertDescription::NoCertificate
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::CertificateRequired
        // Sent for a certificate whose issuer is known by name but has another key.
        | AlertDescription::DecryptError => TlsReason::CertificateRefused,
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => TlsReason::NoCommonCipherSuite,
        AlertDescription::ProtocolVersion => TlsReason::NoCommonVersion,
        _ => TlsReason::Protocol,
    }
}

fn incompatible(problem: &PeerIncompatible) -> TlsReason {
    match problem {
        PeerIncompatible::NoCipherSuitesInCommon
        | PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NoEcPointFormatsInCommon
        | PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::NamedGroupsExtensionRequired => TlsReason::NoCommonCipherSuite,
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        // RFC 5246 section 7.4.1.4.1: older clients do not send it.
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => TlsReason::NoCommonVersion,
        _ => TlsReason::Protocol,
    }
}
