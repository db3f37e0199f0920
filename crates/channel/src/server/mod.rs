//! The server side: mutual TLS, one thread a connection, requests handed up with their keys cut out.

mod accept;
mod connection;
mod registry;
mod responder;
mod trust;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::SingleCertAndKey;
use vmseal_secret::SecretKey;

use crate::Error;
use crate::deadline::Deadline;
use crate::tls;
use crate::ttlv::Limits;
use registry::Registry;
use trust::Trust;

pub use crate::tls::TlsVersions;
pub use responder::Responder;
pub use trust::ClientTrust;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address or host name to listen on. Default 127.0.0.1: to be reached from outside takes a decision.
    pub host: String,
    /// TCP port; 0 lets the system choose. Default 5696, KMIP's own.
    pub port: u16,
    /// The server's certificate chain, PEM, its own certificate first.
    pub certificate_pem: String,
    /// File with the server's private key, PEM without a passphrase. It is read natively and wiped.
    pub key_file: PathBuf,
    /// Which clients are let in; can be changed with [`Server::set_trust`].
    pub trust: ClientTrust,
    /// TLS versions to accept.
    pub tls_versions: TlsVersions,
    /// Time for the TLS handshake, and for a message header once its first byte is there. Default 5 s.
    pub handshake_timeout: Duration,
    /// Time a connection may be silent between messages. Default 300 s.
    pub idle_timeout: Duration,
    /// Time to receive one whole message, and to send one response. Default 10 s.
    pub request_timeout: Duration,
    /// Time [`Server::stop`] waits for handlers that are still running. Default 5 s.
    pub stop_timeout: Duration,
    /// Most connections at a time, handshakes included. Default 256.
    pub max_connections: usize,
    /// What messages in either direction may cost.
    pub limits: Limits,
}

impl ServerConfig {
    /// A configuration that listens on 127.0.0.1:5696 and trusts nobody yet.
    pub fn new(certificate_pem: impl Into<String>, key_file: impl Into<PathBuf>) -> ServerConfig {
        ServerConfig {
            host: "127.0.0.1".to_owned(),
            port: 5696,
            certificate_pem: certificate_pem.into(),
            key_file: key_file.into(),
            trust: ClientTrust::default(),
            tls_versions: TlsVersions::Both,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(300),
            request_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(5),
            max_connections: 256,
            limits: Limits::default(),
        }
    }
}

/// Who is at the other end of a connection. The identity is the public key; the name is only a label, since two
/// authorities may issue the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// SHA-256 of the client's public key (SubjectPublicKeyInfo, DER).
    pub spki_sha256: [u8; 32],
    /// Common name in the client's certificate, when there is one.
    pub subject_cn: Option<String>,
    /// The client's own certificate, DER.
    pub certificate_der: Vec<u8>,
}

/// A request, its keys cut out.
#[derive(Debug)]
pub struct Request {
    /// Number of the connection; never used twice by one server.
    pub connection_id: u64,
    /// Who asks.
    pub peer: Arc<PeerIdentity>,
    /// From where.
    pub address: SocketAddr,
    /// The message, with an empty byte string where each key stood.
    pub message: Vec<u8>,
    /// The keys, in order of appearance.
    pub keys: Vec<SecretKey>,
    /// Set when the connection is closed while the handler works.
    pub closing: Closing,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Reply {
    /// The response message, with an empty byte string where each key belongs.
    pub message: Vec<u8>,
    /// The keys, in order of appearance.
    pub keys: Vec<Arc<SecretKey>>,
}

/// Tells whether a connection is being closed. It is set before [`Handler::closed`] is called, so a handler that first
/// makes itself reachable for `closed` and then looks here cannot miss it.
#[derive(Clone, Debug, Default)]
pub struct Closing(Arc<AtomicBool>);

impl Closing {
    /// True when nobody waits for the reply any more.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// True for the first caller only.
    fn set(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }
}

/// What a server does with requests. A panic in a handler closes the connection it happened on and nothing else.
pub trait Handler: Send + Sync {
    /// Answers one request, on the connection's own thread, which it may block, or later from any other. The next
    /// request of the connection comes after the answer to this one.
    fn handle(&self, request: Request, responder: Responder);

    /// A connection whose client was let in is closed, or is being closed while a request of it is worked on: its
    /// responder should then be dropped soon. Called once a connection. Must not block.
    fn closed(&self, connection_id: u64) {
        let _ = connection_id;
    }

