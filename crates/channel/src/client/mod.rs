//! The client side: one mutual-TLS connection to a KMS, one request at a time.

mod line;

use std::borrow::Borrow;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use vmseal_secret::SecretKey;

use crate::deadline::Deadline;
use crate::proxy::{Proxy, tunnel};
use crate::tls::{self, TlsStream};
use crate::ttlv::{self, HEADER, Limits, MessageKind};
use crate::{Error, PlainMessage, stack};

pub use crate::tls::TlsVersions;
pub use line::{Answer, Answered, Line};

/// How to reach a KMS and how to prove who we are.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Host name or IP address to connect to.
    pub host: String,
    /// TCP port; KMIP's own is 5696.
    pub port: u16,
    /// HTTP proxy to reach it through, which then resolves the host name. Default: none.
    pub proxy: Option<Proxy>,
    /// Name or IP address the server's certificate must hold, when it is not `host`.
    pub server_name: Option<String>,
    /// One or more CA certificates, PEM: the server's chain must end in one of them.
    pub ca_pem: String,
    /// The client's certificate chain, PEM, its own certificate first.
    pub certificate_pem: String,
    /// File with the client's private key, PEM without a passphrase. It is read natively and wiped.
    pub key_file: PathBuf,
    /// Time for name resolution, TCP connection and TLS handshake together.
    pub connect_timeout: Duration,
    /// Time for one request, from its first byte sent to the last byte of the response received.
    pub request_timeout: Duration,
    /// TLS versions to offer.
    pub tls_versions: TlsVersions,
    /// What messages in either direction may cost.
    pub limits: Limits,
}

impl ClientConfig {
    /// A configuration with the default times (5 s to connect, 10 s a request), TLS versions and limits.
    pub fn new(
        host: impl Into<String>,
        port: u16,
        ca_pem: impl Into<String>,
        certificate_pem: impl Into<String>,
        key_file: impl Into<PathBuf>,
    ) -> ClientConfig {
        ClientConfig {
            host: host.into(),
            port,
            proxy: None,
            server_name: None,
            ca_pem: ca_pem.into(),
            certificate_pem: certificate_pem.into(),
            key_file: key_file.into(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            tls_versions: TlsVersions::Both,
            limits: Limits::default(),
        }
    }
}

/// A response, its keys cut out.
#[derive(Debug)]
pub struct Response {
    /// The message, with an empty byte string where each key stood.
    pub message: Vec<u8>,
    /// The keys, in order of appearance.
    pub keys: Vec<SecretKey>,
}

/// A configuration made ready: certificates and key are read once, and TLS sessions are resumed between the
/// connections of one connector.
pub struct Connector {
    config: ClientConfig,
    name: ServerName<'static>,
    tls: Arc<rustls::ClientConfig>,
}

impl Connector {
    /// Checks `config` and reads the private key.
    ///
    /// Errors: [`Error::InvalidArgument`], [`Error::Certificate`], [`Error::Io`].
    pub fn new(config: ClientConfig) -> Result<Connector, Error> {
        let wanted = config.server_name.as_ref().unwrap_or(&config.host);
        let name = ServerName::try_from(wanted.clone()).map_err(|_| {
            Error::InvalidArgument(format!("{wanted:?} is neither a host name nor an IP address"))
        })?;
        let roots = tls::authorities([config.ca_pem.as_str()])?;
        let provider = tls::provider();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| Error::Certificate(format!("the CA certificates cannot be used: {error}")))?;
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(config.tls_versions.supported())
            .map_err(|error| tls::unusable(&error))?
            .with_webpki_verifier(verifier)
            .with_client_cert_resolver(tls::credentials(&config.certificate_pem, &config.key_file)?);
        Ok(Connector { config, name, tls: Arc::new(tls) })
    }

