//! What can go wrong on the channel, and whose fault it is.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error of the KMIP channel. [`Error::code`] is stable; the text is for people and never holds key bytes.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not a KMIP message (KMIP 1.1 section 9.1: TTLV encoding).
    #[error("not a well-formed KMIP message, at byte {offset}: {reason}")]
    Malformed {
        /// Where the fault was seen, in bytes from the start of the message.
        offset: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A message exceeds one of the [`crate::ttlv::Limits`].
    #[error(
        "the KMIP message is too large: {what} {actual}, the limit is {limit}; ask for fewer objects at a time"
    )]
    TooLarge {
        /// The quantity.
        what: &'static str,
        /// Its value in the message.
        actual: usize,
        /// The most that is accepted.
        limit: usize,
    },
    /// The number of keys differs from the number of empty secret byte strings.
    #[error(
        "the KMIP message has room for {places} keys but {keys} were given; give one key for each empty key material"
    )]
    KeyCount {
        /// Empty secret byte strings in the message.
        places: usize,
        /// Keys given.
        keys: usize,
    },
    /// A message to be sent holds key bytes itself.
    #[error(
        "the KMIP message holds key material at byte {offset}; leave it empty and give the key by its handle"
    )]
    KeyBytesInMessage {
        /// Where the key material stands, in bytes from the start of the message.
        offset: usize,
    },
    /// Key memory failed.
    #[error(transparent)]
    Keys(#[from] vmseal_secret::Error),
    /// The caller gave something unusable.
    #[error("{0}")]
    InvalidArgument(String),
    /// No connection, or it was lost.
    #[error("KMIP connection to {peer}: {reason}")]
    Connection {
        /// Host and port of the peer.
        peer: String,
        /// What happened.
        reason: String,
    },
    /// A server cannot have its address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Host and port.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A kept connection was found closed before anything was sent over it: the request may safely be sent again.
    #[error("the KMIP connection to {peer} was closed while idle and nothing was sent; open a new one")]
    ClosedWhileIdle {
        /// Host and port of the peer.
        peer: String,
    },
    /// The TLS handshake or the TLS connection failed.
    #[error("TLS with {peer}: {reason}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Tls {
        /// Host and port of the peer.
        peer: String,
        /// The kind of failure.
        reason: TlsReason,
        /// What the TLS library says about it.
        detail: String,
    },
    /// A step took longer than it may.
    #[error("{step} took longer than {after:?}; the connection is closed")]
    Timeout {
        /// The step.
        step: &'static str,
        /// The time it was given.
        after: Duration,
    },
    /// A certificate, private key or request cannot be used.
    #[error("{0}")]
    Certificate(String),
    /// A file or socket operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Malformed { .. } => "VMSEAL_KMIP_MALFORMED",
            Error::TooLarge { .. } => "VMSEAL_KMIP_TOO_LARGE",
            Error::KeyCount { .. } | Error::KeyBytesInMessage { .. } | Error::InvalidArgument(_) => {
                "VMSEAL_INVALID_ARGUMENT"
            }
            Error::Keys(error) => error.code(),
            Error::Connection { .. } | Error::ClosedWhileIdle { .. } => "VMSEAL_KMIP_CONNECTION",
            Error::Listen { .. } => "VMSEAL_ADDRESS_UNAVAILABLE",
            Error::Tls { .. } => "VMSEAL_KMIP_TLS",
            Error::Timeout { .. } => "VMSEAL_KMIP_TIMEOUT",
            Error::Certificate(_) => "VMSEAL_CERTIFICATE_INVALID",
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "VMSEAL_NOT_FOUND",
                io::ErrorKind::AlreadyExists => "VMSEAL_ALREADY_EXISTS",
                io::ErrorKind::PermissionDenied => "VMSEAL_PERMISSION_DENIED",
                io::ErrorKind::StorageFull => "VMSEAL_NO_SPACE",
                _ => "VMSEAL_IO",
            },
        }
    }

    /// True when the request of this error did not reach the server, not even in part: sending it again over a new
    /// connection cannot run it twice.
    pub fn nothing_was_sent(&self) -> bool {
        matches!(
            self,
            Error::ClosedWhileIdle { .. }
                | Error::KeyCount { .. }
                | Error::KeyBytesInMessage { .. }
                | Error::InvalidArgument(_)
        )
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }
}

/// Why TLS failed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsReason {
    /// The peer's certificate was issued by an authority that is not trusted here.
    UnknownIssuer,
    /// The peer's certificate has expired.
    Expired,
    /// The peer's certificate is not valid yet.
    NotYetValid,
    /// The server's certificate is for another name or address.
    NameMismatch,
    /// The peer's certificate may not be used for this side of TLS.
    WrongPurpose,
    /// The peer's certificate is unusable for another reason.
    CertificateInvalid,
    /// The peer presented no certificate.
    NoCertificate,
    /// The peer refused the certificate presented here, or asks for one.
    CertificateRefused,
    /// Both sides have no cipher suite or key exchange in common.
    NoCommonCipherSuite,
    /// Both sides have no TLS version in common.
    NoCommonVersion,
    /// The peer does not speak TLS, or not correctly.
    Protocol,
}

impl fmt::Display for TlsReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsReason::UnknownIssuer => "the peer's certificate was issued by an unknown authority; trust its CA certificate first",
            TlsReason::Expired => "the peer's certificate has expired; it must be renewed",
            TlsReason::NotYetValid => "the peer's certificate is not valid yet; compare the clocks of both machines",
            TlsReason::NameMismatch => "the server's certificate is for another name; connect by a name it holds",
            TlsReason::WrongPurpose => "the peer's certificate is for another purpose (extended key usage)",
            TlsReason::CertificateInvalid => "the peer's certificate cannot be used",
            TlsReason::NoCertificate => "the peer presented no certificate; enrol it and give it its certificate",
            TlsReason::CertificateRefused => "the peer refused our certificate or asks for one; enrol this client with it",
            TlsReason::NoCommonCipherSuite => {
                "no common cipher suite; wanted: TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305"
            }
            TlsReason::NoCommonVersion => "no common TLS version; wanted: TLS 1.2 or 1.3",
            TlsReason::Protocol => "the peer does not speak TLS as it should",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_errors_take_the_code_of_their_cause() {
        let code = |kind: io::ErrorKind| Error::io("read", "key.pem")(kind.into()).code();
        assert_eq!(code(io::ErrorKind::NotFound), "VMSEAL_NOT_FOUND");
        assert_eq!(code(io::ErrorKind::AlreadyExists), "VMSEAL_ALREADY_EXISTS");
        assert_eq!(code(io::ErrorKind::PermissionDenied), "VMSEAL_PERMISSION_DENIED");
        assert_eq!(code(io::ErrorKind::StorageFull), "VMSEAL_NO_SPACE");
        assert_eq!(code(io::ErrorKind::BrokenPipe), "VMSEAL_IO");
    }

    #[test]
    fn only_errors_before_the_first_byte_may_be_repeated() {
        assert!(Error::ClosedWhileIdle { peer: "kms:5696".into() }.nothing_was_sent());
        assert!(!Error::Connection { peer: "kms:5696".into(), reason: "lost".into() }.nothing_was_sent());
        assert!(!Error::Timeout { step: "request", after: Duration::from_secs(1) }.nothing_was_sent());
    }

    #[test]
    fn the_text_of_a_tls_error_has_no_empty_detail() {
        let error =
            Error::Tls { peer: "kms:5696".into(), reason: TlsReason::NoCertificate, detail: String::new() };
        assert!(!error.to_string().ends_with(": "));
    }
}