    /// A connection was refused or ended because of what its client did. `reason` is for the log and holds nothing
    /// secret. Must not block.
    fn rejected(&self, address: SocketAddr, reason: &str) {
        let _ = (address, reason);
    }
}

/// A running server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Reads certificate and key, binds the address and starts to accept.
    ///
    /// Errors: [`Error::Certificate`], [`Error::Io`], [`Error::Connection`] when the address cannot be bound,
    /// [`Error::InvalidArgument`].
    pub fn start(config: ServerConfig, handler: Arc<dyn Handler>) -> Result<Server, Error> {
        if config.max_connections == 0 {
            return Err(Error::InvalidArgument("max_connections must be at least 1".to_owned()));
        }
        let provider = tls::provider();
        let credentials = tls::credentials(&config.certificate_pem, &config.key_file)?;
        let trust = Trust::new(&config.trust, &provider)?;
        let unbound = |source: std::io::Error| Error::Listen {
            address: format!("{}:{}", config.host, config.port),
            source,
        };
        let listener = TcpListener::bind((config.host.as_str(), config.port)).map_err(unbound)?;
        let address = listener.local_addr().map_err(unbound)?;
        let accepting = listener.try_clone().map_err(unbound)?;
        let shared = Arc::new(Shared {
            registry: Registry::default(),
            trust: RwLock::new(Arc::new(trust)),
            sessions: ServerSessionMemoryCache::new(config.max_connections.saturating_mul(4).min(4096)),
            provider,
            credentials,
            config,
            handler,
        });
        accept::start(&shared, accepting)?;
        Ok(Server { shared, listener, address })
    }

    /// The address it listens on, with the port the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Number of open connections, handshakes included.
    pub fn connections(&self) -> usize {
        self.shared.registry.count()
    }

    /// Replaces the list of trusted clients: new ones are let in at once, connections of those no longer trusted are
    /// closed.
    ///
    /// Errors: [`Error::Certificate`]; the old list then stays.
    pub fn set_trust(&self, trust: &ClientTrust) -> Result<(), Error> {
        let trust = Arc::new(Trust::new(trust, &self.shared.provider)?);
        *self.shared.trust.write().unwrap_or_else(PoisonError::into_inner) = trust.clone();
        let now = rustls::pki_types::UnixTime::now();
        let lost: Vec<u64> =
            self.shared.registry.identified(|id, chain| trust.check(chain, now).is_err().then_some(id));
        self.shared.registry.close(&*self.shared.handler, |id, _| lost.contains(&id));
        Ok(())
    }

    /// Closes the open connections of the client with this public key hash; returns how many there were. To keep it
    /// out, take it off the trust first.
    pub fn disconnect(&self, spki_sha256: &[u8; 32]) -> usize {
        self.shared
            .registry
            .close(&*self.shared.handler, |_, peer| peer.is_some_and(|peer| peer.spki_sha256 == *spki_sha256))
    }

    /// Stops accepting, closes every connection, and waits for their threads for at most the stop timeout. Returns how
    /// many threads are still held by a handler then: they end when it returns. Stopping twice is allowed.
    pub fn stop(&self) -> usize {
        let registry = &self.shared.registry;
        registry.refuse_new();
        // Linux wakes a blocked accept when the listening socket is shut down; elsewhere a connection does.
        if rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).is_err() {
            let _ = TcpStream::connect_timeout(&reachable(self.address), Duration::from_millis(250));
        }
        registry.close(&*self.shared.handler, |_, _| true);
        registry.wait(Deadline::after(self.shared.config.stop_timeout, "stopping the server"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What all threads of a server share.
struct Shared {
    config: ServerConfig,
    handler: Arc<dyn Handler>,
    registry: Registry,
    trust: RwLock<Arc<Trust>>,
    provider: Arc<CryptoProvider>,
    credentials: Arc<SingleCertAndKey>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Shared {
    fn trust(&self) -> Arc<Trust> {
        self.trust.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reject(&self, address: SocketAddr, reason: &str) {
        guarded(|| self.handler.rejected(address, reason));
    }
}

/// Calls into the handler: its panics end here.
fn guarded<R>(call: impl FnOnce() -> R) -> Option<R> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).ok()
}

/// An address at which a listener on `address` can be reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