    /// Opens a connection. Blocks for at most the connect timeout.
    ///
    /// With TLS 1.3 a server that refuses the client's certificate says so only after the handshake: the first request
    /// then fails with [`Error::Tls`].
    ///
    /// Errors: [`Error::Connection`], [`Error::Tls`], [`Error::Timeout`].
    pub fn connect(&self) -> Result<Connection, Error> {
        stack::scrubbed(|| {
            let peer = format!("{}:{}", self.config.host, self.config.port);
            let deadline = Deadline::after(self.config.connect_timeout, "connecting to the KMS");
            let ClientConfig { host, port, proxy, .. } = &self.config;
            let socket = reach(host, *port, proxy.as_ref(), &peer, deadline)?;
            let side = UnbufferedClientConnection::new(self.tls.clone(), self.name.clone())
                .map_err(|error| tls::unusable(&error))?;
            let stream = TlsStream::handshake(side, socket, peer.clone(), deadline)?;
            Ok(Connection {
                stream: Some(stream),
                peer,
                limits: self.config.limits,
                request_timeout: self.config.request_timeout,
            })
        })
    }
}

/// One open connection to a KMS.
pub struct Connection {
    /// None once it is closed.
    stream: Option<Stream>,
    peer: String,
    limits: Limits,
    request_timeout: Duration,
}

impl Connection {
    /// Opens a connection by itself. Several connections to one server are better opened with one [`Connector`].
    ///
    /// Errors: those of [`Connector::new`] and [`Connector::connect`].
    pub fn open(config: &ClientConfig) -> Result<Connection, Error> {
        Connector::new(config.clone())?.connect()
    }

    /// Sends `message`, its empty key materials filled with `keys`, and waits for the response.
    ///
    /// A failure closes the connection, except when the message itself is refused before a byte of it is sent
    /// ([`Error::nothing_was_sent`]).
    ///
    /// Errors: those of [`ttlv::splice`] and [`ttlv::cut`], [`Error::ClosedWhileIdle`], [`Error::Connection`],
    /// [`Error::Tls`], [`Error::Timeout`].
    pub fn request<K: Borrow<SecretKey>>(&mut self, message: &[u8], keys: &[K]) -> Result<Response, Error> {
        stack::scrubbed(|| {
            let plain = self.prepare(message, keys)?;
            let closed = || Error::ClosedWhileIdle { peer: self.peer.clone() };
            let mut stream = self.stream.take().ok_or_else(closed)?;
            match stream.is_idle() {
                Ok(true) => {}
                Ok(false) | Err(Error::Connection { .. } | Error::Timeout { .. }) => return Err(closed()),
                Err(error) => return Err(error),
            }
            let response = exchange(&mut stream, plain, self.request_timeout, &self.limits)?;
            self.stream = Some(stream);
            Ok(response)
        })
    }

    /// Sends `message` as far as that needs no waiting; [`Connection::finish`] waits for the response. None, and
    /// nothing was sent, when the connection has to be looked after first: [`Connection::request`] does that.
    ///
    /// Failures are those of [`Connection::request`].
    pub(crate) fn begin<K: Borrow<SecretKey>>(
        &mut self,
        message: &[u8],
        keys: &[K],
    ) -> Result<Option<Pending>, Error> {
        let begin = || {
            let plain = self.prepare(message, keys)?;
            let Some(mut stream) = self.stream.take_if(|stream| stream.is_quiet()) else { return Ok(None) };
            let deadline = Deadline::after(self.request_timeout, STEP);
            let rest = stream.write_now(&plain)?.map(|rest| {
                let mut kept = PlainMessage::with_capacity(rest.len());
                kept.append(rest);
                kept
            });
            self.stream = Some(stream);
            Ok(Some(Pending { rest, deadline }))
        };
        // A message without keys leaves nothing behind.
        stack::scrubbed_unless(begin, |_| keys.is_empty())
    }

    /// Waits for the response to what was begun.
    pub(crate) fn finish(&mut self, pending: Pending) -> Result<Response, Error> {
        let finish = || {
            let closed = || Error::ClosedWhileIdle { peer: self.peer.clone() };
            let mut stream = self.stream.take().ok_or_else(closed)?;
            if let Some(rest) = pending.rest {
                send(&mut stream, &rest, pending.deadline)?;
            }
            let response = receive(&mut stream, pending.deadline, &self.limits)?;
            self.stream = Some(stream);
            Ok(response)
        };
        stack::scrubbed_unless(
            finish,
            |response| matches!(response, Ok(Response { keys, .. }) if keys.is_empty()),
        )
    }

    /// To wait for what arrives.
    pub(crate) fn socket(&self) -> Option<Arc<TcpStream>> {
        self.stream.as_ref().map(TlsStream::socket)
    }

    /// False once the connection was closed, by [`Connection::close`] or by a failure.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// The server's own certificate, DER. Empty once the connection is closed.
    pub fn peer_certificate_der(&self) -> &[u8] {
        let chain = self.stream.as_ref().map(TlsStream::certificates).unwrap_or_default();
        chain.first().map(|certificate| certificate.as_ref()).unwrap_or_default()
    }

    /// Ends the TLS connection in order. Closing twice is allowed.
    pub fn close(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.close();
        }
    }

    fn prepare<K: Borrow<SecretKey>>(&self, message: &[u8], keys: &[K]) -> Result<PlainMessage, Error> {
        if let Some(header) = message.first_chunk::<HEADER>() {
            ttlv::message_length(header, MessageKind::Request, &self.limits)?;
        }
        ttlv::splice(message, keys, &self.limits)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

type Stream = TlsStream<UnbufferedClientConnection>;

/// What the deadline of a request is called.
const STEP: &str = "the KMIP request";

/// A request that was sent, or begun to be sent.
pub(crate) struct Pending {
    /// What the socket did not take at once.
    rest: Option<PlainMessage>,
    deadline: Deadline,
}

impl Pending {
    pub(crate) fn is_sent(&self) -> bool {
        self.rest.is_none()
    }

    /// Time left; None when there is none.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.deadline.remaining().ok()
    }
}

fn exchange(
    stream: &mut Stream,
    request: PlainMessage,
    timeout: Duration,
    limits: &Limits,
) -> Result<Response, Error> {
    let deadline = Deadline::after(timeout, STEP);
    send(stream, &request, deadline)?;
    drop(request);
    receive(stream, deadline, limits)
}

fn send(stream: &mut Stream, request: &[u8], deadline: Deadline) -> Result<(), Error> {
    stream.write_all(request, deadline).map_err(|error| stream.explanation().unwrap_or(error))
}

fn receive(stream: &mut Stream, deadline: Deadline, limits: &Limits) -> Result<Response, Error> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header, deadline)?;
    let mut response = PlainMessage::zeroed(ttlv::message_length(&header, MessageKind::Response, limits)?);
    response[..HEADER].copy_from_slice(&header);
    stream.read_exact(&mut response[HEADER..], deadline)?;
    let (message, keys) = ttlv::cut(response, limits)?;
    Ok(Response { message, keys })
}

/// A TCP connection to the server, through the proxy if there is one.
pub(crate) fn reach(
    host: &str,
    port: u16,
    proxy: Option<&Proxy>,
    peer: &str,
    deadline: Deadline,
) -> Result<TcpStream, Error> {
    let Some(proxy) = proxy else { return connect(host, port, peer, deadline) };
    let socket = connect(&proxy.host, proxy.port, &format!("{peer} by the proxy"), deadline)?;
    tunnel(&socket, host, port, peer, deadline)?;
    Ok(socket)
}

fn connect(host: &str, port: u16, peer: &str, deadline: Deadline) -> Result<TcpStream, Error> {
    let mut failure = "the host name has no address".to_owned();
    for address in resolve(host, port, peer, deadline)? {
        match TcpStream::connect_timeout(&address, deadline.remaining()?) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return Err(deadline.missed()),
            Err(error) => failure = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(Error::Connection { peer: peer.to_owned(), reason: failure })
}

/// The addresses of `host`. The system's resolver knows no deadline, so it is asked on a thread of its own, which is
/// left behind when it takes too long.
fn resolve(host: &str, port: u16, peer: &str, deadline: Deadline) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let failed = |reason: String| Error::Connection { peer: peer.to_owned(), reason };
    let (answer, answered) = std::sync::mpsc::channel();
    let name = host.to_owned();
    std::thread::Builder::new()
        .name("vmseal-resolve".to_owned())
        .spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            // Nobody is listening any more when the deadline has passed.
            let _ = answer.send(found);
        })
        .map_err(|error| failed(format!("cannot start a thread: {error}")))?;
    match answered.recv_timeout(deadline.remaining()?) {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(failed(format!("cannot resolve the host name: {error}"))),
        Err(_) => Err(deadline.missed()),
    }
}
